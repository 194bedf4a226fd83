"""DomainBed's image sets on tiny stand-ins in their layouts: read, learnt, swapped, killed, and refused by name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gentangle.cache import cache_dir
from gentangle.cli import main
from gentangle.errors import InputError
from gentangle.matching import experiment
from gentangle.matching.environments import Draws, Environments, leave_out, random_groups
from gentangle.matching.experiment import environments_of, make_matching_runs, run_algorithm
from gentangle.matching.image_folders import MEAN, STD, ImageFiles, augmented, files_hash, image_folders, read_all
from gentangle.matching.recipes import load_matching_recipe
from gentangle.matching.wilds_fixtures import DRAWN, IMAGE_SETS, IMAGES, make_image_fixture
from gentangle.runs import RunDirectory

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = {"PACS": "pacs", "VLCS": "vlcs"} | {name: name for name in IMAGE_SETS if name.islower()}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENTANGLE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def image_root(tmp_path_factory):
    """The folder of all five fixtures."""
    root = tmp_path_factory.mktemp("images")
    for name in IMAGE_SETS:
        make_image_fixture(name, root)
    return root


@pytest.fixture
def pacs(image_root, tmp_path):
    """A copy of PACS to be spoilt."""
    return Path(shutil.copytree(image_root / "PACS", tmp_path / "PACS"))


def small(name="PACS", **changes):
    return replace(load_matching_recipe(RECIPES / f"{FILES[name]}.yaml", small=True), **changes)


def planted(file, domains):
    """Label and domain that an image of a fixture shows: what is in its middle, and the colour around."""
    with Image.open(file) as opened:
        pixels = np.asarray(opened.convert("RGB"), dtype=float)
    quarter = len(pixels) // 4
    middle, edge = pixels[quarter:-quarter, quarter:-quarter], pixels[:2].mean(axis=(0, 1))
    label = 2 if middle.std() > 60 else int(middle.mean() > 128)
    if edge.min() > 210:
        return label, "paper"
    return label, domains[int(((edge - 60) / 30).round() @ [1, 5, 25])]


def differences(root, name):
    """Images whose label, and images whose domain, is another than the folders say."""
    domains, wrong = IMAGE_SETS[name][0], [0, 0]
    for domain, (x, y) in image_folders(root, name, 32).items():
        for file, label in zip(x.files, y.tolist(), strict=True):
            shown = planted(file, domains)
            wrong[0] += shown[0] != label
            wrong[1] += shown[1] != ("paper" if domain in DRAWN else domain)
    return wrong


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_label_and_domain_are_in_the_images_of_each_layout(name, image_root):
    parts = image_folders(image_root, name, 32)
    assert tuple(parts) == tuple(sorted(IMAGE_SETS[name][0]))
    for x, y in parts.values():
        assert x.shape == (3 * IMAGES, 3, 32, 32)
        assert y.tolist() == [label for label in range(3) for _ in range(IMAGES)]
        assert [file.parent.name for file in x.files[::IMAGES]] == list(IMAGE_SETS[name][1])
    assert differences(image_root, name) == [0, 0]


def test_a_folder_under_another_name_shows(pacs):
    swap(pacs / "photo", pacs / "cartoon")
    assert differences(pacs.parent, "PACS")[0] == 0
    assert differences(pacs.parent, "PACS")[1] == 2 * 3 * IMAGES
    swap(pacs / "photo" / "dog", pacs / "photo" / "giraffe")
    assert differences(pacs.parent, "PACS")[0] == 2 * IMAGES


def swap(one, other):
    one.rename(one.with_name("aside"))
    other.rename(one)
    one.with_name("aside").rename(other)


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_the_recipes_have_domainbeds_settings_and_the_sets_domains(name):
    recipe = load_matching_recipe(RECIPES / f"{FILES[name]}.yaml")
    assert recipe.name == FILES[name]
    assert {domain for (domain,) in recipe.left_out} == set(IMAGE_SETS[name][0])
    expected = {"set": "images", "folder": name, "size": 224, "augment": True}
    assert recipe.data == expected | {"network": "resnet50", "weights": "imagenet"}
    training = recipe.training
    assert (training.steps, training.batch_size, training.learning_rate) == (5000, 32, 5e-5)
    assert (training.optimizer, training.domains_per_step, training.random_groups) == ("adam", 0, False)
    assert recipe.algorithms == {"erm": {}, "fish": {"eps": 0.5}}
    variant = small(name).variants()["fish"]
    assert (variant.data["network"], variant.data["folder"], variant.training.steps) == ("small", name, 40)
    assert small(name).name == f"{FILES[name]}-small"


@pytest.mark.claims("fish-domainbed", "vlcs", "pacs", "office-home", "terra-incognita", "domain-net")
@pytest.mark.training
@pytest.mark.parametrize("algorithm", ["erm", "fish"])
@pytest.mark.parametrize("name", IMAGE_SETS)
def test_a_small_run_beats_chance_on_the_domain_that_it_has_not_seen(name, algorithm, image_root):
    drawn = [domain for domain in IMAGE_SETS[name][0] if domain in DRAWN]
    left_out = [*drawn, IMAGE_SETS[name][0][0]][0]  # drawings, where there are some: from photographs to them
    row = run_algorithm(small(name).variants()[algorithm], 0, [left_out], root=image_root)[-1]
    assert set(row["test"]) == {left_out}
    assert row["test"][left_out] > 1 / 3 + 3 * (2 / 9 / (0.8 * 3 * IMAGES)) ** 0.5
    assert min(row["validation"][domain] for domain in IMAGE_SETS[name][0] if domain != left_out) > 2 / 3


@pytest.mark.training
@pytest.mark.parametrize("algorithm", ["erm", "fish"])
def test_labels_that_are_swapped_in_training_are_learnt_wrong(algorithm, pacs):
    for domain in ("cartoon", "photo", "sketch"):
        swap(pacs / domain / "dog", pacs / domain / "elephant")
        swap(pacs / domain / "dog", pacs / domain / "giraffe")  # each class has another's name
    row = run_algorithm(small().variants()[algorithm], 0, ["art_painting"], root=pacs.parent)[-1]
    assert row["test"]["art_painting"] < 1 / 3
    assert row["validation"]["cartoon"] > 2 / 3


def test_a_command_makes_the_runs_of_a_moved_set_once_and_refuses_another(pacs, tmp_path, monkeypatch, capsys):
    (tmp_path / "recipe.yaml").write_text(
        "{kind: matching, name: few, data: {set: images, folder: PACS, size: 16}, seeds: [0], left_out: [[sketch]],"
        " training: {steps: 2, batch_size: 4, learning_rate: 0.01, look_every: 1, width: 4}, algorithms: {erm: {}}}"
    )
    command = ["train", "--recipe", str(tmp_path / "recipe.yaml"), "--results", str(tmp_path / "results")]
    assert main([*command, "--root", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "results/few/erm.json").read_text())
    assert record["provenance"]["data_sha256"] == record["config"]["data_sha256"]
    assert str(tmp_path) not in json.dumps(record["config"])
    metrics = cache_dir() / "runs/few/erm/metrics.jsonl"
    made = metrics.stat().st_mtime_ns
    pacs.rename(tmp_path / "cache/PACS")
    assert main([*command, "--root", str(tmp_path / "cache")]) == 0
    assert metrics.stat().st_mtime_ns == made
    next((tmp_path / "cache/PACS/photo/dog").iterdir()).unlink()
    assert main([*command, "--root", str(tmp_path / "cache")]) == 2
    assert "holds a run of another recipe" in capsys.readouterr().err
    assert main(command) == 2
    assert "The images of PACS need --root DIR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("rotated_digits", "The set rotated-digits takes no --root"),
        ("tweets", "--root and --small are for recipes of images, as recipes/pacs.yaml; recipes/tweets.yaml is none"),
    ],
)
def test_a_root_for_a_recipe_without_images_is_refused(recipe, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(RECIPES.parent)
    assert main(["train", "--recipe", f"recipes/{recipe}.yaml", "--root", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_a_recipe_without_a_small_run_or_with_an_unknown_network_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no small run"):
        load_matching_recipe(RECIPES / "rotated_digits.yaml", small=True)
    text = (RECIPES / "pacs.yaml").read_text().replace("resnet50", "resnet5")
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(InputError, match="unknown network 'resnet5'.*resnet50"):
        load_matching_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("changes", [{"sise": 16}, {"size": 16, "network": "small", "folders": "PACS"}])
def test_settings_that_images_do_not_take_are_refused(changes, image_root):
    with pytest.raises(InputError, match="The set images does not take these settings"):
        environments_of({"set": "images", "folder": "PACS"} | changes, 0, root=image_root)
    with pytest.raises(InputError, match="The set rotated-digits does not take these settings .*network"):
        environments_of({"set": "rotated-digits", "network": "small"}, 0)


@pytest.mark.parametrize("size", [0, "big", 22.4])
def test_a_size_that_is_none_is_refused(size, image_root):
    with pytest.raises(InputError, match=f"The images' size is {size!r}, expected pixels a side"):
        image_folders(image_root, "PACS", size)


def test_a_large_network_goes_to_the_gpu_where_there_is_one_and_its_minibatches_too(image_root, monkeypatch):
    recipe = load_matching_recipe(RECIPES / "pacs.yaml")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [experiment._device(of.variants()["fish"]) for of in (recipe, small())] == ["cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert experiment._device(recipe.variants()["fish"]) == "cpu"
    parts = image_folders(image_root, "PACS", 8)
    x, y = Draws(parts, 6, torch.Generator().manual_seed(0), device="meta").minibatch("photo")
    assert (x.device.type, y.device.type, x.shape) == ("meta", "meta", (6, 3, 8, 8))


def test_an_image_that_cannot_be_read_is_named_before_anything_is_made(pacs):
    file = pacs / "sketch" / "elephant" / "00007.png"
    for broken in (file.read_bytes()[:200], b"", b"GIF89a and no more"):
        file.write_bytes(broken)
        with pytest.raises(InputError, match=r"Cannot read the image .*PACS/sketch/elephant/00007\.png"):
            make_matching_runs(small(left_out=[["photo"]]), only_seed=0, root=pacs.parent)
        assert not (cache_dir() / "runs").exists()


def test_what_is_to_be_replaced_stays_where_the_new_run_cannot_be(pacs):
    short = {"left_out": [["photo"]], "algorithms": {"erm": {}}, "seeds": [0]}
    steps = replace(small().training, steps=2, look_every=2)
    (folder,) = make_matching_runs(small(**short, training=steps), root=pacs.parent)
    before = (folder / "metrics.jsonl").read_bytes()
    typo = short | {"algorithms": {"erm": {"gama": 1.0}}}
    with pytest.raises(InputError, match="does not take these hyperparameters"):
        make_matching_runs(small(**typo, training=steps), root=pacs.parent, overwrite=True)
    (pacs / "sketch" / "elephant" / "00007.png").write_bytes(b"")
    with pytest.raises(InputError, match="Cannot read the image"):
        make_matching_runs(small(**short, training=steps), root=pacs.parent, overwrite=True)
    assert (folder / "metrics.jsonl").read_bytes() == before


def spoil(pacs, what):
    match what:
        case "class":
            shutil.rmtree(pacs / "photo" / "elephant")
        case "class without images":
            for file in (pacs / "photo" / "elephant").iterdir():
                file.rename(file.with_suffix(".txt"))
        case "domain":
            (pacs / "empty").mkdir()
        case "set":
            pacs.rename(pacs.with_name("pacs"))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("class", "The domain photo in .*PACS has no image of the class 'elephant', one of 1 that it lacks"),
        ("class without images", "The domain photo in .*PACS has no image of the class 'elephant'"),
        ("domain", "The domain empty in .*PACS has no image of the class 'dog', one of 3 that it lacks"),
        ("set", r"There is no folder .*PACS with a folder for each domain \(.* holds pacs\).*image-fixture PACS"),
    ],
)
def test_what_a_folder_lacks_is_named(what, message, pacs):
    spoil(pacs, what)
    with pytest.raises(InputError, match=message):
        image_folders(pacs.parent, "PACS", 16)


def test_the_sets_own_folder_is_no_root(pacs):
    with pytest.raises(InputError, match="There is no folder .*holds art_painting, cartoon, photo, sketch"):
        image_folders(pacs, "PACS", 16)
    with pytest.raises(InputError, match=r"Cannot leave out \['drawings'\]: the domains are art_painting, cartoon"):
        make_matching_runs(small(left_out=[["drawings"]]), only_seed=0, root=pacs.parent)


def test_other_files_and_hidden_ones_are_not_looked_at(pacs):
    parts = image_folders(pacs.parent, "PACS", 16)
    before = files_hash(parts)
    for name in ("list.txt", "photo/readme.md", "photo/dog/notes.txt", "photo/dog/._00000.jpg", ".trash/x.jpg"):
        (pacs / name).parent.mkdir(exist_ok=True)
        (pacs / name).write_text("no image")
    again = image_folders(pacs.parent, "PACS", 16)
    read_all(again)
    assert files_hash(again) == before
    (pacs / "photo/dog/00000.jpg").rename(pacs / "photo/dog/00000a.jpg")
    assert files_hash(image_folders(pacs.parent, "PACS", 16)) != before


@pytest.mark.training
@pytest.mark.parametrize("algorithm", ["erm", "fish"])
def test_a_run_on_augmented_images_that_was_killed_ends_with_the_same_bytes(
    algorithm, image_root, tmp_path, monkeypatch
):
    variant = small().variants()[algorithm]
    training = replace(variant.training, steps=6, look_every=2)
    variant = replace(variant, training=training, data=variant.data | {"augment": True})
    whole, killed = (RunDirectory(tmp_path / name, {}) for name in ("whole", "killed"))
    run_algorithm(variant, 0, ["sketch"], run=whole, root=image_root)
    plain = experiment._checkpoint
    for at in (2, 4):

        def dying(run, key, step, *rest, at=at):
            if step == at:
                raise KeyboardInterrupt  # the row is there, its checkpoint is not
            plain(run, key, step, *rest)

        monkeypatch.setattr(experiment, "_checkpoint", dying)
        with pytest.raises(KeyboardInterrupt):
            run_algorithm(variant, 0, ["sketch"], run=killed, root=image_root)
    monkeypatch.setattr(experiment, "_checkpoint", plain)
    run_algorithm(variant, 0, ["sketch"], run=killed, root=image_root)
    assert killed.metrics.read_bytes() == whole.metrics.read_bytes()
    ends = [torch.load(run.path / "checkpoint.pt")["phases"][0]["model"] for run in (whole, killed)]
    assert all(torch.equal(ends[1][key], value) for key, value in ends[0].items())


class TestImageFiles:
    @pytest.fixture
    def images(self, image_root):
        return image_folders(image_root, "PACS", 8)["photo"][0]

    @settings(max_examples=20)
    @given(data=st.data())
    def test_rows_and_parts_are_those_of_the_tensor(self, data, of_every_mode):
        files, pixels = of_every_mode
        rows = torch.tensor(data.draw(st.lists(st.integers(0, len(files) - 1), min_size=1, max_size=9)))
        assert torch.equal(files[rows].floats(), pixels[rows])
        parts = files.split(data.draw(st.integers(1, 12)))
        assert sum(map(len, parts)) == len(files)
        assert torch.equal(torch.cat([part.floats() for part in parts]), pixels)

    @pytest.fixture(scope="class")
    def of_every_mode(self, tmp_path_factory):
        """Images of every colour mode, of one colour each, and what they are to become."""
        folder, colours, files = tmp_path_factory.mktemp("modes"), [], []
        for number, (mode, grey) in enumerate({"RGB": 0, "L": 40, "RGBA": 90, "P": 153, "1": 255, "CMYK": 200}.items()):
            image = Image.new("RGB", (5 + number, 9), (grey,) * 3).convert(mode)
            files.append(folder / f"{number}.{'tiff' if mode == 'CMYK' else 'png'}")
            image.save(files[-1])
            colours.append(image.convert("RGB").getpixel((0, 0)))
        x = torch.tensor(colours, dtype=torch.float32)[:, :, None, None].expand(-1, 3, 4, 4) / 255
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
        return ImageFiles(np.array(files, dtype=object), 4), (x - mean) / std

    def test_only_minibatches_to_learn_from_are_augmented_and_the_generator_decides(self, images):
        labels = torch.zeros(len(images), dtype=torch.int64)
        plain, changed = replace(images, augment=False), replace(images, augment=True)
        assert torch.equal(changed.floats(), plain.floats())
        draws = Draws({"photo": (changed, labels)}, 6, torch.Generator().manual_seed(3))
        state = draws.generator.get_state()
        first, second = draws.minibatch("photo")[0], draws.minibatch("photo")[0]
        draws.generator.set_state(state)
        assert torch.equal(draws.minibatch("photo")[0], first)
        assert not torch.equal(first, second)
        rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))[:6]
        assert not torch.allclose(first, plain[rows].floats(), atol=0.1)

    @given(seed=st.integers(0, 2**31), width=st.integers(3, 40), height=st.integers(3, 40), grey=st.integers(90, 160))
    def test_an_image_of_one_grey_stays_one_of_a_brightness_within_the_bounds(self, seed, width, height, grey):
        image = augmented(Image.new("RGB", (width, height), (grey,) * 3), 8, np.random.default_rng(seed))
        values = np.asarray(image).astype(float)
        assert values.shape == (8, 8, 3)
        assert np.ptp(values) <= 1  # cut, mirrored or turned in hue, grey is grey
        assert 0.7 * grey - 2 <= values.mean() <= 1.3 * grey + 2

    def test_augmentation_shows_at_least_seven_tenths_of_a_picture_and_mirrors_every_other(self):
        x = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (200, 1, 3))  # grey from left to right
        found = [
            np.asarray(augmented(Image.fromarray(x), 32, np.random.default_rng(seed)).convert("L"), dtype=float)
            for seed in range(400)
        ]
        rises = np.array([image[:, -1].mean() > image[:, 0].mean() for image in found])
        assert abs(rises.mean() - 0.5) < 0.1
        greys = [
            np.ptp(np.asarray(augmented(RED, 4, np.random.default_rng(seed)), dtype=int), axis=2).max()
            for seed in range(400)
        ]
        assert 0.05 < np.mean(np.array(greys) <= 1) < 0.16

    def test_random_groups_and_environments_take_files_as_tensors(self, image_root):
        cut = leave_out(image_folders(image_root, "PACS", 8), ["photo"], 3, seed=0)
        assert isinstance(cut, Environments)
        dealt = random_groups(cut, seed=0)
        assert [len(y) for _, y in dealt.train.values()] == [len(y) for _, y in cut.train.values()]
        before, after = ({str(f) for x, _ in part.train.values() for f in x.files} for part in (cut, dealt))
        assert before == after
        assert all(len({file.parts[-3] for file in x.files}) == 3 for x, _ in dealt.train.values())


RED = Image.new("RGB", (20, 20), (200, 60, 60))


def test_the_same_seed_gives_the_same_bytes(tmp_path, image_root):
    folder = make_image_fixture("VLCS", tmp_path)
    for file in (path.relative_to(tmp_path) for path in folder.rglob("*") if path.is_file()):
        assert (tmp_path / file).read_bytes() == (image_root / file).read_bytes()
    with pytest.raises(InputError, match="is there already"):
        make_image_fixture("VLCS", tmp_path)
    with pytest.raises(InputError, match="no image set 'OfficeHome' here.*office_home"):
        make_image_fixture("OfficeHome", tmp_path)


def test_the_command_writes_a_fixture(tmp_path, capsys):
    assert main(["image-fixture", "terra_incognita", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "terra_incognita")

"""The default models, their weights and tokenizers; and the hyperparameters of the full recipes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gentangle import InputError
from gentangle.matching.experiment import run_algorithm
from gentangle.matching.networks import image_network
from gentangle.matching.recipes import load_matching_recipe
from gentangle.matching.wilds_data import SETS, transform
from gentangle.matching.wilds_fixtures import make_image_fixture
from gentangle.matching.wilds_models import make_network, make_tokenizer
from gentangle.matching.wilds_run import load_wilds_recipe
from gentangle.runs import RunDirectory

ROOT = Path(__file__).parents[2]
TINY = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "vocab_size": 40, "max_position_embeddings": 8}
#: Input of one example, and parameters without the last layer.
SHAPES = {"densenet121": ((3, 32, 32), 6_953_856), "resnet50": ((3, 32, 32), 23_508_032)}
SHAPES |= {"resnet18": ((8, 32, 32), 11_176_512 + 5 * 64 * 49)}


def network(name, **changes):
    return make_network(name, **{"outputs": 3, "weights": "random", "seed": 0, "config": {}} | changes)


@pytest.fixture(autouse=True)
def wilds_imported(wilds_root):
    """torchvision's operators are declared."""


@pytest.mark.parametrize("name", SHAPES)
def test_images_have_the_default_networks(name):
    shape, size = SHAPES[name]
    model = network(name).eval()
    head = 3 * (model.classifier if name == "densenet121" else model.fc).in_features + 3
    assert sum(p.numel() for p in model.parameters()) == size + head
    assert model(torch.randn(2, *shape)).shape == (2, 3)


def test_the_seed_alone_decides_random_weights():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (network("resnet18", seed=seed).conv1.weight for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_weights_come_from_a_file_all_but_the_last_layer(tmp_path):
    given = network("resnet18", outputs=7, seed=1)
    torch.save(given.state_dict(), tmp_path / "weights.pt")
    model = network("resnet18", weights=str(tmp_path / "weights.pt"))
    assert torch.equal(model.conv1.weight, given.conv1.weight)
    assert model.fc.out_features == 3
    with pytest.raises(InputError, match=r"weights\.pt.*resnet50|resnet50.*weights\.pt"):
        network("resnet50", weights=str(tmp_path / "weights.pt"))
    state = given.state_dict()
    del state["conv1.weight"]
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(InputError, match=r"is no resnet18: 1 parameters do not fit, as conv1\.weight"):
        network("resnet18", weights=str(tmp_path / "part.pt"))
    for missing in (str(tmp_path / "none.pt"), "imagenet"):  # there are none with eight channels
        with pytest.raises(InputError, match="No weights of resnet18 at .*--weights FILE, or --weights random"):
            network("resnet18", weights=missing)


def test_without_a_network_imagenets_weights_are_refused(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(InputError, match=r"No weights of resnet50 at 'imagenet' \(no route\)"):
        network("resnet50", weights="imagenet")


def test_distilbert_and_its_tokenizer_come_from_folders(tmp_path):
    tokenizer = make_tokenizer("train", ["a good film", "A bad, bad film"])
    assert tokenizer.tokenize("Bad film, afoo") == ["bad", "film", ",", "a", "##f", "##o", "##o"]
    tokenizer.save_pretrained(tmp_path)
    given = network("distilbert", outputs=2, config=TINY)
    given.body.save_pretrained(tmp_path)
    model = network("distilbert", weights=str(tmp_path)).eval()
    key = "distilbert.embeddings.word_embeddings.weight"
    assert torch.equal(model.body.state_dict()[key], given.body.state_dict()[key])
    encode = transform("amazon", make_tokenizer(str(tmp_path)), image_size=0, tokens=8)
    x = torch.stack([encode("a good film"), encode("a good film, a bad film, a good film")])
    assert x.shape == (2, 8, 2)
    assert x[0, :, 1].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert model(x).shape == (2, 3)
    padded = x[:1].clone()
    padded[0, 6, 0] = 7  # what is masked is not read
    torch.testing.assert_close(model(padded), model(x[:1]))


def test_another_architectures_folder_is_refused(tmp_path):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(**sizes, vocab_size=40)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"is no distilbert: \d+ parameters are missing, as distilbert\."):
        network("distilbert", weights=str(tmp_path))


@pytest.mark.parametrize("make", [lambda name: network("distilbert", weights=name), make_tokenizer])
def test_a_name_that_is_nowhere_is_named(make, tmp_path):
    with pytest.raises(InputError, match=r"nowhere.*give --(weights FILE|tokenizer FOLDER)"):
        make(str(tmp_path / "nowhere"))


def test_images_are_resized_and_normalised():
    from PIL import Image

    image = Image.new("RGB", (96, 96), (255, 0, 0))
    x = transform("camelyon17", None, image_size=224, tokens=0)(image)
    assert x.shape == (3, 224, 224)
    torch.testing.assert_close(x[:, 0, 0], torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]))
    assert transform("fmow", None, image_size=0, tokens=0)(image).shape == (3, 96, 96)
    assert transform("poverty", None, image_size=0, tokens=0) is None


#: Optimizer, rate, batch, steps of ERM, epochs, meta rate, domains a step: config.py of the authors' code.
PUBLISHED = {
    "fmow": ("adam", 1e-4, 64, 24000, 12, 0.01, 5),
    "camelyon17": ("sgd", 1e-4, 32, 10000, 20, 0.01, 3),
    "poverty": ("adam", 1e-3, 64, 0, 200, 0.1, 5),
    "iwildcam": ("adam", 1e-4, 16, 24000, 18, 0.01, 10),
    "amazon": ("adam", 2e-6, 8, 31000, 3, 0.01, 5),
    "civilcomments": ("adam", 1e-5, 16, 20000, 5, 0.05, 5),
}


@pytest.mark.parametrize("name", SETS)
def test_the_recipes_have_the_published_hyperparameters(name):
    path = ROOT / "recipes" / f"wilds_{name}.yaml"
    r = load_wilds_recipe(path)
    found = (r.optimizer, r.learning_rate, r.batch_size, r.pretrain_steps, r.epochs, r.meta_lr, r.domains_per_step)
    assert found == PUBLISHED[name]
    assert r.eps == r.meta_lr / r.domains_per_step
    assert (r.dataset, r.name) == (name, path.stem)
    assert r.momentum == (0.9 if name == "camelyon17" else 0)
    assert r.keep == ("last" if name == "fmow" else "best")
    assert (r.image_size, r.tokens) == (
        224 * (name in ("camelyon17", "iwildcam")),
        {"amazon": 512, "civilcomments": 300}.get(name, 0),
    )
    small = load_wilds_recipe(path, small=True)
    assert (small.weights, small.name) == ("random", f"wilds_{name}-small")


class TestDomainBedsNetworks:
    @pytest.fixture(scope="class")
    def images(self, tmp_path_factory):
        root = tmp_path_factory.mktemp("images")
        make_image_fixture("PACS", root)
        return root

    @pytest.mark.parametrize("name", ["resnet18", "resnet50"])
    def test_they_take_three_channels_and_batch_norm_is_frozen(self, name, tmp_path):
        torch.save(network(name, outputs=7, seed=1, channels=3).state_dict(), tmp_path / "weights.pt")
        model = image_network(name, 4, weights=str(tmp_path / "weights.pt"), seed=0)
        before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 4)
        assert before
        assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
        assert all(p.requires_grad for p in model.parameters())
        again = network(name, outputs=7, seed=1, channels=3).conv1.weight
        assert torch.equal(model.conv1.weight, again)

    def test_imagenets_weights_are_asked_for_by_either(self, monkeypatch):
        def refuse(*_, **__):
            raise OSError("no route")

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
        for name in ("resnet18", "resnet50"):
            with pytest.raises(
                InputError, match=rf"No weights of {name} at 'imagenet' \(no route\).*`weights:` of the"
            ):
                image_network(name, 4, weights="imagenet", seed=0)

    @pytest.mark.training
    def test_a_recipe_trains_one_and_it_stays_frozen_through_looks(self, images, tmp_path):
        recipe = load_matching_recipe(ROOT / "recipes" / "pacs.yaml", small=True)
        variant = recipe.variants()["fish"]
        data = variant.data | {"network": "resnet18", "size": 32, "augment": True}
        variant = replace(variant, data=data, training=replace(variant.training, steps=2, look_every=1, batch_size=4))
        run = RunDirectory(tmp_path / "run", {})
        rows = run_algorithm(variant, 0, ["sketch"], run=run, root=images)
        assert [row["step"] for row in rows] == [1, 2]
        state = torch.load(run.path / "checkpoint.pt")["phases"][0]["model"]
        start = image_network("resnet18", 3, weights="random", seed=0).state_dict()
        moved = {key for key, value in start.items() if not torch.equal(state[key].cpu(), value)}
        assert "conv1.weight" in moved
        assert "bn1.weight" in moved
        assert not {key for key in moved if "running" in key}

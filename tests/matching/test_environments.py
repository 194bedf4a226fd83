import gzip

import numpy as np
import pytest
import torch

from gentangle.errors import InputError
from gentangle.matching.cdsprites import cdsprites, sprites
from gentangle.matching.digits import ANGLES, DISAGREEMENTS, colored_digits, digits, read_idx, rotated_digits
from gentangle.matching.environments import Draws, Environments, as_floats, domain_accuracy, leave_out, random_groups


def examples(count, label=0, at=0.0):
    return torch.full((count, 2), at), torch.full((count,), label)


def two(**changes):
    parts = {"a": examples(4), "b": examples(4, 1)}
    return {"train": parts, "validation": parts, "test": {}, "classes": 2} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"a": examples(4)}}, "1 domain to learn from"),
        ({"train": {"a": examples(4), "b": examples(0)}}, "Domain 'b' has 0 inputs and 0 labels"),
        (
            {"train": {"a": examples(4), "b": (torch.zeros(3, 2), torch.zeros(4))}},
            "Domain 'b' has 3 inputs and 4 labels",
        ),
        ({"test": {"c": examples(4, 2)}}, "Domain 'c' has the label 2, expected 0 to 1"),
        ({"test": {"c": examples(4, -1)}}, "Domain 'c' has the label -1"),
    ],
)
def test_domains_that_cannot_be_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        Environments(**two(**changes))


def test_a_fifth_is_held_out_and_a_left_out_domain_is_not_learnt_from():
    parts = {
        name: (torch.arange(10)[:, None] + at, torch.arange(10) % 2) for name, at in (("a", 0), ("b", 10), ("c", 20))
    }
    cut = leave_out(parts, ["b"], 2, seed=0)
    assert list(cut.train) == ["a", "c"]
    assert list(cut.test) == ["b"]
    assert list(cut.validation) == ["a", "b", "c"]
    for name, (x, _) in parts.items():
        kept = (cut.test if name == "b" else cut.train)[name][0]
        assert len(kept) == 8
        assert sorted(torch.cat([kept, cut.validation[name][0]]).flatten().tolist()) == x.flatten().tolist()
    with pytest.raises(InputError, match=r"Cannot leave out \['d'\]: the domains are a, b, c"):
        leave_out(parts, ["d"], 2, seed=0)


def test_random_groups_hold_the_same_examples_in_the_same_sizes():
    parts = {"a": examples(30, 0, 1.0), "b": examples(50, 1, 2.0)}
    dealt = random_groups(Environments(**two(train=parts)), seed=0)
    assert [len(y) for _, y in dealt.train.values()] == [30, 50]
    assert sum(int((x[:, 0] == 1).sum()) for x, _ in dealt.train.values()) == 30
    shares = [float((x[:, 0] == 1).float().mean()) for x, _ in dealt.train.values()]
    assert all(0.1 < share < 0.7 for share in shares)  # 0.375 in the whole


def test_draws_are_of_different_domains_without_repeats_and_go_on_from_the_generators_state():
    parts = {name: (torch.arange(5)[:, None] + 10 * i, torch.zeros(5)) for i, name in enumerate("abcd")}
    draws = Draws(parts, 3, torch.Generator().manual_seed(0), domains=2)
    state = draws.generator.get_state()
    first = [draws.draw() for _ in range(20)]
    for drawn in first:
        assert len(drawn) == 2
        for name, (x, _) in drawn.items():
            assert len(set(x.flatten().tolist())) == 3
            assert all(v // 10 == "abcd".index(name) for v in x.flatten().tolist())
    assert {name for drawn in first for name in drawn} == set("abcd")
    draws.generator.set_state(state)
    again = draws.draw()
    assert all(torch.equal(again[name][0], x) for name, (x, _) in first[0].items())


def test_reptile_draws_several_minibatches_of_one_domain():
    parts = {name: (torch.arange(50)[:, None] + 100 * i, torch.zeros(50)) for i, name in enumerate("abcd")}
    draws = Draws(parts, 3, torch.Generator().manual_seed(0), domains=3, one_domain=True)
    drawn = draws.draw()
    assert len(drawn) == 3
    assert len({int(v) // 100 for x, _ in drawn.values() for v in x.flatten()}) == 1


def test_accuracy_counts_largest_logits():
    x, y = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 4.0]]), torch.tensor([0, 0, 1])
    assert domain_accuracy(lambda x: x, (x, y), batch_size=2) == pytest.approx(2 / 3)


def test_bytes_become_numbers_from_0_to_1():
    assert as_floats(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0, 1]


class TestCdSprites:
    def test_colour_tells_the_label_in_training_and_not_in_the_test(self):
        made = cdsprites(4, 60, seed=0, side=32)
        hues = {}
        for name, (x, y) in made.train.items():
            colours = [tuple(image.flatten(1).max(dim=1).values.tolist()) for image in x]
            hues[name] = {
                label: {c for c, l in zip(colours, y.tolist(), strict=True) if l == label} for label in (0, 1)
            }
            assert [len(hues[name][label]) for label in (0, 1)] == [1, 1]
        assert len({c for own in hues.values() for one in own.values() for c in one}) == 8
        x, y = made.test["test"]
        for colour in {c for own in hues.values() for one in own.values() for c in one}:
            painted = (x.flatten(2).max(dim=2).values == torch.tensor(colour)).all(dim=1)
            assert 0.15 < y[painted].float().mean() < 0.85

    def test_either_shape_covers_the_same_area_at_the_same_scale(self):
        x, y = sprites(2000, 64, torch.zeros(1, 2), torch.Generator().manual_seed(0))
        area = (x.amax(dim=1) > 0).sum(dim=(1, 2)).float()
        assert float(area[y == 0].mean() / area[y == 1].mean()) == pytest.approx(1, abs=0.05)
        assert int((y == 0).sum()) == 1000

    def test_every_sprite_is_whole(self):
        x, _ = sprites(500, 64, torch.zeros(1, 2), torch.Generator().manual_seed(1))
        assert not x[..., 0].any()
        assert not x[..., -1].any()
        assert not x[..., 0, :].any()
        assert not x[..., -1, :].any()

    def test_the_seed_decides(self):
        one, again, other = (cdsprites(2, 10, seed=seed, side=16).train[0][0] for seed in (0, 0, 1))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)

    @pytest.mark.parametrize(("domains", "count"), [(1, 10), (51, 10), (2, 4)])
    def test_sizes_out_of_range_are_refused(self, domains, count):
        with pytest.raises(InputError, match=f"Got {domains} domains of {count} examples"):
            cdsprites(domains, count, seed=0)


class TestDigits:
    def test_rotated_domains_share_out_the_digits(self):
        parts = rotated_digits(seed=0)
        assert list(parts) == [f"{angle} degrees" for angle in ANGLES]
        assert sum(len(y) for _, y in parts.values()) == 1797
        assert all(set(y.tolist()) == set(range(10)) for _, y in parts.values())

    def test_no_degrees_is_the_digit_itself_and_turning_back_finds_it(self):
        from scipy.ndimage import rotate

        images, labels = digits()
        order = np.random.default_rng(3).permutation(len(labels))
        parts = rotated_digits(seed=3)
        assert torch.equal(parts["0 degrees"][0][:, 0], torch.tensor(images[order[::6]], dtype=torch.float32))
        turned = parts["60 degrees"][0][:, 0].numpy()
        back = rotate(turned, -60, axes=(2, 1), reshape=False, order=1)
        own = images[order[4::6]]
        alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(back, own, strict=True)]
        assert np.median(alike) > 0.9
        assert np.median([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(turned, own, strict=True)]) < 0.6

    def test_colour_disagrees_with_the_label_as_the_domain_says_and_the_digit_for_a_quarter(self):
        images, labels = digits()
        order = np.random.default_rng(0).permutation(len(labels))
        for i, (share, (x, y)) in enumerate(zip(DISAGREEMENTS, colored_digits(seed=0).values(), strict=True)):
            colour = x[:, 1].flatten(1).any(dim=1).long()
            assert not (x[:, 0].flatten(1).any(dim=1) & x[:, 1].flatten(1).any(dim=1)).any()
            assert float((colour != y).float().mean()) == pytest.approx(share, abs=0.04)
            below_five = torch.tensor(labels[order[i::3]] < 5)
            assert float((below_five != y.bool()).float().mean()) == pytest.approx(0.25, abs=0.05)
            assert torch.allclose(x.sum(dim=1), torch.tensor(images[order[i::3]], dtype=torch.float32))

    @staticmethod
    def write_mnist(folder, count=12, zipped=False):
        random = np.random.default_rng(0)
        for part in ("train", "t10k"):
            for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
                head = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
                data = head + random.integers(0, 10, shape).astype(np.uint8).tobytes()
                path = folder / f"{part}-{kind}-ubyte"
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(data)) if zipped else path.write_bytes(data)

    @pytest.mark.parametrize("zipped", [False, True])
    def test_mnists_own_files_are_read_where_a_folder_is_given(self, tmp_path, zipped):
        self.write_mnist(tmp_path, zipped=zipped)
        images, labels = digits(tmp_path)
        assert images.shape == (24, 28, 28)
        assert labels.shape == (24,)
        assert colored_digits(str(tmp_path), seed=0)["10%"][0].shape == (8, 2, 14, 14)
        assert rotated_digits(str(tmp_path), seed=0)["15 degrees"][0].shape == (4, 1, 28, 28)

    def test_bad_idx_files_are_named(self, tmp_path):
        with pytest.raises(InputError, match="train-images-idx3-ubyte is missing, with or without .gz"):
            digits(tmp_path)
        self.write_mnist(tmp_path)
        path = tmp_path / "train-labels-idx1-ubyte"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(InputError, match="train-labels-idx1-ubyte has 11 bytes of data, expected 12"):
            digits(tmp_path)
        path.write_bytes(b"PK\x03\x04")
        with pytest.raises(InputError, match="is not an IDX file of bytes: it begins with 50 4b 03 04"):
            digits(tmp_path)
        (tmp_path / "broken.gz").write_bytes(b"no gzip")
        with pytest.raises(InputError, match=r"Cannot read .*broken.gz"):
            read_idx(tmp_path, "broken")

"""Domains a step: uniform or by size, without repeats, from the generator alone."""

import pytest
import torch

from gentangle import InputError
from gentangle.matching.domain_sampling import draw_domains

SIZES = {"a": 1, "b": 10, "c": 100, "d": 1000}


def shares(by, count=2, draws=2000):
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_domains(SIZES, count, by=by, generator=generator) for _ in range(draws)]
    assert all(len(set(names)) == count for names in drawn)
    return {name: sum(name in names for names in drawn) / draws for name in SIZES}


def test_uniform_draws_every_domain_alike_and_by_size_the_large_ones():
    assert all(share == pytest.approx(0.5, abs=0.05) for share in shares("uniform").values())
    by_size = shares("size")
    assert by_size["d"] > 0.95
    assert by_size["c"] == pytest.approx(0.9, abs=0.05)
    assert by_size["a"] < by_size["b"] < by_size["c"] < by_size["d"]


def test_the_draws_go_on_from_the_generators_state():
    one = torch.Generator().manual_seed(3)
    draw_domains(SIZES, 3, generator=one)
    other = torch.Generator()
    other.set_state(one.get_state())
    assert [draw_domains(SIZES, 3, generator=g) for g in (one,) * 5] == [
        draw_domains(SIZES, 3, generator=g) for g in (other,) * 5
    ]


@pytest.mark.parametrize(
    ("sizes", "count", "by", "said"),
    [
        (SIZES, 1, "uniform", "from 2 to all 4"),
        (SIZES, 5, "uniform", "from 2 to all 4"),
        (SIZES | {"e": 0}, 2, "size", r"\['e'\] have no examples"),
        (SIZES, 2, "sizes", "Did you mean 'size'"),
    ],
)
def test_bad_input_gets_one_clear_error(sizes, count, by, said):
    with pytest.raises(InputError, match=said):
        draw_domains(sizes, count, by=by, generator=torch.Generator())

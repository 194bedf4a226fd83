"""What holds of every Gram matrix and of each of its readings, on inputs that hypothesis draws.

``GENTANGLE_EXAMPLES`` says how many each property is tried on; ``make fuzz`` takes hundreds.
"""

import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from gentangle import gram, gram_by_parameter, pair_gram
from gentangle.alignment import conditions
from gentangle.gradients.token_gram import token_gram
from gentangle.matching.domains import domain_gram
from gentangle.matching.gip import cosines, gip, mean_cosine, mean_inner_product
from gentangle.profiles import profile
from tests.gradients.models import language_model, response_tokens

EXACT = profile().tolerance.identity
CASES = settings(
    derandomize=True, deadline=None, database=None, max_examples=int(os.environ.get("GENTANGLE_EXAMPLES", "12"))
)

seeds = st.integers(0, 10_000)
counts = st.integers(1, 6)
factors = st.floats(-1e3, 1e3).filter(lambda c: c == 0 or abs(c) > 1e-3)
both = pytest.mark.parametrize("method", ["engine", "oracle"])


def network(seed):
    """One of three small models in float64, and what makes inputs for it."""
    torch.manual_seed(seed)
    kind = seed % 3
    if kind == 0:
        layers = [nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)]
    elif kind == 1:
        layers = [nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2, bias=False)]
    else:
        layers = [nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)]
    return nn.Sequential(*layers).double()


def drawn(seed, rows):
    """A model, and a scalar a row of its inputs."""
    model = network(seed)
    x = torch.randn(rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return model, lambda m, rows=slice(None): m(x[rows]).log_softmax(-1)[:, 0] + m(x[rows]).square().sum(-1)


def close(found, expected, scale=None):
    scale = np.abs(expected).max() if scale is None else scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT * max(scale, 1e-12))


# The Gram matrix.


@both
@CASES
@given(seeds, counts)
def test_the_gram_matrix_is_symmetric(method, seed, rows):
    matrix = gram(*drawn(seed, rows), method=method)
    np.testing.assert_array_equal(matrix, matrix.T)


@both
@CASES
@given(seeds, counts)
def test_it_is_positive_semidefinite(method, seed, rows):
    matrix = gram(*drawn(seed, rows), method=method)
    assert np.linalg.eigvalsh(matrix).min() >= -EXACT * np.trace(matrix)


@both
@CASES
@given(seeds, counts)
def test_it_obeys_cauchy_and_schwarz(method, seed, rows):
    matrix = gram(*drawn(seed, rows), method=method)
    squares = np.diag(matrix)
    assert (matrix**2 <= np.outer(squares, squares) * (1 + EXACT)).all()


@both
@CASES
@given(seeds, st.lists(factors, min_size=1, max_size=5))
def test_it_scales_with_its_scalars(method, seed, scales):
    model, scalars = drawn(seed, len(scales))
    c = torch.tensor(scales, dtype=torch.float64)
    plain = gram(model, scalars, method=method)
    close(gram(model, lambda m: c * scalars(m), method=method), np.outer(scales, scales) * plain)


@both
@CASES
@given(seeds, st.permutations(range(5)))
def test_it_permutes_with_its_scalars(method, seed, order):
    model, scalars = drawn(seed, 5)
    plain = gram(model, scalars, method=method)
    close(gram(model, lambda m: scalars(m, order), method=method), plain[np.ix_(order, order)])


@both
@CASES
@given(seeds, st.integers(2, 6), st.data())
def test_a_part_of_the_batch_has_a_part_of_the_matrix(method, seed, rows, data):
    model, scalars = drawn(seed, rows)
    cut = data.draw(st.integers(1, rows - 1))
    plain = gram(model, scalars, method=method)
    for part in (slice(0, cut), slice(cut, rows)):
        found = gram(model, lambda m, part=part: scalars(m, part), method=method)
        close(found, plain[part, part], np.abs(plain).max())


@both
@CASES
@given(seeds, counts)
def test_the_parameters_shares_add_up(method, seed, rows):
    model, scalars = drawn(seed, rows)
    close(sum(gram_by_parameter(model, scalars, method=method).values()), gram(model, scalars, method=method))


@CASES
@given(seeds, st.integers(2, 5), seeds)
def test_it_is_bilinear_in_sums_of_scalars(seed, rows, mixed):
    """Of scalars A s it is A G A^T, whatever A: losses of a batch, of domains, differences."""
    model, scalars = drawn(seed, rows)
    mix = np.random.default_rng(mixed).normal(size=(3, rows))
    plain = gram(model, scalars, method="oracle")
    close(gram(model, lambda m: torch.tensor(mix) @ scalars(m), method="oracle"), mix @ plain @ mix.T)


@CASES
@given(seeds, counts)
def test_the_engine_agrees_with_the_oracle(seed, rows):
    model, scalars = drawn(seed, rows)
    close(gram(model, scalars, method="engine"), gram(model, scalars, method="oracle"))


@both
@CASES
@given(seeds, st.integers(1, 4), st.data())
def test_pairs_do_not_depend_on_how_the_batch_is_split(method, seed, pairs, data):
    model, scalars = drawn(seed, 2 * pairs)
    cut = data.draw(st.integers(0, pairs))
    whole = pair_gram(model, scalars, method=method)
    matrix = gram(model, scalars, method=method)
    close(whole, np.stack([matrix[np.ix_([p, p + pairs], [p, p + pairs])] for p in range(pairs)]))
    parts = []
    for low, high in pairwise(sorted({0, cut, pairs})):
        rows = [*range(low, high), *range(pairs + low, pairs + high)]
        parts.append(pair_gram(model, lambda m, rows=rows: scalars(m, rows), method=method))
    close(np.concatenate(parts), whole)


# The Gram matrix of tokens.

shapes = {"rows": st.integers(1, 2), "length": st.integers(2, 7), "seed": st.integers(0, 50)}


def tokens_of(rows, length, seed):
    """Of models whose normalisation is in float64, as they are: that of Llama stays in float32."""
    torch.manual_seed(seed)
    return language_model(("gpt2", "gpt_neox")[seed % 2]).double(), response_tokens(rows, length, seed)


@CASES
@given(**shapes)
def test_the_tokens_matrix_is_symmetric_and_positive_semidefinite(rows, length, seed):
    matrix = token_gram(*tokens_of(rows, length, seed))
    close(matrix, matrix.T)
    assert np.linalg.eigvalsh((matrix + matrix.T) / 2).min() >= -EXACT * np.trace(matrix)


@CASES
@given(**shapes)
def test_tokens_add_up_to_their_responses(rows, length, seed):
    model, scalars = tokens_of(rows, length, seed)
    blocks = token_gram(model, scalars).reshape(rows, length - 1, rows, length - 1).sum((1, 3))
    close(gram(model, lambda m: scalars(m).sum(-1), method="oracle"), blocks)


@CASES
@given(scale=factors, **shapes)
def test_the_tokens_matrix_scales(scale, rows, length, seed):
    model, scalars = tokens_of(rows, length, seed)
    close(token_gram(model, lambda m: scale * scalars(m)), scale**2 * token_gram(model, scalars))


@CASES
@given(length=shapes["length"], seed=shapes["seed"])
def test_a_row_alone_has_its_block_of_the_tokens_matrix(length, seed):
    model, scalars = tokens_of(2, length, seed)
    whole, n = token_gram(model, scalars), length - 1
    for row in (0, 1):
        alone = gram(model, lambda m, row=row: scalars(m)[row], method="oracle")
        close(whole[row * n : (row + 1) * n, row * n : (row + 1) * n], alone, np.abs(whole).max())


# Readings of a pair.


@st.composite
def pair_matrices(draw):
    """G of two gradients of three numbers each, of very different lengths."""
    numbers = np.array(draw(st.lists(st.floats(-10, 10), min_size=6, max_size=6))).reshape(2, 3)
    gradients = numbers * np.array([[10.0 ** draw(st.integers(-3, 3))], [10.0 ** draw(st.integers(-3, 3))]])
    matrix = gradients @ gradients.T
    assume(min(np.diag(matrix)) > 1e-12)
    return (matrix + matrix.T) / 2


slopes = st.floats(1e-3, 1e3)


@CASES
@given(pair_matrices(), slopes, slopes)
def test_positive_slopes_never_reverse_a_pair(matrix, d_w, d_l):
    """Chosen falls and rejected rises only if <w,l>^2 > |w|^2 |l|^2."""
    assume(abs(conditions.cosine(matrix)) < 1 - 1e-9)
    assert conditions.case(conditions.first_order_changes(matrix, d_w, d_l)) != conditions.REVERSED


@CASES
@given(pair_matrices(), slopes, slopes)
def test_to_exchange_the_responses_exchanges_the_changes(matrix, d_w, d_l):
    plain = conditions.first_order_changes(matrix, d_w, d_l)
    exchanged = conditions.first_order_changes(matrix[::-1, ::-1], d_l, d_w)
    np.testing.assert_allclose(exchanged, -plain[::-1], rtol=EXACT)


@CASES
@given(pair_matrices(), slopes, slopes, st.floats(1e-3, 1e3), st.floats(1e-6, 1))
def test_the_changes_scale_and_the_case_stays(matrix, d_w, d_l, scale, eta):
    plain = conditions.first_order_changes(matrix, d_w, d_l)
    scaled = conditions.first_order_changes(scale * matrix, d_w, d_l, eta)
    size = np.abs(matrix).max() * max(d_w, d_l) * scale * eta
    np.testing.assert_allclose(scaled, scale * eta * plain, rtol=EXACT, atol=1e-14 * size)
    assume(np.abs(plain).min() > 1e-9 * np.abs(matrix).max() * max(d_w, d_l))
    assert conditions.case(scaled) == conditions.case(plain)


@CASES
@given(pair_matrices(), slopes, slopes)
def test_conditions_band_and_case_say_the_same(matrix, d_w, d_l):
    changes = conditions.first_order_changes(matrix, d_w, d_l)
    assume(np.abs(changes).min() > 1e-9 * np.abs(matrix).max() * max(d_w, d_l))
    intended = conditions.case(changes) == conditions.INTENDED
    assert all(conditions.conditions_hold(matrix, d_w, d_l)) == intended
    assert (conditions.band_distance(matrix, d_w, d_l) <= 1e-9) == intended


@CASES
@given(pair_matrices(), slopes, slopes)
def test_the_scaled_matrix_tells_the_same_changes(matrix, d_w, d_l):
    loss_slopes = [-d_w, d_l]
    found = conditions.changes_from_scaled(conditions.scaled_gram(matrix, loss_slopes), loss_slopes)
    size = np.abs(matrix).max() * max(d_w, d_l)
    np.testing.assert_allclose(found, conditions.first_order_changes(matrix, d_w, d_l), rtol=EXACT, atol=1e-13 * size)


@CASES
@given(pair_matrices(), factors.filter(bool), factors.filter(bool))
def test_the_cosine_is_a_cosine_and_knows_no_length(matrix, a, b):
    cosine = conditions.cosine(matrix)
    assert abs(cosine) <= 1 + 1e-9
    scaled = matrix * np.outer([a, b], [a, b])
    np.testing.assert_allclose(conditions.cosine(scaled), cosine * np.sign(a * b), rtol=1e-9, atol=1e-12)


@CASES
@given(seeds, st.integers(1, 5))
def test_who_pushes_chosen_adds_up_to_its_forecast(seed, pairs):
    random = np.random.default_rng(seed)
    gradients, c = random.normal(size=(2 * pairs, 4)), random.uniform(0.1, 1, 2 * pairs) * ([-1] * pairs + [1] * pairs)
    matrix = gradients @ gradients.T
    scaled = matrix * np.outer(c, c)
    np.testing.assert_allclose(conditions.attribution(scaled, c).sum(1), -(matrix @ c)[:pairs], rtol=1e-9, atol=1e-9)


# Readings of domains.


def domain_matrix(seed, count):
    gradients = np.random.default_rng(seed).normal(size=(count, 4))
    return gradients @ gradients.T


domains = {"seed": seeds, "count": st.integers(2, 6)}


@CASES
@given(data=st.data(), **domains)
def test_the_gip_knows_no_order_of_the_domains(data, seed, count):
    matrix, order = domain_matrix(seed, count), data.draw(st.permutations(range(count)))
    close(gip(matrix[np.ix_(order, order)]), gip(matrix), np.trace(matrix))


@CASES
@given(scale=factors, **domains)
def test_the_gip_scales_and_its_cosines_do_not(scale, seed, count):
    matrix = domain_matrix(seed, count)
    close(gip(scale**2 * matrix), scale**2 * gip(matrix), scale**2 * np.trace(matrix))
    if scale:
        close(cosines(scale**2 * matrix), cosines(matrix))


@CASES
@given(**domains)
def test_the_gip_is_what_norms_say_and_at_most_the_longest(seed, count):
    matrix = domain_matrix(seed, count)
    by_norms = mean_inner_product(matrix.sum(), np.diag(matrix))
    close(by_norms, gip(matrix), np.trace(matrix))
    assert abs(gip(matrix)) <= np.diag(matrix).max() * (1 + EXACT)
    assert abs(mean_cosine(matrix.sum(), list(np.diag(matrix)))) <= 1 + EXACT


@CASES
@given(seeds, counts)
def test_domains_that_are_one_have_its_norm_as_their_gip(seed, copies):
    square = float(domain_matrix(seed, 2)[0, 0])
    close(gip(np.full((copies + 1, copies + 1), square)), square)


@CASES
@given(seeds, st.integers(2, 4), st.integers(1, 3))
def test_the_matrix_of_domains_is_the_mean_over_their_examples(seed, count, rows):
    model, scalars = drawn(seed, count * rows)
    parts = {d: slice(d * rows, (d + 1) * rows) for d in range(count)}
    found = domain_gram(model, {d: lambda m, part=part: scalars(m, part).mean() for d, part in parts.items()})
    every = gram(model, scalars, method="oracle")
    close(found, every.reshape(count, rows, count, rows).mean((1, 3)), np.abs(every).max())

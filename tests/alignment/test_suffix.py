"""The shared suffix: the general Gram matrix against autograd, the closed forms against it, each hypothesis dropped."""

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gentangle as g
from gentangle.alignment import softmax
from gentangle.alignment import suffix as s
from gentangle.alignment.conditions import BOTH_DOWN, BOTH_UP, CASES, INTENDED

VOCABULARY, WIDTH = 6, 4
EVEN = np.full(VOCABULARY, 1 / VOCABULARY)
seeds = st.integers(0, 10_000)


def spans_of(weight, states, tokens):
    return s.Span(states, softmax.probabilities(states @ weight.T), tokens)


def random_pair(seed, prefix=0, suffix=5, branches=True):
    """A pair of a random last layer: (W, pair). Without branches the suffix's states are the same on both sides."""
    rng = np.random.default_rng(seed)
    weight, states = rng.normal(size=(VOCABULARY, WIDTH)), rng.normal(size=(1 + prefix + 2 * suffix, WIDTH))
    before, first, after = states[:prefix], states[prefix], states[prefix + 1 :]
    tokens = rng.integers(2, VOCABULARY, size=prefix + suffix)
    after_chosen = spans_of(weight, after[:suffix], tokens[prefix:])
    after_rejected = spans_of(weight, after[suffix:], tokens[prefix:]) if branches else after_chosen
    p = softmax.probabilities(weight @ first)
    start = spans_of(weight, before, tokens[:prefix]) if prefix else None
    return weight, s.SuffixPair(first, p, 0, 1, after_chosen, after_rejected, start)


def slacks(gram):
    """|w|^2 - <w,l> and |l|^2 - <w,l>: chosen falls where the first is negative, rejected rises where the second is."""
    return np.array([gram[0, 0] - gram[0, 1], gram[1, 1] - gram[0, 1]])


def orthogonal_states(length, rho, kappa=1.0):
    """Chosen and rejected branch's states: each position has a plane of its own, and none meets the first state."""
    chosen, rejected = np.zeros((2, length, 1 + 2 * length))
    at = np.arange(length)
    chosen[at, 1 + 2 * at] = 1
    rejected[at, 1 + 2 * at], rejected[at, 2 + 2 * at] = kappa * rho, kappa * np.sqrt(1 - rho**2)
    return chosen, rejected


def orthogonal_pair(length, miss_w, miss_l, rho, kappa=1.0, p=EVEN):
    return s.even_pair(p, orthogonal_states(length, rho, kappa), (miss_w, miss_l), np.full(length, 2))


def log_probs_by_torch(pair):
    """The responses' log-probabilities as a function of W, states held fixed, from torch alone."""

    def scalars(layer):
        return [
            layer(torch.tensor(span.states)).log_softmax(-1)[torch.arange(len(span.tokens)), span.tokens].sum()
            for span in pair.responses()
        ]

    return scalars


@given(seed=seeds, prefix=st.integers(0, 3), suffix=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_gram_is_autograds_and_the_parts_add_up_to_the_slacks(seed, prefix, suffix):
    weight, pair = random_pair(seed, prefix, suffix)
    layer = torch.nn.Linear(WIDTH, VOCABULARY, bias=False).double()
    layer.weight.data = torch.tensor(weight)
    expected = g.gram(layer, log_probs_by_torch(pair), method="oracle")
    np.testing.assert_allclose(pair.gram(), expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(pair.parts().sum(0), slacks(np.asarray(expected)), rtol=1e-9, atol=1e-10)


@given(seed=seeds)
@settings(max_examples=40, deadline=None)
def test_each_part_is_the_formula_of_the_page(seed):
    """Term by term, in loops over positions, for chosen; rejected is the same with the sides exchanged."""
    _, pair = random_pair(seed)
    h, H = pair.state, pair.state @ pair.state
    a = np.eye(VOCABULARY)[0] - pair.p
    k, n = pair.after_chosen.states, pair.after_rejected.states
    r, q = pair.after_chosen.residuals(), pair.after_rejected.residuals()
    T = range(len(k))
    crossed = sum(k[t] @ h * (a @ r[t] + r[t][0] - r[t][1]) - n[t] @ h * (a @ q[t]) for t in T)
    same = sum(k[t] @ k[t] * (r[t] @ r[t]) - k[t] @ n[t] * (r[t] @ q[t]) for t in T)
    across = sum(k[t] @ k[u] * (r[t] @ r[u]) - k[t] @ n[u] * (r[t] @ q[u]) for t in T for u in T if t != u)
    chosen = [0, H * (1 - pair.p[0] + pair.p[1]), crossed, same, across]
    np.testing.assert_allclose(pair.parts()[:, 0], chosen, rtol=1e-9, atol=1e-9)
    swapped = s.SuffixPair(pair.state, pair.p, 1, 0, pair.after_rejected, pair.after_chosen)
    np.testing.assert_allclose(pair.parts(), swapped.parts()[:, ::-1], rtol=1e-12, atol=1e-12)
    assert len(pair.parts()) == len(s.PARTS)


@given(seed=seeds, prefix=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_shared_prefix_moves_both_alike_and_the_margin_not_at_all(seed, prefix):
    _, pair = random_pair(seed, prefix)
    bare = s.SuffixPair(pair.state, pair.p, 0, 1, pair.after_chosen, pair.after_rejected)
    moved = g.first_order_changes(pair.gram()) - g.first_order_changes(bare.gram())
    shared = pair.prefix.gradient()
    w, l = (span.gradient() for span in bare.responses())
    np.testing.assert_allclose(moved, np.sum(shared * (w - l)) * np.ones(2), rtol=1e-8, atol=1e-9)
    assert np.abs(moved[0]) > 1e-6  # the cross terms are there


@given(seed=seeds, eta=st.floats(1e-3, 10))
@settings(max_examples=60, deadline=None)
def test_with_fixed_states_no_step_does_better_than_its_forecast(seed, eta):
    weight, pair = random_pair(seed, prefix=2)
    w, l = (span.gradient() for span in pair.responses())

    def log_probs(W):
        logs = [np.log(softmax.probabilities(span.states @ W.T)) for span in pair.responses()]
        return np.array([x[np.arange(len(x)), y.tokens].sum() for x, y in zip(logs, pair.responses(), strict=True)])

    forecast = g.first_order_changes(pair.gram(), eta=eta)
    measured = log_probs(weight + eta * (w - l)) - log_probs(weight)
    assert (measured <= forecast + 1e-9 * (1 + np.abs(forecast))).all()


@given(seed=seeds, length=st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_branch_independent_suffix(seed, length):
    _, pair = random_pair(seed, suffix=length, branches=False)
    h, H, q = pair.state, pair.state @ pair.state, pair.after_chosen.p
    drawn = np.sum(pair.after_chosen.states @ h * (q[:, 0] - q[:, 1]))
    gram = pair.gram()
    expected = H * (1 - pair.p[0] + pair.p[1]) - drawn, H * (1 - pair.p[1] + pair.p[0]) + drawn
    np.testing.assert_allclose(slacks(gram), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(slacks(gram).sum(), 2 * H, rtol=1e-9)  # whatever the suffix
    norms = np.sqrt(gram[0, 0] * gram[1, 1])
    assert 1 - g.cosine(gram) <= H / norms * (1 + 1e-9)


@pytest.mark.parametrize("length", [1, 20, 60, 300])
def test_cosine_near_one_and_chosen_rises_at_every_length(length):
    """Branch dependence dropped from the theorem on orthogonal states: same states, same misses, rho = 1."""
    pair = orthogonal_pair(length, 0.5, 0.5, 1.0)
    gram = pair.gram()
    assert g.case(g.first_order_changes(gram)) == INTENDED
    np.testing.assert_allclose(slacks(gram), [1, 1], rtol=1e-9)
    assert length < 60 or g.cosine(gram) > 0.94


def test_branch_independent_suffix_can_pull_chosen_down():
    """The first sum not 0: states along the first one, after which the model says w much more often than l."""
    length, state = 20, np.eye(1)
    q = np.tile([0.5, 0.1, 0.1, 0.1, 0.1, 0.1], (length, 1))
    after = s.Span(np.tile(state, (length, 1)), q, np.full(length, 2))
    gram = s.SuffixPair(state[0], EVEN, 0, 1, after, after).gram()
    np.testing.assert_allclose(slacks(gram), [1 - 0.4 * length, 1 + 0.4 * length], rtol=1e-9)


@given(
    p=st.tuples(*[st.floats(0.01, 1)] * 3),
    length=st.integers(0, 8),
    misses=st.tuples(*[st.floats(0.01, 1)] * 2),
    rho=st.floats(-1, 1),
    kappa=st.floats(0.3, 3),
)
@settings(max_examples=80, deadline=None)
def test_orthogonal_entries_are_the_general_gram(p, length, misses, rho, kappa):
    p_w, p_l = np.array(p[:2]) / sum(p)
    whole = np.array([p_w, p_l, *[(1 - p_w - p_l) / 4] * 4])
    general = orthogonal_pair(length, *misses, rho, kappa, whole).gram()
    np.testing.assert_allclose(s.orthogonal_gram(p_w, p_l, length, *misses, rho, kappa), general, rtol=1e-9, atol=1e-9)


def test_probabilities_may_be_0_and_1():
    """Chosen certain, rejected impossible; the suffix known by heart after one and missed for sure after the other."""
    p = np.array([1.0, 0, 0, 0, 0, 0])
    found = s.orthogonal_gram(1.0, 0.0, 3, 0.0, 1.0, 0.5)
    np.testing.assert_allclose(found, orthogonal_pair(3, 0.0, 1.0, 0.5, 1.0, p).gram(), atol=1e-12)
    np.testing.assert_array_equal(found, s.orthogonal_gram(1.0, 0.0, 3, 0.0, 1.0, 0.5, kappa=1))


def test_orthogonal_entries_hold_for_any_shared_off_target_distribution():
    rng = np.random.default_rng(0)
    o = np.insert(rng.dirichlet(np.ones(VOCABULARY - 1)), 2, 0.0)  # over the tokens that are not the suffix's
    rows = [np.tile((1 - miss) * np.eye(VOCABULARY)[2] + miss * o, (7, 1)) for miss in (0.2, 0.5)]
    states = orthogonal_states(7, 0.9, 1.3)
    spans = [s.Span(h, q, np.full(7, 2)) for h, q in zip(states, rows, strict=True)]
    gram = s.SuffixPair(np.eye(15)[0], EVEN, 0, 1, *spans).gram()
    values = {s.LENGTH: 7, s.STATE_NORM_SQ: 1, s.KAPPA: 1.3, s.RHO: 0.9, s.MISS_CHOSEN: 0.2, s.MISS_REJECTED: 0.5}
    values |= {s.OFF_NORM_SQ: o @ o, softmax.P_NORM_SQ: 1 / 6, softmax.H_NORM_SQ: 1}
    values |= {softmax.P_CHOSEN: 1 / 6, softmax.P_REJECTED: 1 / 6}
    entries = [float(entry.subs(values)) for entry in s.ORTHOGONAL_ENTRIES]
    np.testing.assert_allclose(entries, [gram[0, 0], gram[1, 1], gram[0, 1]], rtol=1e-9)


def test_what_a_position_adds_and_where_the_sign_turns():
    """The formulas of the page: written out here, differentiated and solved from the package's entries there."""
    w, l, inner = s.ORTHOGONAL_ENTRIES
    scale = s.STATE_NORM_SQ * (1 + s.OFF_NORM_SQ)
    chosen = scale * s.MISS_CHOSEN * (s.MISS_CHOSEN - s.RHO * s.KAPPA * s.MISS_REJECTED)
    rejected = scale * s.KAPPA * s.MISS_REJECTED * (s.KAPPA * s.MISS_REJECTED - s.RHO * s.MISS_CHOSEN)
    assert sp.expand(sp.diff(w - inner, s.LENGTH) - chosen) == 0
    assert sp.expand(sp.diff(l - inner, s.LENGTH) - rejected) == 0
    start = softmax.H_NORM_SQ * (1 - softmax.P_CHOSEN + softmax.P_REJECTED)
    (turn,) = sp.solve(w - inner, s.LENGTH)
    assert sp.simplify(turn + start / chosen) == 0


@given(misses=st.tuples(*[st.floats(0.02, 1)] * 2), rho=st.floats(-1, 1), kappa=st.floats(0.3, 3))
@settings(max_examples=200, deadline=None)
def test_the_branch_that_predicts_the_suffix_better_is_pulled_the_wrong_way(misses, rho, kappa):
    """Shared off-target distribution: the order of the misses decides the case of a long suffix, whatever p."""
    (w, l), length = misses, 10**7
    falls, rises = w < rho * kappa * l, kappa * l < rho * w
    margins = abs(w - rho * kappa * l), abs(kappa * l - rho * w)
    if min(margins) < 1e-3:
        return  # too near the border for a finite suffix
    found = g.case(g.first_order_changes(s.orthogonal_gram(0.3, 0.2, length, w, l, rho, kappa)))
    assert found == (BOTH_DOWN if falls else BOTH_UP if rises else INTENDED)
    assert not (falls and rises)


@given(misses=st.tuples(*[st.floats(0.05, 1)] * 2), rho=st.floats(-1, 1), kappa=st.floats(0.3, 3))
@settings(max_examples=60, deadline=None)
def test_ratios_and_cosine_of_a_long_suffix(misses, rho, kappa):
    gram = s.orthogonal_gram(0.3, 0.2, 1e8, *misses, rho, kappa)
    w, l = misses
    np.testing.assert_allclose(
        g.normalised_inner_products(gram), [rho * kappa * l / w, rho * w / (kappa * l)], rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(g.cosine(gram), rho, rtol=1e-4, atol=1e-4)


def off_target_pair(length, misses, o_w, o_l, rho):
    """Orthogonal states; the missed probability goes to o_w after chosen and to o_l after rejected."""
    q = [np.tile((1 - m) * np.eye(VOCABULARY)[2] + m * o, (length, 1)) for m, o in zip(misses, (o_w, o_l), strict=True)]
    spans = [s.Span(h, k, np.full(length, 2)) for h, k in zip(orthogonal_states(length, rho), q, strict=True)]
    return s.SuffixPair(np.eye(1 + 2 * length)[0], EVEN, 0, 1, *spans)


@given(seed=seeds, length=st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_twice_the_miss_suffices_whatever_the_off_target_distributions(seed, length):
    """eps_l > 2 eps_w / rho: every position adds less than 0, and chosen falls once T delta > H (1 - p_w + p_l)."""
    rng = np.random.default_rng(seed)
    rho, miss_w = rng.uniform(0.4, 1), rng.uniform(0.01, 0.15)
    miss_l = rng.uniform(2 * miss_w / rho, 1)
    o_w, o_l = (np.insert(rng.dirichlet(np.full(VOCABULARY - 1, 0.3)), 2, 0.0) for _ in range(2))
    pair = off_target_pair(length, (miss_w, miss_l), o_w, o_l, rho)
    added = pair.parts()[3, 0] / length
    assert added <= miss_w * (2 * miss_w - rho * miss_l) + 1e-12 < 1e-9
    assert (slacks(pair.gram())[0] < 0) == (length * -added > 1)  # H (1 - p_w + p_l) is 1


def test_the_factor_two_is_needed():
    """The shared off-target distribution dropped: eps_w = .2 < rho eps_l = .36, yet chosen rises at every length."""
    o_w, o_l = np.eye(VOCABULARY)[3], np.eye(VOCABULARY)[4]
    assert g.case(g.first_order_changes(s.orthogonal_gram(1 / 6, 1 / 6, 60, 0.2, 0.4, 0.9))) == BOTH_DOWN
    apart = off_target_pair(60, (0.2, 0.4), o_w, o_l, 0.9)
    assert g.case(g.first_order_changes(apart.gram())) == INTENDED
    assert apart.parts()[3, 0] > 0


def test_order_of_predictability_dropped():
    for length in (1, 5, 20, 60, 10_000):
        assert slacks(s.orthogonal_gram(0.25, 0.25, length, 0.46, 0.5, 0.9))[0] > 1
        assert slacks(s.orthogonal_gram(0.25, 0.25, length, 0.5, 0.2, 0.9))[0] > 1
    assert slacks(s.orthogonal_gram(0.25, 0.25, 60, 0.5, 0.2, 0.9))[1] < 0


@pytest.mark.parametrize("rho", [0.0, -0.5, -1.0])
def test_hidden_similarity_dropped(rho):
    for length in (1, 20, 10_000):
        gram = s.orthogonal_gram(0.25, 0.25, length, 0.2, 0.5, rho)
        assert g.case(g.first_order_changes(gram)) == INTENDED


def leaning_states(length, rho):
    """Chosen's states share a direction, rejected's do not; the cosine of a position's two states is rho."""
    chosen, rejected = orthogonal_states(length, 1.0)
    return rho * chosen + np.sqrt(1 - rho**2) * np.eye(1 + 2 * length)[2], rejected


def test_orthogonality_across_positions_dropped():
    for length in range(1, 61):
        pair = s.even_pair(EVEN, leaning_states(length, 0.9), (0.2, 0.5), np.full(length, 2))
        parts = pair.parts()[:, 0]
        assert parts[3] < 0
        assert parts.sum() > 0
        np.testing.assert_allclose(parts[3], length * -0.06, rtol=1e-9)
    assert slacks(s.orthogonal_gram(1 / 6, 1 / 6, 60, 0.2, 0.5, 0.9))[0] < 0


def test_different_tokens_at_leaning_states_pull_chosen_down_out_of_order():
    """Many different tokens: the order of predictability may fail, and chosen falls all the same."""
    length = 38
    p = np.full(length + 2, 1 / (length + 2))
    pair = s.even_pair(p, leaning_states(length, 0.8), (0.5, 0.48), np.arange(2, length + 2))
    parts = pair.parts()[:, 0]
    assert parts[3] > 0 > parts.sum()


def test_a_suffix_known_by_heart_adds_nothing():
    """The bound away from 0 dropped: every position adds less than 0, and chosen rises at every length."""
    halves = 0.5 ** np.arange(60)[:, None]
    pair = s.even_pair(EVEN, orthogonal_states(60, 0.9), (0.2 * halves, 0.5 * halves), np.full(60, 2))
    assert pair.parts()[3, 0] < 0 < slacks(pair.gram())[0]


def test_phases_depend_on_the_difference_of_p_alone_and_all_three_occur():
    for p_w, p_l in ((0.5, 0.1), (0.6, 0.2), (0.7, 0.3)):
        found = slacks(s.orthogonal_gram(p_w, p_l, 30, 0.2, 0.5, 0.9))
        np.testing.assert_allclose(found, slacks(s.orthogonal_gram(0.4, 0.0, 30, 0.2, 0.5, 0.9)), rtol=1e-9)
    lengths, rho = np.meshgrid(np.geomspace(1, 300, 50), np.linspace(-1, 1, 51))
    seen = set()
    for misses in ((0.2, 0.5), (0.4, 0.5), (0.5, 0.2)):
        seen |= set(np.unique(g.case(g.first_order_changes(s.orthogonal_gram(0.25, 0.25, lengths, *misses, rho)))))
    assert seen == set(CASES)


def test_claim_of_the_paper_in_random_models():
    """Orthogonal states, p uniform, rho, eps_w, eps_l uniform: every inner product grows, few pairs fall together."""
    rng = np.random.default_rng(0)
    p, (rho, w, l) = rng.dirichlet([1, 1, 1], 20_000).T, rng.uniform(size=(3, 20_000))
    one, long, longest = (s.orthogonal_gram(p[0], p[1], length, w, l, rho) for length in (1, 60, 1e6))
    assert (long[:, 0, 1] > one[:, 0, 1]).all()
    assert (g.cosine(longest) < 1).all()
    cases = [g.case(g.first_order_changes(gram)) for gram in (long, longest)]
    down, up = ([np.mean(names == name) for names in cases] for name in (BOTH_DOWN, BOTH_UP))
    # In the limit eps_w < rho eps_l decides: a quarter.
    np.testing.assert_allclose(down, [0.17, 0.25], atol=0.01)
    np.testing.assert_allclose(up, [0.16, 0.25], atol=0.01)


def test_bad_input_gets_one_clear_error():
    with pytest.raises(g.InputError, match="a pair must differ"):
        s.SuffixPair(np.ones(2), EVEN, 1, 1, *[s.Span(np.ones((1, 2)), EVEN[None], np.array([2]))] * 2)
    one, two = (s.Span(np.ones((1, 2)), EVEN[None], np.array([token])) for token in (2, 3))
    with pytest.raises(g.InputError, match="a shared suffix is one text"):
        s.SuffixPair(np.ones(2), EVEN, 0, 1, one, two)
    with pytest.raises(g.InputError, match="expected numbers from 0 to 1"):
        s.orthogonal_gram(0.7, 0.7, 3, 0.1, 0.1, 0.5)
    with pytest.raises(g.InputError, match="expected numbers from 0 to 1"):
        s.orthogonal_gram(-0.1, 0.7, 3, 0.1, 0.1, 0.5)
    with pytest.raises(g.InputError, match="expected numbers from 0 to 1"):
        s.orthogonal_gram(0.2, 0.2, 3, 1.1, 0.1, 0.5)
    with pytest.raises(g.InputError, match="expected numbers from 0 to 1"):
        s.orthogonal_gram(0.2, float("nan"), 3, 0.1, 0.1, 0.5)

"""The geometry widget in Python: its reading, and the HTML that the static page starts from."""

import html
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import sympy as sp
import traitlets
from bs4 import BeautifulSoup

from gentangle.alignment import conditions
from gentangle.alignment.objectives import OBJECTIVES
from gentangle.alignment.symbols import MARGIN
from gentangle.display import objective_menu
from gentangle.display.geometry import CURVATURE, DOMAIN_TITLES, GradientGeometry
from gentangle.display.widget import BookWidget, source_name, static_files
from gentangle.errors import InputError
from gentangle.matching import expansion


def mount(widget):
    soup = BeautifulSoup(widget.static_html(), "html.parser")
    assert len(soup.find_all(recursive=False)) == 1  # one element, so nothing of the state has escaped from it
    return soup.find(class_="gt-mount")


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"angle": 0.0},
        {"angle": 137.0, "ratio": 0.4, "eta": 0.15},
        {"chosen_norm": 2.5, "rejected_norm": 0.3, "angle": 10.0, "ratio": 3.0},
    ],
)
def test_reading_is_that_of_the_vectors_themselves(state):
    """Independent of the Gram matrix: the update v = d_w w - d_l l as a vector, and inner products with it."""
    widget = GradientGeometry(**state)
    angle = math.radians(widget.angle)
    w = (widget.chosen_norm, 0.0)
    l = (widget.rejected_norm * math.cos(angle), widget.rejected_norm * math.sin(angle))
    v = [widget.ratio * a - b for a, b in zip(w, l, strict=True)]
    reading = widget.reading()
    assert reading["change_chosen"] == pytest.approx(widget.eta * (w[0] * v[0] + w[1] * v[1]), rel=1e-12, abs=1e-12)
    assert reading["change_rejected"] == pytest.approx(widget.eta * (l[0] * v[0] + l[1] * v[1]), rel=1e-12, abs=1e-12)
    assert reading["cosine"] == pytest.approx(math.cos(angle), abs=1e-12)
    assert reading["case"] == conditions.case([reading["change_chosen"], reading["change_rejected"]])
    assert reading["chosen_does_not_fall"] == (reading["inner_product"] <= reading["chosen_bound"])
    assert reading["rejected_does_not_rise"] == (reading["inner_product"] <= reading["rejected_bound"])


def test_worked_example():
    reading = GradientGeometry(chosen_norm=1.0, rejected_norm=2.0, angle=0.0).reading()
    assert (reading["cosine"], reading["change_chosen"], reading["change_rejected"]) == (1.0, -1.0, -2.0)


def test_defaults_show_both_down():
    assert GradientGeometry().reading()["case"] == conditions.BOTH_DOWN


def test_a_tie_is_no_fall():
    # <w,l> = 1 * 2 * cos 60 degrees = |w|^2, which the condition allows.
    reading = GradientGeometry(angle=60.0).reading()
    assert reading["change_chosen"] == 0
    assert reading["case"] == conditions.INTENDED


def test_every_case_has_a_title():
    names = {value for name, value in vars(conditions).items() if name.isupper() and isinstance(value, str)}
    assert names >= {*conditions.CASES, conditions.REVERSED, conditions.UNMOVED}
    assert set(conditions.CASE_TITLES) == names


# ---- the menu of objectives ----


def test_every_objective_is_in_the_menu_with_positive_slopes():
    """Where a slope is not positive the two conditions, written with d_w/d_l, would have to be turned round."""
    assert [name for name, *_ in objective_menu.objective_menu()] == [*OBJECTIVES]
    low, high = GradientGeometry.ratio.min, GradientGeometry.ratio.max
    for name, _, d_chosen, d_rejected, *_ in objective_menu.objective_menu():
        assert d_chosen > 0, name
        assert d_rejected > 0, name
        assert low <= d_chosen / d_rejected <= high, name


def test_the_pair_of_the_menu_tells_families_apart():
    ratio = {name: GradientGeometry(objective=name).ratio for name in OBJECTIVES}
    assert ratio["dpo"] == ratio["ipo"] == ratio["exo"] == 1
    assert ratio["simpo"] == ratio["ipo-norm"] == 1.25  # 25 tokens to 20
    assert ratio["dpop"] == pytest.approx(51)  # its penalty is active
    assert ratio["dpo-shift"] == pytest.approx(4 / 3)
    assert ratio["apo-down"] < 0.1 < ratio["kto"] < 1 < ratio["bco"] < ratio["nca"] < ratio["sppo"] < ratio["cpo"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_written_slopes_are_the_objectives(name):
    """The symbols behind the text, at the pair: m' is the slope of m at the pair's margin."""
    o = OBJECTIVES[name]
    numbers = {symbol: value for symbol, value in o.defaults.items()}
    numbers |= {s: objective_menu.PAIR[s.name] for s in o.loss.free_symbols if s.name in objective_menu.PAIR}
    margin = (o.h_chosen - o.h_rejected).subs(numbers)
    numbers[objective_menu.MARGIN_SLOPE] = sp.diff(o.m, MARGIN).subs(numbers | {MARGIN: margin})
    pair = objective_menu.PAIR
    numbers |= {"r_w": pair["logp_chosen"] - pair["ref_chosen"], "r_l": pair["logp_rejected"] - pair["ref_rejected"]}
    by_name = {str(symbol): value for symbol, value in numbers.items()}
    found = []
    for slope in objective_menu.chain_rule(o):
        given = {symbol: by_name[str(symbol)] for symbol in slope.free_symbols}
        # The book's own functions are evaluated as in a loss.
        found.append(float(_evaluated(slope.subs(given))))
    assert found == pytest.approx([float(d) for d in o.slopes(**pair)], rel=1e-10)


def _evaluated(expression):
    from gentangle.alignment.compile import compiled

    return compiled((), expression, "numpy")()


@pytest.mark.parametrize(
    ("name", "chosen", "rejected"),
    [
        ("dpo", "\u03b2 m\u2032", "\u03b2 m\u2032"),
        ("dpop", "\u03b2 m\u2032 (\u03bb [r_w < 0] + 1)", "\u03b2 m\u2032"),
        ("simpo", "\u03b2 m\u2032/|y_w|", "\u03b2 m\u2032/|y_l|"),
        ("cpo", "\u03b2 m\u2032 + \u03bb", "\u03b2 m\u2032"),
        ("sppo", "\u22122 r_w + 1/\u03b2", "2 r_l + 1/\u03b2"),
        ("bco", "\u03b2 \u03c3(\u2212\u03b2 r_w)", "\u03b2 \u03c3(\u03b2 r_l)"),
    ],
)
def test_slopes_in_plain_text(name, chosen, rejected):
    assert [*map(objective_menu.plain, objective_menu.chain_rule(OBJECTIVES[name]))] == [chosen, rejected]


def test_plain_text_has_no_name_of_the_code():
    for *_, chosen, rejected in objective_menu.objective_menu():
        assert not set("*{}") & set(chosen + rejected)
        assert not any(word in chosen + rejected for word in ("logp", "len", "lam", "beta", "ref", "inverse", "is_"))


def test_the_pair_is_told_in_words():
    assert all(
        f"{value:g}".replace("-", "\u2212") in objective_menu.PAIR_IN_WORDS for value in objective_menu.PAIR.values()
    )


def test_an_objective_sets_the_ratio_and_a_ratio_leaves_the_objective():
    widget = GradientGeometry(objective="dpop")
    assert widget.ratio == pytest.approx(51)
    assert "51 (DPOP)" in widget.sentence()
    assert "v is drawn at 1 : 12.7" in widget.picture()
    widget.objective = "cpo"
    assert widget.reading()["d_rejected"] == pytest.approx(0.054983399731, rel=1e-10)
    assert widget.ratio == widget.reading()["d_chosen"] / widget.reading()["d_rejected"]
    widget.ratio = 2.0
    assert widget.objective == "own"
    assert (widget.reading()["d_chosen"], widget.reading()["d_rejected"]) == (2.0, 1.0)


def test_state_of_an_objective_can_be_given_again():
    widget = GradientGeometry(objective="orpo", read_as="domains")
    again = GradientGeometry(**{name: getattr(widget, name) for name in widget.state_names})
    assert again.static_html() == widget.static_html()


@pytest.mark.parametrize("order", [("objective", "ratio"), ("ratio", "objective")])
def test_ratio_that_is_not_the_objectives_is_refused(order):
    given = {"objective": "simpo", "ratio": 2.0}
    with pytest.raises(InputError, match="its ratio is 1.25"):
        GradientGeometry(**{name: given[name] for name in order})
    with pytest.raises(traitlets.TraitError, match="objective"):
        GradientGeometry(objective="dpo2")


# ---- two domains ----


@pytest.mark.parametrize(
    ("state", "case"),
    [
        ({}, "agree"),
        ({"angle": 90.0}, "orthogonal"),
        ({"angle": 110.0}, "conflict"),
        ({"angle": 150.0}, "one-rises"),
        ({"angle": 180.0, "rejected_norm": 1.0}, "cancel"),
        ({"angle": 120.0}, "conflict"),  # <g1, g2> = -|g1|^2: a tie is no rise
    ],
)
def test_case_of_two_domains(state, case):
    reading = GradientGeometry(read_as="domains", **state).reading()
    assert reading["case"] == case
    assert reading["one_does_not_rise"] == (reading["gip"] >= reading["one_bound"])
    assert reading["two_does_not_rise"] == (reading["gip"] >= reading["two_bound"])


def test_every_case_of_two_domains_has_a_title():
    states = [{"angle": a, "rejected_norm": n} for a in (0.0, 90.0, 100.0, 170.0, 180.0) for n in (1.0, 2.0)]
    assert {GradientGeometry(read_as="domains", **state).reading()["case"] for state in states} == set(DOMAIN_TITLES)


@pytest.mark.parametrize("angle", [0.0, 20.0, 75.0, 120.0, 165.0])
def test_reading_of_two_domains_is_that_of_the_vectors_and_curvatures(angle):
    """By matrices: H_i = h x x^T with x along g_i; and Fish's mean loop is the expansion's, with nothing left out."""
    widget = GradientGeometry(read_as="domains", angle=angle, eta=0.8, chosen_norm=1.5)
    g = np.array([[1.5, 0.0], [2 * math.cos(math.radians(angle)), 2 * math.sin(math.radians(angle))]])
    h = CURVATURE * np.einsum("ki,kj->kij", g, g) / (g * g).sum(1)[:, None, None]
    reading = widget.reading()
    erm = -0.8 * g.mean(0)
    assert [reading["change_one"], reading["change_two"]] == pytest.approx([*(g @ erm)], abs=1e-12)
    values = {expansion.ALPHA: sp.Float(0.4)}
    symbols = {expansion.gradient(i): sp.Matrix(g[i - 1]) for i in (1, 2)}
    symbols |= {expansion.hessian(i): sp.Matrix(h[i - 1]) for i in (1, 2)}
    terms = expansion.expected_displacement(2).args
    moved = sum((_product(term.subs(values), symbols) for term in terms), sp.zeros(2, 1))
    fish = -np.array(moved, dtype=float)[:, 0]
    np.testing.assert_allclose(-widget.fish_loops().mean(0) @ g, fish, atol=1e-12)
    for name, step in (("erm_gip", erm), ("fish_gip", fish)):
        one, two = g + h @ step
        assert reading[name] == pytest.approx(float(one @ two), abs=1e-12)


def _product(term, matrices):
    """A term of the expansion, a number times non-commuting symbols, as a matrix."""
    number, factors = term.args_cnc()
    found = sp.eye(2)
    for factor in factors:
        found *= matrices[factor]
    return sp.Mul(*number) * found


def test_a_small_loop_of_fish_ends_where_the_gip_is_larger():
    for angle in np.linspace(1, 179, 90).round(0):
        reading = GradientGeometry(read_as="domains", eta=0.05, angle=float(angle)).reading()
        assert reading["fish_gip"] >= reading["erm_gip"], angle


def test_picture_of_two_domains_has_their_letters_and_the_numbers():
    place = mount(GradientGeometry(read_as="domains"))
    assert {letter.text for letter in place.find_all("text")} == {"g\u2081", "g\u2082", "ERM", "Fish"}
    for words in (place.find("svg")["aria-label"], place.find("figcaption").text):
        assert all(part in words for part in ("1.88", "\u22121.44", "\u22122.94", "0.33", "0.46", "agree"))


def test_state_survives_the_attribute():
    widget = GradientGeometry(angle=33.0, eta=0.25)
    assert json.loads(mount(widget)["data-state"]) == widget.state()
    assert mount(widget)["data-widget"] == "geometry"


def test_mount_element_is_small():
    assert len(GradientGeometry().static_html().encode()) < 6000


def test_picture_has_words_and_the_numbers_in_a_sentence():
    place = mount(GradientGeometry())
    assert place.find("svg")["role"] == "img"
    for words in (place.find("svg")["aria-label"], place.find("figcaption").text):
        assert all(part in words for part in ("20\u00b0", "\u22120.88", "\u22122.12", "both down"))


def test_each_arrow_of_the_picture_has_its_letter():
    place = mount(GradientGeometry())
    assert {letter.text for letter in place.find_all("text")} == {"w", "l", "v"}
    assert len(place.find_all("polygon")) == 3


def test_picture_without_an_update_has_two_arrows():
    place = mount(GradientGeometry(chosen_norm=1.0, rejected_norm=1.0, angle=0.0))
    assert len(place.find_all("polygon")) == 2
    assert "unmoved" in place.find("figcaption").text


class Hostile(BookWidget):
    module = '"><script>alert(1)</script>'
    state_names = ("text",)
    _esm = "export default { render() {} }"
    text = traitlets.Unicode("\"'><script>&amp;</script>").tag(sync=True)

    def picture(self) -> str:
        return html.escape(self.text)


def test_state_and_name_are_escaped():
    place = mount(Hostile())
    assert json.loads(place["data-state"]) == {"text": "\"'><script>&amp;</script>"}
    assert place["data-widget"] == Hostile.module
    assert place.find("script") is None


def test_the_same_state_gives_the_same_bytes():
    one, two = GradientGeometry(angle=70.0), GradientGeometry(angle=70.0)
    assert one.static_html() == two.static_html()
    assert (
        repr(one)
        == repr(two)
        == (
            "GradientGeometry(chosen_norm=1.0, rejected_norm=2.0, angle=70.0, ratio=1.0, eta=1.0, objective='own', "
            "read_as='pair')"
        )
    )
    assert one.static_html() != GradientGeometry(angle=71.0).static_html()


def test_output_of_a_cell_has_the_live_view_and_the_static_one():
    widget = GradientGeometry()
    data, _ = widget._repr_mimebundle_()
    assert data["text/html"] == widget.static_html()
    assert data["text/plain"].startswith("GradientGeometry(")  # anywidget before 0.10 cuts a long one
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.model_id


@pytest.mark.parametrize("state", [{"angle": 181.0}, {"chosen_norm": 0.0}, {"eta": 0.0}, {"ratio": -1.0}])
def test_values_off_the_sliders_are_refused(state):
    with pytest.raises(traitlets.TraitError, match=next(iter(state))):
        GradientGeometry(**state)


def test_static_files_register_the_module_whole():
    files = static_files(["geometry", "geometry"])
    assert set(files) == {source_name("geometry"), "static_loader.js", "widgets.css"}
    text = files[source_name("geometry")]
    assert json.loads(text[text.index("] = ") + 4 :].rstrip(";\n")) == str(GradientGeometry._esm)


def test_styles_and_scripts_name_no_other_host():
    for name, text in static_files(["geometry"]).items():
        addresses = text.replace("http://www.w3.org/2000/svg", "")  # the namespace's name; nothing is fetched
        assert "//cdn" not in addresses, name
        assert "http" not in addresses, name


def test_import_needs_no_torch():
    code = "import sys; from gentangle.display.geometry import GradientGeometry; GradientGeometry().reading(); "
    code += "print('torch' in sys.modules, 'gentangle.display.geometry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", "True"]

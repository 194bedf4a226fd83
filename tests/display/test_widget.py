"""The geometry widget in Python: its reading, and the HTML that the static page starts from."""

import html
import json
import math
import subprocess
import sys

import pytest
import traitlets
from bs4 import BeautifulSoup

from gentangle.alignment import conditions
from gentangle.display.geometry import CASE_TITLES, GradientGeometry
from gentangle.display.widget import BookWidget, source_name, static_files


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
    names = {value for name, value in vars(conditions).items() if name.isupper() and value in CASE_TITLES}
    assert names >= {*conditions.CASES, conditions.REVERSED, conditions.UNMOVED}
    assert set(CASE_TITLES) == names


def test_state_survives_the_attribute():
    widget = GradientGeometry(angle=33.0, eta=0.25)
    assert json.loads(mount(widget)["data-state"]) == widget.state()
    assert mount(widget)["data-widget"] == "geometry"


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
        == ("GradientGeometry(chosen_norm=1.0, rejected_norm=2.0, angle=70.0, ratio=1.0, eta=1.0)")
    )
    assert one.static_html() != GradientGeometry(angle=71.0).static_html()


def test_output_of_a_cell_has_the_live_view_and_the_static_one():
    widget = GradientGeometry()
    data, _ = widget._repr_mimebundle_()
    assert data["text/html"] == widget.static_html()
    assert data["text/plain"] == repr(widget)
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

"""Runs node's own test runner on the suffix widget's maths, against golden numbers from Python; and its static page."""

import json

import numpy as np
import pytest
import traitlets
from bs4 import BeautifulSoup

from gentangle import InputError
from gentangle.display.suffix_widget import SuffixCases


def golden_widgets() -> list[dict]:
    rng = np.random.default_rng(0)
    widgets = []
    for _ in range(240):
        p_w, p_l, _ = rng.dirichlet([1, 1, 1])
        miss_w, miss_l = rng.uniform(0.01, 1, size=2)
        rho, length = rng.uniform(-1, 1), int(rng.integers(0, 121))
        widgets.append(SuffixCases(p_w=p_w, p_l=p_l, length=length, miss_w=miss_w, miss_l=miss_l, rho=rho))
    return [{"state": widget.state(), "reading": widget.reading()} for widget in widgets]


@pytest.mark.parametrize("wrong", [0.0, 1e-9])
def test_maths_of_the_module_is_pythons_and_a_wrong_number_fails(run_node, wrong):
    widgets = golden_widgets()
    widgets[0]["reading"]["inner_product"] += wrong
    done = run_node("suffix", {"widgets": widgets})
    assert (done.returncode == 0) == (not wrong), done.stdout + done.stderr
    assert ("inner_product of" if wrong else "pass 5") in done.stdout  # node counts a file without tests as passed


def test_static_page_has_state_picture_and_sentence():
    widget = SuffixCases()
    place = BeautifulSoup(widget.static_html(), "html.parser").find(class_="gt-mount")
    assert json.loads(place["data-state"]) == widget.state()
    assert place["data-widget"] == "suffix"
    assert {text.text for text in place.find_all("text")} == {"chosen", "rejected"}
    for words in (place.find("svg")["aria-label"], place.find("figcaption").text):
        assert "40 shared tokens" in words
        assert "by \u22121.40" in words
        assert "both down" in words


def test_static_page_is_the_same_from_run_to_run():
    assert SuffixCases(rho=0.5).static_html() == SuffixCases(rho=0.5).static_html() != SuffixCases().static_html()


def test_impossible_states_are_refused():
    with pytest.raises(traitlets.TraitError, match="length"):
        SuffixCases(length=121)
    with pytest.raises(InputError, match="p_w \\+ p_l"):
        SuffixCases(p_w=0.7, p_l=0.7).reading()

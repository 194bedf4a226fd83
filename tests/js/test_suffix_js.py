"""Runs node's own test runner on the suffix widget's maths, against golden numbers from Python; and its static page."""

import json

import numpy as np
import pytest
import traitlets
from bs4 import BeautifulSoup

from gentangle import InputError
from gentangle.alignment import conditions
from gentangle.alignment.suffix import orthogonal_gram
from gentangle.display.suffix_widget import SuffixCases


def golden_widgets() -> list[dict]:
    rng = np.random.default_rng(0)
    widgets = []
    for _ in range(240):
        p_w, p_l, _ = rng.dirichlet([1, 1, 1])
        miss_w, miss_l = rng.uniform(0.01, 1, size=2)
        rho, length = rng.uniform(-1, 1), int(rng.integers(0, 121))
        widgets.append(SuffixCases(p_w=p_w, p_l=p_l, length=length, miss_w=miss_w, miss_l=miss_l, rho=rho))
    shared = [np.diff(orthogonal_gram(**w.given() | {"length": np.array([0, 1])}), axis=0)[0].tolist() for w in widgets]
    golden = zip(widgets, shared, strict=True)
    return [{"state": w.state(), "reading": w.reading(), "shared": share} for w, share in golden]


def golden_phases() -> list[dict]:
    """Cases on coarse grids of rho and each of the other numbers: early and late, predictable after either token."""
    ends = {"p_w": 1, "p_l": 1, "miss_w": 1, "miss_l": 1, "length": 120}
    phases = []
    for across, end in ends.items():
        for length, miss_w, miss_l in ((0, 0.3, 0.6), (7, 0.2, 0.5), (40, 0.2, 0.5), (40, 0.5, 0.2), (120, 0.31, 0.3)):
            start = SuffixCases(p_w=0.35, p_l=0.2, length=length, miss_w=miss_w, miss_l=miss_l, across=across)
            cells = []
            for value in np.round(np.linspace(0, end, 11), 2).tolist():
                given = start.given() | {across: value}
                if across in ("p_w", "p_l"):  # the other gives way
                    other = "p_l" if across == "p_w" else "p_w"
                    given[other] = min(given[other], round(1 - value, 2))
                rhos = np.round(np.linspace(-1, 1, 21), 2)
                changes = conditions.first_order_changes(orthogonal_gram(**given | {"rho": rhos}))
                # Where a change is 0 but for rounding, either case is right.
                clear = (np.abs(changes) > 1e-9).all(axis=1)
                names = conditions.case(changes)
                cells += [(value, *x) for x in zip(rhos[clear].tolist(), names[clear].tolist(), strict=True)]
            phases.append({"state": start.state(), "across": across, "cells": cells})
    return phases


@pytest.mark.parametrize("wrong", [0.0, 1e-9])
def test_maths_of_the_module_is_pythons_and_a_wrong_number_fails(run_node, wrong):
    widgets = golden_widgets()
    widgets[0]["reading"]["inner_product"] += wrong
    done = run_node("suffix", {"widgets": widgets, "phases": golden_phases()})
    assert (done.returncode == 0) == (not wrong), done.stdout + done.stderr
    assert ("inner_product of" if wrong else "pass 9") in done.stdout  # node counts a file without tests as passed


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


def test_a_wrong_cell_of_the_phase_diagram_fails(run_node):
    phases = golden_phases()
    value, rho, name = phases[0]["cells"][0]
    assert name == conditions.INTENDED
    phases[0]["cells"][0] = (value, rho, conditions.BOTH_UP)
    done = run_node("suffix", {"widgets": golden_widgets(), "phases": phases})
    assert done.returncode
    assert f"{phases[0]['across']} {value:g}, rho {rho:g} of" in done.stdout


def test_static_page_is_the_same_from_run_to_run():
    assert SuffixCases(rho=0.5).static_html() == SuffixCases(rho=0.5).static_html() != SuffixCases().static_html()


def test_impossible_states_are_refused():
    with pytest.raises(traitlets.TraitError, match="length"):
        SuffixCases(length=121)
    with pytest.raises(traitlets.TraitError, match="across"):
        SuffixCases(across="rho")
    with pytest.raises(InputError, match="p_w \\+ p_l"):
        SuffixCases(p_w=0.7, p_l=0.7).reading()

"""One call draws a figure in both themes and writes it with its alt text and where it came from."""

import base64
import io
import json

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from gentangle.display.figure import CHOSEN, REJECTED, ShownFigure, save_figure
from gentangle.errors import InputError

ALT = "A line that falls from one to zero."
SIZE = (2.0, 1.5)
ORIGIN = {
    "profile": "cpu",
    "seed": 3,
    "gentangle": "0.1",
    "date": "2026-11-24",
    "processor": "AMD <EPYC> & co",
    "versions": {"python": "3.12", "numpy": "2.0"},
}
FILES = ["line.dark.png", "line.json", "line.light.png"]


def line(figure):
    figure.subplots().plot([0, 1], [1, 0])


def bands(figure):
    """The left half in the colour of chosen, the right half in that of rejected."""
    figure.add_artist(Rectangle((0, 0), 0.5, 1, color=CHOSEN))
    figure.add_artist(Rectangle((0.5, 0), 0.5, 1, color=REJECTED))


@pytest.fixture(autouse=True)
def figures(tmp_path, monkeypatch):
    """The folder of the figures: no test writes into the cache or the book."""
    monkeypatch.setenv("GENTANGLE_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("GENTANGLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "figures"


def save(draw=line, **given):
    return save_figure("line", draw, **{"alt": ALT, "size": SIZE, "origin": ORIGIN} | given)


def pixels(png):
    return plt.imread(io.BytesIO(png))


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_two_pictures_and_their_origin_are_written(figures):
    shown = save()
    assert names(figures) == FILES
    assert json.loads((figures / "line.json").read_text("utf-8")) == {"alt": ALT, "provenance": ORIGIN}
    for theme in ("light", "dark"):
        assert (figures / f"line.{theme}.png").read_bytes() == shown.pictures[theme]
        assert pixels(shown.pictures[theme]).shape[2] == 4


def test_without_a_folder_named_they_go_to_the_cache(figures, monkeypatch):
    monkeypatch.delenv("GENTANGLE_FIGURES")
    save()
    assert names(figures.parent / "cache" / "figures") == FILES
    assert not figures.exists()


def test_the_origin_is_this_process_where_none_is_given(figures):
    save(origin=None, seed=7)
    made = json.loads((figures / "line.json").read_text("utf-8"))["provenance"]
    assert (made["seed"], made["data_sha256"]) == (7, None)
    assert {"command", "package_sha256", "versions", "processor", "date"} <= set(made)


def test_each_theme_has_its_own_colours_on_a_clear_ground():
    pictures = save().pictures
    light, dark = (pixels(pictures[theme]) for theme in ("light", "dark"))
    assert light[0, 0, 3] == dark[0, 0, 3] == 0
    # Opaque ink, edges and text: darker than mid-grey on a light page, lighter on a dark one.
    ink = [picture[picture[..., 3] == 1][:, :3] for picture in (light, dark)]
    assert ink[0].mean() < 0.5 < ink[1].mean()


@pytest.mark.parametrize(
    ("theme", "chosen", "rejected"), [("light", "#0072B2", "#D55E00"), ("dark", "#56B4E9", "#F0873C")]
)
def test_chosen_and_rejected_keep_their_colours(theme, chosen, rejected):
    row = pixels(save(bands).pictures[theme])
    row = row[row.shape[0] // 2]
    np.testing.assert_allclose(row[len(row) // 4, :3], to_rgb(chosen), atol=1 / 255)
    np.testing.assert_allclose(row[3 * len(row) // 4, :3], to_rgb(rejected), atol=1 / 255)


def test_drawing_twice_gives_the_same_bytes(figures):
    one = save()._repr_html_()
    first = {path.name: path.read_bytes() for path in figures.iterdir()}
    two = save()._repr_html_()
    assert {path.name: path.read_bytes() for path in figures.iterdir()} == first
    assert one == two
    assert save(bands)._repr_html_() != one


@pytest.mark.parametrize("alt", ["", "   ", "figure", "A falling line"])
def test_a_figure_without_a_sentence_is_not_drawn(figures, alt):
    def draw(figure):
        raise AssertionError("drawn before it was refused")

    with pytest.raises(InputError, match=r"Figure 'line' has no alt text .* give a sentence in alt="):
        save(draw, alt=alt)
    assert names(figures) == []


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_drawing_that_raises_leaves_nothing_behind(figures, fails_at):
    """In the light theme, and in the dark one when the light picture is done."""
    calls = []

    def draw(figure):
        calls.append(figure)
        line(figure)
        if len(calls) == fails_at:
            raise ZeroDivisionError

    open_before, style_before = plt.get_fignums(), dict(mpl.rcParams)
    with pytest.raises(ZeroDivisionError):
        save(draw)
    assert len(calls) == fails_at
    assert names(figures) == []
    assert plt.get_fignums() == open_before
    assert dict(mpl.rcParams) == style_before


def test_no_figure_stays_open_and_the_style_is_given_back():
    open_before, style_before = plt.get_fignums(), dict(mpl.rcParams)
    save()
    assert plt.get_fignums() == open_before
    assert dict(mpl.rcParams) == style_before


def test_the_html_holds_both_pictures_and_the_origin(figures):
    page = BeautifulSoup(save()._repr_html_(), "html.parser")
    assert page.find("figure")["id"] == "fig-line"
    for image, theme in zip(page.find_all("img"), ("light", "dark"), strict=True):
        assert image["class"][0] == f"gt-{theme}"
        head, data = image["src"].split(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data) == (figures / f"line.{theme}.png").read_bytes()
        assert image["alt"] == ALT
    origin = page.find("details").text
    for fact in ("profile cpu", "seed 3", "gentangle 0.1", "date 2026-11-24", "python 3.12", "numpy 2.0"):
        assert fact in origin


def test_the_html_is_the_same_where_the_origin_changes_but_between_its_marks():
    """The stored chapters are compared without what stands between the marks."""
    halves = []
    for seed in (3, 4):
        page = save(origin=ORIGIN | {"seed": seed, "versions": {"python": str(seed)}})._repr_html_()
        head, rest = page.split("<!--provenance-->")
        halves.append((head, rest.split("<!--/provenance-->")[1]))
    assert halves[0] == halves[1]


def test_alt_text_and_origin_are_escaped():
    hostile = "\"'><script>alert(1)</script> &amp; three more words"
    page = BeautifulSoup(save(alt=hostile)._repr_html_(), "html.parser")
    assert page.find("script") is None
    assert [image["alt"] for image in page.find_all("img")] == [hostile, hostile]
    assert "processor AMD <EPYC> & co" in page.find("details").text
    assert page.find("epyc") is None


def test_a_terminal_shows_the_words():
    assert repr(ShownFigure("line", ALT, {}, ORIGIN)) == f"<figure line: {ALT}>"


@pytest.mark.parametrize("name", ["../outside", "Upper", "with space", 'quote"', ""])
def test_a_name_that_is_no_label_is_refused_and_nothing_is_written(name, tmp_path, monkeypatch):
    monkeypatch.setenv("GENTANGLE_FIGURES", str(tmp_path / "figures"))
    with pytest.raises(InputError, match="is no label"):
        save_figure(name, lambda figure: figure.subplots(), alt="An empty pair of axes.")
    assert not list(tmp_path.rglob("*"))

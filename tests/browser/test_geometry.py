"""The geometry widget in a browser: its controls by keyboard and pointer, and its numbers against Python's."""

import json
import math

import pytest
from browsing import (
    assert_within_a_frame,
    contrast,
    picture_without_script,
    press,
    quiet_page,
    serve,
    settle,
    write_widget_page,
)

from gentangle.alignment import conditions
from gentangle.alignment.objectives import OBJECTIVES
from gentangle.display.geometry import GradientGeometry
from gentangle.display.widget import source_name

pytestmark = pytest.mark.browser

MODULE = GradientGeometry.module
SLIDERS = ("chosen_norm", "rejected_norm", "angle", "ratio", "eta")


#: From a server and from the file system, for what depends on how the files are loaded; all else needs only one.
EITHER_WAY = pytest.mark.parametrize("base", ["http", "file"], indirect=True)


@pytest.fixture
def base(request, tmp_path):
    if getattr(request, "param", "file") == "file":
        yield tmp_path.as_uri() + "/"
    else:
        yield from serve(tmp_path)


@pytest.fixture
def page(browser, base, tmp_path):
    write_widget_page(tmp_path / "page.html", GradientGeometry())
    with quiet_page(browser, base, "page.html") as opened:
        yield opened


def shown(page) -> dict:
    """Numbers on the screen, by the names of ``GradientGeometry.reading``."""
    return page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('[data-reading]')]"
        ".map((node) => [node.dataset.reading, node.dataset.value]))"
    )


def assert_equal_to_python(page, **state) -> None:
    expected = GradientGeometry(**state).reading()
    values = shown(page)
    assert set(values) == {name for name in expected if not name.endswith("bound")}
    for name, value in values.items():
        if isinstance(expected[name], float):
            assert float(value) == pytest.approx(expected[name], rel=1e-12, abs=1e-14), name
        else:
            assert value == str(expected[name]).lower(), name


def slider_value(page, control: str) -> float:
    """A trait's value where its slider stands; the ratio's slider is logarithmic, to three digits."""
    at = float(page.locator(f"input[name={control}]").input_value())
    return float(f"{10**at:.3g}") if control == "ratio" else at


def choose(page, menu: str, value: str) -> None:
    page.locator(f"select[name={menu}]").select_option(value)


@EITHER_WAY
def test_first_seen_are_the_defaults(page):
    assert page.locator(".gt-still").count() == 0
    assert_equal_to_python(page)
    assert shown(page)["case"] == conditions.BOTH_DOWN


@EITHER_WAY
def test_worked_example(page):
    # |w| = 1, |l| = 2, cos = 1: <w,l> = 2 and the changes are -1 and -2.
    press(page, "angle", "Home")
    values = shown(page)
    assert [float(values[name]) for name in ("inner_product", "change_chosen", "change_rejected")] == [2, -1, -2]
    assert page.locator("[data-reading=change_chosen]").inner_text().startswith("\u22121.00")


@pytest.mark.parametrize("keys", [["ArrowRight"], ["ArrowLeft", "ArrowLeft"], ["Home"], ["End"], ["PageUp"]])
@pytest.mark.parametrize("control", SLIDERS)
def test_keyboard_moves_a_control_and_the_numbers_are_pythons(page, control, keys):
    before = page.locator(f"input[name={control}]").input_value()
    press(page, control, *keys)
    after = page.locator(f"input[name={control}]").input_value()
    # eta starts at its greatest value: these keys leave it there.
    stays = control == "eta" and keys in (["ArrowRight"], ["End"], ["PageUp"])
    assert (after == before) == stays
    assert_equal_to_python(page, **{control: slider_value(page, control)})


def test_range_of_a_control_is_the_traits(page):
    for name, trait in GradientGeometry.class_traits().items():
        if name in SLIDERS:
            control = page.locator(f"input[name={name}]")
            ends = [float(control.get_attribute(end)) for end in ("min", "max")]
            ends = [10**end for end in ends] if name == "ratio" else ends
            assert ends == [trait.min, trait.max], name


def test_case_changes_and_is_announced(page):
    output = page.locator("output.gt-case[aria-live=polite]")
    assert output.inner_text().startswith("Both down")
    press(page, "angle", "End")
    assert output.get_attribute("data-value") == conditions.INTENDED
    assert output.inner_text().startswith("Chosen up, rejected down")
    press(page, "angle", "Home")
    press(page, "ratio", "End")
    assert output.get_attribute("data-value") == conditions.BOTH_UP


def test_unmoved_where_the_gradients_cancel(page):
    press(page, "angle", "Home")
    press(page, "rejected_norm", *["ArrowLeft"] * 20)
    assert shown(page)["case"] == conditions.UNMOVED
    assert_equal_to_python(page, angle=0.0, rejected_norm=1.0)


def test_every_control_has_a_name_and_leaves_its_keys_alone(page):
    controls = [page.locator(f"input[name={name}]") for name in SLIDERS]
    for control in [*controls, *page.locator("select").all()]:
        assert control.evaluate("(node) => node.labels.length") == 1
        assert control.evaluate("(node) => node.labels[0].textContent.trim().length") > 3
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"


# ---- the menu of objectives ----


def test_menu_sets_the_slopes_that_python_computes(page):
    press(page, "angle", "End")
    pair = {"ref_chosen": -36.0, "ref_rejected": -36.0, "len_chosen": 20.0, "len_rejected": 25.0}
    for name, objective in OBJECTIVES.items():
        choose(page, "objective", name)
        assert_equal_to_python(page, objective=name, angle=180.0)
        slopes = [float(slope) for slope in objective.slopes(-40.0, -38.0, **pair)]
        values = shown(page)
        found = [float(values[slope]) for slope in ("d_chosen", "d_rejected")]
        assert found == pytest.approx(slopes, rel=1e-11), name
        d_chosen, d_rejected = (f"{slope:#.3g}" for slope in slopes)
        assert page.locator("[data-reading=d_chosen]").inner_text() == d_chosen
        assert f"d_w = {d_chosen} and d_l = {d_rejected} at log \u03c0_w = \u221240" in note(page)
        slider, ratio = page.locator("input[name=ratio]"), slopes[0] / slopes[1]
        assert float(slider.get_attribute("aria-valuetext")) == pytest.approx(ratio, rel=5.1e-3)
        assert float(slider.input_value()) == pytest.approx(math.log10(ratio), abs=0.0101)  # the nearest notch


def note(page) -> str:
    """What the menu tells, with _w for a subscript."""
    return page.locator("output.gt-note").evaluate(
        "(node) => [...node.childNodes].map((part) => (part.tagName ? '_' : '') + part.textContent).join('')"
    )


def test_titles_of_the_menu_are_the_objectives(page):
    titles = page.locator("select[name=objective] option").all_inner_texts()
    assert titles == ["your own slopes", *(o.title for o in OBJECTIVES.values())]


def test_menu_by_keyboard_and_a_slider_by_hand_leaves_it(page):
    menu = page.locator("select[name=objective]")
    menu.focus()
    page.keyboard.type("DPOP")
    page.keyboard.press("Enter")
    assert menu.input_value() == "dpop"
    assert_equal_to_python(page, objective="dpop")
    assert "v at 1 : 12.7" in page.locator(".gt-plane .gt-scale").text_content()
    assert "\u03bb [rw < 0] + 1" in page.locator("dt").first.inner_text()
    press(page, "ratio", "ArrowLeft")
    assert menu.input_value() == "own"
    assert_equal_to_python(page, ratio=slider_value(page, "ratio"))
    assert "only their ratio" in note(page)
    assert not page.locator("[data-reading=d_chosen]").is_visible()  # the slider says it
    choose(page, "objective", "dpo")
    assert page.locator("[data-reading=d_chosen]").is_visible()
    choose(page, "objective", "own")
    assert_equal_to_python(page)


def test_objective_is_announced_once(page):
    assert page.locator("output.gt-note").get_attribute("aria-live") == "polite"
    choose(page, "objective", "simpo")
    page.evaluate(
        """() => {
          window.spoken = 0;
          const watch = new MutationObserver((seen) => (window.spoken += seen.length));
          const whole = { childList: true, subtree: true, characterData: true };
          for (const node of document.querySelectorAll("output")) watch.observe(node, whole);
        }"""
    )
    press(page, "eta", "ArrowLeft", "ArrowLeft")
    press(page, "chosen_norm", "ArrowRight")
    assert page.evaluate("window.spoken") == 0
    choose(page, "objective", "cpo")
    assert page.evaluate("window.spoken") > 0


# ---- two domains ----


def test_switch_reads_the_same_arrows_as_two_domains(page):
    press(page, "angle", *["PageUp"] * 3)
    angle = slider_value(page, "angle")
    choose(page, "read_as", "domains")
    assert_equal_to_python(page, read_as="domains", angle=angle)
    assert page.locator("select[name=objective], input[name=ratio]").count() == 0
    assert {"g\u2081", "g\u2082", "ERM", "Fish"} <= set(page.locator(".gt-plane svg text").all_text_contents())
    assert "the step of ERM, and Fish" in page.locator(".gt-plane svg").get_attribute("aria-label")
    choose(page, "read_as", "pair")
    assert_equal_to_python(page, angle=angle)
    assert page.locator(".gt-plane svg text").filter(has_text="Fish").is_hidden()


@pytest.mark.parametrize("control", ["chosen_norm", "rejected_norm", "angle", "eta"])
def test_keyboard_in_the_domains_reading(page, control):
    choose(page, "read_as", "domains")
    assert page.locator("input").count() == 4
    for keys in (["ArrowLeft"], ["Home"], ["End"]):
        press(page, control, *keys)
        assert_equal_to_python(page, read_as="domains", **{control: slider_value(page, control)})


def test_domains_agree_and_conflict_aloud(page):
    choose(page, "read_as", "domains")
    output = page.locator("output.gt-case[aria-live=polite]")
    assert output.inner_text().startswith("The domains agree")
    press(page, "angle", "End")
    assert output.get_attribute("data-value") == "one-rises"
    assert "\u25b2 rises" in page.locator("[data-reading=change_one]").inner_text()
    assert page.locator("[data-reading=one_does_not_rise]").get_attribute("data-holds") == "false"


def test_path_of_fish_ends_where_python_says(page):
    choose(page, "read_as", "domains")
    press(page, "angle", *["PageUp"] * 5)
    widget = GradientGeometry(read_as="domains", angle=slider_value(page, "angle"))
    turn = math.radians(widget.angle)
    g = [[1.0, 0.0], [2 * math.cos(turn), 2 * math.sin(turn)]]
    a, b = widget.fish_loops().mean(0)
    ring = page.locator(".gt-plane circle.gt-path")
    drawn = [float(ring.get_attribute(name)) * 2.5 / 160 for name in ("cx", "cy")]
    assert drawn == pytest.approx([-(a * g[0][0] + b * g[1][0]), a * g[0][1] + b * g[1][1]], abs=1e-9)


def test_head_of_a_domains_arrow_can_be_dragged(page):
    choose(page, "read_as", "domains")
    head = page.locator("circle.gt-handle.gt-w").bounding_box()
    page.mouse.move(head["x"] + head["width"] / 2, head["y"] + head["height"] / 2)
    page.mouse.down()
    page.mouse.move(head["x"] + 3 * head["width"], head["y"], steps=3)
    page.mouse.up()
    length = slider_value(page, "chosen_norm")
    assert length > 1.2
    assert_equal_to_python(page, read_as="domains", chosen_norm=length)


def test_a_move_takes_less_than_a_frame(page):
    """Set, draw and lay out, of a slider in both readings, an objective and the switch; the median, as elsewhere."""
    times = page.evaluate(
        """() => {
          const move = (name, event, value) => {
            const input = document.querySelector(`[name=${name}]`);
            const start = performance.now();
            input.value = value;
            input.dispatchEvent(new Event(event));
            document.querySelector(".gt-widget").getBoundingClientRect();
            return performance.now() - start;
          };
          const forty = (each) => Array.from({ length: 40 }, (_, k) => each(k));
          const objectives = [...document.querySelector("[name=objective]").options].map((option) => option.value);
          const found = { angle: forty((k) => move("angle", "input", 4 * k)),
            objective: forty((k) => move("objective", "change", objectives[k % objectives.length])),
            switch: forty((k) => move("read_as", "change", ["domains", "pair"][k % 2])) };
          move("read_as", "change", "domains");
          return { ...found, domains: forty((k) => move("angle", "input", 4 * k)) };
        }"""
    )
    for what, each in times.items():
        assert_within_a_frame(f"geometry, {what}", each)


def test_head_of_an_arrow_can_be_dragged(page):
    head = page.locator("circle.gt-handle.gt-l").bounding_box()
    box = page.locator("svg").bounding_box()
    page.mouse.move(head["x"] + head["width"] / 2, head["y"] + head["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4, steps=4)  # straight up
    page.mouse.up()
    angle, length = (float(page.locator(f"input[name={name}]").input_value()) for name in ("angle", "rejected_norm"))
    assert angle == 90
    assert 0.1 < length < 2.0
    assert_equal_to_python(page, angle=angle, rejected_norm=length)


@EITHER_WAY
def test_two_widgets_of_a_page_do_not_share_their_state(browser, base, tmp_path):
    write_widget_page(tmp_path / "page.html", GradientGeometry(), GradientGeometry(angle=90.0))
    page = browser.new_page()
    page.goto(base + "page.html")
    settle(page)
    page.locator("input[name=angle]").nth(0).focus()
    page.keyboard.press("End")
    values = page.locator("input[name=angle]").evaluate_all("(nodes) => nodes.map((node) => node.value)")
    cases = page.locator("[data-reading=case]").evaluate_all("(nodes) => nodes.map((node) => node.dataset.value)")
    page.close()
    assert values == ["180", "90"]
    assert cases == [conditions.INTENDED, conditions.INTENDED]


@EITHER_WAY
def test_picture_stays_where_no_script_runs(browser, base, tmp_path):
    write_widget_page(tmp_path / "page.html", GradientGeometry())
    assert "both down" in picture_without_script(browser, base + "page.html")


def test_picture_of_two_domains_stays_where_no_script_runs(browser, base, tmp_path):
    write_widget_page(tmp_path / "page.html", GradientGeometry(read_as="domains", angle=150.0))
    assert "one loss rises" in picture_without_script(browser, base + "page.html")


@EITHER_WAY
def test_module_that_fails_leaves_the_picture(browser, base, tmp_path):
    write_widget_page(tmp_path / "page.html", GradientGeometry())
    (tmp_path / source_name(MODULE)).write_text(f"window.gentangleSources = {json.dumps({MODULE: 'not a module ('})};")
    page = browser.new_page()
    page.goto(base + "page.html")
    settle(page)
    assert page.locator(".gt-mount").get_attribute("data-mounted") == "no"
    assert page.locator(".gt-still svg").is_visible()
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1600])
@pytest.mark.parametrize(
    ("state", "last"),
    [
        ({}, "rejected_does_not_rise"),
        ({"objective": "orpo"}, "rejected_does_not_rise"),  # the longest formula
        ({"read_as": "domains", "angle": 120.0}, "fish_gip"),
    ],
)
def test_fits_the_window(browser, base, tmp_path, width, theme, state, last):
    write_widget_page(tmp_path / "page.html", GradientGeometry(**state), theme=theme)
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(base + "page.html")
    settle(page)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    for element in ("svg", "select[name=read_as]", "input[name=eta]", "output.gt-case", f"[data-reading={last}]"):
        box = page.locator(element).bounding_box()
        assert box["x"] >= 0, element
        assert box["x"] + box["width"] <= width, element
    page.close()


def test_letters_stand_out_from_the_ground(page):
    """Contrast of at least 4.5 to 1 for every coloured symbol, light and dark (WCAG 2.2, 1.4.3)."""
    for theme, ground in (("light", (255, 255, 255)), ("dark", (20, 24, 30))):
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
        for symbol in ("w", "l"):
            colour = page.locator(f"dt .gt-{symbol}").first.evaluate("(node) => getComputedStyle(node).color")
            assert contrast([int(part) for part in colour[4:-1].split(",")], ground) >= 4.5, (theme, symbol, colour)

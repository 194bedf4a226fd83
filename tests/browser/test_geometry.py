"""The geometry widget in a browser: its controls by keyboard and pointer, and its numbers against Python's."""

import json
from pathlib import Path

import pytest
from browsing import contrast, serve, settle, watch

from gentangle.alignment import conditions
from gentangle.display.geometry import GradientGeometry
from gentangle.display.widget import LOADER, STYLE, source_name, static_files

pytestmark = pytest.mark.browser

MODULE = GradientGeometry.module
PAGE = f"""<!doctype html><html lang="en" data-theme="THEME"><meta charset="utf-8"><title>widget</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<link rel="stylesheet" href="{STYLE}"><script defer src="{source_name(MODULE)}"></script>
<script defer src="{LOADER}"></script><body>MOUNTS</body></html>"""


def write_page(folder: Path, *widgets: GradientGeometry) -> None:
    for name, text in static_files([MODULE]).items():
        (folder / name).write_text(text, "utf-8")
    mounts = "".join(widget.static_html() for widget in widgets)
    (folder / "page.html").write_text(PAGE.replace("THEME", "light").replace("MOUNTS", mounts), "utf-8")


@pytest.fixture(params=["http", "file"])
def base(request, tmp_path):
    if request.param == "file":
        yield tmp_path.as_uri() + "/"
    else:
        yield from serve(tmp_path)


@pytest.fixture
def page(browser, base, tmp_path):
    write_page(tmp_path, GradientGeometry())
    opened = browser.new_page(viewport={"width": 1000, "height": 1000})
    seen = watch(opened, base)
    opened.goto(base + "page.html")
    settle(opened)
    yield opened
    opened.close()
    assert (seen.outside, seen.complaints) == ([], [])


def shown(page) -> dict:
    """Numbers on the screen, by the names of ``GradientGeometry.reading``."""
    return page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('[data-reading]')]"
        ".map((node) => [node.dataset.reading, node.dataset.value]))"
    )


def assert_equal_to_python(page, **state) -> None:
    expected = GradientGeometry(**state).reading()
    values = shown(page)
    assert set(values) == set(expected) - {"chosen_bound", "rejected_bound"}
    for name, value in values.items():
        if isinstance(expected[name], float):
            assert float(value) == pytest.approx(expected[name], rel=1e-12, abs=1e-14), name
        else:
            assert value == str(expected[name]).lower(), name


def press(page, control: str, *keys: str) -> None:
    page.locator(f"input[name={control}]").focus()
    for key in keys:
        page.keyboard.press(key)


def test_first_seen_are_the_defaults(page):
    assert page.locator(".gt-still").count() == 0
    assert_equal_to_python(page)
    assert shown(page)["case"] == conditions.BOTH_DOWN


def test_worked_example(page):
    # |w| = 1, |l| = 2, cos = 1: <w,l> = 2 and the changes are -1 and -2.
    press(page, "angle", "Home")
    values = shown(page)
    assert [float(values[name]) for name in ("inner_product", "change_chosen", "change_rejected")] == [2, -1, -2]
    assert page.locator("[data-reading=change_chosen]").inner_text().startswith("\u22121.00")


@pytest.mark.parametrize("keys", [["ArrowRight"], ["ArrowLeft", "ArrowLeft"], ["Home"], ["End"], ["PageUp"]])
@pytest.mark.parametrize("control", GradientGeometry.state_names)
def test_keyboard_moves_a_control_and_the_numbers_are_pythons(page, control, keys):
    before = page.locator(f"input[name={control}]").input_value()
    press(page, control, *keys)
    after = page.locator(f"input[name={control}]").input_value()
    # eta starts at its greatest value: these keys leave it there.
    stays = control == "eta" and keys in (["ArrowRight"], ["End"], ["PageUp"])
    assert (after == before) == stays
    assert_equal_to_python(page, **{control: float(after)})


def test_range_of_a_control_is_the_traits(page):
    for name, trait in GradientGeometry.class_traits().items():
        if name in GradientGeometry.state_names:
            control = page.locator(f"input[name={name}]")
            assert [float(control.get_attribute(end)) for end in ("min", "max")] == [trait.min, trait.max]


def test_case_changes_and_is_announced(page):
    output = page.locator("output[aria-live=polite]")
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
    for name in GradientGeometry.state_names:
        control = page.locator(f"input[name={name}]")
        assert control.evaluate("(node) => node.labels.length") == 1
        assert control.evaluate("(node) => node.labels[0].textContent.trim().length") > 3
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"


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


def test_two_widgets_of_a_page_do_not_share_their_state(browser, base, tmp_path):
    write_page(tmp_path, GradientGeometry(), GradientGeometry(angle=90.0))
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


def test_picture_stays_where_no_script_runs(browser, base, tmp_path):
    write_page(tmp_path, GradientGeometry())
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(base + "page.html")
    picture = page.locator(".gt-still svg[role=img]")
    assert picture.is_visible()
    assert "both down" in picture.get_attribute("aria-label")
    context.close()


def test_module_that_fails_leaves_the_picture(browser, base, tmp_path):
    write_page(tmp_path, GradientGeometry())
    (tmp_path / source_name(MODULE)).write_text(f"window.gentangleSources = {json.dumps({MODULE: 'not a module ('})};")
    page = browser.new_page()
    page.goto(base + "page.html")
    settle(page)
    assert page.locator(".gt-mount").get_attribute("data-mounted") == "no"
    assert page.locator(".gt-still svg").is_visible()
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1600])
def test_fits_the_window(browser, base, tmp_path, width, theme):
    write_page(tmp_path, GradientGeometry())
    path = tmp_path / "page.html"
    path.write_text(path.read_text("utf-8").replace('data-theme="light"', f'data-theme="{theme}"'), "utf-8")
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(base + "page.html")
    settle(page)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    for element in ("svg", "input[name=eta]", "output", "[data-reading=rejected_does_not_rise]"):
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

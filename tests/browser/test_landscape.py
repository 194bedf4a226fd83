"""The landscape widget in a browser: points and controls by keyboard and pointer, and its numbers against Python's."""

import pytest
from browsing import (
    assert_in_window,
    assert_within_a_frame,
    contrast,
    middle,
    picture_without_script,
    press,
    quiet_page,
    settle,
    widget_folder,
)

from gentangle.display.landscape import ALGORITHMS, DomainLandscape

pytestmark = pytest.mark.browser

SLIDERS = ("alpha", "eps", "gamma", "domains", "flat", "steps")
# A short run keeps Python's side short.
STATE = {"steps": 40}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return widget_folder(tmp_path_factory.mktemp("landscape"), DomainLandscape(**STATE))


@pytest.fixture
def page(browser, base):
    with quiet_page(browser, base) as opened:
        yield opened


def shown(page) -> dict[str, float]:
    """Numbers of the table, by the names of ``DomainLandscape.reading``."""
    texts = page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('td[data-reading]')]"
        ".map((node) => [node.dataset.reading, node.dataset.value]))"
    )
    return {name: float(value) for name, value in texts.items()}


def assert_equal_to_python(page, **state) -> None:
    expected, values = DomainLandscape(**STATE | state).reading(), shown(page)
    assert len(values) == 18
    for name, value in values.items():
        assert value == pytest.approx(expected[name], rel=1e-9, abs=1e-9), name
    words = page.locator("[data-reading=verdict]").inner_text()
    for name, title in zip(ALGORITHMS, ("ERM", "IDGM", "Fish"), strict=True):
        assert (f"{title} runs away (step {expected[f'{name}_left']})" in words) == (expected[f"{name}_left"] > 0)


def test_first_seen_are_the_defaults(page):
    assert page.locator(".gt-still").count() == 0
    assert_equal_to_python(page)


@pytest.mark.parametrize("control", SLIDERS)
def test_keyboard_moves_a_slider_and_the_numbers_are_pythons(page, control):
    for keys in (["ArrowRight"], ["ArrowLeft", "ArrowLeft"], ["End"]):
        press(page, control, *keys)
        value = float(page.locator(f"input[name={control}]").input_value())
        whole = control in ("domains", "steps")
        assert_equal_to_python(page, **{control: int(value) if whole else value})


def test_range_of_a_slider_is_the_traits(page):
    for name, trait in DomainLandscape.class_traits().items():
        if name in SLIDERS:
            control = page.locator(f"input[name={name}]")
            assert [float(control.get_attribute(end)) for end in ("min", "max")] == [trait.min, trait.max]


def test_fixed_order_is_pythons(page):
    page.locator("select[name=order]").select_option("fixed")
    assert_equal_to_python(page, order="fixed")


def test_arrow_keys_move_a_point_and_it_says_where_it_is(page):
    point = page.locator("[data-point='2']")
    point.focus()
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowUp"):
        page.keyboard.press(key)
    assert point.get_attribute("aria-valuetext") == "x 1.90, y 0.60"
    assert_equal_to_python(page, minima=[[0.0, 2.0], [1.9, 0.6], [2.0, 2.0], [-2.0, 0.5]])
    page.locator("[data-point='\u03b8']").focus()
    for _ in range(12):
        page.keyboard.press("Shift+ArrowRight")
    assert page.locator("[data-point='\u03b8']").get_attribute("aria-valuetext") == "x 3.00, y \u22121.00"


def test_a_minimum_and_the_start_can_be_dragged(page):
    square = page.locator(".gt-frame").bounding_box()
    unit = square["width"] / 6.4
    for letter, target in (("1", (-1.0, 0.5)), ("\u03b8", (-2.0, -2.0))):
        page.mouse.move(*middle(page.locator(f"[data-point='{letter}']")))
        page.mouse.down()
        page.mouse.move(
            square["x"] + square["width"] / 2 + target[0] * unit,
            square["y"] + square["height"] / 2 - target[1] * unit,
            steps=5,
        )
        page.mouse.up()
    assert_equal_to_python(page, minima=[[-1.0, 0.5], [2.0, 0.0], [2.0, 2.0], [-2.0, 0.5]], start=[-2.0, -2.0])
    page.mouse.move(square["x"], square["y"])  # it was let go
    assert_equal_to_python(page, minima=[[-1.0, 0.5], [2.0, 0.0], [2.0, 2.0], [-2.0, 0.5]], start=[-2.0, -2.0])
    page.locator("button[name=reset]").click()
    assert_equal_to_python(page)


def test_a_finger_drags_too(browser, base):
    context = browser.new_context(has_touch=True, viewport={"width": 375, "height": 800})
    page = context.new_page()
    page.goto(base + "light.html")
    settle(page)
    # The page could move either way.
    page.evaluate("document.body.style.paddingBottom = '200vh'; window.scrollTo(0, 40)")
    handle = page.locator("[data-point='3'] .gt-handle")
    box = handle.bounding_box()
    assert box["width"] >= 24  # WCAG 2.2, 2.5.8
    x, y = middle(handle)
    devtools = context.new_cdp_session(page)
    for kind, points in (("touchStart", [(x, y)]), ("touchMove", [(x - 60, y + 40)]), ("touchEnd", [])):
        touches = [{"x": px, "y": py} for px, py in points]
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
    assert page.locator("[data-point='3']").get_attribute("aria-valuetext") != "x 2.00, y 2.00"
    assert page.evaluate("window.scrollY") == 40
    context.close()


def test_a_path_that_runs_away_is_said_so_and_gamma_follows_fish(page):
    press(page, "gamma", "End")
    press(page, "steps", "End")
    words = page.locator("[data-reading=verdict]").inner_text()
    assert "IDGM runs away" in words
    assert "unbounded below" in words
    spoken = page.locator("output[aria-live=polite]")
    page.wait_for_function("() => document.querySelector('output.gt-spoken').textContent.includes('IDGM runs away')")
    assert "Mean loss: ERM" in spoken.text_content()
    page.locator("button[name=follow]").click()
    assert float(page.locator("input[name=gamma]").input_value()) == pytest.approx(0.2)
    assert "No path ran away" in page.locator("[data-reading=verdict]").inner_text()


def test_every_control_has_a_name_and_leaves_its_keys_alone(page):
    controls = page.locator("input, select")
    assert controls.count() == 7
    for control in controls.all():
        assert control.evaluate("(node) => node.labels[0].textContent.trim().length") > 3
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"
    for point in page.locator("[role=slider]").all():
        assert point.get_attribute("aria-label")
        assert point.get_attribute("aria-valuetext")
        assert point.get_attribute("data-lm-suppress-shortcuts") == "true"


def test_a_move_takes_less_than_a_frame(page):
    """Set, draw and lay out, with the most domains and steps; the median, as the machine has other work."""
    press(page, "domains", "End")
    press(page, "steps", "End")
    times = page.evaluate(
        """() => {
          const input = document.querySelector("input[name=alpha]");
          return Array.from({ length: 60 }, (_, k) => {
            const start = performance.now();
            input.value = String(0.02 * (1 + (k % 50)));
            input.dispatchEvent(new Event("input"));
            document.querySelector(".gt-widget").getBoundingClientRect();
            return performance.now() - start;
          });
        }"""
    )
    assert_within_a_frame("a move of the landscape", times)


def test_picture_stays_where_no_script_runs(browser, base):
    assert "IDGM ends at" in picture_without_script(browser, base + "light.html")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1600])
def test_fits_the_window(browser, base, width, theme):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(base + f"{theme}.html")
    settle(page)
    press(page, "gamma", "End")  # long numbers
    press(page, "steps", "End")
    assert_in_window(page, width, (".gt-landscape", "input[name=steps]", "table", "button[name=reset]"))
    page.close()


def test_titles_stand_out_from_the_ground(page):
    """Contrast of at least 4.5 to 1 for the algorithms' names, light and dark (WCAG 2.2, 1.4.3)."""
    for theme, ground in (("light", (255, 255, 255)), ("dark", (20, 24, 30))):
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
        for name in ALGORITHMS:
            colour = page.locator(f"th.gt-{name}").evaluate("(node) => getComputedStyle(node).color")
            assert contrast([int(part) for part in colour[4:-1].split(",")], ground) >= 4.5, (theme, name, colour)

"""The replay of stored runs in a browser: slider, menus, plots and film, and its numbers against Python's."""

import json
import math
from pathlib import Path

import pytest
from browsing import assert_in_window, assert_within_a_frame, picture_without_script, quiet_page, settle, widget_folder

from gentangle.display.replay import TrainingReplay, replay_data

pytestmark = pytest.mark.browser

RESULTS = Path(__file__).parents[2] / "results" / "tweets"
FORMS = ("one-token", "short-suffix", "long-suffix", "natural-continuation")


@pytest.fixture(scope="module")
def data():
    return replay_data({form: json.loads((RESULTS / f"{form}-seed0.json").read_text()) for form in FORMS})


@pytest.fixture(scope="module")
def base(tmp_path_factory, data):
    return widget_folder(tmp_path_factory.mktemp("replay"), TrainingReplay(data))


@pytest.fixture
def page(browser, base):
    with quiet_page(browser, base) as opened:
        yield opened


def assert_equal_to_python(page, data, **state) -> None:
    widget = TrainingReplay(data, **state)
    expected = widget.reading()
    values = page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('td[data-reading]')]"
        ".map((node) => [node.dataset.reading, node.dataset.value]))"
    )
    assert set(values) == set(expected) - {"heat_stage"}
    for name, value in values.items():
        if math.isnan(expected[name]):
            assert value == "NaN", name
        else:
            assert float(value) == pytest.approx(expected[name], rel=1e-12, abs=1e-12), name
    assert page.locator("[data-reading=sentence]").inner_text().startswith(widget.when())
    stage = ("before fine-tuning", "after fine-tuning", "after DPO")[widget.heat_stage()]
    assert stage in page.locator("[data-reading=heat]").inner_text()
    assert page.locator(".gt-heat rect").count() == sum(
        len(pair) for pair in data["forms"][widget.form][widget.group]["heat"][widget.heat_stage()]
    )


def press(page, *keys: str) -> None:
    page.locator("input[name=look]").focus()
    for key in keys:
        page.keyboard.press(key)


def look(page) -> int:
    return int(page.locator("input[name=look]").input_value())


def test_first_seen_is_step_0(page, data):
    assert page.locator(".gt-still").count() == 0
    assert_equal_to_python(page, data)


@pytest.mark.parametrize("form", FORMS)
def test_keyboard_scrubs_through_every_look_and_the_numbers_are_pythons(page, data, form):
    page.locator("select[name=form]").select_option(form)
    press(page, "Home")
    for number in range(len(data["steps"]) + 1):
        assert look(page) == number
        assert_equal_to_python(page, data, form=form, look=number)
        assert (
            page.locator("input[name=look]").get_attribute("aria-valuetext") == TrainingReplay(data, look=number).when()
        )
        press(page, "ArrowRight")
    assert look(page) == len(data["steps"])


def test_group_is_that_of_heatmap_and_dots(page, data):
    page.locator("select[name=form]").select_option("natural-continuation")
    page.locator("select[name=group]").select_option("train")
    assert_equal_to_python(page, data, form="natural-continuation", group="train")
    assert page.locator(".gt-dot").count() == 8 * len(data["steps"])


def test_a_press_on_a_plot_goes_to_its_step(page, data):
    for which in (0, 1):
        area = page.locator(".gt-scrub").nth(which)
        area.scroll_into_view_if_needed()
        box = area.bounding_box()
        for share, expected in ((0.01, 1), (0.42, 5), (0.99, 11)):
            page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
            assert look(page) == expected
        page.mouse.down()
        page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 5, steps=4)
        page.mouse.up()
        assert look(page) == 8
    assert_equal_to_python(page, data, look=8)


def test_play_runs_to_the_end_without_talking_and_starts_again(page, data):
    play, spoken = page.locator("button[name=play]"), page.locator("[data-reading=sentence]")
    press(page, "End", "ArrowLeft", "ArrowLeft")
    play.click()
    assert "Pause" in play.inner_text()
    page.wait_for_function("() => document.querySelector('input[name=look]').value === '10'")
    assert spoken.get_attribute("aria-live") == "off"
    page.wait_for_function("() => document.querySelector('input[name=look]').value === '11'")
    assert "Play" in play.inner_text()
    assert spoken.get_attribute("aria-live") == "polite"
    assert_equal_to_python(page, data, look=11)
    play.click()
    assert look(page) == 1
    play.click()
    assert "Play" in play.inner_text()
    play.click()
    press(page, "End")  # whoever takes the slider stops the film
    assert "Play" in play.inner_text()


def test_play_is_off_where_less_motion_is_asked_for(browser, base):
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(base + "light.html")
    settle(page)
    play = page.locator("button[name=play]")
    assert play.is_disabled()
    assert "reduced motion" in play.inner_text()
    press(page, "End")
    assert look(page) == 11
    page.emulate_media(reduced_motion="no-preference")
    page.wait_for_function("() => !document.querySelector('button[name=play]').disabled")
    context.close()


def test_every_control_has_a_name_and_every_picture_words(page):
    controls = page.locator("input, select")
    assert controls.count() == 3
    for control in controls.all():
        assert control.evaluate("(node) => node.labels[0].textContent.trim().length") > 3
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"
    pictures = page.locator("svg[role=img]")
    assert pictures.count() == 3
    for picture in pictures.all():
        assert len(picture.get_attribute("aria-label")) > 40


def test_a_move_takes_less_than_a_frame(page):
    """Set, draw and lay out, of a step and of another form; the median, as the machine has other work."""
    page.locator("select[name=form]").select_option("natural-continuation")
    times = page.evaluate(
        """() => {
          const [slider, form] = ["look", "form"].map((name) => document.querySelector(`[name=${name}]`));
          const forms = [...form.options].map((option) => option.value);
          const move = (input, event, value) => {
            const start = performance.now();
            input.value = value;
            input.dispatchEvent(new Event(event));
            document.querySelector(".gt-widget").getBoundingClientRect();
            return performance.now() - start;
          };
          return { step: Array.from({ length: 60 }, (_, k) => move(slider, "input", String(k % 12))),
            form: Array.from({ length: 40 }, (_, k) => move(form, "change", forms[k % forms.length])) };
        }"""
    )
    for what, each in times.items():
        assert_within_a_frame(f"another {what} of the replay", each)


def test_picture_stays_where_no_script_runs(browser, base):
    assert "one-token, seed 0, step 0" in picture_without_script(browser, base + "light.html")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1600])
def test_fits_the_window(browser, base, width, theme):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(base + f"{theme}.html")
    settle(page)
    page.locator("select[name=form]").select_option("natural-continuation")
    assert_in_window(page, width, (".gt-heat", "input[name=look]", "table", "button[name=play]"))
    page.close()

"""The suffix explorer in a browser: tokens, sliders and the phase diagram; its numbers against Python's."""

import numpy as np
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
    write_widget_page,
)

from gentangle.alignment import conditions
from gentangle.alignment.preference import CONTINUATION_WORDS, FORMS
from gentangle.alignment.suffix import orthogonal_gram
from gentangle.display.suffix_widget import SuffixCases

pytestmark = pytest.mark.browser

ENTRIES = ((0, 0), (1, 1), (0, 1))  # |w|^2, |l|^2, <w,l>, in the order of a position's cells
AXES = ("miss_l", "miss_w", "p_w", "p_l", "length")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return widget_folder(tmp_path_factory.mktemp("suffix"), SuffixCases())


@pytest.fixture
def page(browser, base):
    with quiet_page(browser, base, height=1400) as opened:
        yield opened


def state(page) -> dict:
    """What the controls say."""
    given = {name: float(page.locator(f"input[name={name}]").input_value()) for name in SuffixCases.numbers}
    return given | {"length": int(given["length"]), "across": page.locator("select[name=across]").input_value()}


def positions(page) -> list[tuple[str, list[float]]]:
    """Word of the chosen response and the three contributions, for each place in sight."""
    return page.evaluate(
        "() => [...document.querySelectorAll('.gt-position:not(.gt-names):not([hidden])')].map((node) => "
        "[node.firstChild.textContent, "
        "[...node.querySelectorAll('.gt-share')].map((cell) => Number(cell.dataset.value))])"
    )


def assert_equal_to_python(page, **given) -> None:
    widget = SuffixCases(**given)
    expected = widget.reading()
    values = page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('dd[data-reading], output[data-reading=case]')]"
        ".map((node) => [node.dataset.reading, node.dataset.value]))"
    )
    assert values.pop("case") == expected.pop("case")
    assert values.pop("chosen_does_not_fall") == str(expected["change_chosen"] >= 0).lower()
    assert values.pop("rejected_does_not_rise") == str(expected["change_rejected"] <= 0).lower()
    turns = [float(values.pop(name)) for name in ("chosen_turns", "rejected_turns")]
    for i, turn in enumerate(turns):  # at the turning length the response is not moved
        if np.isfinite(turn):
            gram = orthogonal_gram(**widget.given() | {"length": turn})
            assert conditions.first_order_changes(gram)[i] == pytest.approx(0, abs=1e-9)
    assert set(values) == set(expected)
    for name, value in values.items():
        assert float(value) == pytest.approx(expected[name], rel=1e-12, abs=1e-12), name
    assert_words_are_the_state(page, widget)


def assert_words_are_the_state(page, widget) -> None:
    start, one = (orthogonal_gram(**widget.given() | {"length": length}) for length in (0, 1))
    shown = positions(page)
    (first, contrast_shares), *shared, (last, total) = shown
    assert (first, last) == ("positive", "sum")
    assert contrast_shares == pytest.approx([start[entry] for entry in ENTRIES], abs=1e-12)
    reading = widget.reading()
    names = ("chosen_norm_sq", "rejected_norm_sq", "inner_product")
    assert total == pytest.approx([reading[name] for name in names], abs=1e-12)
    share = [(one - start)[entry] for entry in ENTRIES]
    most = CONTINUATION_WORDS + 1 if widget.continuation else len(FORMS["long-suffix"].split())
    more = max(0, widget.length - most)
    assert len(shared) == min(widget.length, most) + (more > 0)
    for word, shares in shared[: min(widget.length, most)]:
        assert word
        assert shares == pytest.approx(share, abs=1e-12)
    if more:
        assert shared[-1][0] == f"\u2026 and {more} more"
        assert shared[-1][1] == pytest.approx([more * each for each in share], abs=1e-9)


def place(page, share: float, rho: float) -> tuple[float, float]:
    """Where a share of the horizontal axis and a rho are on the screen."""
    box = page.locator(".gt-ground").bounding_box()
    return box["x"] + share * box["width"], box["y"] + (1 - rho) / 2 * box["height"]


def test_first_seen_are_the_defaults(page):
    assert page.locator(".gt-still").count() == 0
    assert_equal_to_python(page)
    assert page.locator("[data-reading=case]").inner_text().startswith("Both down")
    assert page.locator("[data-reading=change_chosen]").inner_text().startswith("\u22121.40")


@pytest.mark.parametrize("keys", [["ArrowRight"], ["ArrowLeft", "ArrowLeft"], ["Home"], ["End"]])
@pytest.mark.parametrize("control", SuffixCases.numbers)
def test_keyboard_moves_a_slider_and_the_numbers_are_pythons(page, control, keys):
    before = state(page)
    press(page, control, *keys)
    after = state(page)
    assert after[control] != before[control]
    other = {"p_w": "p_l", "p_l": "p_w"}.get(control)
    expected = before | {control: after[control]}
    if other:  # the other probability gives way
        expected[other] = min(before[other], round(1 - after[control], 2))
        told = page.locator(".gt-panel .gt-note").inner_text()
        assert ("add up to at most 1" in told) == (expected[other] < before[other])
    assert after == pytest.approx(expected)
    assert_equal_to_python(page, **after)


def test_range_of_a_slider_is_the_traits(page):
    for name, trait in SuffixCases.class_traits().items():
        if name in SuffixCases.numbers:
            control = page.locator(f"input[name={name}]")
            assert [float(control.get_attribute(end)) for end in ("min", "max")] == [trait.min, trait.max]
    options = page.locator("select[name=across] option").evaluate_all("(nodes) => nodes.map((node) => node.value)")
    assert tuple(options) == AXES
    assert sorted(options) == sorted(SuffixCases.across.values)


def test_tokens_are_added_until_the_inner_product_overtakes(page):
    """From one token on: the case changes at the 17th shared token, and the words say so."""
    page.locator("button[name=one-token]").click()
    assert_equal_to_python(page, length=0)
    said, case = page.locator("[data-reading=added]"), page.locator("[data-reading=case]")
    assert "One token: T = 0" in said.inner_text()
    page.locator("button[name=add]").focus()
    words = FORMS["long-suffix"].split()
    for length in range(1, 18):
        assert case.get_attribute("data-value") == conditions.INTENDED
        page.keyboard.press("Enter")
        word = f"\u201c{words[length - 1]}\u201d" if length <= len(words) else "One more"
        assert said.inner_text().startswith(f"{word} added: T = {length}, |w|\u00b2 ")
        assert_equal_to_python(page, length=length)
    assert case.get_attribute("data-value") == conditions.BOTH_DOWN
    assert case.get_attribute("aria-live") == said.get_attribute("aria-live") == "polite"
    reading = SuffixCases(length=17).reading()
    assert reading["inner_product"] > reading["chosen_norm_sq"]
    assert f"\u27e8w, l\u27e9 {reading['inner_product']:.2f}" in said.inner_text()
    page.locator("button[name=remove]").click()
    assert case.get_attribute("data-value") == conditions.INTENDED
    assert said.inner_text().startswith("One more removed: T = 16")
    assert_equal_to_python(page, length=16)


def test_case_is_written_only_when_it_changes(page):
    page.evaluate(
        "() => { window.writings = 0; new MutationObserver((seen) => { window.writings += seen.length > 0; })"
        ".observe(document.querySelector('[data-reading=case]'), { subtree: true, childList: true }); }"
    )
    press(page, "length", "ArrowRight", "ArrowRight", "ArrowLeft")
    assert page.evaluate("window.writings") == 0
    press(page, "length", "Home")
    page.wait_for_function("() => window.writings === 1")


def test_no_token_beyond_the_ends(page):
    for key, button, length, words in (
        ("Home", "remove", 0, "No shared token is left"),
        ("End", "add", 120, "120 shared"),
    ):
        press(page, "length", key)
        node = page.locator(f"button[name={button}]")
        assert node.get_attribute("aria-disabled") == "true"
        node.click(force=True)
        assert page.locator("[data-reading=added]").inner_text().startswith(words)
        assert_equal_to_python(page, length=length)


def test_the_four_forms_are_those_of_the_pairs(page):
    for form, text in FORMS.items():
        page.locator(f"button[name={form}]").click()
        shared = [word for word, _ in positions(page)[1:-1]]
        assert page.locator("[aria-pressed=true]").get_attribute("name") == form
        if text is None:
            assert shared[0] == "."
            assert len(shared) == CONTINUATION_WORDS + 1
            assert_equal_to_python(page, length=len(shared), continuation=True)
        else:
            assert shared == text.split()
            assert_equal_to_python(page, length=len(shared))
        pair = page.locator(".gt-tokens").get_attribute("aria-label")
        assert f"Rejected: {' '.join(['negative', *shared])}." in pair
    press(page, "length", "ArrowRight")
    assert page.locator("[aria-pressed=true]").count() == 0


def test_a_share_has_a_sign_beside_its_colour(page):
    cells = page.locator(".gt-contrast .gt-share")
    assert [text[0] for text in cells.all_inner_texts()] == ["+", "+", "\u2212"]
    grounds = cells.evaluate_all("(nodes) => nodes.map((node) => getComputedStyle(node).backgroundColor)")
    assert grounds[0] == grounds[1] != grounds[2]
    assert cells.nth(2).get_attribute("title") == "\u22120.31 of \u27e8w, l\u27e9"


@pytest.mark.parametrize("across", AXES)
def test_regions_of_the_phase_diagram_are_pythons_cases(page, across):
    page.locator("select[name=across]").select_option(across)
    press(page, "miss_w", "Home", *["PageUp"] * 3)  # 0.3: both up and both down lie in one map
    given = state(page)
    end = SuffixCases.class_traits()[across].max
    values = np.linspace(0.05, 0.95, 10)
    values = (np.round(values * end) if across == "length" else values * end).round(2)
    rhos = np.linspace(-0.97, 0.97, 30).round(3)
    drawn = page.evaluate(
        """([shares, rhos]) => {
          const box = document.querySelector(".gt-ground").getBBox();
          const regions = [...document.querySelectorAll("[data-case]")];
          return shares.map((share) => rhos.map((rho) => {
            const at = new DOMPoint(box.x + share * box.width, box.y + ((1 - rho) / 2) * box.height);
            return regions.find((region) => region.isPointInFill(at))?.dataset.case ?? "chosen-up-rejected-down";
          }));
        }""",
        [(values / end).tolist(), rhos.tolist()],
    )
    for value, column in zip(values.tolist(), drawn, strict=True):
        numbers = {name: given[name] for name in SuffixCases.numbers} | {across: value}
        if across in ("p_w", "p_l"):
            other = "p_l" if across == "p_w" else "p_w"
            numbers[other] = min(numbers[other], round(1 - value, 2))
        changes = conditions.first_order_changes(orthogonal_gram(**numbers | {"rho": rhos}))
        names = conditions.case(changes)
        for rho, seen, name, change in zip(rhos, column, names, changes, strict=True):
            # The picture's coordinates have two decimals.
            assert seen == name or np.abs(change).min() < 0.02, (across, value, rho)


def test_every_case_has_a_pattern_and_a_name_of_its_own(page):
    fills = page.locator(".gt-phases rect.gt-border").evaluate_all(
        "(nodes) => nodes.map((n) => n.getAttribute('fill'))"
    )
    assert len(set(fills)) == 3
    shapes = [page.locator(f"{fill[4:-1]} path").get_attribute("d") for fill in fills]
    assert len(set(shapes)) == 3
    told = page.locator(".gt-phases text").all_text_contents()
    assert {"chosen up, rejected down", "both up", "both down"} <= set(told)


def test_the_point_is_dragged_and_a_press_places_it(page):
    page.mouse.move(*middle(page.locator(".gt-point")))
    page.mouse.down()
    page.mouse.move(*place(page, 0.8, 0.2), steps=5)
    assert state(page)["miss_l"] == pytest.approx(0.8, abs=0.011)
    assert state(page)["rho"] == pytest.approx(0.2, abs=0.011)
    assert_equal_to_python(page, **state(page))
    page.mouse.move(*place(page, 1.5, 1.4))  # beyond the frame: at its edge
    assert (state(page)["miss_l"], state(page)["rho"]) == (1, 1)
    page.mouse.up()
    page.mouse.move(*place(page, 0.3, 0.3))  # it was let go
    assert (state(page)["miss_l"], state(page)["rho"]) == (1, 1)
    page.locator("select[name=across]").select_option("p_w")
    page.mouse.click(*place(page, 0.9, -0.5))
    found = state(page)
    assert found["p_w"] == pytest.approx(0.9, abs=0.011)
    assert found["p_l"] == pytest.approx(1 - found["p_w"])
    assert_equal_to_python(page, **found)
    assert middle(page.locator(".gt-disc")) == pytest.approx(place(page, found["p_w"], found["rho"]), abs=1)


def test_a_finger_drags_the_point_and_scrolls_elsewhere(browser, base):
    context = browser.new_context(has_touch=True, viewport={"width": 375, "height": 700})
    page = context.new_page()
    page.goto(base + "light.html")
    settle(page)
    point = page.locator(".gt-point .gt-handle")
    point.scroll_into_view_if_needed()
    assert point.bounding_box()["width"] >= 24  # WCAG 2.2, 2.5.8
    devtools = context.new_cdp_session(page)

    def swipe(x, y, dx, dy):
        for kind, points in (
            ("touchStart", [(x, y)]),
            ("touchMove", [(x + dx / 2, y + dy / 2)]),
            ("touchMove", [(x + dx, y + dy)]),
            ("touchEnd", []),
        ):
            touches = [{"x": px, "y": py} for px, py in points]
            devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    # Where the finger lies in the picture: the page's own height may change with the case's words.
    before = middle(point)
    swipe(*before, 50, 60)
    assert middle(point) == pytest.approx((before[0] + 50, before[1] + 60), abs=2)
    moved = state(page)
    assert moved["miss_l"] > 0.55
    assert moved["rho"] < 0.7
    assert_equal_to_python(page, **moved)
    swipe(*place(page, 0.2, -0.2), 0, -80)
    assert state(page) == moved
    page.locator("button[name=add]").tap()
    assert state(page) == moved | {"length": 41}
    context.close()


def test_the_crossing_is_marked(page):
    label = page.locator(".gt-growth text.gt-w", has_text="chosen falls")
    assert label.text_content() == "chosen falls: T > 16.7"
    ring = page.locator(".gt-growth circle.gt-w[r='6']")
    assert ring.is_visible()
    frame = page.locator(".gt-growth svg").bounding_box()
    assert middle(ring)[0] == pytest.approx(frame["x"] + frame["width"] * (1 / 0.06) / 60, abs=1)
    press(page, "rho", "Home")
    assert not label.is_visible()
    assert "chosen falls at no T" in page.locator(".gt-growth").get_attribute("aria-label")


def test_every_control_has_a_name_and_every_picture_words(page):
    controls = page.locator("input, select")
    assert controls.count() == 7
    for control in controls.all():
        assert control.evaluate("(node) => node.labels[0].textContent.trim().length") > 3
    buttons = page.locator("button")
    assert buttons.count() == 6
    for button in buttons.all():
        assert len(button.inner_text()) > 6
    for control in [*controls.all(), *buttons.all()]:
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"
    assert page.locator("[role=group]").get_attribute("aria-label") == "form of the pair"
    pictures = page.locator("[role=img]")
    assert pictures.count() == 3
    for picture in pictures.all():
        assert len(picture.get_attribute("aria-label")) > 80


def test_two_widgets_of_a_page_do_not_share_patterns(browser, base, tmp_path):
    write_widget_page(tmp_path / "page.html", SuffixCases(), SuffixCases(length=3))
    page = browser.new_page()
    page.goto(tmp_path.as_uri() + "/page.html")
    settle(page)
    names = page.locator("pattern").evaluate_all("(nodes) => nodes.map((node) => node.id)")
    assert len(set(names)) == len(names) == 12
    page.locator("button[name=add]").nth(1).click()
    values = page.locator("input[name=length]").evaluate_all("(nodes) => nodes.map((node) => node.value)")
    page.close()
    assert values == ["40", "4"]


def test_a_move_takes_less_than_a_frame(page):
    """Set, draw and lay out; the median, as the machine has other work. T is the dearest axis of the map."""
    page.locator("select[name=across]").select_option("length")
    times = page.evaluate(
        """() => {
          const timed = (act) => Array.from({ length: 60 }, (_, k) => {
            const start = performance.now();
            act(k);
            document.querySelector(".gt-widget").getBoundingClientRect();
            return performance.now() - start;
          });
          const slide = (name, value) => {
            const input = document.querySelector(`input[name=${name}]`);
            input.value = String(value);
            input.dispatchEvent(new Event("input"));
          };
          return { length: timed((k) => slide("length", 2 * k)), p_w: timed((k) => slide("p_w", 0.01 * (k + 30))),
            token: timed((k) => document.querySelector(`button[name=${k % 2 ? "add" : "remove"}]`).click()) };
        }"""
    )
    for what, each in times.items():
        assert_within_a_frame(f"a move of {what} of the suffix", each)


def test_picture_stays_where_no_script_runs(browser, base):
    assert "both down" in picture_without_script(browser, base + "light.html")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 375, 1600])
def test_fits_the_window(browser, base, width, theme):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(base + f"{theme}.html")
    settle(page)
    press(page, "miss_l", "End")  # long numbers
    press(page, "length", "End")
    once = ("[data-reading=case]", "[data-reading=rejected_does_not_rise]", "select[name=across]")
    assert_in_window(page, width, (".gt-tokens", "button[name=natural-continuation]", "button[name=remove]", *once))
    assert_in_window(page, width, (".gt-growth", ".gt-phases", "input[name=rho]", "input[name=length]"))
    for picture in (".gt-growth", ".gt-phases"):  # a picture cuts off what leaves it
        frame = page.locator(picture).bounding_box()
        for words in page.locator(f"{picture} text").all():
            if words.is_visible() and words.text_content():
                box = words.bounding_box()
                assert box["x"] >= frame["x"], words.text_content()
                assert box["x"] + box["width"] <= frame["x"] + frame["width"], words.text_content()
    columns = page.locator(".gt-panel").bounding_box()["x"] > page.locator(".gt-plane").bounding_box()["x"]
    assert columns == (width == 1600)
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_letters_stand_out_from_the_ground(browser, base, theme):
    """Contrast of at least 4.5 to 1 for letters on the page and on a share's heat (WCAG 2.2, 1.4.3)."""
    page = browser.new_page()
    page.goto(base + f"{theme}.html")
    settle(page)
    light = theme == "light"
    page.evaluate(
        "([ground, text]) => ['--pst-color-background', '--pst-color-text-base'].forEach((name, i) => "
        "document.documentElement.style.setProperty(name, [ground, text][i]))",
        ["rgb(255, 255, 255)" if light else "rgb(20, 24, 30)", "rgb(31, 35, 40)" if light else "rgb(221, 225, 230)"],
    )
    press(page, "miss_l", "End")  # a share of more than 1: the heat at its strongest
    canvas = """(node) => {
      const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const style = getComputedStyle(node);
      const ground = getComputedStyle(node.closest(".gt-widget")).backgroundColor;
      const over = (...colours) => {
        for (const colour of colours) { paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1); }
        return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3);
      };
      return [over(node.closest("svg") ? style.fill : style.color), over(ground, style.backgroundColor)];
    }"""
    places = (
        ".gt-contrast > .gt-w",
        ".gt-contrast > .gt-l",
        ".gt-contrast > .gt-share",
        ".gt-contrast > .gt-share.gt-minus",
        ".gt-shared:not([hidden]) > .gt-share",
        ".gt-growth text.gt-w",
        ".gt-growth text.gt-l",
        ".gt-growth text.gt-inner",
        ".gt-phases text.gt-label",
    )
    for name in places:
        for node in page.locator(name).all():
            letters, ground = node.evaluate(canvas)
            assert contrast(letters, ground) >= 4.5, (name, letters, ground)
    page.close()

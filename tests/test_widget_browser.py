"""The widget in Chromium: what is clicked, pointed at or reached by keys is painted, and nothing leaves the page."""

import numpy as np
import pytest
import torch
from PIL import Image

from common.draw import _colours
from common.explanation import Explanation
from common.formulas import upsample
from common.widget.fragment import page
from tests.browser import opened
from tests.test_widget import HOSTILE

DESKTOP = {"viewport": {"width": 1000, "height": 700}}
PHONE = {"viewport": {"width": 375, "height": 667}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
CANVAS = """root => { const map = root.querySelector('canvas');
    return [map.width, map.height, ...map.getContext('2d').getImageData(0, 0, map.width, map.height).data]; }"""


@pytest.fixture(scope="module")
def browser():
    with opened() as found:
        yield found


@pytest.fixture
def show(browser, tmp_path):
    """Open HTML in a tab of its own; afterwards no request was made, and nothing was complained of."""
    tabs, complaints = [], []

    def open_tab(text: str, options=DESKTOP):
        file = tmp_path / f"{len(tabs)}.html"
        file.write_text(text, encoding="utf-8")
        tab = browser.new_context(offline=True, **options).new_page()
        tabs.append(tab)
        tab.on("console", lambda message: "readback" in message.text or complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: complaints.append("dialog"))
        tab.on("request", lambda request: request.url.startswith(("data:", "file:")) or complaints.append(request.url))
        tab.goto(file.as_uri())
        return tab

    yield open_tab
    for tab in tabs:
        tab.context.close()
    assert complaints == []


def corner(row: int, column: int, value: float = 1.0, size: tuple[int, int] = (4, 6)) -> torch.Tensor:
    map_ = torch.zeros(1, *size)
    map_[0, row, column] = value
    return map_


def caption(methods=("gradcam",), **more) -> Explanation:
    """'a dog on grass', a map for each word in another place; 'on' has next to nothing."""
    whole = corner(0, 0) + corner(3, 5)
    rows = [whole, corner(0, 0, 0.3), corner(0, 5, 1.0), corner(3, 0, 0.02), corner(3, 5, 0.8), corner(1, 2, 0.5)]
    names = ("a dog on grass", "a", "dog", "on", "grass", "green grass")
    maps = {method: torch.stack(rows) * (1 if place == 0 else -1) for place, method in enumerate(methods)}
    photo = Image.new("RGB", (60, 40), (120, 120, 120))
    return Explanation(names, torch.zeros(6, 1), maps, **more).with_photo(photo)


def painted(tab, place: int = 0) -> np.ndarray:
    """The canvas of a widget, (H, W, 4) RGBA."""
    width, height, *pixels = tab.locator(".saywhy").nth(place).evaluate(CANVAS)
    return np.array(pixels, dtype=float).reshape(height, width, 4)


def strongest(tab, place: int = 0) -> tuple[int, int]:
    """Where the canvas is most opaque, as (top or bottom, left or right)."""
    opacity = painted(tab, place)[..., 3]
    row, column = np.unravel_index(opacity.argmax(), opacity.shape)
    return int(row >= opacity.shape[0] / 2), int(column >= opacity.shape[1] / 2)


def word(tab, name: str, place: int = 0):
    return tab.locator(".saywhy").nth(place).locator(f'.sw-choices button[data-name="{name}"]')


def test_a_click_paints_the_map_of_its_word(show) -> None:
    tab = show(caption().html())
    assert strongest(tab) == (0, 1)  # 'dog', the strongest, is chosen first
    before = painted(tab)
    word(tab, "grass").click()
    assert strongest(tab) == (1, 1) and not np.array_equal(painted(tab), before)
    assert word(tab, "grass").get_attribute("aria-checked") == "true"
    assert word(tab, "dog").get_attribute("aria-checked") == "false"
    assert "grass: score 0.00" in tab.locator(".sw-status").inner_text()


def test_the_colours_are_matplotlibs_of_the_upsampled_map(show) -> None:
    values = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    explanation = Explanation(("cat",), torch.zeros(1, 1), {"gradcam": values[None, None]})
    tab = show(explanation.with_photo(Image.new("RGB", (64, 48))).html())
    expected = upsample((values / values.max())[None, None], (48, 64))[0, 0].numpy()
    for name in ("viridis", "cividis", "turbo"):
        tab.locator(".sw-colours").select_option(name)
        pixels = painted(tab)
        # Colours on a canvas lose a little where they are not opaque.
        np.testing.assert_allclose(pixels[..., :3], _colours(name, expected), atol=9)
        np.testing.assert_allclose(pixels[..., 3] / 255, 0.65 * (0.18 + 0.82 * expected), atol=0.01)


def test_a_signed_map_is_red_where_it_raises_the_score_and_blue_where_it_lowers_it(show) -> None:
    values = torch.tensor([[[[1.0, -1.0]]]])
    tab = show(Explanation(("cat",), torch.zeros(1, 1), {"occlusion": values}).html())
    pixels = painted(tab)
    assert (pixels[:, 0, 0] > pixels[:, 0, 2] + 50).all() and (pixels[:, -1, 2] > pixels[:, -1, 0] + 50).all()


def test_pointing_shows_a_word_for_as_long_as_it_is_pointed_at(show) -> None:
    tab = show(caption().html())
    word(tab, "grass").hover()
    assert strongest(tab) == (1, 1) and word(tab, "dog").get_attribute("aria-checked") == "true"
    tab.mouse.move(990, 690)
    assert strongest(tab) == (0, 1)


def test_the_keyboard_alone_reaches_everything(show) -> None:
    tab = show(caption(("gradcam", "occlusion")).html())
    focused = (
        "(({dataset, className, textContent}) => dataset.name || className || textContent)(document.activeElement)"
    )
    tab.keyboard.press("Tab")
    assert tab.evaluate(focused) == "dog"
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate(focused) == "grass" and strongest(tab) == (1, 1)
    tab.keyboard.press("Home")
    assert tab.evaluate(focused) == "a" and strongest(tab) == (0, 0)
    tab.keyboard.press("ArrowLeft")
    assert tab.evaluate(focused) == "green grass"
    tab.keyboard.press("Escape")
    assert painted(tab)[..., 3].max() == 0 and "photograph alone" in tab.locator(".sw-status").inner_text()
    tab.keyboard.press("Enter")
    assert painted(tab)[..., 3].max() > 0
    tab.keyboard.press("Tab")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate(focused) == "Occlusion"
    tab.keyboard.press("Tab")
    assert tab.evaluate(focused) == "sw-opacity"
    stronger = painted(tab)[..., 3].max()
    tab.keyboard.press("ArrowLeft")
    assert painted(tab)[..., 3].max() < stronger
    tab.keyboard.press("Tab")
    tab.keyboard.press("Space")
    assert tab.locator(".sw-alike").is_checked()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Space")
    assert tab.locator(".sw-common").is_checked()
    tab.keyboard.press("Tab")
    tab.keyboard.press("ArrowDown")
    assert tab.locator(".sw-colours").input_value() == "cividis"


def test_arrows_follow_the_direction_of_the_text(show) -> None:
    names = ("כלב על דשא", "כלב", "על", "דשא")
    tab = show(Explanation(names, torch.zeros(4, 1), {"gradcam": torch.ones(4, 1, 2, 2)}).html())
    tab.keyboard.press("Tab")
    tab.keyboard.press("ArrowLeft")
    assert tab.evaluate("document.activeElement.dataset.name") == "על"
    first, second = (word(tab, name).bounding_box()["x"] for name in names[1:3])
    assert second < first


def test_words_with_little_evidence_are_faint_and_so_are_their_maps(show) -> None:
    tab = show(caption().html())
    levels = {name: word(tab, name).get_attribute("data-level") for name in ("a", "dog", "on", "grass")}
    assert levels == {"a": "1", "dog": "4", "on": "0", "grass": "3"}
    strong = painted(tab)[..., 3].max()
    word(tab, "on").click()
    assert painted(tab)[..., 3].max() < 0.35 * strong
    assert "next to no evidence" in tab.locator(".sw-status").inner_text()


def test_what_comes_from_the_picture_is_shown_and_stays_with_every_method(show) -> None:
    visual = torch.tensor([[3.0], [0.1], [1.0], [0.0], [2.0], [2.0]])
    tab = show(caption(("gradcam", "occlusion"), visual=visual).html())
    assert word(tab, "grass").inner_text().split() == ["grass", "+2.0"]
    assert word(tab, "grass").get_attribute("aria-checked") == "true"
    tab.get_by_role("radio", name="Occlusion").click()
    dog = word(tab, "dog")
    assert dog.inner_text().split() == ["dog", "+1.0"] and dog.get_attribute("data-level") == "2"
    word(tab, "on").click()
    assert "owes next to nothing to the picture" in tab.locator(".sw-status").inner_text()


def test_on_the_common_scale_a_weak_word_is_drawn_weaker(show) -> None:
    tab = show(caption().html())
    word(tab, "a").click()
    own, legend = painted(tab), tab.locator(".sw-legend").inner_text()
    tab.locator(".sw-common").check()
    assert "0.3, own scale" in legend and "1, common scale" in tab.locator(".sw-legend").inner_text()
    corner = painted(tab)[2, 2]
    assert corner[:3].tolist() != own[2, 2, :3].tolist()
    expected = _colours("viridis", np.array(0.3))
    np.testing.assert_allclose(corner[:3], expected, atol=9)


def test_all_are_drawn_at_full_strength_where_that_is_asked_for(show) -> None:
    tab = show(caption().html())
    strong = painted(tab)[..., 3].max()
    word(tab, "on").click()
    tab.locator(".sw-alike").check()
    assert painted(tab)[..., 3].max() == strong
    assert "next to no evidence" in tab.locator(".sw-status").inner_text()
    assert "own scale" in tab.locator(".sw-legend").inner_text()
    tab = show(caption().html(scale="own"))
    word(tab, "on").click()
    assert tab.locator(".sw-alike").is_checked() and painted(tab)[..., 3].max() == strong


def test_a_page_is_dark_where_the_system_is_and_a_fragment_is_not(show) -> None:
    dark = {**DESKTOP, "color_scheme": "dark"}
    ink = "e => { const {color, backgroundColor} = getComputedStyle(e); return [color, backgroundColor]; }"
    colours = {
        name: show(text, options).locator(".saywhy").evaluate(ink)
        for name, text, options in [
            ("page", page(caption().html(), "x"), DESKTOP),
            ("dark page", page(caption().html(), "x"), dark),
            ("fragment", caption().html(), dark),
        ]
    }
    assert colours["page"] == colours["fragment"]
    assert colours["page"][1] == "rgb(255, 255, 255)" and colours["dark page"][1] == "rgb(20, 22, 26)"


def test_methods_are_tabs_and_one_method_needs_none(show) -> None:
    tab = show(caption(("gradcam", "occlusion")).html())
    before = painted(tab)
    tab.get_by_role("radio", name="Occlusion").click()
    assert not np.array_equal(painted(tab), before) and "lowers" in tab.locator(".sw-legend").inner_text()
    assert not show(caption().html()).locator(".sw-tabs").is_visible()


def test_a_gradient_is_painted_as_a_picture(show) -> None:
    guided = torch.zeros(2, 1, 3, 40, 60)
    guided[0, ..., 5, 5], guided[1, ..., 30, 50] = 1.0, 1.0
    photo = Image.new("RGB", (60, 40))
    tab = show(Explanation(("cat", "dog"), torch.zeros(2, 1), {"guided": guided}).with_photo(photo).html())
    tab.wait_for_function(f"({CANVAS})(document.querySelector('.saywhy'))[5] > 0")
    word(tab, "dog").click()
    tab.wait_for_function(f"({CANVAS})(document.querySelector('.saywhy'))[2 + 4 * (30 * 60 + 50)] > 150")
    assert painted(tab)[..., 3].max() == pytest.approx(0.975 * 255, abs=2)


def test_the_words_of_a_question_are_shaded_by_what_they_add(show) -> None:
    weights = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]])
    maps = {"gradcam": torch.ones(2, 1, 2, 2)}
    words = ("what", "colour", "?")
    explanation = Explanation(("red", "blue"), torch.zeros(2, 1), maps, words=words, word_gradients=weights)
    tab = show(explanation.html())

    def shades() -> list[list[int]]:
        found = tab.locator(".sw-read span").evaluate_all("all => all.map(each => each.style.background)")
        return [list(map(int, text.strip("rgb() ").split(", "))) for text in found]

    (red, _, blue), (low, _, high), _ = shades()
    assert red > blue + 50 and high > low + 50
    word(tab, "blue").click()
    (red, _, blue), *_ = shades()
    assert blue > red + 50


def test_a_phone_shows_all_of_it_and_is_touched(show) -> None:
    tab = show(page(caption(("gradcam", "occlusion")).html(), "a dog"), PHONE)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    word(tab, "grass").tap()
    assert strongest(tab) == (1, 1)
    assert min(button["height"] for button in map(lambda b: b.bounding_box(), tab.locator("button").all())) >= 40
    tab.locator(".sw-photo").tap()
    assert painted(tab)[..., 3].max() == 0
    tab.locator(".sw-photo").tap()
    assert strongest(tab) == (1, 1)


def test_a_page_of_its_own_works_under_its_policy(show) -> None:
    tab = show(page(caption().html(), "a dog"))
    assert strongest(tab) == (0, 1) and tab.title() == "a dog"
    background = tab.locator(".sw-ramp").evaluate("each => getComputedStyle(each).backgroundImage")
    assert background.startswith("linear-gradient")


def test_two_on_a_page_do_not_meet(show) -> None:
    tab = show(f"<style>button {{ color: red }}</style><button>mine</button>{caption().html()}{caption().html()}")
    before = painted(tab, 1)
    word(tab, "grass", 0).click()
    assert strongest(tab, 0) == (1, 1) and np.array_equal(painted(tab, 1), before)
    mine = tab.locator("button").first.evaluate("each => getComputedStyle(each)")
    plain = show("<style>button { color: red }</style><button>mine</button>").locator("button")
    assert mine == plain.evaluate("each => getComputedStyle(each)")


def test_a_notebook_that_adds_it_later_and_twice_sees_one_widget(show) -> None:
    """As notebooks do: the HTML is set, then each script is made anew, in a document that has widgets already."""
    tab = show(f"{caption().html()}<div id=out></div>")
    tab.evaluate(
        """html => { const out = document.querySelector('#out'); out.innerHTML = html;
        for (const script of out.querySelectorAll('script')) { const again = document.createElement('script');
            again.textContent = script.textContent; script.replaceWith(again); } }""",
        caption().html(),
    )
    word(tab, "grass", 1).click()
    assert strongest(tab, 1) == (1, 1) and strongest(tab, 0) == (0, 1)


def test_hostile_texts_stay_text(show) -> None:
    photo = Image.new("RGB", (20, 20))
    photo.info["name"] = HOSTILE
    maps = {"gradcam": torch.ones(2, 1, 2, 2)}
    read = {"words": (HOSTILE,), "word_gradients": torch.ones(2, 1)}
    explanation = Explanation((HOSTILE, "dog"), torch.zeros(2, 1), maps, **read)
    tab = show(page(explanation.with_photo(photo).html(), HOSTILE))
    assert tab.locator(".sw-choices b").count() == 0 and tab.locator("script").count() == 1
    assert tab.locator(".sw-choices bdi").first.text_content() == HOSTILE
    assert HOSTILE in tab.locator(".sw-status").text_content()
    assert HOSTILE in tab.locator(".sw-map").get_attribute("aria-label")


def test_without_its_script_the_photograph_and_the_words_are_left(browser, tmp_path) -> None:
    """What a viewer shows that strips scripts, such as an untrusted notebook."""
    (tmp_path / "x.html").write_text(caption().html(), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((tmp_path / "x.html").as_uri())
    assert tab.locator(".sw-photo").is_visible() and tab.locator(".sw-text").inner_text().split()[0] == "a"
    assert tab.locator(".sw-still").is_visible() and not tab.locator(".sw-controls").is_visible()
    context.close()


def test_in_a_frame_without_rights_of_its_own_it_works(show) -> None:
    import html

    document = html.escape(page(caption().html(), "a dog"), quote=True)
    tab = show(f'<iframe sandbox="allow-scripts" width="900" height="600" srcdoc="{document}"></iframe>')
    frame = tab.frame_locator("iframe")
    frame.locator('button[data-name="grass"]').click()
    assert "grass" in frame.locator(".sw-status").inner_text()


def test_a_framed_page_says_how_high_it_is(show) -> None:
    import html

    document = html.escape(page(caption().html(), "a dog", framed=True), quote=True)
    told = "<script>addEventListener('message', ({data}) => { window.told = data.saywhyHeight; });</script>"
    tab = show(f'{told}<iframe sandbox="allow-scripts" width="300" height="900" srcdoc="{document}"></iframe>')
    tab.wait_for_function("window.told > 200")
    high = tab.evaluate("window.told")
    tab.locator("iframe").evaluate("each => { each.width = 900; }")
    tab.wait_for_function(f"window.told < {high}")
    tab.locator("iframe").evaluate("each => { each.height = window.told; }")
    inside = tab.frames[1]
    assert inside.evaluate("document.documentElement.scrollHeight <= innerHeight")

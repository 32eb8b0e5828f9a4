"""The demo in Chromium: a stranger uploads, asks and clicks; nothing leaves the machine."""

from pathlib import Path

import numpy as np
import pytest

from tests.browser import opened
from tests.test_demo import CAT, SVG

DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 780}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
COWS = (Path(__file__).parent.parent / "data" / "samples" / "cows.jpg").read_bytes()
TABS = {"classify": "Classify", "caption": "Caption", "vqa": "Ask"}


@pytest.fixture(scope="module")
def browser():
    # A name that is asked for, of whatever host, finds nothing: only the machine itself is left.
    with opened(*CAMERA, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1") as found:
        yield found


@pytest.fixture
def visit(browser, demo_server):
    """Open the demo in a tab of its own; afterwards no other host was asked, and nothing was complained of."""
    tabs, complaints = [], []
    here = (demo_server.address, "data:", f"blob:{demo_server.address}", "about:")

    def open_tab(options=DESKTOP):
        tab = browser.new_context(**options).new_page()
        tabs.append(tab)
        tab.set_default_timeout(60_000)
        tab.on("request", lambda request: request.url.startswith(here) or complaints.append(request.url))
        tab.on("console", lambda line: line.type != "error" or complaints.append(line.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: complaints.append("dialog"))
        tab.goto(demo_server.address)
        tab.locator("#sd-photo img").wait_for()
        return tab

    yield open_tab
    for tab in tabs:
        tab.context.close()
    # A page that is left while an answer comes says that its connection was cut.
    assert [line for line in complaints if not ("abort" in line.lower() or "errored out" in line)] == []


def go(tab, task: str):
    """Press a tab's button; returns the frame in which the answer is explained."""
    tab.get_by_role("tab", name=TABS[task]).click()
    tab.locator(f"#sd-go-{task}").click()
    return explained(tab, task)


def explained(tab, task: str):
    tab.locator(f"#sd-shown-{task} iframe").wait_for()
    frame = tab.frame_locator(f"#sd-shown-{task} iframe")
    frame.locator(".sw-legend").wait_for()
    return frame


def upload(tab, data: bytes, name: str) -> None:
    """Take the photograph away and upload another."""
    tab.get_by_role("button", name="Remove Image").click()
    tab.locator("#sd-photo input[type=file]").set_input_files({"name": name, "mimeType": "image/jpeg", "buffer": data})
    tab.locator("#sd-photo img").wait_for()


SMALL = """map => { const small = new OffscreenCanvas(32, 24).getContext('2d', {willReadFrequently: true});
    small.drawImage(map, 0, 0, 32, 24); return [...small.getImageData(0, 0, 32, 24).data]; }"""


def painted(frame) -> np.ndarray:
    """The canvas of a frame, made small, (24, 32, 4) RGBA."""
    return np.array(frame.locator("canvas").evaluate(SMALL)).reshape(24, 32, 4)


def test_upload_ask_and_click(visit) -> None:
    tab = visit()
    upload(tab, COWS, "my cows.jpg")
    frame = go(tab, "vqa")
    assert tab.locator("#sd-shown-vqa .sd-said").inner_text() == "cow"
    before = painted(frame)
    frame.locator(".sw-rest button").nth(1).click()
    after = painted(frame)
    assert before[..., 3].any() and after[..., 3].any() and not np.array_equal(before, after)


def test_each_tab_explains_and_another_photograph_begins_anew(visit) -> None:
    tab = visit()
    for task in TABS:
        frame = go(tab, task)
        assert painted(frame)[..., 3].any()
    assert tab.locator("#sd-shown-vqa .sd-said").inner_text() == "cat"
    tab.get_by_role("button", name="Example: espresso").click()
    tab.locator("#sd-shown-vqa .sd-empty").wait_for()
    assert tab.locator("iframe.sd-why").count() == 0
    go(tab, "classify")
    assert tab.locator("#sd-shown-classify .sd-said").inner_text() == "espresso"


def test_the_frame_is_as_high_as_the_page_in_it(visit) -> None:
    tab = visit()
    go(tab, "caption")
    tab.wait_for_function("document.querySelector('#sd-shown-caption iframe').style.height")
    (inside,) = [frame for frame in tab.frames if frame.parent_frame]
    assert inside.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_phrases_contrasts_and_what_is_wrong_with_them(visit) -> None:
    tab = visit()
    tab.get_by_role("tab", name="Caption").click()
    tab.get_by_role("button", name="Explain phrases").click()
    tab.get_by_label("Phrases").fill("a dog\nthe grass")
    tab.get_by_label("Rather than").locator("visible=true").fill("a horse")
    frame = go(tab, "caption")
    names = frame.locator(".sw-rest button").evaluate_all("all => all.map(each => each.dataset.name)")
    assert [name.replace(" (not in the caption)", "") for name in names[1:]] == [
        "a dog", "the grass", "a dog rather than a horse", "the grass rather than a horse"
    ]  # fmt: skip
    tab.get_by_label("Phrases").fill("<b>xyzzy</b>")
    tab.locator("#sd-go-caption").click()
    alert = tab.locator("#sd-shown-caption .sd-sorry")
    alert.wait_for()
    assert "none of the words" in alert.inner_text().lower() and alert.locator("b").count() == 0


def test_the_keyboard_alone_is_enough(visit) -> None:
    tab = visit()
    tab.get_by_role("tab", name="Classify").focus()
    for key in ("Tab", "Tab", "Enter", "Tab"):
        tab.keyboard.press(key)
    assert tab.get_by_label("Question").first.evaluate("each => each === document.activeElement")
    tab.keyboard.press("Control+a")
    tab.keyboard.type("where is the dog?")
    tab.keyboard.press("Enter")
    frame = explained(tab, "vqa")
    inside = next(each for each in tab.frames if each.parent_frame)
    for _ in range(16):
        tab.keyboard.press("Tab")
        if inside.evaluate("document.activeElement.matches('.sw-choices button')"):
            break
    before = painted(frame)
    tab.keyboard.press("ArrowRight")
    assert not np.array_equal(before, painted(frame))


def test_on_a_phone_all_is_there_and_the_answer_comes_into_view(visit) -> None:
    tab = visit(PHONE)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.get_by_role("tab", name="Caption").tap()
    tab.locator("#sd-go-caption").tap()
    frame = explained(tab, "caption")
    tab.wait_for_function("document.querySelector('#sd-shown-caption').getBoundingClientRect().top < innerHeight / 2")
    before = painted(frame)
    frame.locator(".sw-text button[aria-checked=false]").first.tap()
    assert not np.array_equal(before, painted(frame))
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_camera_can_be_used(visit) -> None:
    tab = visit({**DESKTOP, "permissions": ["camera"]})
    photo = tab.locator("#sd-photo")
    tab.get_by_role("button", name="Remove Image").click()
    photo.get_by_role("button", name="Capture from camera").click()
    photo.get_by_text("Click to Access Webcam").click()
    photo.locator("video").wait_for()
    tab.wait_for_function("document.querySelector('#sd-photo video').videoWidth")
    photo.get_by_role("button", name="capture photo").click()
    photo.locator("img").wait_for()
    go(tab, "classify")


def test_an_answer_can_be_cancelled_and_the_next_is_given(visit) -> None:
    tab = visit()
    tab.get_by_role("button", name="Explain other classes").click()
    tab.get_by_label("Occlusion").locator("visible=true").check()
    tab.locator("#sd-go-classify").click()
    tab.locator("#sd-stop-classify").click()
    tab.locator("#sd-go-classify").wait_for()
    tab.get_by_label("Occlusion").locator("visible=true").uncheck()
    go(tab, "classify")
    assert not tab.locator("#sd-stop-classify").is_visible()


def test_what_is_no_photograph_is_told(visit) -> None:
    tab = visit()
    for data, name in [(SVG, "x.jpg"), (CAT[:5000], "cat.jpg")]:
        upload(tab, data, name)
        tab.locator("#sd-go-classify").click()
        tab.locator("#sd-shown-classify .sd-sorry").wait_for()


def test_impatience_harms_nothing(visit) -> None:
    tab = visit()
    tab.locator("#sd-go-classify").dblclick()
    tab.reload()
    tab.locator("#sd-photo img").wait_for()
    go(tab, "classify")
    assert tab.locator("#sd-shown-classify iframe").count() == 1


def test_it_is_dark_where_the_system_is(visit) -> None:
    tab = visit({**DESKTOP, "color_scheme": "dark"})
    go(tab, "classify")
    inside = next(each for each in tab.frames if each.parent_frame)
    assert inside.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"


def test_pictures_are_named(visit) -> None:
    tab = visit()
    names = tab.locator("#sd-samples button").evaluate_all("all => all.map(each => each.ariaLabel)")
    assert len(names) == 10 and all(name.startswith("Example: ") for name in names)
    unnamed = "all => all.filter(each => !(each.ariaLabel || each.title || each.textContent.trim())).length"
    assert tab.locator("button").evaluate_all(unnamed) == 0


def test_the_samples_are_the_bundled_ones() -> None:
    pytest.importorskip("gradio", reason="pip install 'saywhy[demo]' brings the demo's server")
    from scripts.demo.page import SAMPLES

    folder = Path(__file__).parent.parent / "data" / "samples"
    assert all((folder / f"{name}.jpg").is_file() for name in SAMPLES)

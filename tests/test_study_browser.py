"""A whole session in Chromium, from consent to the analysis: what is clicked is what is kept."""

import json
import re
import shutil

import pytest

from common.files import write_text
from scripts.saywhy import main
from scripts.study.answers import read_results
from scripts.study.pages import CDN, FILE, PageOptions
from tests.browser import opened
from tests.studies import made_up, served
from tests.test_widget_browser import DESKTOP, PHONE

HERE = ("http://127.0.0.1", "data:", "blob:", "about:")


@pytest.fixture(scope="module")
def browser():
    with opened() as found:
        yield found


@pytest.fixture
def study(request, tmp_path, jspsych):
    return made_up(tmp_path / "study", getattr(request, "param", "discriminate"), 4, options=PageOptions(jspsych))


@pytest.fixture
def visit(browser):
    """Open a page in a window of its own; afterwards nothing was complained of, and nothing left this machine."""
    complaints, contexts = [], []

    def open_window(address: str, options=DESKTOP, expected: str = "^$"):
        context = browser.new_context(**options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda m: m.type == "error" and not re.search(expected, m.text) and complaints.append(m.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda r: r.url.startswith(HERE) or re.search(expected, r.url) or complaints.append(r.url))
        tab.goto(address)
        return tab

    yield open_window
    for context in contexts:
        context.close()
    assert not complaints


def press(tab, name: str) -> None:
    tab.get_by_role("button", name=name, exact=True).click()


def begin(tab, name: str = "kiwi") -> None:
    if name:
        tab.get_by_label("A code name of your own choice").fill(name)
    press(tab, "I take part")
    press(tab, "Begin")


def practise(tab, answer: str) -> list[str]:
    """Answer what is to be practised; returns what was told."""
    told = []
    for _ in range(2):
        press(tab, answer)
        told.append(tab.locator(".told").inner_text())
        press(tab, "Next")
    press(tab, "Begin")
    return told


def answer(tab, study, design, wanted) -> dict:
    """Answer one question by `wanted(trial's id)`, the place among its options; returns what was answered."""
    number = int(tab.locator(".place").inner_text().split(" of ")[0]) - 1
    check = tab.locator(".about").count() and re.search("choose '(.*)'", tab.locator(".about").first.inner_text())
    if check:
        press(tab, check[1])
        return {"number": number, "text": check[1]}
    images = tab.locator(".maps img").evaluate_all("all => all.map(each => each.src.split('/').pop())")
    trial = next(t for t in study.key if design["trials"][t]["images"] == images)
    text = design["trials"][trial]["options"][wanted(trial)]
    press(tab, text)
    tab.wait_for_function(f"!document.querySelector('.place')?.innerText.startsWith('{number + 1} of')")
    return {"number": number, "trial": trial, "response": wanted(trial)}


def design_of(study) -> dict:
    return json.loads((study.folder / "public" / "design.json").read_text())


@pytest.mark.parametrize("study", ["discriminate", "trust"], indirect=True)
def test_a_session_is_clicked_through_kept_and_analysed(study, visit, capsys) -> None:
    design, rates = design_of(study), study.rates

    def wanted(trial: str) -> int:
        return 3 if rates else study.key[trial]["right"]

    with served(study) as server:
        tab = visit(f"http://127.0.0.1:{server.server_port}/")
        assert "voluntary" in tab.locator(".text").inner_text() and "Loading" not in tab.locator("main").inner_text()
        begin(tab)
        told = practise(tab, "A, slightly" if rates else "cat")
        assert told[0] == ("Yes. Most would say A." if rates else "Yes. cat") and len(told) == 2
        given = [answer(tab, study, design, wanted) for _ in range(6)]
        tab.get_by_text("Thank you").wait_for()
        assert tab.get_by_text("kiwi").is_visible() and not tab.locator("#download").count()
        results = read_results(study)
    found = {each.number: each for each in results.answers}
    assert sorted(found) == list(range(6)) and {each.participant for each in results.answers} == {"kiwi"}
    for each in given:
        kept = found[each["number"]]
        assert kept.check == ("text" in each) and kept.milliseconds >= 300
        assert kept.score == 1 if kept.check else (kept.trial, kept.response) == (each["trial"], each["response"])
    # Nobody looks at a picture for a third of a second; a second person, and both with time to look.
    results_file = study.folder / "results" / "answers.jsonl"
    text = results_file.read_text()
    write_text(
        results_file.with_name("second.jsonl"), text.replace(results.answers[0].session, "two").replace("kiwi", "fig")
    )
    assert main(["study", "analyse", str(study.folder)]) == 2
    assert "half of the answers within 0." in capsys.readouterr().err
    for file in results_file.parent.iterdir():
        write_text(file, re.sub('"ms": ', '"ms": 10', file.read_text()))
    assert main(["study", "analyse", str(study.folder)]) == 0
    assert "2 people, 8 answers" in capsys.readouterr().out


def test_a_reload_goes_on_where_it_was_and_answers_wait_while_the_server_is_away(study, visit) -> None:
    design = design_of(study)
    with served(study) as server:
        tab = visit(f"http://127.0.0.1:{server.server_port}/", expected="ERR_FAILED")

        def two_more() -> int:
            for _ in range(2):
                answer(tab, study, design, lambda trial: 0)
            return len(read_results(study).answers)

        begin(tab)
        practise(tab, "cat")
        assert two_more() == 2
        tab.reload()
        press(tab, "Go on")
        assert tab.locator(".place").inner_text() == "3 of 6"
        tab.route("**/answers", lambda route: route.abort())
        assert two_more() == 2
        tab.unroute("**/answers")
        two_more()
        tab.get_by_text("Thank you").wait_for()
        assert len(read_results(study).answers) == 6
        tab.reload()
        tab.get_by_text("Thank you").wait_for()
        press(tab, "Another person")
        tab.get_by_label("A code name of your own choice").wait_for()
    assert len(read_results(study).answers) == 6


def test_without_a_receiver_answers_are_downloaded_and_texts_are_text(tmp_path, jspsych, visit) -> None:
    """As on a host of static pages, which has no place to send answers to, with somebody from Prolific."""
    link = "https://app.prolific.com/submissions/complete?cc=C1&x=<b>"
    study = made_up(tmp_path / "study", photographs=4, options=PageOptions(jspsych, link))
    texts, design = study.folder / "public" / "texts", design_of(study)
    (texts / "consent.txt").write_text("# <img src=x onerror=alert(1)>\n\nA & B")
    (texts / "debriefing.txt").write_text("# Danke <3")
    with served(study) as server:
        tab = visit(f"http://127.0.0.1:{server.server_port}/?PROLIFIC_PID=<b>1</b>", expected="404")
        tab.route("**/answers", lambda route: route.fulfill(status=404, content_type="text/html", body="none"))
        assert tab.locator("h1").inner_text() == "<img src=x onerror=alert(1)>" and not tab.locator("main img").count()
        assert not tab.locator("#participant").count()
        begin(tab, "")
        practise(tab, "cat")
        for _ in range(6):
            answer(tab, study, design, lambda trial: study.key[trial]["right"])
        with tab.expect_download() as download:
            press(tab, "Download your answers")
        assert tab.get_by_text("could not be sent").is_visible() and tab.get_by_text("Danke <3").is_visible()
        assert tab.locator("#completion").get_attribute("href") == link
        assert tab.locator("strong").inner_text() == "<b>1</b>"
        assert not tab.get_by_role("button", name="Another person").count()
    shutil.copy(download.value.path(), study.folder / "results" / download.value.suggested_filename)
    results = read_results(study)
    assert len(results.answers) == 6 and {each.participant for each in results.answers} == {"<b>1</b>"}
    assert all(each.score == 1 for each in results.answers) and not results.remarks


def test_who_does_not_take_part_leaves_nothing(study, visit) -> None:
    with served(study) as server:
        tab = visit(f"http://127.0.0.1:{server.server_port}/")
        press(tab, "I don't take part")
        assert "Nothing was kept" in tab.locator("main").inner_text()
        assert (study.folder / "results" / "answers.jsonl").read_text() == ""
        assert tab.evaluate("localStorage.length") == 0


@pytest.mark.parametrize("study", ["trust"], indirect=True)
def test_a_phone_shows_a_whole_trial_and_the_keyboard_answers_it(study, visit) -> None:
    with served(study) as server:
        tab = visit(f"http://127.0.0.1:{server.server_port}/", PHONE)
        begin(tab)
        tab.locator(".maps img").first.wait_for()
        assert tab.evaluate("document.documentElement.scrollWidth") <= 375
        boxes = [box.bounding_box() for box in tab.locator("button").all()]
        assert len(boxes) == 5 and min(box["height"] for box in boxes) >= 44
        assert max(box["y"] + box["height"] for box in boxes) <= 667
        assert tab.evaluate("document.activeElement.className") == "about"
        tab.wait_for_timeout(350)
        tab.keyboard.press("Tab")
        tab.keyboard.press("Enter")
        tab.locator(".told").wait_for()


def test_pinned_scripts_run_only_with_the_bytes_of_npm(tmp_path, jspsych, visit) -> None:
    study = made_up(tmp_path)
    with served(study) as server:
        tab = visit("about:blank", expected=f"{CDN}|integrity|could not be loaded|Failed to load")

        def unpkg(route, request, spoilt: bytes = b"") -> None:
            name = re.sub(r"@[\d.]+/dist.*", "", request.url.removeprefix(f"{CDN}/"))
            headers = {"Access-Control-Allow-Origin": "*", "Content-Type": "text/javascript"}
            route.fulfill(body=(jspsych / name / FILE).read_bytes() + spoilt, headers=headers)

        tab.route(f"{CDN}/**", lambda route, request: unpkg(route, request, b" "))
        tab.goto(f"http://127.0.0.1:{server.server_port}/")
        assert "jsPsych could not be loaded" in tab.locator(".problem").inner_text()
        tab.unroute_all()
        tab.route(f"{CDN}/**", unpkg)
        tab.reload()
        begin(tab)
        assert practise(tab, "cat")

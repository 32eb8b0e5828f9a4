"""`--html` of the commands: a page with words to click beside the picture."""

from pathlib import Path

import pytest

from scripts.saywhy import main
from tests.test_widget import Parsed

SAMPLES = Path(__file__).parent.parent / "data" / "samples"
CAT = str(SAMPLES / "cat.jpg")
COMMANDS = {
    "caption": ["caption", CAT, "--caption", "a cat <b>on a table"],
    "vqa": ["vqa", CAT, "what animal is this?", "--answer", "cat", "--contrast", "dog"],
    "classify": ["classify", CAT, "--random-weights", "--target", "tiger cat", "--target", "tabby"],
}


@pytest.mark.parametrize("task", COMMANDS)
def test_a_page_is_written_where_it_is_asked_for(task, tmp_path, capsys) -> None:
    assert main([*COMMANDS[task], "--html", "--out", str(tmp_path)]) == 0
    file = tmp_path / f"cat.{task}.html"
    assert str(file) in capsys.readouterr().out
    page = Parsed(file.read_text(encoding="utf-8"))
    assert page.all("img")[0]["alt"] == "Photograph cat.jpg" and page.text.strip().startswith("cat.jpg: ")
    names = [word["data-name"] for word in page.words()]
    expected = {"vqa": ["cat", "cat rather than dog"], "classify": ["tiger cat", "tabby"]}
    assert names == expected.get(task, names) and len(names) > 1
    assert all(word["data-note"].startswith(("log p", "score", "logit", "difference")) for word in page.words())


def test_captions_only_have_no_page(capsys) -> None:
    assert main(["caption", CAT, "--no-explain", "--html"]) == 2
    assert "--html" in capsys.readouterr().err


def test_the_scale_of_the_pictures_is_the_page_s(tmp_path) -> None:
    for scale, alike in [("own", True), ("visual", False)]:
        arguments = ["caption", CAT, "--caption", "a cat", "--html", "--scale", scale]
        assert main([*arguments, "--out", str(tmp_path / scale)]) == 0
        page = Parsed((tmp_path / scale / "cat.caption.html").read_text(encoding="utf-8"))
        (switch,) = [each for each in page.all("input") if each.get("class") == "sw-alike"]
        assert ("checked" in switch) == alike

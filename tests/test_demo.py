"""The demo without its server: what a photograph and a text give, what is refused, how work is done one by one."""

import asyncio
import io
import json
import math
import re
import threading
import time
import warnings
from pathlib import Path

import pytest
from PIL import Image, features

from common.errors import UserError
from scripts.commands.demo import models_of
from scripts.demo.answers import EXPLAINED, LISTED, TASKS, Asked, Models, Shown, answers
from scripts.demo.limits import KINDS, Limits, checked, chosen, lines_of, photograph
from scripts.demo.worker import Worker
from scripts.saywhy import build_parser, main
from tests.test_widget import HOSTILE, Parsed

ROOT = Path(__file__).parent.parent
CAT = (ROOT / "data" / "samples" / "cat.jpg").read_bytes()
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


def png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, "PNG")
    return stream.getvalue()


HUGE = png(30_000, 30_000)  # 900 million pixels in 110 kB
REFUSED = {
    "text": (b"hello, I am no photograph", "no photograph"),
    "SVG": (SVG, "no photograph"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no photograph"),
    "truncated": (CAT[: len(CAT) // 2], "truncated"),
    "header alone": (CAT[:30], "no photograph"),
    "many pixels": (HUGE, "pixels"),
    "too many pixels": (png(8000, 7000), "50 million pixels"),
    "large": (CAT + bytes(10_000_000), "at most 10 MB"),
    "empty": (b"", "empty"),
}


@pytest.fixture(scope="module")
def models(demo_models) -> Models:
    return demo_models


def shown(task: str, models: Models, data: bytes | None = CAT, **asked) -> Shown:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(answers(task, models, data, Asked(**asked), Limits()))[-1]


def names(found: Shown) -> list[str]:
    return [word["data-name"] for word in Parsed(found.page).words()]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_photograph_is_refused_in_one_line_without_a_path(kind) -> None:
    data, reason = REFUSED[kind]
    with pytest.raises(UserError, match=reason) as told:
        photograph(data, Limits())
    assert "\n" not in str(told.value) and "/" not in str(told.value) and "<" not in str(told.value)


@pytest.mark.parametrize("kind", [*KINDS, "MPO"])  # cameras write MPO, which is a JPEG with more behind it
def test_what_browsers_and_cameras_make_is_read(kind) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 30, 30)).save(stream, kind)
    assert photograph(stream.getvalue(), Limits()).image.size == (40, 30)


def test_a_photograph_is_known_again_and_its_name_is_not() -> None:
    found = photograph(CAT, Limits())
    assert found.image.mode == "RGB" and "name" not in found.image.info
    assert found.key == photograph(CAT, Limits()).key != photograph(png(9, 9), Limits()).key
    assert max(photograph(png(5000, 100), Limits()).image.size) == 2048


def test_texts_are_bounded() -> None:
    limits = Limits(letters=10, texts=2)
    assert checked("  a   dog\n", limits) == "a dog" and checked(None, limits) == ""
    assert lines_of("a\n\n a \nb", "phrases", limits) == ["a", "b"]
    for text in ("x" * 11, ["a"], 3, {"path": "/etc/passwd"}):
        with pytest.raises(UserError):
            checked(text, limits)
    with pytest.raises(UserError, match="3 phrases; at most 2"):
        lines_of("a\nb\nc", "phrases", limits)


def test_only_methods_that_are_offered_are_run() -> None:
    assert chosen(["occlusion", "gradcam"], ("gradcam", "occlusion")) == ("gradcam", "occlusion")
    assert chosen([], ("gradcam", "occlusion")) == ("gradcam",)
    for methods in (["integrated_gradients"], "gradcam", [["gradcam"]], None):
        with pytest.raises(UserError):
            chosen(methods, ("gradcam", "occlusion"))


def test_a_class_a_caption_and_an_answer_are_given_with_a_page_to_click(models) -> None:
    found = shown("classify", models)
    assert found.said == "Egyptian cat" and len(found.others) == LISTED and found.others[0][0] == found.said
    assert names(found)[0] == "Egyptian cat" and len(names(found)) == EXPLAINED
    found = shown("caption", models)
    expected = models.captioner.caption(photograph(CAT, Limits()).image)
    assert found.said == f"“{expected.text}”"
    assert names(found) == [*expected.words, expected.text]
    notes = [word["data-note"] for word in Parsed(found.page).words()]
    shares = [float(note.split("probability ")[1].split(" %")[0]) for note in notes[1:-1] if "under" not in note]
    expected_shares = [100 * math.exp(value) for value in expected.log_probabilities[1:]]
    assert shares == pytest.approx([share for share in expected_shares if share >= 1], abs=0.51)
    assert notes[-1].startswith(f"log-probability {expected.total:.2f}") and "picture +" in notes[1]
    found = shown("vqa", models, text="what animal is this?")
    assert found.said == "cat" and names(found)[0] == "cat" and len(names(found)) == EXPLAINED


def test_phrases_answers_classes_and_contrasts_of_ones_own(models) -> None:
    expected = ["tabby", "tiger cat", "tabby rather than lynx", "tiger cat rather than lynx"]
    assert names(shown("classify", models, targets="tabby\ntiger cat", contrast="lynx")) == expected
    found = shown("caption", models, text="a cat on a bed", targets="a cat", contrast="a dog")
    assert "not the model's own" in found.remarks[-1]
    assert names(found) == ["a", "cat", "on", "a", "bed", "a cat on a bed", "a cat", "a cat rather than a dog"]
    found = shown("vqa", models, text="what animal is this?", targets="dog\ncat", contrast="dog")
    assert names(found) == ["dog", "cat", "cat rather than dog"] and found.said == "cat"


def test_methods_are_tabs_of_the_page(models) -> None:
    page = Parsed(shown("vqa", models, text="what is it?", methods=["guided_gradcam", "counterfactual"]).page)
    assert [tab["data-kind"] for tab in page.all("button") if "data-kind" in tab] == ["gradient", "against"]


def test_what_cannot_be_answered_is_said_in_one_line(models) -> None:
    for task, asked, line in [
        ("vqa", {}, "ask a question"),
        ("vqa", {"text": "what is it?", "targets": "gryphon"}, "no answer 'gryphon'"),
        ("vqa", {"text": "x" * 201}, "at most 200"),
        ("caption", {"targets": "xyzzy"}, "none of the words"),
        ("classify", {"targets": "gryphon"}, "gryphon"),
        ("classify", {"targets": "\n".join("abcdef")}, "at most 5"),
    ]:
        with pytest.raises(UserError, match=line):
            shown(task, models, **asked)
    for task in TASKS:
        with pytest.raises(UserError, match="choose a photograph"):
            shown(task, models, None, text="what is it?")


def test_unknown_words_are_named(models) -> None:
    assert "'frobnicator'" in shown("vqa", models, text="where is the frobnicator?").remarks[0]


def test_texts_of_visitors_stay_text(models) -> None:
    found = Parsed(shown("vqa", models, text=f"what is {HOSTILE}"[:200]).html())
    assert not found.all("script") and not found.all("b") and len(found.all("iframe")) == 1
    assert found.all("iframe")[0]["sandbox"] == "allow-scripts"  # no rights of the page's own origin


def test_captioner_and_answerer_share_one_pass_of_the_trunk(models) -> None:
    trunks = Models(models.classifier, models.captioner, models.answerer)
    counted = []
    with pytest.MonkeyPatch.context() as patch:
        for network in (type(models.captioner.network), type(models.answerer.network)):
            patch.setattr(network, "encode", _counting(network.encode, counted))
        shown("caption", trunks)
        assert len(counted) == 1
        for text in ("what animal is this?", "what color is it?"):
            shown("vqa", trunks, text=text)
        shown("caption", trunks, text="a cat")
        assert len(counted) == 1
        shown("vqa", trunks, png(90, 60), text="what is it?")
        shown("caption", trunks, png(90, 60))
        assert len(counted) == 2


def _counting(method, counted):
    def encode(self, images):
        counted.append(type(self))
        return method(self, images)

    return encode


def test_the_features_of_a_few_photographs_are_kept_and_no_more(models) -> None:
    trunks = Models(models.classifier, models.captioner, models.answerer)
    for side in range(9, 20):
        trunks.encoded(trunks.captioner, photograph(png(side, 9), Limits()))
    assert len(trunks._seen) == 4


def test_two_never_run_at_once_and_steps_take_turns() -> None:
    running, most, done = [], [], []

    def steps(name):
        for number in range(3):
            running.append(name)
            most.append(len(running))
            time.sleep(0.005)
            running.remove(name)
            yield number
        done.append(threading.current_thread().name)

    async def everyone():
        worker = Worker(10)
        return await asyncio.gather(*(_all(worker.run(steps(name))) for name in range(5)))

    assert asyncio.run(everyone()) == [[0, 1, 2]] * 5
    assert max(most) == 1 and len(set(done)) == 1


def test_what_takes_too_long_is_given_up_and_the_next_is_answered() -> None:
    freed = threading.Event()

    def stuck():
        freed.wait(10)
        yield 1

    async def both():
        worker = Worker(0.05)
        with pytest.raises(UserError, match=r"longer than 0.05 seconds"):
            await _all(worker.run(stuck()))
        freed.set()
        await asyncio.sleep(0.05)
        return await _all(worker.run(iter([1, 2])))

    assert asyncio.run(both()) == [1, 2]


async def _all(found):
    return [each async for each in found]


def test_a_port_in_use_and_a_host_that_is_none_are_told_in_one_line(capsys) -> None:
    import socket

    pytest.importorskip("gradio", reason="pip install 'saywhy[demo]' brings the demo's server")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, line in [
            (["--port", port], "--port"),
            (["--port", "70000"], "65535"),
            (["--host", "x.y"], "x.y"),
        ]:
            assert main(["demo", *arguments]) == 2
            told = capsys.readouterr().err
            assert line in told and told.count("\n") == 1 and told.startswith("saywhy: error: ")


def test_without_gradio_its_extra_is_named(capsys, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    assert main(["demo"]) == 2
    told = capsys.readouterr().err
    assert "pip install 'saywhy[demo]'" in told and told.count("\n") == 1


def test_models_are_chosen_by_who_serves_task_by_task() -> None:
    assert models_of(["classify=resnet50", "vqa=hf:a/b=c"]) == {"classify": "resnet50", "vqa": "hf:a/b=c"}
    for text in ("resnet50", "segment=x", "vqa="):
        with pytest.raises(UserError, match="TASK=NAME"):
            models_of([text])


def test_the_space_has_what_the_project_has() -> None:
    """Its packages are the project's dependencies, its Gradio the tested one, its command one that exists."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    space = ROOT / "scripts" / "demo" / "space"
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert (space / "requirements.txt").read_text().splitlines()[1:] == wanted
    head = dict(line.split(": ", 1) for line in (space / "README.md").read_text().split("---")[1].strip().splitlines())
    assert f"gradio=={head['sdk_version']}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert (space / head["app_file"]).is_file()
    arguments = re.search(r"main\((\[.*\])\)", (space / "app.py").read_text())
    command = re.search(r'CMD \["saywhy", (.*)\]', (space / "Dockerfile").read_text())
    for given in (arguments.group(1), f"[{command.group(1)}]"):
        args = build_parser().parse_args(json.loads(given))
        assert (args.host, args.port, args.share) == ("0.0.0.0", 7860, False)

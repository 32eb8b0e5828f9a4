"""The page that visitors see: one photograph, three tabs, in Gradio; what is behind the buttons is `answers`."""

import html
import json
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr

from common.errors import UserError
from common.methods.names import label
from scripts.demo.answers import METHODS, Asked, Models, Shown, answers
from scripts.demo.limits import Limits
from scripts.demo.worker import Worker

SAMPLES = ("cat", "dog", "cows", "giraffes", "duck", "temple", "mariachi", "drums_and_guitar", "espresso", "flower")
QUESTIONS = ("what animal is this?", "where is it?", "what color is it?", "how many are there?")
_FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # the visitor's own
_STEPS = 4
_PROGRESS = gr.Progress()
_BROKEN = "Something went wrong here, and it was noted. It is nothing you did; another photograph may work."


def theme() -> Any:
    """Colours and fonts; nothing is loaded from elsewhere."""
    font, mono = _FONTS
    return gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=font, font_mono=mono).set(
        body_background_fill="#fff",
        body_background_fill_dark="#14161a",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
    )


def built(models: Models, limits: Limits) -> gr.Blocks:
    """The page, with its queue: one inference at a time on the whole server."""
    worker = Worker(limits.seconds)
    with gr.Blocks(title="saywhy", analytics_enabled=False, delete_cache=(600, int(limits.kept))) as page:
        gr.HTML(_text("head.html"))
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                photo = _photo(limits)
            with gr.Column(scale=5, min_width=320), gr.Tabs():
                shown = [_tab(task, tab, photo, limits, models, worker) for task, tab in _TABS.items()]
        gr.HTML(_text("foot.html"))
        emptied = json.dumps([_text("empty.html")] * len(shown))
        photo.change(None, None, shown, js=f"() => {emptied}", api_visibility="private")
    return page.queue(max_size=limits.waiting, api_open=False, default_concurrency_limit=1)


def _photo(limits: Limits) -> gr.Image:
    samples = resources.files("data.samples")
    files = [[str(samples.joinpath(f"{name}.jpg"))] for name in SAMPLES]
    megabytes = limits.upload // 1_000_000
    photo = gr.Image(
        files[0][0],
        label="Photograph",
        sources=["upload", "webcam", "clipboard"],
        height=300,
        buttons=[],
        elem_id="sd-photo",
        alt_text="The photograph that is asked about",
        placeholder=f"Drop a photograph here\n- or -\nclick to choose one (at most {megabytes} MB)",
    )
    gr.Examples(files, photo, label="Or one of these", examples_per_page=len(files), elem_id="sd-samples")
    return photo


@dataclass(frozen=True)
class _Tab:
    """A tab: its name, the fields always seen, those behind a lid, and the lid's name."""

    name: str
    lid: str
    hidden: Sequence[tuple[str, str, str]]  # targets and contrast: name, an example, what it is for
    text: tuple[str, str, str]  # the question, or a caption of one's own
    asks: bool = False


_TABS = {
    "classify": _Tab(
        "Classify",
        "Explain other classes",
        (
            ("Classes", "tiger cat\ntabby", "one a line: names of ImageNet classes"),
            ("Rather than", "Egyptian cat", "why each class, and not this one?"),
        ),
        ("", "", ""),
    ),
    "caption": _Tab(
        "Caption",
        "Explain phrases, or a caption of yours",
        (
            ("Phrases", "a dog\nthe grass", "one a line: where does the model see this?"),
            ("Rather than", "a cat", "why the phrase (or the caption), and not this?"),
        ),
        ("Caption", "a dog lying in the grass", "explained instead of the model's own"),
    ),
    "vqa": _Tab(
        "Ask",
        "Explain other answers",
        (
            ("Answers", "dog\ncat", "one a line: answers that the model could give"),
            ("Rather than", "cat", "why each answer, and not this one?"),
        ),
        ("Question", "what animal is this?", "in English, about what can be seen"),
        asks=True,
    ),
}


def _tab(task: str, tab: _Tab, photo: gr.Image, limits: Limits, models: Models, worker: Worker) -> gr.HTML:
    """One tab, wired; returns where its answer is shown."""
    with gr.Tab(tab.name):
        asked = [_question(tab, limits)] if tab.asks else []
        with gr.Accordion(tab.lid, open=False):
            targets, contrast = _fields(tab, limits)
            methods = _methods()
            asked += [_line(*tab.text, limits)] if tab.text[0] and not asked else []
        with gr.Row():
            go = gr.Button("Explain", variant="primary", elem_id=f"sd-go-{task}", elem_classes="sd-go")
            stop = gr.Button("Cancel", visible=False, elem_id=f"sd-stop-{task}", elem_classes="sd-go")
        shown = gr.HTML(_text("empty.html"), elem_id=f"sd-shown-{task}", elem_classes="sd-answer", min_height=200)
    triggers = [go.click, contrast.submit, *(line.submit for line in asked)]
    answer = partial(_answer, partial(answers, task, models, limits=limits), worker)
    _wire(triggers, answer, [photo, targets, contrast, methods, *asked], shown, go, stop)
    return shown


def _question(tab: _Tab, limits: Limits) -> gr.Textbox:
    text = _line(*tab.text, limits, QUESTIONS[0])
    gr.Examples([[question] for question in QUESTIONS], text, label="Questions to try")
    return text


def _fields(tab: _Tab, limits: Limits) -> tuple[gr.Textbox, gr.Textbox]:
    (name, hint, about), contrast = tab.hidden
    most = limits.texts * (limits.letters + 1)
    lines = gr.Textbox(
        label=name, placeholder=hint, info=about, lines=2, max_lines=limits.texts, max_length=most, submit_btn=False
    )
    return lines, _line(*contrast, limits)


def _line(name: str, hint: str, about: str, limits: Limits, value: str = "") -> gr.Textbox:
    return gr.Textbox(value, label=name, placeholder=hint, info=about, max_length=limits.letters, max_lines=1)


def _methods() -> gr.CheckboxGroup:
    choices = [(label(method), method) for method in METHODS]
    about = "maps to compare; occlusion takes some seconds"
    return gr.CheckboxGroup(choices, value=list(METHODS[:1]), label="Methods", info=about)


def _wire(
    triggers: Sequence[Any], answer: Callable[..., Any], inputs: Sequence[Any], shown: Any, go: Any, stop: Any
) -> None:
    """What the buttons do: an answer, which can be cancelled; the buttons change in the browser alone."""
    private: dict[str, Any] = {"api_visibility": "private"}
    busy, idle = _buttons(False), _buttons(True)
    gr.on(triggers, None, None, [go, stop], js=f"() => {{ sdLookAt('{shown.elem_id}'); return {busy}; }}", **private)
    asking = gr.on(
        triggers,
        answer,
        inputs,
        shown,
        preprocess=False,  # what a visitor sent is read by us alone, within limits
        show_progress="full",
        trigger_mode="once",
        concurrency_limit=1,
        concurrency_id="models",
        **private,
    )
    asking.then(None, None, [go, stop], js=f"() => {idle}", **private)
    stop.click(None, None, [go, stop], cancels=asking, js=f"() => {idle}", **private)


def _buttons(idle: bool) -> str:
    updates = [{"__type__": "update", "visible": visible} for visible in (idle, not idle)]
    return json.dumps(updates)


async def _answer(
    steps: Callable[..., Iterator[str | Shown]],
    worker: Worker,
    photo: Any,
    targets: Any,
    contrast: Any,
    methods: Any,
    text: Any = "",
    progress: Any = _PROGRESS,
) -> AsyncIterator[Any]:
    """What stands below the button: the answer, or one line that says what is wrong. Never a traceback."""
    try:
        asked = Asked(text, targets, contrast, methods)
        number = 0
        async for found in worker.run(steps(_uploaded(photo), asked)):
            if isinstance(found, Shown):
                yield found.html()
            else:
                progress((number, _STEPS), desc=found)
                number += 1
                yield gr.skip()
    except UserError as problem:
        yield _sorry(str(problem))
    except Exception:
        traceback.print_exc(file=sys.stderr)
        yield _sorry(_BROKEN)


def _uploaded(photo: Any) -> bytes | None:
    """The bytes of an upload, whose path Gradio and the guard have looked at; None without one.

    Raises `UserError` for one that was deleted meanwhile.
    """
    if not isinstance(photo, dict) or not photo.get("path"):
        return None
    try:
        return Path(photo["path"]).read_bytes()
    except OSError as error:
        raise UserError("the photograph was deleted here meanwhile; upload it again") from error


def _sorry(line: str) -> str:
    line = html.escape(line[:600])
    return f'<p class="sd-sorry" role="alert">{line[:1].upper()}{line[1:]}</p>'


def _text(name: str) -> str:
    return resources.files("scripts.demo.assets").joinpath(name).read_text(encoding="utf-8")

"""A photograph and a text -> what a visitor sees: the model's answer, and a page on which it is explained.

    *doings, shown = answers("vqa", models, data, Asked("what animal is this?"), Limits())
    shown.html()

`doings` are lines that say what is being done, for a progress bar. Nothing here knows how it is served.
"""

import html
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from common.errors import UserError
from common.panels import score_notes, visual_note
from common.request import Encoded
from common.text import unknown_words
from common.widget.fragment import page
from scripts.demo.limits import Limits, Photograph, checked, chosen, lines_of, photograph

METHODS = ("gradcam", "guided_gradcam", "counterfactual", "occlusion")  # that visitors can choose from
TASKS = ("classify", "caption", "vqa")
LISTED, EXPLAINED = 5, 3  # answers or classes that are listed; that are explained where none was asked for
_PHOTOGRAPHS = 4  # whose features are remembered


@dataclass(frozen=True)
class Asked:
    """What a visitor asks of a photograph.

    `text` is the question, or a caption of one's own; `targets` are phrases, answers or classes to explain, one a line;
    `contrast` is what each is explained against. A visitor may send anything: `within` makes texts of it.
    """

    text: Any = ""
    targets: Any = ""
    contrast: Any = ""
    methods: Any = METHODS[:1]

    def within(self, limits: Limits) -> "Asked":
        """The same in clean lines. Raises `UserError` for more than is answered at once."""
        targets = "\n".join(lines_of(self.targets, "things to explain", limits))
        methods = chosen(self.methods, METHODS)
        return Asked(checked(self.text, limits), targets, checked(self.contrast, limits), methods)


@dataclass(frozen=True)
class Shown:
    """What a visitor is told: the answer, what else was likely with its probability, remarks, and a page to click."""

    said: str
    others: Sequence[tuple[str, float]]
    remarks: Sequence[str]
    page: str

    def html(self) -> str:
        """A piece of HTML; the page stands in a frame that may run its script and nothing else."""
        parts = [f'<p class="sd-said">{_escaped(self.said)}</p>']
        parts += [_likely(self.others)] if self.others else []
        parts += [f'<p class="sd-remark">{_escaped(remark)}</p>' for remark in self.remarks]
        frame = f'title="What it rests on" sandbox="allow-scripts" srcdoc="{_escaped(self.page)}"'
        return f'<div class="sd-shown" role="status">{"".join(parts)}<iframe class="sd-why" {frame}></iframe></div>'


def _likely(others: Sequence[tuple[str, float]]) -> str:
    rows = "".join(
        f'<li><span>{_escaped(name)}</span><i style="--share:{share:.3f}"></i><span>{_percent(share)}</span></li>'
        for name, share in others
    )
    return f'<ol class="sd-likely">{rows}</ol>'


def _percent(share: float) -> str:
    return "under 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")


def _escaped(text: str) -> str:
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"), quote=True)


@dataclass
class Models:
    """The three models, and what their trunks made of the last few photographs: one pass for all who share a trunk."""

    classifier: Any
    captioner: Any
    answerer: Any
    _seen: "OrderedDict[tuple[str, str], Encoded]" = field(default_factory=OrderedDict)

    def encoded(self, model: Any, photo: Photograph) -> Encoded:
        """The photograph as a model's trunk sees it: what another model on this trunk has encoded already is taken."""
        trunk = getattr(model.network, "fingerprint", "") or model.network.name
        found = model.encode(self._seen.pop((photo.key, trunk), photo.image))
        self._seen[photo.key, trunk] = found
        while len(self._seen) > _PHOTOGRAPHS:
            self._seen.popitem(last=False)
        return found


def load(names: Mapping[str, str]) -> Models:
    """The models by task, `names` instead of the shipped ones, as the commands of these tasks take them."""
    import captioning
    import classification
    import vqa

    classifier = classification.load(names.get("classify", "efficientnet_lite0"))
    return Models(classifier, captioning.load(names.get("caption")), vqa.load(names.get("vqa")))


def answers(task: str, models: Models, data: bytes | None, asked: Asked, limits: Limits) -> Iterator[str | Shown]:
    """What is being done, line by line, and in the end what is shown. Raises `UserError` for what can't be answered."""
    if data is None:
        raise UserError("choose a photograph first: upload one, take one, or click one of the examples")
    asked = asked.within(limits)
    yield "Reading the photograph"
    yield from _ANSWERS[task](models, photograph(data, limits), asked)


def _classified(models: Models, photo: Photograph, asked: Asked) -> Iterator[str | Shown]:
    model = models.classifier
    targets = model.targets(asked.targets.splitlines()) if asked.targets else None
    contrast = model.target(asked.contrast) if asked.contrast else None
    yield "Naming what it shows"
    encoded = models.encoded(model, photo)
    found = model.predict(encoded, top=LISTED)
    yield from _explaining(asked)
    explanation = model.explain(
        encoded, targets or [each.index for each in found[:EXPLAINED]], contrast, methods=asked.methods
    )
    explanation = replace(explanation, names=tuple(map(_short, explanation.names)))
    yield "Drawing"
    likely = [(_short(each.label), each.probability) for each in found]
    yield Shown(likely[0][0], likely, [], _page(explanation, likely[0][0], score_notes(explanation, "logit")))


def _captioned(models: Models, photo: Photograph, asked: Asked) -> Iterator[str | Shown]:
    model = models.captioner
    phrases = asked.targets.splitlines()
    remarks = _remarks(model, [*filter(None, [asked.text, asked.contrast]), *phrases])
    yield "Writing a caption"
    encoded = models.encoded(model, photo)
    written = model.score(encoded, asked.text) if asked.text else model.caption(encoded)
    yield from _explaining(asked)
    explanation = model.explain(encoded, written, phrases, asked.contrast or None, asked.methods)
    yield "Drawing"
    remarks += ["Explained is the caption you gave, not the model's own."] if asked.text else []
    said = written.text
    yield Shown(f"“{said}”", [], remarks, _page(explanation, said, _word_notes(written, explanation)))


def _word_notes(written: Any, explanation: Any) -> list[str]:
    """A note for the caption, each of its words, and what else was asked for."""
    score = explanation.provenance["score"]
    notes = [f"log-probability {written.total:.2f}, the sum of its words'"]
    notes += [f"probability {_percent(math.exp(value))}" for value in written.log_probabilities]
    if explanation.visual is not None:
        visual = explanation.visual[: len(notes), 0].tolist()
        notes = [f"{note}; {visual_note(value)}" for note, value in zip(notes, visual, strict=True)]
    return notes + score_notes(explanation, {"log_probability": "log p"}.get(score, score))[len(notes) :]


def _answered(models: Models, photo: Photograph, asked: Asked) -> Iterator[str | Shown]:
    model = models.answerer
    if not asked.text:
        raise UserError("ask a question first, such as “what animal is this?”")
    remarks = _remarks(model, [asked.text])
    yield "Answering"
    encoded = models.encoded(model, photo)
    found = model.answer(encoded, asked.text, top=LISTED)
    likely = [(each.text, each.probability) for each in (found, *found.runners_up)]
    yield from _explaining(asked)
    answers = asked.targets.splitlines() or [name for name, _ in likely[:EXPLAINED]]
    explanation = model.explain(encoded, asked.text, answers, asked.contrast or None, asked.methods)
    yield "Drawing"
    yield Shown(found.text, likely, remarks, _page(explanation, asked.text, score_notes(explanation, "score")))


_ANSWERS: dict[str, Callable[[Models, Photograph, Asked], Iterator[str | Shown]]] = {
    "classify": _classified,
    "caption": _captioned,
    "vqa": _answered,
}


def _short(name: str) -> str:
    """The name of a class with at most two of its synonyms."""
    return ", ".join(name.split(", ")[:2])


def _explaining(asked: Asked) -> Iterator[str]:
    yield "Hiding one part after the other" if "occlusion" in asked.methods else "Finding what it rests on"


def _remarks(model: Any, texts: Sequence[str]) -> list[str]:
    """A line for each text with words that the model does not know."""
    read = map(model.network.read, texts)
    lines = [unknown_words(text) for text in read if text.unknown]
    return [line[0].upper() + line[1:] + "." for line in lines]


def _page(explanation: Any, title: str, notes: Sequence[str]) -> str:
    return page(explanation.html(notes), title, framed=True)

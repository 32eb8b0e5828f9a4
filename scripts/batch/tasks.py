"""The captioner, the VQA model and the classifier as a batch has them: photographs' bytes in, fields of rows out."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from common.errors import UserError
from common.explanation import Explanation, versions
from common.images import Preprocessing, decoded_image
from common.networks.trunk import fingerprint
from common.request import Encoded, PhotoReader, joined
from common.targets import Target, Undecided, decided, logits
from scripts.batch.records import Item

LOADER = "scripts.batch.tasks:load"


class Explainer(Protocol):
    """What a shard needs of a model. `about` says which it is; it is part of the plan."""

    about: dict[str, Any]

    def prepare(self, data: bytes, item: Item) -> Any:
        """A photograph as the model takes it; by a thread. Raises `UserError` for what is none."""
        ...

    def explain(self, samples: Sequence[Any]) -> list[dict[str, Any]]:
        """The fields of one row for each sample."""
        ...


class Sample(NamedTuple):
    """A photograph as the model takes it, its own (width, height), what is asked about it.

    `pixels` are (1, 3, H, W), or the photograph itself for models that read it at its own size.
    """

    pixels: Any
    size: tuple[int, int]
    question: str | None
    answers: tuple[str, ...]


def load(task: str, asked: dict[str, Any], how: dict[str, Any]) -> Explainer:
    """The model of a task. Raises `UserError` for arguments that do not fit it."""
    if how.get("threads"):
        torch.set_num_threads(int(how["threads"]))
    tasks: dict[str, Callable[..., Explainer]] = {"caption": Captions, "vqa": Answers, "classify": Classes}
    spread = {"device_map": how["device_map"]} if how.get("device_map") else {}  # chat models alone are
    return tasks[task](asked, str(how.get("device", "cpu")), **spread)


TRUNK = 4  # photographs that go through a trunk together on a CPU: few, so that their maps stay in its caches


def batch_size(task: str, device: str) -> int:
    """Photographs explained together, by default: captions and answers share the steps of what reads the maps."""
    if device != "cpu":
        return 64
    return TRUNK if task == "classify" else 16


class _Photographs:
    """What the three have in common: how photographs are decoded, and what is said of the model."""

    def __init__(self, network: Any, layer: str) -> None:
        self.preprocessing: Preprocessing | None = None
        if not isinstance(network, PhotoReader):
            self.preprocessing = network.preprocessing
        known = {"name": network.name, "weights": str(network.source), "layer": layer, **getattr(network, "about", {})}
        seen = None if self.preprocessing is None else self.preprocessing.to_dict()
        looks = {"preprocessing": seen, "versions": versions()}
        self.about: dict[str, Any] = _plain({**known, "fingerprint": fingerprint(network.module), **looks})

    def prepare(self, data: bytes, item: Item) -> Sample:
        """A JPEG of many pixels is decoded at reduced scale, never below twice what the network sees."""
        if self.preprocessing is None:
            image = decoded_image(data, item.key)
            return Sample(image, image.info["original_size"], item.question, item.answers)
        least = 2 * max(self.preprocessing.size) / (self.preprocessing.crop or 1)
        image = decoded_image(data, item.key, at_least=math.ceil(least))
        return Sample(self.preprocessing(image), image.info["original_size"], item.question, item.answers)

    def fields(self, explanation: Explanation) -> dict[str, Any]:
        """An explanation as fields of a row; its layer where that says more of a photograph than the model does."""
        layer = explanation.provenance["layer"]
        return {**explanation.to_row(), **({"layer": layer} if layer != self.about["layer"] else {})}


class Captions(_Photographs):
    """Captions; and why: the caption, each word, each phrase."""

    def __init__(self, asked: dict[str, Any], device: str, **spread: str) -> None:
        import captioning

        self.asked = asked
        options = {**_chat_options(asked), **spread}
        self.captioner = captioning.load(asked["model"], device, asked["layer"], asked["beam"], **options)
        self.phrases = [self.captioner.read(phrase).text and phrase for phrase in asked["phrases"]]
        super().__init__(self.captioner.network, self.captioner.layer)

    def explain(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        encoded = _encoded(self.captioner, samples)
        captions = [best for best, *_ in self.captioner.decoded(encoded, self.captioner.beam)]
        rows = [
            {
                **_size(sample), "text": each.text, "probability": math.exp(each.total), "words": each.words,
                "log_probabilities": each.log_probabilities, "unknown": each.read.unknown,
            }
            for sample, each in zip(samples, captions, strict=True)
        ]  # fmt: skip
        if not self.asked["methods"]:
            return rows
        found = self.captioner.explain(
            encoded, captions, self.phrases, methods=self.asked["methods"], score=self.asked["score"]
        )
        return [{**row, **self.fields(each)} for row, each in zip(rows, found, strict=True)]


class Answers(_Photographs):
    """Answers; and why: each answer named with the photograph, or the model's own."""

    def __init__(self, asked: dict[str, Any], device: str, **spread: str) -> None:
        import vqa

        self.asked = asked
        self.answerer = vqa.load(asked["model"], device, asked["layer"], **_chat_options(asked), **spread)
        super().__init__(self.answerer.network, self.answerer.layer)

    def prepare(self, data: bytes, item: Item) -> Sample:
        if not item.question:
            raise UserError(f"{item.key}: no question; give 'question' beside 'image', or --question for all")
        return super().prepare(data, item)

    def explain(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        encoded = _encoded(self.answerer, samples)
        texts = [self.answerer.network.read(str(sample.question)) for sample in samples]
        answers = self.answerer.answer(encoded, texts, top=self.asked["top"])
        rows = [
            {**_size(sample), **_ranked([answer, *answer.runners_up]), "words": text.words, "unknown": text.unknown}
            for sample, text, answer in zip(samples, texts, answers, strict=True)
        ]
        if not self.asked["methods"]:
            return rows
        for wanted in dict.fromkeys(sample.answers for sample in samples):  # those of whom the same is asked, together
            these = [number for number, sample in enumerate(samples) if sample.answers == wanted]
            found = self.answerer.explain(
                encoded[these], [texts[n] for n in these], list(wanted) or None, methods=self.asked["methods"]
            )
            for number, each in zip(these, found, strict=True):
                rows[number].update(self.fields(each))
        return rows


class Classes(_Photographs):
    """The likeliest classes; and why: the first k of them ('top5'), or classes by name."""

    def __init__(self, asked: dict[str, Any], device: str) -> None:
        import classification

        self.asked = asked
        options = {name: asked[name] for name in ("labels", "layer", "weights", "random_weights", "fast")}
        classifier = classification.load(asked["model"], device=device, **options)
        if asked["crop"] is not None:
            cropped = classifier.preprocessing.with_crop(asked["crop"])
            classifier = replace(classifier, network=replace(classifier.network, preprocessing=cropped))
        self.classifier = classifier
        ranks = [re.fullmatch(r"top(\d+)", target) for target in asked["targets"]]
        self.first = min(len(classifier.labels), max((int(rank[1]) for rank in ranks if rank), default=0))
        named = [target for target, rank in zip(asked["targets"], ranks, strict=True) if not rank]
        self.named = classifier.targets(named) if named else []
        super().__init__(classifier.network, classifier.layer)

    def explain(self, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        pixels = _stacked(samples)
        if not self.asked["methods"]:
            predicted = self.classifier.predict(pixels, top=self.asked["top"])
            return [{**_size(sample), **_best(best)} for sample, best in zip(samples, predicted, strict=True)]
        output = _Output()
        targets: list[Target] = [_Rank(output, rank) for rank in range(self.first)]
        targets += [_Named(output, target) for target in self.named]
        found = self.classifier.explain(pixels, targets, methods=self.asked["methods"])
        ranked = self._predictions(output.logits)
        rows = zip(samples, found, ranked, strict=True)
        return [{**_size(sample), **_best(best[: self.asked["top"]]), **self._row(e, best)} for sample, e, best in rows]

    def _predictions(self, scores: Tensor) -> list[list[tuple[str, float]]]:
        """(label, probability) of the likeliest classes: those explained, and those listed."""
        count = min(max(self.first, self.asked["top"]), scores.shape[1])
        shares, indices = scores.softmax(1).topk(count, dim=1)
        labels = self.classifier.labels
        rows = zip(indices.tolist(), shares.tolist(), strict=True)
        return [[(labels[index], share) for index, share in zip(*row, strict=True)] for row in rows]

    def _row(self, explanation: Explanation, best: Sequence[tuple[str, float]]) -> dict[str, Any]:
        names = (*(label for label, _ in best[: self.first]), *explanation.names[self.first :])
        return self.fields(replace(explanation, names=names))


class _Output:
    """The scores (B, C) that an explanation has read its targets off, so that predictions need no pass of their own."""

    logits: Tensor


class _Rank(Undecided):
    """The logit of the class that each image gets at a place of its ranking, 0 first."""

    def __init__(self, output: _Output, rank: int) -> None:
        self.output, self.rank, self.name = output, rank, f"top {rank + 1}"

    def decided(self, output: Any) -> Target:
        from classification.targets import ClassLogit

        self.output.logits = logits(output).detach()
        return ClassLogit(self.output.logits.topk(self.rank + 1, dim=1).indices[:, self.rank], self.name)

    def __call__(self, output: Any) -> Tensor:
        return self.decided(output)(output)


class _Named(Undecided):
    """A class by name, which remembers what it was read off."""

    def __init__(self, output: _Output, target: Any) -> None:
        self.output, self.target, self.name = output, target, target.name

    def decided(self, output: Any) -> Target:
        self.output.logits = logits(output).detach()
        return decided(self.target, output)

    def __call__(self, output: Any) -> Tensor:
        return self.target(output)


def _chat_options(asked: dict[str, Any]) -> dict[str, Any]:
    """What a chat model is loaded with; models of other kinds refuse it."""
    return {name: asked[name] for name in ("prompt", "dtype", "max_tokens") if name in asked}


def default_workers(device: str) -> int:
    """Processes, by default: on a CPU one a core and at most 4, on a GPU one."""
    return min(_cores(), 4) if device == "cpu" else 1


def threads_of(workers: int) -> int:
    """Threads for each of so many workers, of the cores there are."""
    return max(1, _cores() // max(1, workers))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _encoded(facade: Any, samples: Sequence[Sample]) -> Encoded:
    """The photographs after the trunk, which on a CPU takes a few at a time."""
    size = TRUNK if facade.device.type == "cpu" else len(samples)
    parts = [facade.encode(_stacked(samples[start : start + size])) for start in range(0, len(samples), size)]
    return joined(parts)


def _stacked(samples: Sequence[Sample]) -> Any:
    pixels = [sample.pixels for sample in samples]
    return torch.cat(pixels) if isinstance(pixels[0], Tensor) else pixels


def _size(sample: Sample) -> dict[str, Any]:
    return {"width": sample.size[0], "height": sample.size[1]}


def _best(ranked: Sequence[Any]) -> dict[str, Any]:
    """The likeliest label, and the list of them; of `Prediction`s or (label, probability)."""
    pairs = [each if isinstance(each, tuple) else (each.label, each.probability) for each in ranked]
    choices = [{"text": label, "probability": probability} for label, probability in pairs]
    return {**choices[0], "choices": choices}


def _ranked(answers: Sequence[Any]) -> dict[str, Any]:
    return _best([(answer.text, answer.probability) for answer in answers])


def _plain(record: Any) -> Any:
    """What JSON makes of a record, as it is read back from a plan."""
    return json.loads(json.dumps(record))

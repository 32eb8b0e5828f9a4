"""Figures 10 and 11, joined to the report: what their scripts measure with the captioner."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from functools import partial
from typing import Any

from data.readers import flickr8k
from scripts.experiments.lab import Lab, summarised
from scripts.experiments.report import Row, Section, Table

LABELS = {"guided": "Guided Backprop", "gradcam": "Grad-CAM", "guided_gradcam": "Guided Grad-CAM"}
PUBLISHED = {"guided": "2.32 +- 0.08", "gradcam": "3.27 +- 0.18", "guided_gradcam": "6.38 +- 0.99"}
WORDS = {
    "gradcam": "Grad-CAM of the word",
    "energy": "activation energy",
    "centre": "centre of the image",
    "other word": "another word's map",
    "wrong word": "a wrong word's map",
    "random": "a random point",
}
NAME = "Flickr8k dev with Flickr30k Entities"


def figure10(lab: Lab) -> Section:
    """Figure 10, captions."""
    from scripts.experiments import figure10 as script

    mark = lab.mark("captioner")
    data = f"flickr8k:{lab.need('flickr8k')}"
    limit = lab.count(100, 5)
    known = flickr8k.read(lab.need("flickr8k"), "dev")
    files = [str(image.path) for image in known[:: max(1, len(known) // 5)][:5]]
    drawn = lab.picture(
        "figure10",
        "Captions of photographs that the captioner was not trained on, and what in them they speak of",
        lambda: _drawn(lab, script, ["--images", *files]),
        mark=mark,
        files=files,
    )
    cell = lab.cell(
        "figure10-table",
        lambda: _measured(lab, script, ["--data", data, "--limit", str(limit), "--quiet"]),
        limit=limit,
        mark=mark,
    )
    rows = [Row("uniform", 1.0, None, 0, "1.0")]
    rows += [
        Row(
            LABELS[m], r["mean"], r["error"], r["n"], PUBLISHED[m], "captioner", r["left_out"],
            f"median {r['median']:.2f}",
        )
        for m, r in cell["ratios"].items()
    ]  # fmt: skip
    note = (
        "Mean activation inside over outside a phrase's boxes. Published: neuraltalk2, COCO region captions. Maps that"
        " are zero everywhere have no ratio and are left out. The means are ruled by a few maps with next to nothing"
        " outside, so read the medians."
    )
    other = lab.cell(
        "figure10-other", partial(other_phrases, lab, lab.count(50, 5)), limit=lab.count(50, 5), mark=mark
    )
    rows += [
        Row(
            f"{LABELS[m]}, boxes of another phrase", r["mean"], r["error"], r["n"], "", "captioner", r["left_out"],
            "" if r["median"] is None else f"median {r['median']:.2f}",
        )
        for m, r in other.items()
    ]  # fmt: skip
    note += _why_phrases(cell["ratios"], other)
    table = Table("Figure 10b, phrases of captions", NAME, "inside / outside", rows, True, 2, note)
    return Section("Figure 10: captions", [table], [drawn])


def _why_phrases(ratios: dict[str, Any], other: dict[str, Any]) -> str:
    """Why phrases' Grad-CAM stays below Guided Backprop, against the paper; nothing where it does not."""
    own = {name: ratios[name]["median"] for name in other}
    wrong = {name: found["median"] for name, found in other.items()}
    if None in (*own.values(), *wrong.values()) or own["gradcam"] >= own["guided"]:
        return ""
    return (
        f" By the medians Grad-CAM ({own['gradcam']:.2f}) is below Guided Backprop ({own['guided']:.2f}), against the"
        " paper's order. The reason is what Guided Backprop draws: in the boxes of another phrase of the same caption"
        f" its median is {wrong['guided']:.2f}, nearly what it is in the phrase's own, so it shows people and dogs"
        f" whatever is asked; Grad-CAM falls to {wrong['gradcam']:.2f} there."
    )


def other_phrases(lab: Lab, limit: int) -> dict[str, Any]:
    """The ratios of figure 10b of each phrase's map, in the boxes of the next phrase of the same caption."""
    from captioning import grounding
    from scripts.commands import evaluate

    captioner = lab.speaker("captioner")
    data = f"flickr8k:{lab.need('flickr8k')}"
    images = evaluate.flickr8k_images(data, "dev", limit)
    grounded = evaluate.grounded_captions(evaluate.entities_folder(data), images)
    values: dict[str, list[float]] = {"guided": [], "gradcam": []}
    groups: list[int] = []
    for number, (image, captions) in enumerate(zip(images, grounded, strict=True)):
        seen = captioner.see([image.path])
        for case in grounding.human_cases(0, captions, captioner.network, limit=1):
            if len(case.phrases) < 2:
                continue
            following = [*case.phrases[1:], case.phrases[0]]
            moved = [replace(a, boxes=b.boxes) for a, b in zip(case.phrases, following, strict=True)]
            ratios = grounding.phrase_ratios(
                captioner, seen, replace(case, phrases=tuple(moved)), tuple(values)
            )
            for name, found in values.items():
                found += [ratio[name] for ratio in ratios]
            groups += [number] * len(ratios)
    return {name: summarised(found, groups) for name, found in values.items()}


def figure11(lab: Lab) -> Section:
    """Figure 11, words of captions point at things."""
    from scripts.experiments import figure11 as script

    mark = lab.mark("captioner")
    coco = lab.data.get("coco")
    on_coco = coco is not None and (coco / "annotations" / "instances_val2014.json").is_file()
    data = f"coco:{coco}" if on_coco else f"flickr8k:{lab.need('flickr8k')}"
    limit = lab.count(200, 10)
    arguments = ["--data", data, "--limit", str(limit), "--quiet"]
    cell = lab.cell(
        "figure11-table", lambda: _measured(lab, script, arguments), limit=limit, coco=on_coco, mark=mark
    )
    together = cell["types"]["all"]
    rows = [
        Row(
            WORDS.get(name, name),
            value["mean"],
            value["error"],
            value["n"],
            "30.0 %" if name == "gradcam" else "",
            "captioner",
            value["left_out"],
        )
        for name, value in together.items()
        if isinstance(value, dict) and "mean" in value
    ]
    where = "COCO val2014" if on_coco else NAME
    note = (
        "The map of each word of a generated caption has to be largest in a box of what the word names."
        + _why_words(together, on_coco)
    )
    table = Table("Figure 11, words point at things", where, "pointing accuracy", rows, not on_coco, 3, note)
    return Section("Figure 11: words of captions", [table])


def _why_words(together: dict[str, Any], on_coco: bool) -> str:
    """What the baselines say of the comparison with the paper."""
    own, centre, chance = (together[name]["mean"] for name in ("gradcam", "centre", "random"))
    text = ""
    if not on_coco and own > 0.30:
        text += (
            " The published 30.0 % is of 80 COCO classes, many of them small; here a random point is right"
            f" {chance:.0%} of the time, so ours is no better for being higher."
        )
    if centre > own:
        text += (
            f" The centre of the image ({centre:.0%}) beats the map ({own:.0%}): Flickr8k's photographers put their"
            " subject in the middle, in large boxes. The map does follow the word: that of another word of the same"
            f" caption is right {together['other word']['mean']:.0%} of the time, that of a word which is not said"
            f" {together['wrong word']['mean']:.0%}."
        )
    return text


def _run(lab: Lab, script: Any, arguments: list[str], stem: str) -> Any:
    """Run a figure's script quietly; its picture's path."""
    file = lab.out / "cells" / f"{stem}.png"
    with contextlib.redirect_stdout(io.StringIO()):
        script.main(["--out", str(file), "--device", lab.device, *arguments])
    return file


def _drawn(lab: Lab, script: Any, arguments: list[str]) -> Any:
    from PIL import Image

    file = _run(lab, script, arguments, "drawn")
    with Image.open(file) as picture:
        found = picture.convert("RGB")
    file.unlink()
    return found


def _measured(lab: Lab, script: Any, arguments: list[str]) -> dict[str, Any]:
    """What a figure's script wrote as JSON."""
    file = _run(lab, script, arguments, "measured")
    record = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    file.unlink()
    file.with_suffix(".json").unlink()
    return record

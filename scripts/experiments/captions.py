"""Figures 10 and 11, joined to the report: what their scripts measure with the captioner."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

from scripts.lab import Lab
from scripts.report import Row, Section, Table

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
    from scripts import figure10 as script

    mark = lab.mark("captioner")
    data = f"flickr8k:{lab.need('flickr8k')}"
    limit = lab.count(100, 5)
    drawn = lab.picture(
        "figure10",
        "Captions, and what in the image they speak of",
        lambda: _drawn(lab, script, []),
        mark=mark,
    )
    cell = lab.cell(
        "figure10-table",
        lambda: _measured(lab, script, ["--data", data, "--limit", str(limit), "--quiet"]),
        limit=limit,
        mark=mark,
    )
    rows = [Row("uniform", 1.0, None, 0, "1.0")]
    rows += [
        Row(LABELS[m], r["mean"], r["error"], r["n"], PUBLISHED[m], "captioner", r["left_out"])
        for m, r in cell["ratios"].items()
    ]
    note = (
        "Mean activation inside over outside a phrase's boxes. Published: neuraltalk2, COCO region captions."
    )
    table = Table("Figure 10b, phrases of captions", NAME, "inside / outside", rows, True, 2, note)
    return Section("Figure 10: captions", [table], [drawn])


def figure11(lab: Lab) -> Section:
    """Figure 11, words of captions point at things."""
    from scripts import figure11 as script

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
    note = "The map of each word of a generated caption has to be largest in a box of what the word names."
    table = Table("Figure 11, words point at things", where, "pointing accuracy", rows, not on_coco, 3, note)
    return Section("Figure 11: words of captions", [table])


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

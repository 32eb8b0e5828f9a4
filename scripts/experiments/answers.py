"""Figure 12 and the table of section 8.2, joined to the report: what their scripts do with the VQA model."""

from __future__ import annotations

import argparse
from typing import Any

from common.errors import UserError
from scripts.lab import Absent, Lab
from scripts.report import Section, Table, row_of

PUBLISHED = {"gradcam": "0.60 +- 0.038", "guided": "0.42 +- 0.038"}


def figure12(lab: Lab) -> Section:
    """Figure 12, visual question answering."""
    _need_model()

    def draw() -> Any:
        from PIL import Image

        from scripts import figure12 as script
        from scripts.figures import TWO_CLASSES

        file = lab.out / "cells" / "figure12.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        args = argparse.Namespace(
            image=str(TWO_CLASSES),
            question=script.QUESTION,
            answer=None,
            model=None,
            device=lab.device,
            out=str(file),
        )
        script.draw(args)
        with Image.open(file) as picture:
            found = picture.convert("RGB")
        file.unlink()
        return found

    caption = "One photograph, one question, several answers; and one answer layer by layer"
    return Section("Figure 12: questions and answers", pictures=[lab.picture("figure12", caption, draw)])


def vqa_table(lab: Lab) -> Section:
    """8.2, VQA maps against occlusion."""
    _need_model()
    lab = lab.on("vqa2")
    count = lab.count(40, 3)
    rows = lab.cell("vqa-occlusion", lambda: measure(lab, count), count=count)
    shown = [row_of(name, row, PUBLISHED.get(key, ""), "VQA model") for key, (name, row) in rows.items()]
    note = "Spearman's correlation with occlusion maps. Published: VGG-16, VQA v1."
    table = Table(
        "8.2, VQA maps and occlusion", "VQA v2 questions at hand", "rank correlation", shown, True, 3, note
    )
    return Section("8.2: do VQA maps agree with occlusion?", [table])


def measure(lab: Lab, count: int) -> dict[str, Any]:
    """Method -> its name and summary."""
    from scripts import table_vqa as script

    file = lab.out / "cells" / "vqa-table.json"
    args = argparse.Namespace(
        data=[f"vqa2:{lab.need('vqa2')}"], split="val", questions=count, hat=None, model=None, out=str(file)
    )
    (tables,) = script.measure(args).values()
    file.unlink(missing_ok=True)
    return {key: (script.ROWS.get(key, key), row) for key, row in tables["occlusion"].items()}


def _need_model() -> None:
    import vqa

    try:
        vqa.load()
    except UserError as problem:
        raise Absent("no VQA model; train one with `saywhy train vqa`") from problem

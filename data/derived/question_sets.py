"""Question sets by name, as `--data KIND:PATH` gives them, with the splits that training and measuring use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from data.derived.boxes import box_questions
from data.derived.questions import derived_questions
from data.readers.cocoqa import read_cocoqa
from data.readers.easyvqa import easyvqa_folder, read_easyvqa
from data.readers.gqa import read_gqa
from data.readers.questions_file import read_questions_file
from data.readers.vqa import read_okvqa, read_vqa, read_vqa1
from data.records import Question

# kind -> (what PATH is, reader of (path, split), names of the training and the validation split)
KINDS: dict[str, tuple[str, Callable[[Path, str], list[Question]], tuple[str, str]]] = {
    "vqa2": ("folder with the official VQA v2 files", read_vqa, ("train", "val")),
    "vqa": ("folder with the official VQA v1 files", read_vqa1, ("train", "val")),
    "okvqa": ("folder with OK-VQA's questions and soft answers", read_okvqa, ("train", "val")),
    "cocoqa": ("folder of COCO-QA's splits", read_cocoqa, ("train", "val")),
    "gqa": ("folder of GQA: val_balanced_questions.json and images", read_gqa, ("train", "val")),
    "derived": ("Flickr8k folder with flickr30k_entities", derived_questions, ("train", "dev")),
    "boxes": ("folder of COCO with boxes, to derive questions from", box_questions, ("train", "val")),
    "easyvqa": (
        "data folder of the easy-vqa package; may be left out",
        lambda path, split: read_easyvqa(split, path),
        ("train", "test"),
    ),
    "file": ("CSV or JSONL of image, question, answer", read_questions_file, ("train", "val")),
}


DERIVED = ("derived", "boxes")
"""The sources of questions that nobody asked."""


@dataclass(frozen=True)
class QuestionSet:
    """One set of questions: its kind and where it lies."""

    kind: str
    path: Path

    @classmethod
    def parse(cls, text: str) -> QuestionSet:
        """`KIND:PATH`, or `easyvqa` alone. Raises `UserError` for another kind or a path that is not there."""
        kind, _, path = text.partition(":")
        if kind not in KINDS:
            known = "; ".join(f"{name}:PATH ({what})" for name, (what, _, _) in KINDS.items())
            raise UserError(f"--data {text!r} is of no known kind; give {known}")
        if not path and kind == "easyvqa":
            return cls(kind, easyvqa_folder())
        if not path or not Path(path).exists():
            raise UserError(f"--data {text!r}: there is no {KINDS[kind][0]} at '{path}'")
        return cls(kind, Path(path))

    def read(self, split: str) -> list[Question]:
        """The questions of `train`, of `val` (whatever the set calls it), or of a split by the set's own name."""
        _, reader, (train, val) = KINDS[self.kind]
        return reader(self.path, {"train": train, "val": val}.get(split, split))

"""What data sets tell of each photograph that a trunk is trained on: its objects, its captions, words of questions.

Boxes serve for what is there and how often, never for where. Nothing of a validation photograph is trained on,
whatever set it is in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.errors import UserError
from data.derived.question_sets import DERIVED, QuestionSet
from data.derived.question_sets import KINDS as QUESTIONS
from data.readers import coco, flickr8k, voc
from data.records import CaptionedText, Instance, Question
from data.words.coco_classes import CLASSES
from data.words.vocabulary import FUNCTION_WORDS, tokenize

KINDS = {
    "coco": "folder of COCO with boxes",
    "flickr8k": "folder that holds Flickr8k_text",
    "voc": "folder of PASCAL VOC",
}
VOC_CLASSES = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle"} | {
    "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv",
}  # fmt: skip  # VOC's names of COCO's classes, where they differ
TEXT = "captions_without_photographs.json"
_ASKING = frozenset(
    "color many doing wearing picture image photo photograph here see kind type there any two three four several "
    "shape present contain yes no not".split()
)


@dataclass(frozen=True)
class Known:
    """A photograph of a `family` of them, and what is known of it.

    `split` is 'train', 'val', or 'captions' of those kept to measure captions by. `instances` are all objects of
    the classes in `covered`, None where nobody drew boxes. `told` are words that questions show to be true of it, or
    untrue.
    """

    image_id: str
    path: Path
    split: str
    captions: tuple[tuple[str, ...], ...] = ()
    instances: tuple[Instance, ...] | None = None
    covered: frozenset[str] = frozenset()
    told: Mapping[str, bool] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The collection that it is from."""
        return self.image_id.partition(":")[0]


@dataclass(frozen=True)
class Source:
    """Photographs of a kind of `KINDS` at a path, or a set of questions."""

    kind: str
    path: Path
    questions: QuestionSet | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """`KIND:PATH`. Raises `UserError` for another kind or a path that is not there."""
        kind, _, path = text.partition(":")
        if kind not in KINDS:
            if kind in (*DERIVED, "okvqa"):
                raise UserError(f"--data {text!r}: a trunk learns nothing from these questions; leave them to the head")
            if kind not in QUESTIONS:
                known = [f"{name}:PATH ({what})" for name, what in KINDS.items()]
                known += [f"{name}:PATH" for name in QUESTIONS if name not in (*DERIVED, "okvqa")]
                raise UserError(f"--data {text!r} is of no known kind; give {', '.join(known)}")
            questions = QuestionSet.parse(text)
            return cls(questions.kind, questions.path, questions)
        if not path or not Path(path).is_dir():
            raise UserError(f"--data {text!r}: there is no {KINDS[kind]} at '{path}'")
        return cls(kind, Path(path))


def read_known(sources: Sequence[Source]) -> list[Known]:
    """All photographs of `sources`, family by family, by file name; each once."""
    photographs = {p.image_id: p for source in sources for p in _read(source)}
    asked = {split: _told(sources, split) for split in ("train", "val")}
    kept = asked["val"].keys() | {p.image_id for p in photographs.values() if p.split != "train"}
    for split, of_image in asked.items():
        for image_id, (path, told) in of_image.items():
            if image_id not in photographs and (split == "val" or image_id not in kept):
                photographs[image_id] = Known(image_id, path, split, told=told)
            elif split == "train" and image_id not in kept:
                photographs[image_id] = replace(photographs[image_id], told=told)
    # a photograph that is asked about in validation is of no training set, whatever its split's list says
    found = [replace(p, split="val") if p.split == "train" and p.image_id in kept else p for p in photographs.values()]
    return sorted(found, key=lambda p: (p.family, p.path.name))


def read_texts(sources: Sequence[Source], photographs: Sequence[Known]) -> list[CaptionedText]:
    """Captions with the classes in their photographs: of COCO's that are not at hand, and of training photographs."""
    files = [coco.find_root(source.path) / "annotations" / TEXT for source in sources if source.kind == "coco"]
    texts = [text for file in files if file.is_file() for text in coco.read_texts(file)]
    for p in photographs:
        if p.split == "train" and p.captions and p.instances is not None:
            labels = tuple(dict.fromkeys(instance.name for instance in p.instances))
            texts.append(CaptionedText(p.image_id, tuple(map(" ".join, p.captions)), labels))
    return texts


def told_by(question: Question) -> dict[str, bool]:
    """The content words that a question and its answer show to be true of the image, or untrue.

    Of ten people's answers the commonest counts if five gave it, and the question's own words if four did. What a
    'no' denies is taken from easy-VQA alone: people ask about what is there besides.
    """
    words = content(tokenize(question.text))
    if question.answer in ("yes", "no"):
        if question.source != "easyvqa":
            return {}
        denies = not {"no", "not"}.isdisjoint(tokenize(question.text))
        return dict.fromkeys(words, (question.answer == "yes") != denies)
    answer, agreed = Counter(question.answers).most_common(1)[0] if question.answers else (question.answer, 1)
    several = len(question.answers) > 1
    if several and (question.kind not in ("other", "") or agreed < 4):
        return {}
    answered = content(tokenize(answer)) if not several or agreed >= 5 else []
    return dict.fromkeys([*words, *answered], True)


def content(words: Iterable[str]) -> list[str]:
    """The words that say what an image shows, each once."""
    return [w for w in dict.fromkeys(words) if w.isalpha() and len(w) > 1 and w not in FUNCTION_WORDS | _ASKING]


def _told(sources: Iterable[Source], split: str) -> dict[str, tuple[Path, dict[str, bool]]]:
    """Image id -> its file, and what the questions of a split tell of it; what is shown to be there once, is there."""
    found: dict[str, tuple[Path, dict[str, bool]]] = {}
    for source in sources:
        for question in source.questions.read(split) if source.questions else ():
            _, told = found.setdefault(question.image_id, (question.image, {}))
            for word, there in told_by(question).items():
                told[word] = there or told.get(word, False)
    return found


def _read(source: Source) -> list[Known]:
    if source.kind == "coco":
        return _read_coco(source.path)
    if source.kind == "flickr8k":
        return [p for split in ("train", "dev") for p in _read_flickr8k(source.path, split)]
    if source.kind == "voc":
        return [p for split in ("train", "val") for p in _read_voc(source.path, split)]
    return []


def _read_coco(folder: Path) -> list[Known]:
    val = coco.split_ids(folder, "val")
    kept = coco.captions_kept(folder)
    found = []
    for split in ("train", "val"):
        for image, instances in coco.read_split(folder, split):
            is_val = split == "val" or image.image_id in val
            known_as = "val" if is_val else "captions" if image.image_id in kept else "train"
            captions = tuple(tuple(tokens) for tokens in image.tokens)
            objects = tuple(instance for instance in instances if instance.name in CLASSES)
            found.append(Known(image.image_id, image.path, known_as, captions, objects, frozenset(CLASSES)))
    return found


def _read_flickr8k(folder: Path, split: str) -> list[Known]:
    known_as = "train" if split == "train" else "val"
    return [
        Known(image.image_id, image.path, known_as, tuple(tuple(tokens) for tokens in image.tokens))
        for image in flickr8k.read(folder, split)
    ]


def _read_voc(folder: Path, split: str) -> list[Known]:
    covered = frozenset(VOC_CLASSES.get(name, name) for name in voc.CLASSES)
    found = []
    for image in voc.read(folder, split).items:
        objects = tuple(replace(i, name=VOC_CLASSES.get(i.name, i.name)) for i in image.instances)
        found.append(Known(f"voc:{image.name}", image.path, split, (), objects, covered))
    return found


def of_split(photographs: Iterable[Known], *splits: str) -> list[Known]:
    """Those of some splits."""
    return [p for p in photographs if p.split in splits]

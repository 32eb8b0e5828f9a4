"""Questions derived from grounded captions, the way of COCO-QA, with the answers' human boxes.

    python -m data.derived.questions PATH/flickr8k --split train --out derived.jsonl

Input: Flickr8k with Flickr30k Entities (phrases typed and tied to boxes, over five captions a photograph).
Output: `Question`s of five kinds - object, color, number, location, yes/no - about a twentieth of a second
of work a photograph. They are *derived*: nobody was asked them, and what a caption leaves out counts as absent.

1. `describe` gathers what five captions say of each entity: its name, colour, number, boxes, and who does what.
2. `ask` (data/derived/templates.py) fills question templates from that; an entity must be the only one of its name.
3. yes/no questions come in complementary pairs: the same text on a second photograph where the answer is no,
   drawn by how strongly what is in it co-occurs with the thing asked for (hard negatives; data/derived/yesno.py).
4. `balance` caps the share of the commonest answer of each question text and each template (VQA v2's lesson).

The same seed gives the same questions. Source: Ren et al., NIPS 2015, section 3.3; Goyal et al., CVPR 2017.
"""

import argparse
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from common.errors import UserError
from data.derived.facts import Lexicon, describe
from data.derived.templates import Asked, ask
from data.derived.yesno import yes_no
from data.readers import entities, flickr8k
from data.readers.files import AnyPath
from data.readers.questions_file import write_questions_file
from data.records import GroundedImage, Question


def balance(
    questions: Sequence[Asked], key: Callable[[Asked], str], cap: float, rng: random.Random, least: int = 4
) -> list[Asked]:
    """Drops questions at random until in each group by `key` no answer has more than share `cap`.

    A group of fewer than `least` questions is left alone; one with a single answer is cut to `least - 1`.
    """
    groups: dict[str, list[Asked]] = defaultdict(list)
    for item in questions:
        groups[key(item)].append(item)
    kept: set[str] = set()
    for name in sorted(groups):
        group = groups[name]
        counts = Counter(question.answer for question, _ in group)
        answer, count = min(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        others = len(group) - count
        if len(group) >= least:
            count = max(int(cap / (1 - cap) * others), 1 if others else least - 1)
        common = [question.id for question, _ in group if question.answer == answer]
        kept.update(question.id for question, _ in group if question.answer != answer)
        kept.update(rng.sample(common, min(count, len(common))))
    return [item for item in questions if item[0].id in kept]


def derive(
    images: Sequence[GroundedImage],
    seed: int = 0,
    lexicon: Lexicon | None = None,
    cap: float = 0.5,
    rare: int = 5,
    answers: frozenset[str] | None = None,
) -> list[Question]:
    """The derived questions of `images`, in the order of the images.

    `lexicon` holds the verbs and nouns to know (default: those of `images`); answers rarer than `rare` are left out,
    or those outside `answers` when it is given (a validation split takes both from its training split).
    """
    rng = random.Random(seed)
    lexicon = Lexicon.of(images) if lexicon is None else lexicon
    described = [describe(image, lexicon) for image in images]
    asked = [item for facts in described for item in ask(facts, rng)]
    asked = _unique(asked)
    if answers is None:
        counts = Counter(question.answer for question, _ in asked)
        answers = frozenset(answer for answer, count in counts.items() if count >= rare)
    asked = [item for item in asked if item[0].answer in answers]
    for key in (lambda item: item[0].text, lambda item: item[1]):
        asked = balance(asked, key, cap, rng)
    order = {image.image_id: place for place, image in enumerate(images)}
    asked += yes_no(described, rng)
    asked.sort(key=lambda item: order[item[0].image_id])
    return [replace(question, id=f"derived-{number}") for number, (question, _) in enumerate(asked)]


def _unique(asked: Sequence[Asked]) -> list[Asked]:
    """One question of each text for an image; texts whose answers on one image differ are dropped altogether."""
    found: dict[tuple[str, str], list[Asked]] = defaultdict(list)
    for item in asked:
        found[item[0].image_id, item[0].text].append(item)
    return [group[0] for group in found.values() if len({question.answer for question, _ in group}) == 1]


def read_grounded(folder: AnyPath, split: str) -> list[GroundedImage]:
    """The grounded captions of one Flickr8k split, in the order of its list.

    `folder` holds `flickr30k_entities/` beside the photographs. Raises `UserError` for what is missing or broken.
    """
    folder = Path(folder)
    images = flickr8k.read(folder, split)
    return [entities.read_image(folder / "flickr30k_entities", image.path) for image in images]


def derived_questions(folder: AnyPath, split: str = "train", seed: int = 0) -> list[Question]:
    """Derived questions of one Flickr8k split; other splits take words and answers from the training split."""
    questions, lexicon = _train(Path(folder), seed)
    if split == "train":
        return list(questions)
    answers = frozenset(question.answer for question in questions)
    return derive(read_grounded(folder, split), seed, lexicon=lexicon, answers=answers)


@lru_cache(maxsize=1)
def _train(folder: Path, seed: int) -> tuple[tuple[Question, ...], Lexicon]:
    images = read_grounded(folder, "train")
    lexicon = Lexicon.of(images)
    return tuple(derive(images, seed, lexicon)), lexicon


def main(arguments: Sequence[str] | None = None) -> int:
    """Derives the questions of one split and writes them as JSONL."""
    parser = argparse.ArgumentParser(
        prog="python -m data.derived.questions", description="Derive questions from grounded captions."
    )
    parser.add_argument("folder", type=Path, help="Flickr8k folder that holds flickr30k_entities")
    parser.add_argument("--split", default="train", help="train, dev or test (default train)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="JSONL to write")
    args = parser.parse_args(arguments)
    try:
        questions = derived_questions(args.folder, args.split, args.seed)
        write_questions_file(args.out, questions)
    except UserError as error:
        print(f"derive: error: {error}", file=sys.stderr)
        return 2
    print(f"{len(questions)} derived questions in {args.out}: {dict(Counter(q.kind for q in questions))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Photographs with captions and boxes, a model's captions of them, where their words point, and tables of it.

Shared by figures 10 and 11 and by `saywhy evaluate`.
"""

import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.errors import UserError
from common.methods.names import label
from data.readers import entities, flickr8k
from data.readers.masks import tiled
from data.words.coco_classes import CLASSES

PUBLISHED_RATIOS = "uniform 1.0, Guided Backprop 2.32, Grad-CAM 3.27, Guided Grad-CAM 6.38"
WHOSE = {"human": "words of people's captions", "generated": "words of the model's own captions"}


def flickr8k_folder(data: str) -> Path:
    """PATH of `flickr8k:PATH`; `UserError` for another kind of data."""
    kind, colon, path = data.partition(":")
    if not colon or kind != "flickr8k":
        raise UserError(f"data '{data}' is of no known kind; give flickr8k:PATH")
    return Path(path)


def entities_folder(folder: Path) -> Path | None:
    """The folder of Flickr30k Entities beside the photographs, where there is one."""
    found = folder / "flickr30k_entities"
    return found if (found / "Sentences").is_dir() else None


def grounded_captions(notes: Path | None, images: Sequence[Any]) -> list[list[Any]]:
    """The captions of each image with their phrases and boxes; empty lists without Entities."""
    return [entities.read(notes, image.name) if notes else [] for image in images]


def read_grounded(
    folder: Path, split: str, limit: int | None = None, seed: int | None = None
) -> tuple[list[Any], list[list[Any]]]:
    """The first images of a split of Flickr8k, or with a `seed` some drawn by chance, and the captions of each.

    They are grounded; raises `UserError` without boxes.
    """
    images = flickr8k.read(folder, split)
    if seed is not None:
        images = random.Random(seed).sample(images, len(images))
    images = images[:limit]
    notes = entities_folder(folder)
    if notes is None:
        raise UserError(f"'{folder}' has no folder flickr30k_entities with boxes; put it beside the photographs")
    return images, grounded_captions(notes, images)


def batches(captioner: Any, images: Sequence[Any], size: int, quiet: bool = True) -> Iterator[tuple[list[int], Any]]:
    """(numbers of the images, the images as the captioner reads them), with a progress bar."""
    with bar_of(len(images), "image", quiet) as bar:
        for start in range(0, len(images), size):
            numbers = list(range(start, min(start + size, len(images))))
            yield numbers, captioner.encode([images[n].path for n in numbers])
            bar.update(len(numbers))


@dataclass(frozen=True)
class Truth:
    """Photographs, and what grounds the words of captions of them.

    `human` and `generated` make cases of people's captions, and of a given one, of photograph n, in row `row` of a
    batch.
    """

    protocol: str
    images: Sequence[Any]
    human: Callable[[int, int], list[Any]]
    generated: Callable[[int, int, Any], Any]


def entities_truth(network: Any, images: Sequence[Any], grounded: Sequence[list[Any]], human: int = 1) -> Truth:
    """A word is grounded by the phrases that it heads in people's captions (Flickr30k Entities); `human` are read."""
    from captioning import grounding

    nouns = grounding.head_nouns((c for each in grounded for c in each), network)
    return Truth(
        "Flickr30k Entities",
        images,
        lambda row, n: grounding.human_cases(row, grounded[n], network, nouns, human),
        lambda row, n, caption: grounding.generated_case(row, caption, grounded[n], nouns),
    )


def classes_truth(network: Any, pairs: Sequence[tuple[Any, list[Any]]], human: int = 1) -> Truth:
    """A word is grounded by the instances of the class of COCO that it names (the paper's protocol).

    These are where their outlines say, where the copy has any, else where their boxes do.
    """
    from captioning import grounding

    nouns = [noun for noun in CLASSES if not network.read(noun).unknown and " " not in noun]
    outlined = any(each.segmentation is not None for _, instances in pairs for each in instances)

    def case(row: int, n: int, text: Any) -> Any:
        instances = [part for each in pairs[n][1] for part in tiled(each)]
        return grounding.class_case(row, text, instances, nouns)

    return Truth(
        f"COCO classes, {'masks' if outlined else 'boxes'}",
        [image for image, _ in pairs],
        lambda row, n: [case(row, n, network.read(tokens)) for tokens in pairs[n][0].tokens[:human]],
        lambda row, n, caption: case(row, n, caption.read),
    )


def read_cases(
    captioner: Any, truth: Truth, batch: int = 16, quiet: bool = True
) -> Iterator[tuple[list[int], Any, list[Any], dict[str, list[Any]]]]:
    """Batch by batch: the photographs' numbers, these as the captioner reads them, its captions, and the cases.

    Cases are of people's captions ('human') and of the captioner's ('generated').
    """
    for numbers, seen in batches(captioner, truth.images, batch, quiet):
        captions = captioner.caption(seen)
        human = [case for row, n in enumerate(numbers) for case in truth.human(row, n)]
        own = [truth.generated(row, n, captions[row]) for row, n in enumerate(numbers)]
        yield numbers, seen, captions, {"human": human, "generated": own}


def located(
    captioner: Any,
    truth: Truth,
    batch: int = 16,
    score: str = "logit",
    methods: Sequence[str] = ("gradcam",),
    quiet: bool = True,
) -> tuple[list[Any], dict[str, list[Any]]]:
    """The model's captions of all photographs, and the records of words in people's captions ('human') and in these.

    See `captioning.grounding.measure`; records have the photographs' numbers.
    """
    from captioning import grounding

    said: list[Any] = []
    records: dict[str, list[Any]] = {"human": [], "generated": []}
    for numbers, seen, captions, cases in read_cases(captioner, truth, batch, quiet):
        said += captions
        for whose, these in cases.items():
            found = grounding.measure(captioner, seen, these, score, methods)
            records[whose] += [replace(record, image=numbers[record.image]) for record in found]
    return said, records


def bar_of(total: int, unit: str, quiet: bool) -> Any:
    """A progress bar on standard error, where somebody watches."""
    return tqdm(total=total, disable=quiet or not sys.stderr.isatty(), unit=unit, file=sys.stderr)


def ticks(total: int, unit: str, quiet: bool) -> Callable[[], None]:
    """What moves such a bar on by one."""
    bar = bar_of(total, unit, quiet)
    return lambda: bar.update() and None


def table_lines(table: dict[str, Any], columns: Sequence[str], title: str, least: int = 1) -> list[str]:
    """A table of `grounding.table` as lines of text: a row for each type, mean and standard error in each cell."""
    cells = [["", "n", *columns]]
    for kind, row in table.items():
        first = row.get(columns[0])
        if first is None or first.n < least:
            continue
        values = [row[name] if name in row and row[name].n else None for name in columns]
        cells.append([kind, str(first.n), *("-" if v is None else f"{v.mean:.3f} ± {v.error:.3f}" for v in values)])
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [title, *(f"  {line}" for line in lines)]


def plain(figures: Any) -> Any:
    """Summaries, in dicts of any depth, as JSON can hold them."""
    if isinstance(figures, dict):
        return {name: plain(value) for name, value in figures.items()}
    known = {name: getattr(figures, name) for name in ("mean", "error", "median")}
    numbers = {name: round(value, 5) if math.isfinite(value) else None for name, value in known.items()}
    return {**numbers, "n": figures.n, "left_out": figures.left_out}


def grounding_figures(records: Sequence[Any]) -> dict[str, Any]:
    """All tables of some records, as JSON can hold them."""
    from captioning import grounding

    measures: dict[str, Callable[[Any], dict[str, float]]] = {
        "pointing": lambda r: r.pointing,
        "inside_outside": lambda r: r.ratio,
        "energy_inside": lambda r: r.energy,
    }
    return {
        kind: {name: plain(grounding.table(records, is_phrase, of)) for name, of in measures.items()}
        for kind, is_phrase in (("words", False), ("phrases", True))
        if any(record.is_phrase == is_phrase for record in records)
    }


def word_lines(records: dict[str, list[Any]], methods: Sequence[str]) -> list[str]:
    """Where words point, for the terminal: tables of people's captions and the model's, and differences."""
    from captioning import grounding

    lines = []
    for kind, found in records.items():
        if not found:
            continue
        pointing = grounding.table(found, False, lambda r: r.pointing)
        title = f"pointing accuracy, {WHOSE[kind]} (mean ± standard error)"
        lines += table_lines(pointing, [*methods, *grounding.BASELINES], title)
        for part in (part for part in ("all", grounding.VISUAL_HALF) if part in pointing):
            words = grounding.parts([record for record in found if not record.is_phrase])[part]
            for other in ("centre", "energy", "other word", "wrong word"):
                d = grounding.paired(words, methods[0], other)
                name = "" if part == "all" else f", {part}"
                lines.append(f"  {label(methods[0])} less {other}{name}: {d.mean:+.3f} ± {d.error:.3f} (n = {d.n})")
    return lines


def phrase_lines(records: Sequence[Any], methods: Sequence[str]) -> list[str]:
    """How much of the phrases' maps lies in their boxes, for the terminal."""
    from captioning import grounding

    ratios = grounding.table(records, True, lambda r: r.ratio)
    title = f"mean activation inside over outside the boxes of phrases (published, other data: {PUBLISHED_RATIOS})"
    return table_lines(ratios, (*methods, "centre", "energy"), title) if records else []

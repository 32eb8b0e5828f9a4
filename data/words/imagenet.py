"""The thousand classes of ImageNet-1k (ILSVRC 2012): their WordNet ids and names, in the order of networks' outputs."""

from functools import cache
from pathlib import Path


@cache
def imagenet_classes() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(WordNet id, names) of each class; the first name is the usual one."""
    text = Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return tuple((wnid, tuple(names.split("; "))) for wnid, names in rows)


@cache
def classes_of_noun() -> dict[str, tuple[int, ...]]:
    """Noun -> the classes one of whose names ends in it: 'cat' is the last word of 'tabby cat' and 'Persian cat'."""
    found: dict[str, set[int]] = {}
    for index, (_, names) in enumerate(imagenet_classes()):
        for name in names:
            found.setdefault(name.split()[-1].lower(), set()).add(index)
    return {noun: tuple(sorted(indices)) for noun, indices in found.items()}

"""Names of classes: ImageNet's thousand with all their synonyms, or a model's own.

An index is a class's place in the network's output, from 0.
"""

import difflib
import json
import operator
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_text
from data.words.imagenet import imagenet_classes

PathLike = str | os.PathLike[str]

MOST_BYTES = 2**24  # of a file of labels
_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Labels:
    """The names of a network's classes: of each its synonyms (it goes by the first) and its WordNet id."""

    synonyms: tuple[tuple[str, ...], ...]
    wnids: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        if not self.synonyms or not all(names and all(names) for names in self.synonyms):
            raise UserError("labels need at least one class, and a name that is not empty for each")
        if self.wnids and len(self.wnids) != len(self.synonyms):
            raise UserError(f"{len(self.wnids)} WordNet ids do not fit {len(self.synonyms)} classes")

    def __len__(self) -> int:
        return len(self.synonyms)

    def __getitem__(self, index: int) -> str:
        """The name that class `index` goes by."""
        return self.synonyms[self._checked(index)][0]

    def wnid(self, index: int) -> str | None:
        """The WordNet id of class `index`, where there is one."""
        index = self._checked(index)
        return self.wnids[index] if self.wnids else None

    def find(self, target: Any) -> int:
        """The index of a class given by any synonym, by its WordNet id or by its index.

        Case, underscores, hyphens and repeated spaces don't matter. Where a name is shared, the class that
        goes by it wins ('missile' is 657, not the projectile); else, as for 'crane', `UserError` lists the
        candidates. For an unknown name it lists the nearest.
        """
        if isinstance(target, bool):
            raise UserError(f"target {target!r} is neither a class's name nor its index")
        if not isinstance(target, str):
            try:
                return self._checked(operator.index(target))
            except TypeError:
                raise UserError(f"target {target!r} is neither a class's name nor its index") from None
        plain = _plain(target)
        found = self._by_name.get(plain, ())
        going_by = [index for index in found if _plain(self.synonyms[index][0]) == plain]
        for indices in (found, going_by):
            if len(indices) == 1:
                return indices[0]
        if found:
            ways = ", ".join(f"{i} ({self.describe(i)})" for i in found)
            way_out = "give the index or the WordNet id" if self.wnids else "give the index"
            raise UserError(f"'{target}' names {len(found)} classes: {ways}; {way_out}")
        if re.fullmatch(r"\d{1,9}", target.strip()):
            return self._checked(int(target))
        raise UserError(f"no class is called '{target}'; {self._nearest(target)}")

    def describe(self, index: int) -> str:
        """All that is known of a class, in one line: its WordNet id and synonyms."""
        return " ".join(filter(None, (self.wnid(index), ", ".join(self.synonyms[index]))))

    @cached_property
    def _by_name(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, list[int]] = {}
        for index, names in enumerate(self.synonyms):
            for name in {_plain(name) for name in (*names, ", ".join(names), self.wnid(index) or names[0])}:
                found.setdefault(name, []).append(index)
        return {name: tuple(indices) for name, indices in found.items()}

    def _checked(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise UserError(f"class {index} is out of range; the model has classes 0 to {len(self) - 1}")
        return index

    def _nearest(self, target: str) -> str:
        plain = _plain(target)
        names = {_plain(name): name for synonyms in self.synonyms for name in synonyms}
        words = [key for key in names if plain and re.search(rf"\b{re.escape(plain)}\b", key)]
        words.sort(key=lambda key: not key.endswith(plain))  # 'tiger cat' before 'cat bear'
        near = list(dict.fromkeys([*words, *difflib.get_close_matches(plain, names, n=4, cutoff=0.6)]))
        if near:
            return "near it: " + ", ".join(f"{names[key]} ({self._by_name[key][0]})" for key in near[:5])
        return f"give a label, a WordNet id or an index from 0 to {len(self) - 1}"

    @classmethod
    def from_names(cls, names: Sequence[str]) -> "Labels":
        """Labels from one name per class, in order; ImageNet's own list is known and gets its synonyms."""
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise UserError("labels are a list of names, one string for each class")
        if len(names) == len(imagenet()) and _mostly_imagenet(names):
            return imagenet()
        return cls(tuple((" ".join(name.split()),) for name in names))

    @classmethod
    def from_mapping(cls, mapping: Mapping[Any, Any]) -> "Labels":
        """Labels from {index: name} or {name: index}; the indices must be 0, 1, 2, ..., each once."""
        pairs = list(mapping.items())
        if pairs and all(_is_index(value) and not _is_index(key) for key, value in pairs):
            pairs = [(value, key) for key, value in pairs]
        if not pairs or not all(_is_index(key) for key, _ in pairs):
            raise UserError("labels as a dict are {index: name} or {name: index}")
        names = {int(key): name for key, name in pairs}
        if sorted(names) != list(range(len(pairs))):
            raise UserError(f"labels as a dict need each index from 0 to {len(pairs) - 1} once")
        return cls.from_names([names[i] for i in range(len(pairs))])

    @classmethod
    def read(cls, path: PathLike) -> "Labels":
        """Labels from a file: JSON (a list, or a dict as in `from_mapping`), else text with a name a line."""
        path = Path(path)
        try:
            text = read_text(path, MOST_BYTES)
            values = json.loads(text) if path.suffix.lower() == ".json" else _lines(text)
            return cls.of(values)
        except FileNotFoundError:
            raise UserError(f"{path}: no such label file; give text with one name a line, or JSON") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or a UserError from above
            raise UserError(f"{path}: is not a list of labels ({error})") from error

    @classmethod
    def numbered(cls, count: int) -> "Labels":
        """`class 0`, `class 1`, ... where nothing better is known."""
        return cls(tuple((f"class {i}",) for i in range(count)))

    @classmethod
    def of(cls, source: Any) -> "Labels":
        """Labels from whatever a caller has: `Labels`, a file's path, a list of names or a dict."""
        if isinstance(source, Labels):
            return source
        if isinstance(source, (str, os.PathLike)):
            return cls.read(source)
        if isinstance(source, Mapping):
            return cls.from_mapping(source)
        if isinstance(source, Sequence):
            return cls.from_names(source)
        raise UserError(f"labels are a list of names, a dict or a file, not {type(source).__name__}")


@cache
def imagenet() -> Labels:
    """ImageNet-1k (ILSVRC 2012) in the order of every published network's output."""
    rows = imagenet_classes()
    return Labels(tuple(names for _, names in rows), tuple(wnid for wnid, _ in rows))


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[_\-\s]+", " ", name.casefold()).split())


def _is_index(value: Any) -> bool:
    return type(value) is int or (isinstance(value, str) and value.isdecimal())


def _lines(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _mostly_imagenet(names: Sequence[str]) -> bool:
    """Whether the names are ImageNet's: lists differ in a few spellings, and in the synonyms they give."""
    known = imagenet()
    same = sum(_plain(name.split(",")[0]) in map(_plain, known.synonyms[i]) for i, name in enumerate(names))
    return same >= 0.95 * len(names)

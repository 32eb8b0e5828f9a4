"""What a checkpoint's configuration may say: each entry's type and bounds, checked before anything is built of it.

    checked({"hidden": 512}, {"hidden": whole(1, 4096)}, "captioner.json")

A file that was edited or damaged ends in one line, not in a model that gives nonsense or in an allocation of terabytes.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from common.errors import UserError
from common.printed import printable

MOST_NAMES, LONGEST_NAME = 200_000, 200


class Rule(NamedTuple):
    """What an entry is, in words, and whether a value is one."""

    allowed: str
    valid: Callable[[Any], bool]
    optional: bool = False


def whole(least: int, most: int) -> Rule:
    """A whole number from `least` to `most`."""
    return Rule(f"a whole number from {least} to {most}", lambda value: _is_whole(value) and least <= value <= most)


def real(least: float, most: float) -> Rule:
    """A number from `least` to `most`."""
    return Rule(f"a number from {least} to {most}", lambda value: _is_real(value) and least <= value <= most)


def names(unique: bool = True) -> Rule:
    """A list of names, each once."""

    def valid(value: Any) -> bool:
        if not isinstance(value, list) or not 1 <= len(value) <= MOST_NAMES:
            return False
        strings = all(isinstance(name, str) and 0 < len(name) <= LONGEST_NAME for name in value)
        return strings and (not unique or len(set(value)) == len(value))

    once = ", each once" if unique else ""
    return Rule(f"a list of up to {MOST_NAMES} names of up to {LONGEST_NAME} characters{once}", valid)


def one_of(names: Collection[str]) -> Rule:
    """One of some names."""
    return Rule(f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names)


def text(longest: int = 1000) -> Rule:
    """A text that is not empty."""
    return Rule(f"a text of up to {longest} characters", lambda value: isinstance(value, str) and len(value) <= longest)


def table(entries: Mapping[str, Rule]) -> Rule:
    """A table of such entries, others besides."""

    def valid(value: Any) -> bool:
        return isinstance(value, dict) and all(_holds(value, key, rule) for key, rule in entries.items())

    inside = "; ".join(f"'{key}' {rule.allowed}" for key, rule in entries.items())
    return Rule(f"a table with {inside}", valid)


def optional(rule: Rule) -> Rule:
    """An entry that may be missing."""
    return rule._replace(optional=True)


def checked(config: Mapping[str, Any], schema: Mapping[str, Rule], file: object) -> None:
    """Raise `UserError` for the first entry of a configuration that is not what the schema says."""
    for key, rule in schema.items():
        if key not in config and not rule.optional:
            raise UserError(f"'{file}' lacks '{key}', {rule.allowed}; copy or train the checkpoint again")
        if not _holds(config, key, rule):
            raise UserError(
                f"'{key}' in '{file}' is {printable(repr(config[key]), 80)}; it is {rule.allowed}; copy or train the"
                " checkpoint again"
            )


def _holds(config: Mapping[str, Any], key: str, rule: Rule) -> bool:
    return rule.valid(config[key]) if key in config else rule.optional


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))

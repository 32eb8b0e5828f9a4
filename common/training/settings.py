"""The settings of a training: what each is, its default and the values it takes. The options are made of them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from common.errors import UserError


def whole(default: int, what: str, least: int = 1) -> Any:
    """A field that holds a whole number, `least` or more."""
    return setting(default, what, f"a whole number above {least - 1}", lambda n: _is_whole(n, least))


def epochs(default: int, what: str) -> Any:
    """A field that holds a stage's number of epochs."""
    allowed = "a whole number, 0 to leave the stage out"
    return setting(default, f"epochs of {what}", allowed, lambda n: _is_whole(n, 0))


def share(default: float, what: str) -> Any:
    """A field that holds a share in [0, 1)."""
    return setting(default, f"share of {what}", "in [0, 1)", lambda x: 0 <= x < 1)


def rate(default: float, what: str) -> Any:
    """A field that holds a learning rate."""
    return setting(default, f"learning rate of {what}", "a learning rate above 0", lambda x: x > 0)


def choice(default: str, names: Collection[str], what: str) -> Any:
    """A field that holds one of some names."""
    allowed = ", ".join(names)
    return setting(default, f"{what}: {allowed}", f"one of {allowed}", lambda name: name in names)


def setting(default: Any, what: str, allowed: str = "", valid: Callable[[Any], bool] = lambda value: True) -> Any:
    """A dataclass field with `what` it is, for `--help`, and the values `allowed`, which `valid` accepts."""
    return field(default=default, metadata={"what": what, "allowed": allowed, "valid": valid})


@dataclass(frozen=True)
class RunSettings:
    """What any training depends on besides the data; each model's own settings add to it.

    Who gives a field another default leaves what the field is as it is. Raises `UserError` for a value out of range,
    naming it.
    """

    batch: int = whole(32, "images in a batch")
    weight_decay: float = setting(0.01, "weight decay")
    seed: int = setting(1, "same seed, same checkpoint")

    @classmethod
    def described(cls) -> dict[str, Mapping[str, Any]]:
        """Name of each setting -> `what` it is, the values `allowed`, and the test whether one is `valid`."""
        found: dict[str, Mapping[str, Any]] = {}
        for owner in reversed(cls.__mro__):
            own = fields(owner) if owner is not object else ()  # type: ignore[arg-type]
            found.update({each.name: each.metadata for each in own if each.metadata})
        return found

    def __post_init__(self) -> None:
        for name, described in self.described().items():
            value = getattr(self, name)
            if not described["valid"](value):
                raise UserError(f"{name} is {described['allowed']}; received {value}")


def _is_whole(number: Any, least: int) -> bool:
    return isinstance(number, int) and number >= least

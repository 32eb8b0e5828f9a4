"""The settings of a training: what each is, its default and the values it takes. The options are made of them."""

from collections.abc import Callable, Mapping
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


def setting(default: Any, what: str, allowed: str = "", valid: Callable[[Any], bool] = lambda value: True) -> Any:
    """A dataclass field with `what` it is, for `--help`, and the values `allowed`, which `valid` accepts."""
    return field(default=default, metadata={"what": what, "allowed": allowed, "valid": valid})


@dataclass(frozen=True)
class TrainingSettings:
    """What the trainings of all tasks depend on besides the data; each task's own settings add to it.

    A task that gives a field another default leaves what the field is as it is. Raises `UserError` for a value out
    of range, naming it.
    """

    trunk: str = setting("efficientnet_lite0", "network whose last map is read; see 'saywhy models'")
    train_blocks: int | None = setting(  # None: not at all
        5, "the trunk is trained from this block on", "a block's number", lambda n: n is None or _is_whole(n, 0)
    )
    views: int = whole(1, "views of each photograph: itself, mirrored, then random crops")
    hidden: int = whole(256, "width of each LSTM layer")
    evidence_words: int = whole(0, "words that evidence is learned for", 0)
    minimum_count: int = whole(2, "occurrences that bring a word into the vocabulary")
    batch: int = whole(32, "images in a batch")
    dropout: float = share(0.5, "the head's last layer that is dropped")
    word_dropout: float = share(0.1, "words dropped")
    feature_dropout: float = share(0.2, "the map's channels dropped")
    label_smoothing: float = share(0.1, "a target's probability spread over all words or answers")
    evidence_epochs: int = epochs(0, "the evidence stage")
    trunk_rate: float = rate(2e-4, "the trunk in the evidence stage")
    evidence_weight: float = setting(0.02, "weight of the evidence loss in the other stages")
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

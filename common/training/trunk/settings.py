"""What a training of the trunk depends on besides the data, and the recipe for easy-VQA."""

from dataclasses import dataclass

from common.training.settings import RunSettings, epochs, rate, setting, share, whole


@dataclass(frozen=True)
class Settings(RunSettings):
    """All that a training depends on besides the data; the defaults are the shipped trunk's."""

    trunk: str = setting("efficientnet_lite2", "network that is trained; see 'saywhy models'")
    train_blocks: int = whole(5, "the network is trained from this block on", 0)
    views: int = whole(2, "views of each photograph: itself, mirrored, then random crops", 2)
    words: int = whole(800, "caption words that evidence is learned for", 0)
    trunk_epochs: int = epochs(3, "the trunk and of each fold's")
    folds: int = setting(
        3, "trunks that each leave a part out, for what heads learn on; 0 for none", "0, or 2 or more", lambda n: n != 1
    )
    trunk_rate: float = rate(3e-4, "the network")
    evidence_rate: float = rate(1e-3, "the evidence")
    word_weight: float = setting(0.5, "weight of the words beside the classes")
    count_weight: float = setting(0.3, "weight of the counts beside the classes")
    feature_dropout: float = share(0.1, "the map's channels dropped")
    average: float = share(0.998, "the averaged weights kept at each step")
    guess_epochs: int = epochs(14, "guessing words from classes, for photographs without captions")


EASY = Settings(
    trunk="small_cnn",
    trunk_epochs=14,
    trunk_rate=2e-3,
    evidence_rate=2e-3,
    feature_dropout=0.0,
    weight_decay=0.02,
    average=0.97,
    word_weight=1.0,
)
"""Settings for easy-VQA, whose own small CNN is trained from nothing."""

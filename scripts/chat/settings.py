"""What a training of the chat model depends on besides the data."""

from dataclasses import dataclass

from common.training.settings import RunSettings, epochs, rate, setting, share, whole


@dataclass(frozen=True)
class Settings(RunSettings):
    """All that a training depends on besides the data and the trunk."""

    width: int = whole(256, "width of the language model")
    blocks: int = whole(4, "blocks of the language model")
    heads: int = whole(4, "attention heads of each block")
    vocabulary: int = whole(4096, "tokens")
    batch: int = whole(16, "photographs in a batch")
    texts: int = whole(9, "captions and questions of a photograph that are read in one pass")
    alike: int = whole(2, "captions of other photographs of the same classes, of each photograph without its own", 0)
    blind: float = share(0.1, "batches that have texts alone, without an image")
    image_dropout: float = share(0.2, "an image's channels dropped, the same at all positions")
    text_epochs: int = epochs(1, "the language model, on texts alone")
    image_epochs: int = epochs(5, "projector and language model, on photographs")
    text_rate: float = rate(2e-3, "the language model on texts alone")
    image_rate: float = rate(1e-3, "projector and language model on photographs")
    average: float = share(0.998, "the averaged weights kept at each step")
    weight_decay: float = setting(0.05, "weight decay")

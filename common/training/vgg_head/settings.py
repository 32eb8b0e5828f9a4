"""What a training of the head of VGG's kind depends on besides the data."""

from dataclasses import dataclass

from common.training.settings import RunSettings, epochs, rate, setting, share, whole


@dataclass(frozen=True)
class Settings(RunSettings):
    """All that a training depends on besides the data; the defaults are the shipped head's."""

    batch: int = whole(64, "images in a batch")
    crops: int = whole(2, "random crops of each photograph beside all of it; each is mirrored at an even chance", 0)
    head_epochs: int = epochs(15, "the head")
    head_rate: float = rate(1e-3, "the head")
    temperature: float = setting(
        2.0, "temperature of the softmax, of both networks", "a number above 0", lambda t: t > 0
    )
    dropout: float = share(0.2, "what each fully connected layer reads dropped")
    average: float = share(0.998, "the averaged weights kept at each step")

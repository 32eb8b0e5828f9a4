"""What a training of the captioner depends on besides the data and the trunk."""

from dataclasses import dataclass

from captioning.training.rewards import Weights
from common.training.settings import RunSettings, epochs, rate, setting, share, whole


@dataclass(frozen=True)
class Settings(RunSettings):
    """All that a training depends on besides data and trunk; the defaults are the shipped checkpoint's."""

    hidden: int = whole(512, "width of the LSTM and the embeddings")
    minimum_count: int = whole(8, "occurrences that bring a word into the vocabulary")
    longest: int = whole(22, "longest caption in tokens, its end among them", 4)
    dropout: float = share(0.4, "the LSTM's output that is dropped")
    word_dropout: float = share(0.2, "words dropped")
    label_smoothing: float = share(0.1, "a word's probability spread over all words")
    text_share: float = setting(
        0.5, "share of the captions without photographs in each epoch", "in [0, 1]", lambda x: 0 <= x <= 1
    )
    lookalikes: int = whole(6, "photographs that stand in for the one a text lacks")
    noise: float = setting(0.4, "noise on what these show of the words of captions", "0 or more", lambda x: x >= 0)
    caption_epochs: int = epochs(6, "the cross-entropy stage")
    reward_epochs: int = epochs(1, "self-critical training")
    last_epochs: int = epochs(1, "the last stage: self-critical, photographs without boxes by CIDEr-D alone")
    last_text_share: float = setting(
        0.3, "share of the captions without photographs in an epoch of it", "in [0, 1]", lambda x: 0 <= x <= 1
    )
    decoder_rate: float = rate(1e-3, "the decoder")
    reward_rate: float = rate(2e-4, "self-critical training")
    last_rate: float = rate(2e-4, "the last stage")
    reward_entropy: float = setting(0.3, "weight of cross-entropy in self-critical training")
    false_cost: float = setting(0.5, "what naming a class that is not there costs, CIDEr-D having 1")
    last_false_cost: float = setting(0.9, "the same in the last stage")
    true_worth: float = setting(0.6, "what naming a class that is there pays")
    repeat_cost: float = setting(0.2, "what a word said twice, or three words said again, costs")
    samples: int = whole(5, "captions sampled of each image in self-critical training", 2)
    beam: int = whole(10, "beam width of the final evaluation, kept in the checkpoint")
    length_penalty: float = setting(0.85, "captions are ranked by log-probability / length ** N")

    @property
    def weights(self) -> Weights:
        """What rewards are made of."""
        return Weights(self.false_cost, self.true_worth, self.repeat_cost)

"""What a training of the captioner depends on besides the data."""

from dataclasses import dataclass

from common.training.settings import TrainingSettings, epochs, rate, setting, whole


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """All that a training depends on besides the data; the defaults are the shipped checkpoint's."""

    views: int = 4
    hidden: int = whole(512, "width of the LSTM and the embeddings")
    evidence_words: int = whole(600, "caption words that evidence is learned for")
    minimum_count: int = 5
    longest: int = whole(22, "longest caption in tokens, its end among them", 4)
    word_dropout: float = 0.3
    evidence_epochs: int = 3
    caption_epochs: int = epochs(8, "the cross-entropy stage")
    reward_epochs: int = epochs(3, "self-critical training")
    caption_trunk_rate: float = rate(1e-4, "the trunk in the cross-entropy stage")
    decoder_rate: float = rate(1e-3, "the decoder")
    reward_rate: float = rate(5e-5, "self-critical training")
    reward_entropy: float = setting(0.3, "weight of cross-entropy in self-critical training")
    samples: int = whole(5, "captions sampled of each image in self-critical training", 2)
    beam: int = whole(10, "beam width of the final evaluation, kept in the checkpoint")
    length_penalty: float = setting(0.85, "captions are ranked by log-probability / length ** N")

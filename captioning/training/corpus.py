"""What a training of the captioner reads: images with captions, and the words that they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captioning.training.batches import Loader
from captioning.training.settings import Settings
from common.errors import UserError
from common.training.batches import Picture
from common.training.evidence import commonest_words, word_shares
from common.training.views import Stores
from data.readers import flickr8k
from data.records import CaptionedImage
from data.words.vocabulary import FUNCTION_WORDS, SPECIAL, Vocabulary


@dataclass(frozen=True)
class Corpus:
    """Captioned images to train on and, in `val` (Flickr8k's dev split), to watch it by; the words of the model."""

    train: list[CaptionedImage]
    val: list[CaptionedImage]
    vocabulary: Vocabulary
    words: list[str]

    @classmethod
    def read(cls, data: str, settings: Settings, limit: int | None = None) -> Corpus:
        """The corpus in `data` (flickr8k:PATH); `limit` takes the first images of each split only."""
        folder = _folder(data)
        train, val = (flickr8k.read(folder, split)[:limit] for split in ("train", "dev"))
        tokens = [image.tokens for image in train]
        vocabulary = Vocabulary.build((words for each in tokens for words in each), settings.minimum_count)
        content = vocabulary.index.keys() - FUNCTION_WORDS - set(SPECIAL)
        shown = [content & {word for words in each for word in words} for each in tokens]
        return cls(train, val, vocabulary, commonest_words(shown, settings.evidence_words))

    def loader(self, split: str, stores: Stores, settings: Settings) -> Loader:
        """Batches of a split's images, each with its captions and the share of them that say each word."""
        images, name, views = (self.train, "train", settings.views) if split == "train" else (self.val, "dev", 1)
        store = stores.open(name, {image.name: image.path for image in images}, views)
        pictures = [Picture(i.image_id, i.name, store, word_shares(i.tokens)) for i in images]
        captions = [[self.vocabulary.encode(tokens) for tokens in image.tokens] for image in images]
        return Loader(pictures, captions, self.words, settings, stores.device)


def _folder(data: str) -> Path:
    kind, colon, folder = data.partition(":")
    if kind != "flickr8k" or not colon or not folder:
        raise UserError(f"--data is flickr8k:PATH (the folder that holds Flickr8k_text); received '{data}'")
    return Path(folder)

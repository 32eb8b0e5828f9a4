"""What a training of the captioner reads: images with captions, and the words that they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

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
    """Captioned images to train on and, in `dev`, to watch it by; the words that a model is made for."""

    train: list[CaptionedImage]
    dev: list[CaptionedImage]
    vocabulary: Vocabulary
    words: list[str]

    @classmethod
    def read(cls, data: str, settings: Settings, limit: int | None = None) -> Corpus:
        """The corpus in `data` (flickr8k:PATH); `limit` takes the first images of each split only."""
        folder = _folder(data)
        train, dev = (flickr8k.read(folder, split)[:limit] for split in ("train", "dev"))
        tokens = [image.tokens for image in train]
        vocabulary = Vocabulary.build((words for each in tokens for words in each), settings.minimum_count)
        content = vocabulary.index.keys() - FUNCTION_WORDS - set(SPECIAL)
        shown = [content & {word for words in each for word in words} for each in tokens]
        return cls(train, dev, vocabulary, commonest_words(shown, settings.evidence_words))

    def pictures(self, split: str, stores: Stores, views: int) -> list[Picture]:
        """The images of a split, each with the share of its captions that say each word."""
        images = self.images(split)
        store = stores.open(split, {image.name: image.path for image in images}, views)
        return [Picture(image.image_id, image.name, store, word_shares(image.tokens)) for image in images]

    def loader(
        self, split: str, pictures: Sequence[Picture], settings: Settings, device: torch.device
    ) -> Loader:
        """Batches of a split's images with their captions."""
        captions = [
            [self.vocabulary.encode(tokens) for tokens in image.tokens] for image in self.images(split)
        ]
        return Loader(pictures, captions, self.words, settings, device)

    def images(self, split: str) -> list[CaptionedImage]:
        return self.train if split == "train" else self.dev


def _folder(data: str) -> Path:
    kind, colon, folder = data.partition(":")
    if kind != "flickr8k" or not colon or not folder:
        raise UserError(f"--data is flickr8k:PATH (the folder that holds Flickr8k_text); received '{data}'")
    return Path(folder)

"""What the trunk says of the images that a corpus asks about.

Letters: I images, T texts, P photographs, E concepts, C of them counted, W = E - C words of captions.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.training.evidence import evidence_targets, word_shares
from common.training.lookalikes import Lookalikes, Shown
from common.training.loop import seed_of
from common.training.summaries import VIEWS, Summaries
from data.derived.cloze import SOURCE
from data.readers import coco
from data.records import CaptionedText
from data.words.vocabulary import PAD, tokenize
from vqa.training.batches import Example, Loader, answer_scores
from vqa.training.corpus import Corpus
from vqa.training.settings import Settings

LONGEST = 24  # words of a question that are trained on


def loaders(corpus: Corpus, summaries: Summaries, settings: Settings) -> tuple[Loader, Loader]:
    """Batches of the training and of the validation questions."""
    told, places = _told(corpus, summaries, settings.seed)
    rest = (told, places, len(corpus.answers), settings, summaries.device)
    index = {answer: number for number, answer in enumerate(corpus.answers)}
    train, val = (
        [
            Example(q, corpus.vocabulary.encode(tokenize(q.text))[:LONGEST] or [PAD], answer_scores(q, index))
            for q in questions
        ]
        for questions in (corpus.train, corpus.val)
    )
    return Loader(train, *rest), Loader(val, *rest)


def _told(corpus: Corpus, summaries: Summaries, seed: int) -> tuple[Tensor, dict[str, int]]:
    """What is said of the questions' images (I,2,E+C), and the place of each image's id in it."""
    families: dict[str, dict[str, Path]] = defaultdict(dict)
    for question in (*corpus.train, *corpus.val):
        if question.source != SOURCE:
            families[question.image_id.partition(":")[0]][question.image_id] = question.image
    told: list[Tensor] = []
    ids: list[str] = []
    for family, found in families.items():
        files = dict(sorted(found.items()))
        told.append(summaries.of(family, files))
        ids += files
    if corpus.texts and corpus.alike is not None:
        told.append(_imagined(corpus.texts, corpus.alike, summaries, seed))
        ids += [text.image_id for text in corpus.texts]
    return torch.cat(told), {image_id: place for place, image_id in enumerate(ids)}


def _imagined(texts: Sequence[CaptionedText], folder: Path, summaries: Summaries, seed: int) -> Tensor:
    """(T,2,E+C): what a trunk may have said of the photographs of texts, going by photographs that show the same.

    These are COCO's training photographs in `folder`, but for those that captions are measured on.
    """
    evidence, kept = summaries.trunk.evidence, coco.captions_kept(folder)
    pairs = [pair for pair in coco.read_split(folder, "train") if pair[0].image_id not in kept]
    seen = summaries.of("coco", {image.image_id: image.path for image, _ in pairs})
    present = _present([[instance.name for instance in instances] for _, instances in pairs], evidence.classes)
    shares = evidence_targets([word_shares(text.tokens) for text in texts], evidence.caption_words).numpy()
    shown = Shown(_present([text.labels for text in texts], evidence.classes), shares)
    lookalikes = Lookalikes(shown, present, seen.numpy())
    generator = np.random.default_rng(seed_of(seed, SOURCE))
    return torch.stack([lookalikes.draw(range(len(texts)), generator) for _ in range(VIEWS)], 1)


def _present(images: Sequence[Sequence[str]], classes: Sequence[str]) -> np.ndarray:
    """(I,C), 1 where an image has a class."""
    return np.array([[float(name in names) for name in classes] for names in images], np.float32).reshape(
        len(images), len(classes)
    )

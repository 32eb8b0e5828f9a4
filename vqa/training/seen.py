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
from common.training.maps import Maps, StoredMaps
from common.training.summaries import VIEWS, Summaries
from data.derived.cloze import SOURCE
from data.readers import coco
from data.records import CaptionedText
from data.words.vocabulary import PAD, tokenize
from vqa.training.batches import Example, Loader, answer_scores
from vqa.training.corpus import Corpus
from vqa.training.settings import Settings

LONGEST = 24  # words of a question that are trained on


def loaders(corpus: Corpus, seen: Summaries | Maps, settings: Settings) -> tuple[Loader, Loader]:
    """Batches of the training and of the validation questions, with what the trunk says of their images."""
    told: Tensor | StoredMaps
    told, places = _told(corpus, seen, settings.seed) if isinstance(seen, Summaries) else _mapped(corpus, seen)
    rest = (told, places, len(corpus.answers), settings, seen.device)
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
    families = _families(corpus)
    told = [summaries.of(family, files) for family, files in families.items()]
    ids = [image_id for files in families.values() for image_id in files]
    if corpus.texts and corpus.alike is not None:
        lookalikes = _lookalikes(corpus.texts, corpus.alike, summaries)[0]
        generator = np.random.default_rng(seed_of(seed, SOURCE))
        numbers = range(len(corpus.texts))
        told.append(torch.stack([lookalikes.draw(numbers, generator) for _ in range(VIEWS)], 1))
        ids += [text.image_id for text in corpus.texts]
    return torch.cat(told), {image_id: place for place, image_id in enumerate(ids)}


def _mapped(corpus: Corpus, maps: Maps) -> tuple[StoredMaps, dict[str, int]]:
    """The maps of the questions' images, and the place of each image's id in them.

    A text has the map of the photograph that shows the likest classes and words.
    """
    families = _families(corpus)
    likest: dict[str, str] = {}
    if corpus.texts and corpus.alike is not None:
        lookalikes, photographs = _lookalikes(corpus.texts, corpus.alike, maps.summaries)
        ids = list(photographs)
        likest = {text.image_id: ids[best] for text, best in zip(corpus.texts, lookalikes.found[:, 0], strict=True)}
        families["coco"] = dict(sorted({**families.get("coco", {}), **photographs}.items()))
    stored = StoredMaps.joined([maps.of(family, files) for family, files in families.items()])
    places = {image_id: place for place, image_id in enumerate(i for files in families.values() for i in files)}
    return stored, {**places, **{text: places[image_id] for text, image_id in likest.items()}}


def _families(corpus: Corpus) -> dict[str, dict[str, Path]]:
    """The questions' photographs (image id -> file) by the collection they are of."""
    families: dict[str, dict[str, Path]] = defaultdict(dict)
    for question in (*corpus.train, *corpus.val):
        if question.source != SOURCE:
            families[question.image_id.partition(":")[0]][question.image_id] = question.image
    return {family: dict(sorted(found.items())) for family, found in families.items()}


def _lookalikes(
    texts: Sequence[CaptionedText], folder: Path, summaries: Summaries
) -> tuple[Lookalikes, dict[str, Path]]:
    """What a trunk may have said of the photographs of texts, going by photographs that show the same, and these.

    These are COCO's training photographs in `folder`, but for those that captions are measured on.
    """
    evidence, kept = summaries.trunk.evidence, coco.captions_kept(folder)
    pairs = [pair for pair in coco.read_split(folder, "train") if pair[0].image_id not in kept]
    photographs = {image.image_id: image.path for image, _ in pairs}
    seen = summaries.of("coco", photographs)
    present = _present([[instance.name for instance in instances] for _, instances in pairs], evidence.classes)
    shares = evidence_targets([word_shares(text.tokens) for text in texts], evidence.caption_words).numpy()
    shown = Shown(_present([text.labels for text in texts], evidence.classes), shares)
    return Lookalikes(shown, present, seen.numpy()), photographs


def _present(images: Sequence[Sequence[str]], classes: Sequence[str]) -> np.ndarray:
    """(I,C), 1 where an image has a class."""
    return np.array([[float(name in names) for name in classes] for names in images], np.float32).reshape(
        len(images), len(classes)
    )

"""Train the trunk: `saywhy train trunk --data coco:PATH --data flickr8k:PATH --data voc:PATH --out runs/trunk`.

The network's early blocks stay as they are: their output, for two views of each photograph, is stored once. The late
blocks learn, together with the evidence on the last map, which classes a photograph shows, how many of each, and which
words captions of it say: all of the photograph as a whole. Then trunks that each leave a third of the photographs
out are trained alike, and say of that third what `common.training.summaries` gives to the heads' trainings.
Weights are averaged over steps. The last epoch is kept: none is chosen by the validation photographs.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from common.errors import UserError
from common.networks.trunk import load_trunk
from common.training.loop import seed_everything, train
from common.training.run import Run
from common.training.trunk.corpus import Corpus
from common.training.trunk.folds import write_summaries
from common.training.trunk.guess import guesser_of
from common.training.trunk.loader import Loader
from common.training.trunk.settings import Settings
from common.training.trunk.training import Training
from common.training.views import Stores


def train_trunk(
    read: Callable[[int, int | None], Corpus],
    out: str | os.PathLike[str],
    settings: Settings,
    device: str | torch.device = "cpu",
    restart: bool = False,
    limit: int | None = None,
    features: str | os.PathLike[str] | None = None,
) -> Path:
    """Train on the corpus that `read(words, limit)` gives; returns the checkpoint's path in folder `out`.

    `limit` takes only the first photographs of each split; `features` names a folder for the feature stores
    (default: in `out`). A run that was interrupted goes on where it stopped.
    """
    corpus, out = with_guesses(read(settings.words, limit), Path(out), settings, restart), Path(out)
    if not corpus.numbers("train"):
        raise UserError("no training photograph is left; every one is kept for validation")
    run = Run(out, {**asdict(settings), "photographs": len(corpus.numbers("train"))}, fresh=restart)
    seed_everything(settings.seed)  # of a network that begins at random: the same whether guesses were at hand or not
    stores = Stores(
        load_trunk(settings.trunk), settings.train_blocks, Path(features or out / "features"), torch.device(device)
    )
    loader = Loader(corpus.photographs, corpus.targets, stores, settings.views, settings.batch)
    training = Training(corpus, loader, settings)
    train([training.stage()], training.model, run, settings.seed)
    path = training.save(out / "trunk", run)
    if settings.folds:
        write_summaries(training, path, restart)
    return path


def with_guesses(corpus: Corpus, out: Path, settings: Settings, fresh: bool) -> Corpus:
    """The corpus with words guessed from classes where these are known and captions aren't."""
    guesser = guesser_of(corpus.texts, settings.guess_epochs, out / "guess", fresh, settings.seed)
    if guesser is None:
        return corpus
    targets = corpus.targets
    guess = guesser.guess(targets.values[:, : corpus.counted])
    return replace(corpus, targets=targets.with_guess(guess, corpus.guessed))

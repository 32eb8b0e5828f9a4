"""Trunks that each leave out a part of the photographs, and what they say of it: see `common.training.summaries`."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from common.training.loop import train
from common.training.run import Run
from common.training.store import FeatureStore
from common.training.summaries import FILE, VIEWS
from common.training.trunk.training import Training
from common.training.trunks import load_seeing_trunk


def write_summaries(training: Training, path: Path, fresh: bool) -> None:
    """Train the trunks that each leave a fold out, and write what they say of it to `summaries.h5` beside `path`."""
    file, trunk = path.with_name(FILE), load_seeing_trunk(path)
    if fresh:
        file.unlink(missing_ok=True)
    numbers = training.numbers()
    ids = [training.corpus.photographs[n].image_id for n in numbers]
    with FeatureStore.open(file, ids, (VIEWS, trunk.evidence.size), trunk.fingerprint) as store:
        missing = set(store.missing())
        for fold in range(training.settings.folds):
            members = training.numbers(fold)
            rows = store.rows([training.corpus.photographs[n].image_id for n in members])
            if not missing.isdisjoint(rows):
                model = train_fold(training, path.parent, fold, fresh)
                store.write(rows, np.stack([model.summaries(members, view) for view in range(VIEWS)], 1))


def train_fold(training: Training, out: Path, fold: int, fresh: bool = False) -> Training:
    """A trunk trained as the given one, without the photographs of a fold; its run lies in `fold-N` in `out`."""
    other = Training(training.corpus, training.loader, training.settings, fold)
    run = Run(out / f"fold-{fold + 1}", asdict(training.settings), fresh=fresh)
    train([other.stage()], other.model, run, training.settings.seed)
    return other

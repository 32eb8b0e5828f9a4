"""Train the VQA model's head: `saywhy train vqa --data cocoqa:PATH --data vqa2:PATH --data boxes:PATH --out runs/vqa`.

The trunk stays as it is; of each image the head reads what the trunk says of it, computed once. Of images that the
trunk was trained on, a trunk that never saw them tells (`common.training.summaries`). Soft cross-entropy over the
answers; weights are averaged over steps. The last epoch is kept: no epoch is chosen by the validation questions, and no
question about one of their images is trained on. The same head is trained without the images as well: the
language-only baseline.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.networks.trunk import SeeingTrunk
from common.training.loop import Stage, seed_everything, seed_of, train
from common.training.maps import Maps
from common.training.run import Run
from common.training.summaries import Summaries
from common.training.trunks import copy_trunk, save_head
from data.derived.cloze import SOURCE
from data.derived.question_sets import DERIVED
from vqa.checkpoint import MODELS, SIZES, Model
from vqa.metrics import by_source
from vqa.reading import LARGEST
from vqa.training.baselines import commonest, train_blind
from vqa.training.batches import Batch, answer_vocabulary
from vqa.training.corpus import Corpus
from vqa.training.losses import likeliest, scores, told_less, weighted_entropy
from vqa.training.seen import loaders
from vqa.training.settings import Settings, settings_for

FASTER = 10.0


def train_vqa(
    data: Sequence[str],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    device: str | torch.device = "cpu",
    restart: bool = False,
    limit: int | None = None,
    features: str | os.PathLike[str] | None = None,
    trunk: str | os.PathLike[str] | None = None,
) -> Path:
    """Train on the sets named in `data` (KIND:PATH); returns the checkpoint's path in folder `out`.

    `captions:COCO` among them has captions to make questions of. `trunk` is a trunk's run or checkpoint (default: the
    shipped one), whose files are copied to `out`. `limit` takes only the first images of each split; `features` names
    a folder for what the trunk says (default: in `out`). A run that was interrupted goes on where it stopped.
    """
    kinds = sorted(text.partition(":")[0] for text in data)
    if trunk is None and set(kinds) == {"easyvqa"}:
        raise UserError(
            "the shipped trunk knows photographs, not easy-VQA's drawings; train one with 'saywhy train trunk "
            "--data easyvqa --out DIR' and give --trunk DIR"
        )
    settings = settings or settings_for(data)
    summaries = Summaries.open(trunk, features or Path(out) / "features", device)
    run = Run(out, {**asdict(settings), "limit": limit, "sets": kinds, "trunk": summaries.trunk.fingerprint}, restart)
    copy_trunk(trunk, out)
    training = TRAININGS[settings.model](Corpus.read(data, settings, limit), settings, summaries)
    baselines = training.baselines(Run(Path(out) / "blind", run.settings, fresh=restart))
    train([training.stage()], training.head, run, settings.seed)
    training.model = training.model.with_answers(training.kept())
    figures = by_source(likeliest(training.model, training.val_loader), training.corpus.val)
    run.log({"final": True, **{f"{kind}": row["all"] for kind, row in figures.items()}})
    return save_head(Path(out) / "vqa", training.model, training.described(figures, baselines))


class Training:
    """The model that reads a summary, its batches and its stage."""

    def __init__(self, corpus: Corpus, settings: Settings, summaries: Summaries):
        self.corpus, self.settings, self.device = corpus, settings, summaries.device
        self.model: Any = self.new_model(summaries.trunk)
        self.train_loader, self.val_loader = loaders(corpus, self.seen(summaries), settings)
        # The validation questions that people wrote, and the derived ones about a fifth of the images.
        self.quick = self.val_loader.only(
            lambda q: q.source not in (*DERIVED, "easyvqa") or seed_of(q.image_id) % 5 == 0
        )

    @property
    def head(self) -> nn.ModuleDict:
        """What is trained: all but the trunk."""
        return nn.ModuleDict({name: part for name, part in self.model.named_children() if name != "trunk"})

    def seen(self, summaries: Summaries) -> Summaries | Maps:
        """What the model reads of the images."""
        return summaries

    def new_model(self, trunk: SeeingTrunk) -> Model:
        """The model from the settings' seed."""
        s = self.settings
        seed_everything(s.seed)
        dropout = {"dropout": s.dropout, "image_dropout": s.image_dropout, "word_dropout": s.word_dropout}
        sizes = {name: getattr(s, name) for name in SIZES[s.model]}
        kind: Any = MODELS[s.model]
        return kind(trunk, self.corpus.vocabulary, self.corpus.answers, **sizes, **dropout).to(self.device)

    def stage(self) -> Stage:
        loader, s = self.train_loader, self.settings
        return Stage(
            "head",
            s.head_epochs,
            loader.steps,
            self.parameters,
            loader.epoch,
            self.loss,
            evaluate=self.quick_figures,
            weight_decay=s.weight_decay,
            average=s.average,
            warmup=min(50, loader.steps),
            mode=self.mode,
        )

    def mode(self) -> None:
        """Train mode, but for the trunk."""
        self.model.train()
        self.model.trunk.eval()

    def parameters(self) -> list[dict[str, Any]]:
        """Optimiser groups: what starts at the concepts' names is not drawn to zero, and a few numbers learn faster."""
        reader, rate = self.model.reader, self.settings.head_rate
        few = [reader.threshold, reader.counts, reader.slopes, reader.offsets]
        apart = {id(p) for p in (reader.own.weight, *few)}
        rest = [p for p in self.head.parameters() if id(p) not in apart]
        return [
            {"params": rest, "lr": rate},
            {"params": [reader.own.weight], "lr": rate, "weight_decay": 0.0},
            {"params": few, "lr": FASTER * rate, "weight_decay": 0.0},
        ]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy with the answers' shares, of summaries that tell of some concepts nothing."""
        assert batch.summary is not None
        batch.summary = told_less(batch.summary, self.model.trunk.evidence.typical, self.settings.untold)
        return weighted_entropy(scores(self.model, batch), batch, self.settings.label_smoothing), {}

    def kept(self) -> list[str]:
        """The answers that stay: those of enough questions, and all numbers."""
        people = [q for q in self.corpus.train if q.source != SOURCE]
        often = {*answer_vocabulary(people, self.settings.kept_answers), *map(str, range(LARGEST + 1))}
        return [answer for answer in self.model.answers if answer in often]

    def baselines(self, run: Run) -> dict[str, Any]:
        """Figures of the commonest answer, the commonest of each question type, and the model without the image."""
        found = commonest(self.corpus.train, self.corpus.val)
        model = self.new_model(self.model.trunk)
        train_blind(model, self.train_loader, self.settings, run)
        found["without_image"] = likeliest(model, self.val_loader, look=False)
        return {name: by_source(said, self.corpus.val) for name, said in found.items()}

    def quick_figures(self) -> dict[str, float]:
        """Accuracy on the `quick` questions of each set."""
        asked = [example.question for example in self.quick.examples]
        found = by_source(likeliest(self.model, self.quick), asked)
        return {f"val_{source}": round(float(row["all"]["accuracy"]), 4) for source, row in found.items()}

    def described(self, figures: dict[str, Any], baselines: dict[str, Any]) -> dict[str, Any]:
        """The checkpoint's configuration: all that loading it needs, settings and figures."""
        s = self.settings
        return {
            "kind": "vqa",
            "version": 2,
            "model": s.model,
            **{name: getattr(s, name) for name in SIZES[s.model]},
            "settings": asdict(s),
            "figures": figures,
            "baselines": baselines,
            "trained_on": dict(Counter(q.source for q in self.corpus.train)),
            "validated_on": dict(Counter(q.source for q in self.corpus.val)),
            "answers": list(self.model.answers),
            "vocabulary": list(self.corpus.vocabulary.words),
        }


class CoattentionTraining(Training):
    """The model that reads every position of the map: one rate for all, and nothing is left untold.

    What there is to multiply is multiplied in bfloat16, which takes half the time.
    """

    def seen(self, summaries: Summaries) -> Maps:
        return Maps(summaries)

    def parameters(self) -> list[dict[str, Any]]:
        return [{"params": list(self.head.parameters()), "lr": self.settings.head_rate}]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast(self.device.type, torch.bfloat16):
            found = scores(self.model, batch)
        return weighted_entropy(found.float(), batch, self.settings.label_smoothing), {}


class PooledTraining(CoattentionTraining):
    """The model that reads the mean of the map."""

    def seen(self, summaries: Summaries) -> Maps:
        return Maps(summaries, mean=True)


TRAININGS = {"evidence": Training, "coattention": CoattentionTraining, "pooled": PooledTraining}

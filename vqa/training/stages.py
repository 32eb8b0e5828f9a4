"""Train the VQA model: `saywhy train vqa --data derived:PATH --data cocoqa:PATH --data vqa2:PATH --out runs/vqa`.

The trunk's early blocks stay as they are: their output, for a few views of each photograph, is stored once.
Three stages, each resumable: `evidence` (the late blocks learn which words are true of an image; every image once
an epoch), `head` (soft cross-entropy over the answers; the head alone, on each image's summary), `answers` (late
blocks and head together, from where the head's own stage ended: a head that starts from chance would spoil the
features; Kumar et al., ICLR 2022). Weights are averaged over steps. The last epoch is kept: no epoch is chosen by the
validation questions, and no question about one of their images is trained on. The same head is trained without the
image as well: the language-only baseline.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.training import stages
from common.training.checkpoints import save_checkpoint
from common.training.evidence import evidence_entropy
from common.training.loop import Stage, seed_of, train
from common.training.run import Run
from data.derived.question_sets import DERIVED, QuestionSet
from vqa.metrics import by_source
from vqa.model import VqaModel
from vqa.training.baselines import commonest, predict_blind, train_blind
from vqa.training.batches import Batch, Loader
from vqa.training.corpus import Corpus
from vqa.training.evidence import start_evidence
from vqa.training.losses import likeliest, scores, weighted_entropy
from vqa.training.settings import Settings, settings_for


def train_vqa(
    data: Sequence[str],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    device: str | torch.device = "cpu",
    restart: bool = False,
    limit: int | None = None,
    features: str | os.PathLike[str] | None = None,
) -> Path:
    """Train on the sets named in `data` (KIND:PATH); returns the checkpoint's path in folder `out`.

    `limit` takes only the first images of each split; `features` names a folder for the feature stores
    (default: in `out`). A run that was interrupted goes on where it stopped.
    """
    sets = [QuestionSet.parse(text) for text in data]
    settings = settings or settings_for(data)
    run = Run(out, {**asdict(settings), "limit": limit, "sets": sorted(s.kind for s in sets)}, fresh=restart)
    corpus = Corpus.read(sets, settings, limit)
    training = Training(corpus, settings, features or Path(out) / "features", device)
    baselines = training.baselines(Run(Path(out) / "blind", run.settings, fresh=restart))
    train(training.stages(), training.model, run, settings.seed)
    figures = by_source(training.predict(training.val_loader), corpus.val)
    run.log({"final": True, **{f"{kind}": row["all"] for kind, row in figures.items()}})
    described = training.described(figures, baselines)
    return save_checkpoint(Path(out) / "vqa", training.model.state_dict(), described)


class Training(stages.Training):
    """The model, its batches and the stages' losses."""

    corpus: Corpus
    settings: Settings
    model: VqaModel
    train_loader: Loader
    val_loader: Loader

    @cached_property
    def quick(self) -> Loader:
        """The validation questions that people wrote, and the derived ones about a fifth of the images."""
        return self.val_loader.only(lambda q: q.source not in (*DERIVED, "easyvqa") or seed_of(q.image_id) % 5 == 0)

    def build(self) -> VqaModel:
        s = self.settings
        return VqaModel(
            self.trunk.module,
            self.corpus.vocabulary,
            self.corpus.answers,
            self.trunk.channels,
            evidence_words=self.corpus.words,
            embedding=s.embedding,
            hidden=s.hidden,
            joint=s.joint,
            dropout=s.dropout,
            word_dropout=s.word_dropout,
            image_dropout=s.image_dropout,
            layer=self.trunk.layer,
        )

    def start_evidence(self) -> None:
        evidence = self.model.image.evidence
        if evidence is not None:
            start_evidence(evidence, self.corpus.words, self.train_loader.evidence, self.trunk.classifier)

    def stages(self) -> list[Stage]:
        """The stages that have epochs; see the module's docstring."""
        s, model, tail = self.settings, self.model, list(self.tail.parameters())
        evidence = list(model.image.evidence.parameters()) if model.image.evidence is not None else []
        kept = ("trunk.", "image.evidence.")
        rest = [p for n, p in model.named_parameters() if not n.startswith(kept)]
        loader, warmup = self.train_loader, min(100, self.train_loader.steps)
        common = dict(evaluate=self.quick_figures, average=s.average, warmup=warmup)
        once = -(-len(loader.pictures) // s.batch)
        stages = [
            self.stage(
                "evidence",
                s.evidence_epochs if evidence else 0,
                self.evidence_loss,
                (tail, s.trunk_rate),
                (evidence, s.head_rate),
                **common | {"steps": once, "batches": partial(self.looked_at, each_once=True), "evaluate": None},
            ),
            self.stage(
                "head",
                s.head_epochs,
                self.answer_loss,
                (rest, s.head_rate),
                **common | {"steps": loader.steps_of(s.head_batch), "batches": self.summarised},
            ),
            self.stage(
                "answers",
                s.answer_epochs,
                self.answer_loss,
                (tail, s.answer_trunk_rate),
                ([*evidence, *rest], s.answer_head_rate),
                **common | {"steps": loader.steps, "batches": self.looked_at},
            ),
        ]
        return [stage for stage in stages if stage.epochs]

    def looked_at(self, seed: int, each_once: bool = False) -> Iterator[Batch]:
        """An epoch of a stage that trains the trunk: from each image's stored features."""
        self.train_loader.summaries = self.quick.summaries = None
        return self.train_loader.epoch(seed, each_once=each_once)

    def summarised(self, seed: int) -> Iterator[Batch]:
        """An epoch of the head stage: the trunk stays as it is, so each image's summary is computed once.

        Images with questions that people wrote keep two views (as they are, and mirrored), the others one.
        """
        if self.train_loader.summaries is None:
            human, most = self.corpus.human, min(2, self.settings.views)
            counts = [most if p.image_id in human else 1 for p in self.train_loader.pictures]
            self.model.eval()
            with torch.no_grad():
                for loader, views in ((self.train_loader, counts), (self.quick, [1] * len(self.quick.pictures))):
                    loader.summarise(lambda stored: torch.cat(self.encode(stored), 1), views)
            self.mode()
        return self.train_loader.epoch(seed, batch=self.settings.head_batch)

    def encode(self, stored: Tensor) -> tuple[Tensor, Tensor]:
        """Stored features (or summaries) -> the mean of the map (B,K) and the pooled evidence (B,E)."""
        if stored.dim() == 2:
            return stored[:, : self.trunk.channels], stored[:, self.trunk.channels :]
        maps = self.maps(stored)
        return maps.mean((2, 3)), self.model.image.pooled_evidence(maps)

    def evidence_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Binary cross-entropy of the evidence words, summed over words, averaged over images."""
        return evidence_entropy(self.encode(batch.features)[1], batch.evidence, batch.absent), {}

    def answer_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy with the answers' shares, with a share of the evidence loss."""
        mean, evidence = self.encode(batch.features)
        found = scores(self.model, mean, evidence, batch.tokens, batch.image)
        answers = weighted_entropy(found, batch, self.settings.label_smoothing)
        if not self.corpus.words or batch.features.dim() == 2:
            return answers, {}
        seen = evidence_entropy(evidence, batch.evidence, batch.absent)
        loss = answers + self.settings.evidence_weight * seen
        return loss, {"answers": answers.item(), "evidence": seen.item()}

    def baselines(self, run: Run) -> dict[str, Any]:
        """Figures of the commonest answer, the commonest of each question type, and the model without the image."""
        found = commonest(self.corpus.train, self.corpus.val)
        model = self.new_model()
        train_blind(model, self.train_loader, self.settings, run)
        found["without_image"] = predict_blind(model, self.val_loader)
        return {name: by_source(said, self.corpus.val) for name, said in found.items()}

    @torch.no_grad()
    def predict(self, loader: Loader) -> list[str]:
        """The likeliest answer to each of the loader's questions, in their order."""
        self.model.eval()
        return likeliest(
            self.model,
            loader,
            lambda batch: scores(self.model, *self.encode(batch.features), batch.tokens, batch.image),
        )

    def quick_figures(self) -> dict[str, float]:
        """Accuracy on the `quick` questions of each set."""
        found = by_source(self.predict(self.quick), [example.question for example in self.quick.examples])
        return {f"val_{source}": round(float(row["all"]["accuracy"]), 4) for source, row in found.items()}

    def described(self, figures: dict[str, Any], baselines: dict[str, Any]) -> dict[str, Any]:
        """The checkpoint's configuration."""
        return self.config(
            "vqa",
            layer=self.trunk.layer_name,
            embedding=self.settings.embedding,
            joint=self.settings.joint,
            figures=figures,
            baselines=baselines,
            trained_on=dict(Counter(q.source for q in self.corpus.train)),
            validated_on=dict(Counter(q.source for q in self.corpus.val)),
            evidence_words=self.corpus.words,
            answers=list(self.model.answers),
            vocabulary=list(self.corpus.vocabulary.words),
        )

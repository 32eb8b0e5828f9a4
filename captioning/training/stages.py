"""Train the captioner: `saywhy train captioner --data flickr8k:PATH --out runs/cap`.

The trunk's early blocks stay as they are: their output, for a few views of each photograph, is stored once.
Then three stages, each resumable: `evidence` (the late blocks learn which words the captions of an image
use), `captions` (cross-entropy, late blocks and decoder together), `reward` (self-critical training of the
decoder on CIDEr-D, Rennie et al. 2017). Weights are averaged over steps. The last epoch is kept: none is
chosen by the dev split.
"""

import os
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from captioning import decoding, metrics
from captioning.model import CaptionModel, State
from captioning.training.batches import Loader
from captioning.training.corpus import Corpus
from captioning.training.losses import half, logits, reinforce
from captioning.training.settings import Settings
from common.training import stages
from common.training.batches import Batch
from common.training.checkpoints import save_checkpoint
from common.training.evidence import evidence_entropy, shares_as_logits
from common.training.loop import Stage, train
from common.training.run import Run
from data.words.vocabulary import END, SPECIAL

_END = SPECIAL[END]


def train_captioner(
    data: str,
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    device: str | torch.device = "cpu",
    restart: bool = False,
    limit: int | None = None,
    features: str | os.PathLike[str] | None = None,
) -> Path:
    """Train on the images and captions of `data` (flickr8k:PATH); returns the checkpoint's path in folder `out`.

    `limit` takes only the first images of each split; `features` names a folder for the feature stores
    (default: in `out`). A run that was interrupted goes on where it stopped.
    """
    settings = settings or Settings()
    kept = {k: v for k, v in asdict(settings).items() if k not in ("beam", "length_penalty")}
    run = Run(out, {**kept, "limit": limit}, fresh=restart)
    corpus = Corpus.read(data, settings, limit)
    training = Training(corpus, settings, features or Path(out) / "features", device)
    train(training.stages(), training.model, run, settings.seed)
    figures = training.metrics_of_captions(settings.beam, settings.length_penalty)
    run.log({"dev": len(corpus.val), "beam": settings.beam, **figures})
    return save_checkpoint(Path(out) / "captioner", training.model.state_dict(), training.described(figures))


class Training(stages.Training):
    """The model, its batches and the three stages' losses."""

    corpus: Corpus
    settings: Settings
    model: CaptionModel
    train_loader: Loader
    val_loader: Loader

    @cached_property
    def scorer(self) -> metrics.CiderD:
        """What samples are rewarded by: CIDEr-D against the captions of training images, with their ends."""
        return metrics.CiderD([[[*tokens, _END] for tokens in image.tokens] for image in self.corpus.train])

    def build(self) -> CaptionModel:
        return CaptionModel(
            self.trunk.module,
            self.corpus.vocabulary,
            self.trunk.channels,
            self.corpus.words,
            self.settings.hidden,
            self.settings.dropout,
            self.settings.word_dropout,
            self.trunk.layer,
        )

    @torch.no_grad()
    def start_evidence(self) -> None:
        bias = cast(Tensor, self.model.decoder.evidence.bias)
        bias.copy_(shares_as_logits(self.train_loader.evidence))

    def stages(self) -> list[Stage]:
        """The three stages; see the module's docstring."""
        s, decoder, tail = self.settings, self.model.decoder, list(self.tail.parameters())
        evidence = list(decoder.evidence.parameters())
        rest = [p for n, p in decoder.named_parameters() if not n.startswith("evidence.")]
        common = dict(steps=self.train_loader.steps, batches=self.train_loader.epoch, evaluate=self.caption_figures)
        return [
            self.stage(
                "evidence",
                s.evidence_epochs,
                self.evidence_loss,
                (tail, s.trunk_rate),
                (evidence, s.decoder_rate),
                **{**common, "evaluate": self.evidence_figures},
            ),
            self.stage(
                "captions",
                s.caption_epochs,
                self.caption_loss,
                (tail, s.caption_trunk_rate),
                ([*evidence, *rest], s.decoder_rate),
                **common,
            ),
            self.stage("reward", s.reward_epochs, self.reward_loss, (rest, s.reward_rate), **common),
        ]

    def summary(self, stored: Tensor) -> tuple[Tensor, Tensor]:
        """Stored features -> what the decoder sees of each image: the mean of the map (B,K), the evidence (B,E)."""
        return self.model.decoder.summary(self.maps(stored))

    def evidence_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Binary cross-entropy of the evidence words, summed over words, averaged over images."""
        _, evidence = self.summary(batch.features)
        return evidence_entropy(evidence, batch.evidence, batch.absent), {}

    def entropy(self, pooled: Tensor, evidence: Tensor, tokens: Tensor) -> Tensor:
        """Cross-entropy of captions (N,L) a word, from what the decoder sees of the image of each."""
        found, words = logits(self.model, pooled, evidence, tokens)
        return F.cross_entropy(found, words, label_smoothing=self.settings.label_smoothing)

    def caption_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the captions a word, with a share of the evidence loss."""
        pooled, evidence = self.summary(batch.features)
        entropy = self.entropy(pooled[batch.image], evidence[batch.image], batch.tokens)
        seen = evidence_entropy(evidence, batch.evidence, batch.absent)
        loss = entropy + self.settings.evidence_weight * seen
        return loss, {"words": entropy.item(), "evidence": seen.item()}

    def reward_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """REINFORCE on CIDEr-D, with some cross-entropy so that captions keep their length and variety.

        Samples are drawn and weighed without dropout: with it, training would do little but sharpen the
        distribution.
        """
        count = self.settings.samples
        self.model.eval()
        with torch.no_grad(), half(self.device):
            pooled, evidence = self.summary(batch.features)
            state: State = self.model.decoder.begin(pooled, evidence)
            tokens = decoding.sample(self.model, state, count, self.settings.longest - 2)
        rewards = torch.tensor(
            [self.reward(row, batch.numbers[i // count]) for i, row in enumerate(tokens.tolist())]
        ).view(-1, count)
        image = torch.arange(len(tokens), device=self.device) // count
        loss = reinforce(self.model, pooled[image], evidence[image], tokens, rewards)
        self.mode()
        kept = torch.rand(len(batch.tokens)) < 0.4  # two of five captions: half the time, much the same
        kept[0] = True
        kept = kept.to(self.device)
        image = batch.image[kept]
        entropy = self.entropy(pooled[image], evidence[image], batch.tokens[kept])
        loss = loss + self.settings.reward_entropy * entropy
        return loss, {"reward": rewards.mean().item(), "words": entropy.item()}

    def reward(self, tokens: list[int], number: int) -> float:
        """CIDEr-D of a sampled caption of a training image.

        The end is scored as a word, or captions learn to stop in the middle of a phrase.
        """
        words = self.model.vocabulary.decode(tokens)
        return self.scorer.score([*words, _END] if END in tokens else words, number)

    @torch.no_grad()
    def evidence_figures(self) -> dict[str, float]:
        """The evidence loss of the dev images, and the share of true ones among the five likeliest words."""
        self.model.eval()
        losses, ranked = [], []
        for batch in self.val_loader.plain():
            _, evidence = self.summary(batch.features)
            loss = evidence_entropy(evidence, batch.evidence, batch.absent)
            losses.append(float(loss) * len(batch.numbers))
            best = evidence.topk(min(5, evidence.shape[1]), 1).indices
            ranked.extend((batch.evidence.gather(1, best) > 0).float().mean(1).tolist())
        return {"dev_evidence": sum(losses) / len(self.corpus.val), "dev_precision_5": float(np.mean(ranked))}

    def caption_figures(self) -> dict[str, float]:
        """Greedy captions of the dev images, with the evidence figures."""
        scores = self.metrics_of_captions(1, 0.0, fast=True)
        kept = {f"dev_{k}": scores[k] for k in ("BLEU-4", "CIDEr")}
        return {**kept, "dev_length": scores["length"], **self.evidence_figures()}

    @torch.no_grad()
    def metrics_of_captions(self, beam: int, length_penalty: float, fast: bool = False) -> dict[str, float]:
        """Metrics of the dev images' captions, with their mean length and the share of unlike captions."""
        self.model.eval()
        captions: list[list[str]] = []
        for batch in self.val_loader.plain():
            with half(self.device, fast):
                state = self.model.decoder.begin(*self.summary(batch.features))
                found = decoding.beam(self.model, state, beam, length_penalty=length_penalty)
            captions.extend(self.model.vocabulary.decode(f[0].tokens) for f in found)
        scores = metrics.evaluate(captions, [image.tokens for image in self.corpus.val])
        scores["length"] = float(np.mean([len(c) for c in captions]))
        scores["distinct"] = len({tuple(c) for c in captions}) / len(captions)
        return scores

    def described(self, figures: dict[str, float]) -> dict[str, object]:
        """The checkpoint's configuration."""
        s = self.settings
        return self.config(
            "captioner",
            layer=self.trunk.layer,
            decoding={"beam": s.beam, "length_penalty": s.length_penalty},
            figures={"dev": figures, "dev_images": len(self.corpus.val)},
            train_images=len(self.corpus.train),
            evidence_words=self.corpus.words,
            vocabulary=list(self.corpus.vocabulary.words),
        )

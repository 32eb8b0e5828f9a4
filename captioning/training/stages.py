"""Train the captioner: `saywhy train captioner --data flickr8k:PATH --out runs/cap`.

The trunk's early blocks stay as they are: their output, for a few views of each photograph, is stored once.
Then three stages, each resumable: `evidence` (the late blocks learn which words the captions of an image
use), `captions` (cross-entropy, late blocks and decoder together), `reward` (self-critical training of the
decoder on CIDEr-D, Rennie et al. 2017). Weights are averaged over steps. The last epoch is kept: none is
chosen by the dev split.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from captioning import decoding, metrics
from captioning.model import CaptionModel, State
from captioning.training.batches import Batch, Loader, evidence_vocabulary
from common.errors import UserError
from common.networks.trunk import load_trunk
from common.training.checkpoints import save_checkpoint
from common.training.loop import Stage, parameter_groups, seed_everything, show_progress, train
from common.training.run import Run
from common.training.settings import TrainingSettings
from common.training.views import views_encoder
from data.readers import flickr8k
from data.records import CaptionedImage
from data.store import complete_store
from data.words.vocabulary import END, PAD, SPECIAL, Vocabulary

_END = SPECIAL[END]


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """All that a training depends on besides the data; the defaults are the shipped checkpoint's."""

    views: int = 4
    hidden: int = 512
    evidence_words: int = 600
    minimum_count: int = 5
    longest: int = 22
    word_dropout: float = 0.3
    evidence_epochs: int = 3
    caption_epochs: int = 8
    reward_epochs: int = 3
    caption_trunk_rate: float = 1e-4
    decoder_rate: float = 1e-3
    reward_rate: float = 5e-5
    reward_entropy: float = 0.3  # weight of cross-entropy beside the reward
    samples: int = 5
    beam: int = 10
    length_penalty: float = 0.85

    least: ClassVar = {**TrainingSettings.least, "evidence_words": 1, "beam": 1, "samples": 2, "longest": 4}


def train_captioner(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    restart: bool = False,
    limit: int | None = None,
    features: str | os.PathLike[str] | None = None,
) -> Path:
    """Train on Flickr8k's train split in folder `data`; returns the checkpoint's path in folder `out`.

    `limit` takes only the first images of each split; `features` names a folder for the feature stores
    (default: in `out`). A run that was interrupted goes on where it stopped.
    """
    settings = settings or Settings()
    kept = {k: v for k, v in asdict(settings).items() if k not in ("beam", "length_penalty")}
    run = Run(out, {**kept, "limit": limit}, fresh=restart)
    training = Training(data, Path(features or Path(out) / "features"), settings, limit)
    train(training.stages(), training.model, run, settings.seed)
    figures = evaluate(
        training.model, training.dev_loader, settings.beam, settings.length_penalty, training.features
    )
    run.log({"dev": len(training.dev), "beam": settings.beam, **figures})
    config = training.config({"dev": figures, "dev_images": len(training.dev)})
    return save_checkpoint(Path(out) / "captioner", training.tensors(), config)


class Training:
    """The model, the data and the three stages' losses."""

    def __init__(
        self, data: str | os.PathLike[str], stores: Path, settings: Settings, limit: int | None = None
    ):
        self.settings = settings
        seed_everything(settings.seed)
        self.train = flickr8k.read(data, "train")[:limit]
        self.dev = flickr8k.read(data, "dev")[:limit]
        self.network = load_trunk(settings.trunk)
        vocabulary = Vocabulary.build(
            (t for image in self.train for t in image.tokens), settings.minimum_count
        )
        words = evidence_vocabulary(self.train, vocabulary, settings.evidence_words)
        seed_everything(settings.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = (
            CaptionModel(
                self.network.module,
                vocabulary,
                self.network.channels,
                words,
                settings.hidden,
                settings.dropout,
                settings.word_dropout,
                self.network.layer,
            )
            .to(memory_format=torch.channels_last)
            .to(self.device)
        )
        front, self.tail = self.network.split(settings.train_blocks)
        for parameter in self.model.trunk.parameters():
            parameter.requires_grad_(False)
        self.train_loader, self.dev_loader = (
            self._loader(images, front, stores, split, words)
            for split, images in (("train", self.train), ("dev", self.dev))
        )
        base = self.train_loader.targets.mean(0).clamp(1e-4, 1 - 1e-4)
        with torch.no_grad():
            cast(Tensor, self.model.decoder.evidence.bias).copy_(base.logit())
        self.scorer = metrics.CiderD([[[*t, _END] for t in image.tokens] for image in self.train])

    def _loader(
        self,
        images: Sequence[CaptionedImage],
        front: Any,
        stores: Path,
        split: str,
        words: list,
    ) -> Loader:
        views = self.settings.views if split == "train" else 1
        key = self.network.fingerprint(self.settings.train_blocks, views)
        store = complete_store(
            stores / f"{split}-{key}-{len(images)}.h5",
            {image.name: image.path for image in images},
            key,
            views_encoder(front, lambda path: self.network.preprocessing(path)[0], views, self.device),
            max(1, 32 // views),
            show_progress(f"features of {split} images"),
        )
        return Loader(
            images,
            store,
            self.model.vocabulary,
            words,
            self.settings.batch,
            self.settings.longest,
            self.device,
        )

    def stages(self) -> list[Stage]:
        s, decoder = self.settings, self.model.decoder
        tail = list(self.tail.parameters())
        rest = [p for n, p in decoder.named_parameters() if not n.startswith("evidence.")]

        evidence = list(decoder.evidence.parameters())
        common: dict[str, Any] = {
            "steps": self.train_loader.steps,
            "batches": self.train_loader.epoch,
            "evaluate": self.dev_figures,
            "weight_decay": s.weight_decay,
            "mode": self.mode,
        }
        return [
            Stage(
                "evidence",
                s.evidence_epochs,
                parameters=parameter_groups(self.model, (tail, s.trunk_rate), (evidence, s.decoder_rate)),
                loss=self.evidence_loss,
                **{**common, "evaluate": self.dev_evidence},
            ),
            Stage(
                "captions",
                s.caption_epochs,
                parameters=parameter_groups(
                    self.model, (tail, s.caption_trunk_rate), ([*evidence, *rest], s.decoder_rate)
                ),
                loss=self.caption_loss,
                **common,
            ),
            Stage(
                "reward",
                s.reward_epochs,
                parameters=parameter_groups(self.model, (rest, s.reward_rate)),
                loss=self.reward_loss,
                **common,
            ),
        ]

    def mode(self) -> None:
        """Train mode with the trunk's batch norms as they were trained on ImageNet."""
        self.model.train()
        self.model.trunk.eval()

    def features(self, stored: Tensor) -> Tensor:
        """Stored features -> the last map."""
        return self.tail(stored)

    def summary(self, stored: Tensor) -> tuple[Tensor, Tensor]:
        maps = F.dropout2d(self.features(stored), self.settings.feature_dropout, self.model.training)
        return self.model.decoder.summary(maps)

    def evidence_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Binary cross-entropy of the evidence words, summed over words, averaged over images."""
        _, evidence = self.summary(batch.features)
        return evidence_entropy(evidence, batch.evidence), {}

    def caption_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the captions a word, with a share of the evidence loss."""
        pooled, evidence = self.summary(batch.features)
        logits, words = self._logits(pooled[batch.image], evidence[batch.image], batch.tokens)
        entropy = F.cross_entropy(logits, words, label_smoothing=self.settings.label_smoothing)
        seen = evidence_entropy(evidence, batch.evidence)
        loss = entropy + self.settings.evidence_weight * seen
        return loss, {"words": entropy.item(), "evidence": seen.item()}

    def _logits(self, pooled: Tensor, evidence: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N,V) of the N places that hold a token, and these tokens (N,): caption by caption."""
        mask = tokens != PAD
        rows = mask.nonzero()[:, 0]
        with _fast(self.device):
            hidden = self.model.hidden(pooled, evidence, tokens).transpose(0, 1)[mask]
            return self.model.decoder.logits(hidden, evidence[rows]), tokens[mask]

    def reward_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """REINFORCE on CIDEr-D, with some cross-entropy so that captions keep their length and variety.

        The baseline of a sample is the mean reward of the image's other samples. Samples are drawn and
        weighed without dropout: with it, training would do little but sharpen the distribution.
        """
        count = self.settings.samples
        self.model.eval()
        with torch.no_grad(), _fast(self.device):
            pooled, evidence = self.summary(batch.features)
            state: State = self.model.decoder.begin(pooled, evidence)
            tokens = decoding.sample_from(self.model, state, count, self.settings.longest - 2)
        rewards = torch.tensor(
            [self._reward(row, batch.numbers[i // count]) for i, row in enumerate(tokens.tolist())]
        ).view(-1, count)
        advantage = (rewards - (rewards.sum(1, keepdim=True) - rewards) / (count - 1)).view(-1, 1)
        image = torch.arange(len(tokens), device=self.device) // count
        logits, words = self._logits(pooled[image], evidence[image], tokens)
        chosen = logits.log_softmax(-1).gather(-1, words[:, None])[:, 0]
        weights = advantage.to(self.device).expand_as(tokens)[tokens != PAD]
        loss = -(weights * chosen).mean()
        self.mode()
        kept = torch.rand(len(batch.tokens)) < 0.4  # two of five captions: half the time, much the same
        kept[0] = True
        image = batch.image[kept]
        logits, words = self._logits(pooled[image], evidence[image], batch.tokens[kept])
        entropy = F.cross_entropy(logits, words, label_smoothing=self.settings.label_smoothing)
        loss = loss + self.settings.reward_entropy * entropy
        return loss, {"reward": rewards.mean().item(), "words": entropy.item()}

    def _reward(self, tokens: list[int], image: int) -> float:
        # The end is scored as a word, or captions learn to stop in the middle of a phrase.
        words = self.model.vocabulary.decode(tokens)
        return self.scorer.score([*words, _END] if END in tokens else words, image)

    @torch.no_grad()
    def dev_evidence(self) -> dict[str, float]:
        self.model.eval()
        losses, ranked = [], []
        for batch in self.dev_loader.plain():
            _, evidence = self.summary(batch.features)
            losses.append(float(evidence_entropy(evidence, batch.evidence)) * len(batch.numbers))
            best = evidence.topk(min(5, evidence.shape[1]), 1).indices
            ranked.extend((batch.evidence.gather(1, best) > 0).float().mean(1).tolist())
        return {"dev_evidence": sum(losses) / len(self.dev), "dev_precision_5": float(np.mean(ranked))}

    def dev_figures(self) -> dict[str, float]:
        """Greedy captions of the dev images, with the evidence figures."""
        scores = evaluate(self.model, self.dev_loader, 1, 0.0, self.features, fast=True)
        kept = {f"dev_{k}": scores[k] for k in ("BLEU-4", "CIDEr")}
        return {**kept, "dev_length": scores["length"], **self.dev_evidence()}

    def tensors(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def config(self, figures: dict[str, Any]) -> dict[str, Any]:
        """What the checkpoint's JSON says: everything that loading it needs, settings and figures."""
        model = self.model
        return {
            "kind": "captioner",
            "version": 1,
            "trunk": self.settings.trunk,
            "trunk_source": self.network.source,
            "layer": model.layer,
            "preprocessing": self.network.preprocessing.to_dict(),
            "hidden": self.settings.hidden,
            "decoding": {"beam": self.settings.beam, "length_penalty": self.settings.length_penalty},
            "settings": asdict(self.settings),
            "figures": figures,
            "train_images": len(self.train),
            "evidence_words": [
                model.vocabulary.words[i] for i in cast(Tensor, model.decoder.evidence_words).tolist()
            ],
            "vocabulary": list(model.vocabulary.words),
        }


def evidence_entropy(evidence: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of evidence logits (B,E) against shares in [0,1], summed over words."""
    return F.binary_cross_entropy_with_logits(evidence, targets, reduction="sum") / len(evidence)


@torch.no_grad()
def evaluate(
    model: CaptionModel,
    loader: Loader,
    beam: int,
    length_penalty: float,
    features: Callable[[Tensor], Tensor],
    names: Sequence[str] | None = None,
    fast: bool = False,
) -> dict[str, float]:
    """Caption metrics of a loader's images, with the mean caption length and the share of unlike captions."""
    model.eval()
    captions: list[list[str]] = []
    for batch in loader.plain():
        with _fast(loader.device, fast):
            found = decoding.beam_from(
                model, model.start(features(batch.features)), beam, length_penalty=length_penalty
            )
        captions.extend(model.vocabulary.decode(f[0].tokens) for f in found)
    scores = metrics.evaluate(captions, [image.tokens for image in loader.images], names)
    scores["length"] = float(np.mean([len(c) for c in captions]))
    scores["distinct"] = len({tuple(c) for c in captions}) / len(captions)
    return scores


def _fast(device: torch.device, enabled: bool = True) -> torch.autocast:
    """bfloat16 matrix products, where they are several times as fast."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def parse_data(value: str) -> Path:
    """The folder of `flickr8k:PATH`."""
    kind, colon, folder = value.partition(":")
    if kind != "flickr8k" or not colon or not folder:
        raise UserError(f"--data is flickr8k:PATH (the folder that holds Flickr8k_text); received '{value}'")
    return Path(folder)

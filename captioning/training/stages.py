"""Train the captioner: `saywhy train captioner --data flickr8k:PATH --data coco:PATH --out runs/cap`.

The trunk stays as it is; the decoder learns to write from what the trunk says. Of photographs that the trunk was
trained on, that is what a trunk without them says (`common.training.summaries`); captions without photographs are
read beside what it says of lookalikes. Three stages, each resumable: `captions` (cross-entropy), `reward`
(self-critical training, Rennie et al. 2017, on CIDEr-D and on the truth of the classes that are named) and
`last` (the same with fewer texts and dearer untruth; photographs without boxes are rewarded by CIDEr-D alone, and no
content word is drawn twice). Weights are averaged over steps. The last epoch is kept: none is chosen by validation.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from captioning import decoding, metrics
from captioning.model import CaptionModel, State
from captioning.training.batches import Batch, Loader
from captioning.training.corpus import Corpus, Subject, shown
from captioning.training.losses import half, logits, reinforce
from captioning.training.rewards import Rewards, Weights
from captioning.training.settings import Settings
from common.errors import UserError
from common.training.batches import parts
from common.training.lookalikes import Lookalikes
from common.training.loop import Stage, parameter_groups, seed_everything, train
from common.training.run import Run
from common.training.summaries import Summaries
from common.training.trunks import copy_trunk, save_head
from data.words.vocabulary import END

Loss = Callable[[Batch], tuple[Tensor, dict[str, float]]]
_WATCHED = 1000  # photographs of each validation set that are captioned after an epoch


def train_captioner(
    data: Sequence[str],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    device: str | torch.device = "cpu",
    restart: bool = False,
    limit: int | None = None,
    features: str | os.PathLike[str] | None = None,
    trunk: str | os.PathLike[str] | None = None,
) -> Path:
    """Train on `data` (flickr8k:PATH, coco:PATH or both); returns the checkpoint's path in folder `out`.

    `trunk` is the trunk's checkpoint or run (default: the shipped one); `limit` takes only the first of each part of
    the data; `features` names a folder for what the trunk says of photographs (default: in `out`). A run that was
    interrupted goes on where it stopped.
    """
    settings = settings or Settings()
    copy_trunk(trunk, out)
    summaries = Summaries.open(trunk, features or Path(out) / "features", device)
    kept = {k: v for k, v in asdict(settings).items() if k not in ("beam", "length_penalty")}
    run = Run(out, {**kept, "limit": limit, "trunk": summaries.trunk.fingerprint}, fresh=restart)
    training = Training(Corpus.read(data, limit), settings, summaries)
    train(training.stages(), training.model.decoder, run, settings.seed)
    figures = training.figures(settings.beam, settings.length_penalty)
    run.log({f"{name}_{key}": value for name, each in figures.items() for key, value in each.items()})
    return save_head(Path(out) / "captioner", training.model, training.config(figures))


class Training:
    """The model, its batches and the stages' losses."""

    def __init__(self, corpus: Corpus, settings: Settings, summaries: Summaries):
        self.corpus, self.settings, self.summaries = corpus, settings, summaries
        self.device = summaries.device
        seed_everything(settings.seed)
        vocabulary = corpus.vocabulary(settings.minimum_count)
        rates = settings.hidden, settings.dropout, settings.word_dropout
        self.model = CaptionModel(summaries.trunk, vocabulary, *rates).to(self.device)
        self.loader = self._loader()
        self.seen = {name: self._summaries(name, subjects, 1)[:, 0] for name, subjects in corpus.val.items()}

    def _summaries(self, name: str, subjects: Sequence[Subject], views: int = 2) -> Tensor:
        """What the trunk says of photographs (n,v,E+C)."""
        paths = {subject.image_id: subject.path for subject in subjects if subject.path}
        return self.summaries.of(name, paths, views)

    def _loader(self) -> Loader:
        s, vocabulary = self.settings, self.model.vocabulary
        captions = [[vocabulary.encode(tokens) for tokens in subject.tokens] for subject in self.corpus.subjects]
        seen = self._summaries("photographs", self.corpus.photographs)
        return Loader(seen, self._lookalikes(), captions, s.longest, s.batch, self.device)

    def _lookalikes(self) -> Lookalikes | None:
        """What stands in for the photographs that texts lack: the boxed photographs."""
        corpus, evidence = self.corpus, self.summaries.trunk.evidence
        if not corpus.texts:
            return None
        if not corpus.boxed:
            raise UserError("captions without photographs need photographs with boxes; give a whole copy of COCO")
        texts = shown(corpus.texts, evidence.classes, evidence.caption_words)
        present = shown(corpus.boxed, evidence.classes, ()).classes
        seen = self._summaries("boxed", corpus.boxed).numpy()
        return Lookalikes(texts, present, seen, self.settings.lookalikes, self.settings.noise)

    @cached_property
    def rewards(self) -> tuple[Rewards, Rewards]:
        """What captions of photographs, and of texts, are rewarded by."""
        return Rewards(self.corpus.photographs), Rewards(self.corpus.texts)

    def reward(self, tokens: list[int], number: int, weights: Weights) -> float:
        """The reward of a sampled caption of subject `number`."""
        first = len(self.corpus.photographs)
        rewards, own = (self.rewards[0], number) if number < first else (self.rewards[1], number - first)
        return rewards(self.model.vocabulary.decode(tokens), END in tokens, own, weights)

    def stages(self) -> list[Stage]:
        """The three stages; see the module's docstring."""
        s = self.settings
        last = partial(
            self.reward_loss,
            weights=replace(s.weights, false=s.last_false_cost, unsure=0.0),
            once=decoding.content_words(self.model.vocabulary),
        )
        return [
            self._stage("captions", s.caption_epochs, self.caption_loss, s.decoder_rate, s.text_share),
            self._stage("reward", s.reward_epochs, self.reward_loss, s.reward_rate, s.text_share),
            self._stage("last", s.last_epochs, last, s.last_rate, s.last_text_share),
        ]

    def _stage(self, name: str, epochs: int, loss: Loss, rate: float, share: float) -> Stage:
        """A stage that trains all of the decoder at one rate, on a share of the texts."""
        decoder = self.model.decoder
        return Stage(
            name,
            epochs,
            steps=self.loader.steps(share),
            parameters=parameter_groups(decoder, (list(decoder.parameters()), rate)),
            batches=partial(self.loader.epoch, share=share),
            loss=loss,
            evaluate=self.watched,
            weight_decay=self.settings.weight_decay,
            mode=decoder.train,
        )

    def entropy(self, summary: Tensor, tokens: Tensor) -> Tensor:
        """Cross-entropy of captions (N,L) a word, from what the decoder sees of the image of each (N,E+C)."""
        found, words = logits(self.model, summary, tokens)
        return F.cross_entropy(found, words, label_smoothing=self.settings.label_smoothing)

    def caption_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the captions a word."""
        return self.entropy(batch.summary[batch.image], batch.tokens), {}

    def reward_loss(
        self, batch: Batch, weights: Weights | None = None, once: Tensor | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """REINFORCE on the rewards, with some cross-entropy so that captions keep their length and variety.

        Samples are drawn and weighed without dropout: with it, training would do little but sharpen the
        distribution.
        """
        count, decoder, weights = self.settings.samples, self.model.decoder, weights or self.settings.weights
        decoder.eval()
        with torch.no_grad(), half(self.device):
            state: State = decoder.begin(batch.summary)
            tokens = decoding.sample(self.model, state, count, self.settings.longest - 2, once=once)
        rewards = torch.tensor(
            [self.reward(row, batch.numbers[i // count], weights) for i, row in enumerate(tokens.tolist())]
        ).view(-1, count)
        loss = reinforce(self.model, batch.summary.repeat_interleave(count, 0), tokens, rewards)
        decoder.train()
        kept = torch.rand(len(batch.tokens)) < 0.4  # two of five captions: half the time, much the same
        kept[0] = True
        kept = kept.to(self.device)
        entropy = self.entropy(batch.summary[batch.image[kept]], batch.tokens[kept])
        loss = loss + self.settings.reward_entropy * entropy
        return loss, {"reward": rewards.mean().item(), "words": entropy.item()}

    def watched(self) -> dict[str, float]:
        """Greedy captions of validation photographs, for the log."""
        kept = ("BLEU-4", "CIDEr", "CHAIRi", "class recall", "length")
        found = self.figures(1, 0.0, _WATCHED)
        return {f"{name}_{key}": each[key] for name, each in found.items() for key in kept if key in each}

    def figures(self, beam: int, length_penalty: float, limit: int | None = None) -> dict[str, dict[str, float]]:
        """Figures of the captions of each validation set: metrics where there are references, truth where boxes."""
        found = {}
        for name, subjects in self.corpus.val.items():
            said = list(self.captions(self.seen[name][:limit], beam, length_penalty))
            found[name] = figures_of(said, subjects[:limit])
        return found

    @torch.no_grad()
    def captions(self, seen: Tensor, beam: int, length_penalty: float) -> Iterator[list[str]]:
        """The words of the captions that images with summaries (n,E+C) get."""
        self.model.decoder.eval()
        once = decoding.content_words(self.model.vocabulary)
        for part in parts(range(len(seen)), 32):
            state = self.model.decoder.begin(seen[list(part)].to(self.device))
            for hypotheses in decoding.beam(self.model, state, beam, length_penalty=length_penalty, once=once):
                yield self.model.vocabulary.decode(hypotheses[0].tokens)

    def config(self, figures: dict[str, dict[str, float]]) -> dict[str, object]:
        """The checkpoint's configuration."""
        s = self.settings
        return {
            "kind": "captioner",
            "version": 2,
            "hidden": s.hidden,
            "decoding": {"beam": s.beam, "length_penalty": s.length_penalty},
            "settings": asdict(s),
            "train_images": len(self.corpus.photographs),
            "train_texts": len(self.corpus.texts),
            "figures": figures,
            "vocabulary": list(self.model.vocabulary.words),
        }


def figures_of(said: Sequence[Sequence[str]], subjects: Sequence[Subject]) -> dict[str, float]:
    """Caption metrics where there are references, CHAIR and class recall where there are boxes, length and variety."""
    referred = [n for n, subject in enumerate(subjects) if subject.tokens]
    boxed = [n for n, subject in enumerate(subjects) if subject.boxed]
    found: dict[str, float] = {"images": len(subjects), "captioned": len(referred)}
    if referred:
        found |= metrics.evaluate([said[n] for n in referred], [subjects[n].tokens for n in referred])
    if boxed:
        truth = metrics.chair([said[n] for n in boxed], [subjects[n].classes for n in boxed])
        found |= {name: summary.mean for name, summary in truth.items() if summary.n}
    found["length"] = float(np.mean([len(words) for words in said]))
    return {**found, "distinct": len(set(map(tuple, said))) / max(1, len(said))}

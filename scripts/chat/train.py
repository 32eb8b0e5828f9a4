"""Train the chat model: `saywhy train chat --data flickr8k:PATH --data cocoqa:PATH --trunk DIR --out runs/chat`.

Two stages, each resumable: `texts` (the language model on captions and questions alone, without an image) and `images`
(the projector as well, on photographs; a tenth of the batches stay without one). The trunk stays as it is. Of
photographs that it was trained on the maps come from trunks that never saw them, where its run's folder has these.
Weights are averaged over steps; the last epoch is kept.
"""

import os
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.files import write_json
from common.networks import hub
from common.training.batches import parts
from common.training.loop import Stage, seed_everything, train
from common.training.run import Run
from common.training.summaries import Summaries
from common.training.trunks import trunk_stem
from scripts.chat.build import build, look_at_evidence
from scripts.chat.corpus import PROMPT, Corpus, Said, counts, drawn
from scripts.chat.maps import read_folds, token_store
from scripts.chat.packed import Pack, Packer, states
from scripts.chat.settings import Settings

MODEL = "model"  # the folder of the finished model in a run's folder
ROW = 12  # texts without an image in a row
WATCHED = 250  # photographs whose captions are watched
Batch = tuple[Pack, Tensor | None]


def train_chat(
    data: Sequence[str],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    device: str | torch.device = "cpu",
    restart: bool = False,
    limit: int | None = None,
    features: str | os.PathLike[str] | None = None,
    trunk: str | os.PathLike[str] | None = None,
) -> Path:
    """Train on the captions and questions named in `data`; returns the model's folder in folder `out`.

    `trunk` is a trunk's run or checkpoint (default: the shipped one); `features` names a folder for the image tokens,
    200 KB a photograph (default: in `out`). A run that was interrupted goes on where it stopped.
    """
    settings = settings or Settings()
    summaries = Summaries.open(trunk, features or Path(out) / "features", device)
    kinds = sorted(text.partition(":")[0] for text in data)
    run = Run(out, {**asdict(settings), "limit": limit, "sets": kinds, "trunk": summaries.trunk.fingerprint}, restart)
    corpus = Corpus.read(data, settings.alike, limit)
    training = Training(corpus, settings, summaries, trunk_stem(trunk).parent)
    train(training.stages(), training.trained, run, settings.seed)
    return training.save(Path(out) / MODEL)


class Training:
    """The model, its batches and its two stages."""

    def __init__(self, corpus: Corpus, settings: Settings, summaries: Summaries, folder: Path):
        self.corpus, self.settings, self.device = corpus, settings, summaries.device
        seed_everything(settings.seed)
        texts = (text for said in corpus.all_texts() for text in (f" {said.prompt}", f" {said.reply}"))
        self.model, self.processor = build(summaries.trunk, texts, settings)
        self.packer = Packer(self.processor.tokenizer, self.model.config.image_seq_length)
        folds = read_folds(folder, summaries.trunk)
        self.store = token_store(self.model, self.processor, summaries, corpus.photographs, folds)
        look_at_evidence(self.model, summaries.trunk, self.tokens(list(corpus.files)[:64]).flatten(0, 1).cpu())
        self.model.to(self.device)
        inner = self.model.model
        self.trained = nn.ModuleDict({"projector": inner.multi_modal_projector, "language": inner.language_model})
        self.alone = [self.packer.ids(said) for said in corpus.all_texts()]

    def tokens(self, ids: Sequence[str]) -> Tensor:
        """The image tokens of some photographs, before the projector (n,N,K)."""
        return torch.from_numpy(self.store.read(self.store.rows(ids))).float().to(self.device)

    def stages(self) -> list[Stage]:
        s, language = self.settings, list(self.trained["language"].parameters())
        alone = -(-len(self.alone) // (ROW * s.batch))
        seen = -(-len(self.corpus.files) // s.batch)
        make = partial(Stage, loss=self.loss, evaluate=self.watched, weight_decay=s.weight_decay, average=s.average)
        return [
            make("texts", s.text_epochs, alone, lambda: [{"params": language, "lr": s.text_rate}], self.texts),
            make("images", s.image_epochs, seen + round(s.blind * seen), self.parameters, self.images),
        ]

    def parameters(self) -> list[dict[str, Any]]:
        return [{"params": list(self.trained.parameters()), "lr": self.settings.image_rate}]

    def texts(self, seed: int) -> Iterator[Batch]:
        """Every text once, in random order, without an image."""
        order = random.Random(seed).sample(self.alone, len(self.alone))
        for some in parts(order, ROW * self.settings.batch):
            yield self.packer.pack(list(parts(some, ROW)), image=False), None

    def images(self, seed: int) -> Iterator[Batch]:
        """Every photograph once, in random order, with some of its texts; between them rows without an image."""
        s, rng = self.settings, random.Random(seed)
        seen = list(parts(rng.sample(list(self.corpus.files), len(self.corpus.files)), s.batch))
        batches = [*seen, *[[]] * round(s.blind * len(seen))]
        for ids in rng.sample(batches, len(batches)):
            yield self.of_photographs(ids, rng) if ids else self.without(rng)

    def of_photographs(self, ids: Sequence[str], rng: random.Random) -> Batch:
        rows = [[self.packer.ids(said) for said in drawn(self.corpus.texts[i], self.settings.texts, rng)] for i in ids]
        return self.packer.pack(rows, image=True), self.tokens(ids)

    def without(self, rng: random.Random) -> Batch:
        rows = [rng.sample(self.alone, min(ROW, len(self.alone))) for _ in range(self.settings.batch)]
        return self.packer.pack(rows, image=False), None

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the replies' tokens, weighted as the pack says."""
        pack, tokens = batch
        pack = pack.on(self.device)
        if tokens is not None:
            tokens = F.dropout1d(tokens.transpose(1, 2), self.settings.image_dropout).transpose(1, 2)
        each = F.cross_entropy(self.logits(pack, tokens), pack.told, reduction="none")
        weights = pack.weights[pack.following >= 0]
        return (each * weights).sum() / weights.sum(), {}

    def logits(self, pack: Pack, tokens: Tensor | None) -> Tensor:
        """(tokens that something is to follow, vocabulary), float32."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return F.linear(states(self.model, pack, tokens), self.model.lm_head.weight).float()

    @torch.no_grad()
    def watched(self) -> dict[str, float]:
        """Loss of captions of validation photographs, and the share of answers that are right to the last token."""
        captions = [(s.image_id, Said(PROMPT, " ".join(s.tokens[0]))) for s in self.corpus.dev[:WATCHED]]
        figures = {"val_captions_loss": self._mean(captions, exact=False)} if captions else {}
        asked: dict[str, list[tuple[str, Said]]] = defaultdict(list)
        for q in self.corpus.val:
            if len(asked[q.source]) < 2 * WATCHED and q.answer.strip():
                asked[q.source].append((q.image_id, Said(q.text, q.answer)))
        return {**figures, **{f"val_{source}": self._mean(some, exact=True) for source, some in asked.items()}}

    def _mean(self, some: Sequence[tuple[str, Said]], exact: bool) -> float:
        """Mean over texts of their loss a token, or of whether every token is the likeliest."""
        found: list[float] = []
        for part in parts(some, 2 * self.settings.batch):
            pack = self.packer.pack([[self.packer.ids(said)] for _, said in part], image=True).on(self.device)
            logits = self.logits(pack, self.tokens([image_id for image_id, _ in part]))
            right = (logits.argmax(-1) == pack.told).float()
            each = right if exact else F.cross_entropy(logits, pack.told, reduction="none")
            sizes = (pack.following >= 0).sum(1).tolist()
            found += [float(values.min() if exact else values.mean()) for values in each.split(sizes)]
        return sum(found) / len(found)

    def save(self, folder: Path) -> Path:
        """Write the model and its processor, as plain `transformers` reads them, and what it was trained on."""
        with hub.quiet(str(folder)):
            self.model.save_pretrained(folder)
            self.processor.save_pretrained(folder)
        write_json(folder / "training.json", {"settings": asdict(self.settings), **counts(self.corpus)})
        return folder

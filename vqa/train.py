"""Train the VQA model: `saywhy train vqa --data derived:PATH --data cocoqa:PATH --data vqa2:PATH --out runs/vqa`.

The trunk's early blocks stay as they are: their output, for a few views of each photograph, is stored once.
Three stages, each resumable: `evidence` (the late blocks learn which words are true of an image), `answers`
(soft cross-entropy over the answers, late blocks and head together), `head` (the head alone, on each image's
summary). Weights are averaged over steps. The last epoch is kept: no epoch is chosen by the validation questions,
and no question about one of their images is trained on. The same head is trained without the image as well:
the language-only baseline.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioning.batches import store_features
from captioning.trunk import fingerprint
from common.checkpoints import save_checkpoint
from common.errors import UserError
from common.training import Run, Stage, seed_everything, seed_of, train
from data import flickr8k
from data.coco_images import validation_ids
from data.features import FeatureStore
from data.question import Question, held_out
from data.question_sets import QuestionSet
from data.vocabulary import Vocabulary, tokenize
from vqa import trunk as trunks
from vqa.batches import Batch, Loader, Picture, answer_vocabulary, evidence_vocabulary, words_shown
from vqa.metrics import by_kind, commonest_answer, commonest_per_kind
from vqa.model import VqaModel


@dataclass(frozen=True)
class Settings:
    """All that a training depends on besides the data; the defaults are the shipped checkpoint's."""

    trunk: str = "efficientnet_lite0"
    train_blocks: int | None = 5  # train the trunk from this block on; None: not at all
    views: int = 1
    embedding: int = 128
    hidden: int = 256
    joint: int = 512
    evidence_words: int = 0
    minimum_count: int = 2
    minimum_answers: int = 2
    batch: int = 32
    per_image: int = 5
    human_times: float = 2.0  # how often an epoch shows an image with questions that people wrote
    derived_times: float = 0.5  # and one with derived questions only
    derived_weight: float = 0.5  # weight of a derived question, beside 1
    dropout: float = 0.5
    word_dropout: float = 0.1
    feature_dropout: float = 0.2
    label_smoothing: float = 0.05
    absent_weight: float = 0.2  # of a word not known to be true, where an image has no captions
    evidence_epochs: int = 0
    answer_epochs: int = 0
    head_epochs: int = 10
    blind_epochs: int = 6
    trunk_rate: float = 2e-4
    answer_trunk_rate: float = 1e-4
    head_rate: float = 1e-3
    evidence_weight: float = 0.01
    weight_decay: float = 0.02
    average: float = 0.999  # decay of the moving average of the weights
    head_batch: int = 48  # images in a batch of the head stage
    head_average: float = 0.995
    seed: int = 1


EASY = Settings(
    trunk=trunks.SMALL,
    views=1,
    embedding=64,
    hidden=96,
    joint=256,
    evidence_words=0,
    batch=32,
    per_image=6,
    human_times=1.0,
    dropout=0.2,
    word_dropout=0.0,
    feature_dropout=0.0,
    label_smoothing=0.0,
    evidence_epochs=0,
    answer_epochs=14,
    head_epochs=0,
    blind_epochs=1,
    answer_trunk_rate=2e-3,
    head_rate=2e-3,
    average=0.97,
)
"""Settings for easy-VQA, whose own small CNN is trained from nothing."""


def train_vqa(
    data: Sequence[str],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
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
    training = Training(sets, Path(features or Path(out) / "features"), settings, limit)
    blind = Run(Path(out) / "blind", run.settings, fresh=restart)
    baselines = training.baselines(blind)
    train(training.stages(), training.model, run, settings.seed)
    figures = training.figures(training.predict(training.validation))
    run.log({"final": True, **{f"{kind}": row["all"] for kind, row in figures.items()}})
    return save_checkpoint(
        Path(out) / "vqa", training.model.state_dict(), training.config(figures, baselines)
    )


def settings_for(data: Sequence[str]) -> Settings:
    """The recipe for the sets named in `data`: easy-VQA alone has one of its own."""
    return EASY if {text.partition(":")[0] for text in data} == {"easyvqa"} else Settings()


class Training:
    """The model, the data and the stages' losses."""

    def __init__(
        self, sets: Sequence[QuestionSet], stores: Path, settings: Settings, limit: int | None = None
    ):
        self.settings, self.stores, self.sets, self.limit = settings, stores, list(sets), limit
        seed_everything(settings.seed)
        validation = [question for s in sets for question in s.read("val")]
        kept_out = {question.image_id for question in validation}.union(*(_coco_validation(s) for s in sets))
        self.train = _limited(held_out([q for s in sets for q in s.read("train")], kept_out), limit)
        self.val = _limited(validation, limit)
        if not self.train:
            raise UserError("no training question is left; every image is kept for validation")
        self.trunk = trunks.load(settings.trunk, seed=settings.seed)
        self.vocabulary = Vocabulary.build((tokenize(q.text) for q in self.train), settings.minimum_count)
        self.answers = answer_vocabulary(self.train, settings.minimum_answers)
        shown = _shown(self.train, self.sets)
        self.words = evidence_vocabulary({i: c for i, (c, _) in shown.items()}, settings.evidence_words)
        self.model = self.new_model()
        self.front, self.tail = self.trunk.split(settings.train_blocks)
        for parameter in self.model.trunk.parameters():
            parameter.requires_grad_(False)
        self.training = self._loader(self.train, "train", settings.views, shown)
        self.validation = self._loader(self.val, "val", 1, {})
        few = [q for q in self.val if q.source not in ("derived", "easyvqa") or seed_of(q.image_id) % 5 == 0]
        self.quick = self._loader(few or self.val, "val", 1, {}, self.validation)
        if self.model.image.evidence is not None:
            base = self.training.evidence.mean(0).clamp(1e-4, 1 - 1e-4)
            cast(Tensor, self.model.image.evidence.bias).data.copy_(base.logit())

    def new_model(self) -> VqaModel:
        s = self.settings
        seed_everything(s.seed)
        own = self.trunk.classifier
        model = VqaModel(
            self.trunk.module,
            self.vocabulary,
            self.answers,
            self.trunk.channels,
            evidence_words=self.words,
            classes=own.out_features if own is not None else 0,
            embedding=s.embedding,
            hidden=s.hidden,
            joint=s.joint,
            dropout=s.dropout,
            word_dropout=s.word_dropout,
            trunk_features=self.trunk.features,
        ).to(memory_format=torch.channels_last)
        if own is not None and model.image.classes is not None:
            model.image.classes.load_state_dict(own.state_dict())
        return model

    def _loader(
        self,
        questions: Sequence[Question],
        split: str,
        views: int,
        shown: dict[str, tuple],
        like: Loader | None = None,
    ) -> Loader:
        s = self.settings
        families = {} if like else _families(questions)
        pictures = list(like.pictures) if like else []
        for name, group in families.items():
            pictures += self._stored(name, group, split, views)
        human = {q.image_id for q in questions if q.source != "derived"}
        times = [s.human_times if picture.image_id in human else s.derived_times for picture, _ in pictures]
        index = {word: i for i, word in enumerate(self.words)}
        evidence = torch.zeros(len(pictures), len(index))
        absent = torch.ones(len(pictures))
        for row, (picture, _) in enumerate(pictures):
            told, complete = shown.get(picture.image_id, ({}, False))
            absent[row] = 1.0 if complete else s.absent_weight
            for word in told.keys() & index.keys():
                evidence[row, index[word]] = told[word]
        return Loader(
            pictures,
            questions,
            self.vocabulary,
            self.model.answer_index,
            evidence,
            absent,
            s.batch,
            s.per_image,
            {"derived": s.derived_weight},
            times if split == "train" else None,
        )

    def _stored(
        self, family: str, questions: Sequence[Question], split: str, views: int
    ) -> list[tuple[Picture, FeatureStore]]:
        """The family's images with their feature store, which the captioner's training of the same images shares."""
        pictures = list({q.image_id: Picture(q.image.name, q.image, q.image_id) for q in questions}.values())
        if family == "flickr8k" and self.limit is None:
            pictures = [
                Picture(image.name, image.path, f"flickr8k:{image.path.stem}")
                for s in self.sets
                if s.kind == "derived"
                for image in flickr8k.read(s.path, "train" if split == "train" else "dev")
            ]
        else:
            pictures.sort(key=lambda picture: picture.name)
        key = fingerprint(
            self.trunk.module, self.trunk.preprocessing, self.front.blocks, self.trunk.layer, views
        )
        name = {"train": "train", "val": "dev"}[split] if family == "flickr8k" else f"{family}-{split}"
        store = store_features(
            self.stores / f"{name}-{key}-{len(pictures)}.h5",
            cast(Any, pictures),
            self.front,
            lambda path: self.trunk.preprocessing(path)[0],
            views,
            key,
            _progress(f"features of {split} images ({family})"),
        )
        return [(picture, store) for picture in pictures]

    def stages(self) -> list[Stage]:
        s, model = self.settings, self.model
        tail = self.tail.trained()
        evidence = list(model.image.evidence.parameters()) if model.image.evidence is not None else []
        rest = [
            p
            for n, p in model.named_parameters()
            if not n.startswith(("trunk.", "image.evidence.", "image.classes."))
        ]
        common: dict[str, Any] = {
            "steps": self.training.steps,
            "batches": self.training.epoch,
            "mode": self.mode,
            "weight_decay": s.weight_decay,
            "average": s.average,
            "warmup": min(100, self.training.steps),
        }
        stages = (
            []
            if not s.answer_epochs
            else [
                Stage(
                    "answers",
                    s.answer_epochs,
                    parameters=self._groups((tail, s.answer_trunk_rate), ([*evidence, *rest], s.head_rate)),
                    loss=self.answer_loss,
                    evaluate=self.quick_figures,
                    **common,
                )
            ]
        )
        if s.evidence_epochs and evidence:
            stages.insert(
                0,
                Stage(
                    "evidence",
                    s.evidence_epochs,
                    parameters=self._groups((tail, s.trunk_rate), (evidence, s.head_rate)),
                    loss=self.evidence_loss,
                    **common,
                ),
            )
        if s.head_epochs:
            stages.append(
                Stage(
                    "head",
                    s.head_epochs,
                    parameters=self._groups((rest, s.head_rate)),
                    loss=self.answer_loss,
                    evaluate=self.quick_figures,
                    **{
                        **common,
                        "steps": -(-len(self.training.order(0)) // s.head_batch),
                        "batches": self.summarised,
                        "average": s.head_average,
                    },
                )
            )
        return stages

    def summarised(self, seed: int) -> Iterator[Batch]:
        """An epoch of the head stage: the trunk stays as it is, so each image's summary is computed once.

        Images with questions that people wrote keep two views (as they are, and mirrored), the others one.
        """
        if self.training.summaries is None:
            human = {q.image_id for q in self.train if q.source != "derived"}
            mode = self.model.training
            self.model.eval()
            with torch.no_grad():
                for loader, views in ((self.training, min(2, self.settings.views)), (self.quick, 1)):
                    loader.summarise(
                        lambda stored: torch.cat(self.encode(stored), 1),
                        lambda picture, views=views: views if picture.image_id in human else 1,  # type: ignore[misc]
                    )
            self.model.train(mode)
            self.mode()
        return self.training.epoch(seed, batch=self.settings.head_batch)

    def _groups(self, *pairs: tuple[list, float]) -> Callable[[], list[dict[str, Any]]]:
        def make() -> list[dict[str, Any]]:
            chosen = {id(p) for parameters, _ in pairs for p in parameters}
            for parameter in self.model.parameters():
                parameter.requires_grad_(id(parameter) in chosen)
            return [{"params": parameters, "lr": rate} for parameters, rate in pairs if parameters]

        return make

    def mode(self) -> None:
        """Train mode; a pretrained trunk keeps its batch norms as they were trained on ImageNet."""
        self.model.train()
        if self.settings.trunk != trunks.SMALL:
            self.model.trunk.eval()

    def encode(self, stored: Tensor) -> tuple[Tensor, Tensor]:
        """Stored features (or summaries) -> the mean of the map (B,K) and the pooled evidence (B,E)."""
        if stored.dim() == 2:
            return stored[:, : self.trunk.channels], stored[:, self.trunk.channels :]
        maps = F.dropout2d(self.tail(stored), self.settings.feature_dropout, self.model.training)
        return maps.mean((2, 3)), self.model.image.pooled_evidence(maps)

    def evidence_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Binary cross-entropy of the evidence words, summed over words, averaged over images."""
        return evidence_entropy(self.encode(batch.features)[1], batch.evidence, batch.absent), {}

    def answer_loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy with the answers' shares, with a share of the evidence loss."""
        mean, evidence = self.encode(batch.features)
        answers = weighted_entropy(
            scores(self.model, mean, evidence, batch), batch, self.settings.label_smoothing
        )
        if not self.words or batch.features.dim() == 2:
            return answers, {}
        seen = evidence_entropy(evidence, batch.evidence, batch.absent)
        return answers + self.settings.evidence_weight * seen, {
            "answers": answers.item(),
            "evidence": seen.item(),
        }

    def baselines(self, run: Run) -> dict[str, Any]:
        """Figures of the commonest answer, the commonest of each question type, and the model without the image."""
        found = {}
        sources = sorted({q.source for q in self.val})
        for name, make in (("commonest", commonest_answer), ("commonest_of_type", commonest_per_kind)):
            say = {source: make([q for q in self.train if q.source == source]) for source in sources}
            found[name] = self.figures([say[q.source](q) for q in self.val])
        model = self.new_model()
        parameters = [p for n, p in model.named_parameters() if not n.startswith(("trunk.", "image."))]
        size = self.settings.head_batch if self.settings.head_epochs else self.settings.batch

        def loss(batch: Batch) -> tuple[Tensor, dict[str, float]]:
            found = blind_scores(model, batch.tokens)
            return weighted_entropy(found, batch, self.settings.label_smoothing), {}

        def mode() -> None:
            model.train()
            model.trunk.eval()

        steps = -(-len(self.training.order(0)) // size)
        stage = Stage(
            "without the image",
            self.settings.blind_epochs,
            steps,
            lambda: [{"params": parameters, "lr": self.settings.head_rate}],
            lambda seed: self.training.epoch(seed, look=False, batch=size),
            loss,
            weight_decay=self.settings.weight_decay,
            average=self.settings.head_average,
            warmup=min(100, steps),
            mode=mode,
        )
        train([stage], _Head(model), run, self.settings.seed)
        found["without_image"] = self.figures(self.predict(self.validation, model, look=False))
        return found

    @torch.no_grad()
    def predict(self, loader: Loader, model: VqaModel | None = None, look: bool = True) -> list[str]:
        """The likeliest answer to each of the loader's questions, in their order."""
        model = model or self.model
        model.eval()
        found = [""] * len(loader.questions)
        for features, numbers, tokens, image in loader.plain(look):
            if look:
                seen = model.image.join(*self.encode(features))[image]
                scored = model.answer_scores(seen, model.question(tokens))
            else:
                scored = blind_scores(model, tokens)
            for number, answer in zip(numbers, scored.argmax(1).tolist(), strict=True):
                found[number] = model.answers[answer]
        return found

    def figures(
        self, predictions: Sequence[str], questions: Sequence[Question] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Set -> question type -> accuracy, standard error and n over the validation questions."""
        pairs = list(zip(predictions, self.val if questions is None else questions, strict=True))
        sources = list(dict.fromkeys(q.source for _, q in pairs))
        return {
            source: by_kind(
                [p for p, q in pairs if q.source == source], [q for _, q in pairs if q.source == source]
            )
            for source in sources
        }

    def quick_figures(self) -> dict[str, float]:
        """Accuracy on the questions that people wrote and on the derived ones about a fifth of the images."""
        found = self.figures(self.predict(self.quick), self.quick.questions)
        return {f"val_{source}": round(float(row["all"]["accuracy"]), 4) for source, row in found.items()}

    def config(self, figures: dict[str, Any], baselines: dict[str, Any]) -> dict[str, Any]:
        """What the checkpoint's JSON says: everything that loading it needs, settings and figures."""
        s = self.settings
        return {
            "kind": "vqa",
            "version": 1,
            "trunk": s.trunk,
            "trunk_source": self.trunk.source,
            "layer": self.trunk.layer_name,
            "preprocessing": self.trunk.preprocessing.to_dict(),
            "embedding": s.embedding,
            "hidden": s.hidden,
            "joint": s.joint,
            "classes": self.model.image.classes.out_features if self.model.image.classes is not None else 0,
            "settings": asdict(s),
            "figures": figures,
            "baselines": baselines,
            "trained_on": dict(Counter(q.source for q in self.train)),
            "validated_on": dict(Counter(q.source for q in self.val)),
            "evidence_words": self.words,
            "answers": list(self.model.answers),
            "vocabulary": list(self.vocabulary.words),
        }


class _Head(nn.Module):
    """The parts of a model that hear the question, so that a baseline's state is small."""

    def __init__(self, model: VqaModel):
        super().__init__()
        self.question, self.query, self.classifier = model.question, model.query, model.classifier


def blind_scores(model: VqaModel, tokens: Tensor) -> Tensor:
    """Answer scores (Q,N) of the same model without the image: ones stand in its place in the product."""
    questions, which = tokens.unique(dim=0, return_inverse=True)
    asked = model.question(questions)[which]
    return model.answer_scores(asked.new_ones(len(asked), model.query.out_features), asked)


def scores(model: VqaModel, mean: Tensor, evidence: Tensor, batch: Batch) -> Tensor:
    """Answer scores (Q,N) of a batch; a question asked several times is read once."""
    questions, which = batch.tokens.unique(dim=0, return_inverse=True)
    seen = model.image.join(mean, evidence)[batch.image]
    return model.answer_scores(seen, model.question(questions)[which])


def weighted_entropy(logits: Tensor, batch: Batch, smoothing: float) -> Tensor:
    """Cross-entropy of answer scores (Q,N) with targets (Q,N), averaged with the questions' weights."""
    each = F.cross_entropy(logits, batch.targets, reduction="none", label_smoothing=smoothing)
    return (each * batch.weights).sum() / batch.weights.sum()


def evidence_entropy(evidence: Tensor, targets: Tensor, absent: Tensor) -> Tensor:
    """Binary cross-entropy of evidence (B,E) with targets in [0,1]; words not shown count by `absent` (B,)."""
    each = F.binary_cross_entropy_with_logits(evidence, targets, reduction="none")
    return (each * torch.where(targets > 0, 1.0, absent[:, None])).sum() / len(evidence)


def _shown(
    questions: Sequence[Question], sets: Sequence[QuestionSet]
) -> dict[str, tuple[Counter[str], bool]]:
    """Image -> words true of it (with a share in [0, 1]), and whether a word that is not there counts as untrue."""
    found: dict[str, tuple[Counter[str], bool]] = {}
    for s in sets:
        if s.kind == "derived":
            for image in flickr8k.read(s.path, "train"):
                told = Counter(word for tokens in image.tokens for word in set(tokens))
                shares = Counter({w: n / len(image.captions) for w, n in told.items()})  # type: ignore[misc]
                found[f"flickr8k:{image.path.stem}"] = ({w: shares[w] for w in _content(shares)}, True)  # type: ignore[assignment]
    for question in questions:
        words, complete = found.setdefault(question.image_id, (Counter(), False))
        if not complete:
            words.update(dict.fromkeys(words_shown(question) - words.keys(), 1))
    return found


def _content(words: Counter[str]) -> set[str]:
    from captioning.batches import FUNCTION_WORDS

    return {w for w in words if w not in FUNCTION_WORDS}


def _coco_validation(questions: QuestionSet) -> set[str]:
    return validation_ids(questions.path) if questions.kind in ("vqa", "vqa2", "cocoqa") else set()


def _families(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Questions by the collection their images are from: each has a feature store of its own."""
    found: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        found[question.image_id.partition(":")[0]].append(question)
    return dict(found)


def _limited(questions: list[Question], limit: int | None) -> list[Question]:
    """The questions about the first `limit` images of each set."""
    if limit is None:
        return questions
    first: dict[str, set[str]] = defaultdict(set)
    kept = []
    for question in questions:
        images = first[question.source]
        if question.image_id in images or len(images) < limit:
            images.add(question.image_id)
            kept.append(question)
    return kept


def _progress(what: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        if done == total or done % 480 == 0:
            print(f"{what}: {done}/{total}", flush=True)

    return show

"""What the VQA model is compared with: the commonest answers, and the same head without the image."""

from collections.abc import Sequence

from torch import Tensor

from common.training.loop import Stage, train
from common.training.run import Run
from data.records import Question
from vqa.checkpoint import Model
from vqa.metrics import commonest_answer, commonest_per_kind
from vqa.training.batches import Batch, Loader
from vqa.training.losses import scores, weighted_entropy
from vqa.training.settings import Settings


def commonest(train: Sequence[Question], val: Sequence[Question]) -> dict[str, list[str]]:
    """Predictions for `val`: its set's commonest training answer, and the commonest of the question's type."""
    found = {}
    sources = sorted({q.source for q in val})
    for name, make in (("commonest", commonest_answer), ("commonest_of_type", commonest_per_kind)):
        say = {source: make([q for q in train if q.source == source]) for source in sources}
        found[name] = [say[q.source](q) for q in val]
    return found


def train_blind(model: Model, loader: Loader, settings: Settings, run: Run) -> None:
    """Train the parts of `model` that hear the question, without any image: the language-only baseline."""
    hearing = model.hearing
    steps = loader.steps

    def loss(batch: Batch) -> tuple[Tensor, dict[str, float]]:
        return weighted_entropy(scores(model, batch), batch, settings.label_smoothing), {}

    def mode() -> None:
        model.train()
        model.trunk.eval()

    stage = Stage(
        "without the image",
        settings.blind_epochs,
        steps,
        lambda: [{"params": list(hearing.parameters()), "lr": settings.head_rate}],
        lambda seed: loader.epoch(seed, look=False),
        loss,
        weight_decay=settings.weight_decay,
        average=settings.average,
        warmup=min(50, steps),
        mode=mode,
    )
    train([stage], hearing, run, settings.seed)

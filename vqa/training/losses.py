"""Scores and losses of a batch of questions.

Letters: Q questions, L tokens, N answers, E concepts, C of them counted.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vqa.checkpoint import Model
from vqa.training.batches import Batch, Loader


def scores(model: Model, batch: Batch) -> Tensor:
    """Answer scores (Q,N) of a batch; of the question alone where it has no images."""
    asked = model.question(batch.tokens)
    return model.blind_scores(asked) if batch.summary is None else model.answer_scores(batch.summary, asked)


def told_less(summary: Tensor, typical: Tensor, share: float) -> Tensor:
    """Summaries (Q,E+C) that say of a `share` of what they tell what is so of no image in particular (E+C)."""
    return torch.where(torch.rand_like(summary) < share, typical, summary)


def weighted_entropy(logits: Tensor, batch: Batch, smoothing: float) -> Tensor:
    """Cross-entropy of answer scores (Q,N) with targets (Q,N), averaged with the questions' weights."""
    each = F.cross_entropy(logits, batch.targets, reduction="none", label_smoothing=smoothing)
    return (each * batch.weights).sum() / batch.weights.sum()


@torch.no_grad()
def likeliest(model: Model, loader: Loader, look: bool = True) -> list[str]:
    """The likeliest answer to each of the loader's questions, in their order, with the images or without."""
    model.eval()
    found = [number for batch in loader.plain(look) for number in scores(model, batch).argmax(1).tolist()]
    return [model.answers[number] for number in found]

"""Scores and losses of a batch of questions.

Letters: B images, Q questions, L tokens, N answers, K channels, E evidence words.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from vqa.model import VqaModel
from vqa.training.batches import Batch, Loader


def scores(model: VqaModel, mean: Tensor, evidence: Tensor, tokens: Tensor, image: Tensor) -> Tensor:
    """Answer scores (Q,N) from images' means (B,K) and evidence (B,E), questions (Q,L) and the image of each (Q,).

    A question asked several times is read once.
    """
    questions, which = tokens.unique(dim=0, return_inverse=True)
    seen = model.image.join(mean, evidence)[image]
    return model.answer_scores(seen, model.question(questions)[which])


def blind_scores(model: VqaModel, tokens: Tensor) -> Tensor:
    """Answer scores (Q,N) of the same model without the image: ones stand in its place in the product."""
    questions, which = tokens.unique(dim=0, return_inverse=True)
    asked = model.question(questions)[which]
    return model.answer_scores(asked.new_ones(len(asked), model.query.out_features), asked)


def weighted_entropy(logits: Tensor, batch: Batch, smoothing: float) -> Tensor:
    """Cross-entropy of answer scores (Q,N) with targets (Q,N), averaged with the questions' weights."""
    each = F.cross_entropy(logits, batch.targets, reduction="none", label_smoothing=smoothing)
    return (each * batch.weights).sum() / batch.weights.sum()


def likeliest(model: VqaModel, loader: Loader, scored: Callable[[Batch], Tensor], look: bool = True) -> list[str]:
    """The likeliest answer to each of the loader's questions, in their order; `scored` gives a batch's scores (Q,N)."""
    found = [""] * len(loader.examples)
    for batch in loader.plain(look):
        for number, answer in zip(batch.questions, scored(batch).argmax(1).tolist(), strict=True):
            found[number] = model.answers[answer]
    return found

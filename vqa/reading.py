"""What the evidence says outright of each answer, as far as a question asks for it: things, yes or no, numbers.

Letters: B images or questions, E concepts, C of them counted, N answers, Y answers that are numbers, S states.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqa.concepts import answer_concepts

LARGEST = 10  # number that is an answer by itself
FEW = 0.1  # added to an expected number before its logarithm
DROPOUT = 0.2  # of the states that gates are read off
GATES = ("own", "yes", "number", "counting", "named_own", "named")


class EvidenceReader(nn.Module):
    """Summaries (B,E+C), questions' states (B,S) and the concepts asked about (B,E) -> scores (B,N).

    They are a sum of four parts:
    * own: each answer's own evidence, a linear function of the summary that starts at the concept with its name;
      `trust` says how far the question asks for a thing to be seen ('what is on the plate?').
    * named: the same for answers that the question itself names ('a cat or a dog?').
    * yes and no: the evidence above a threshold, of the concepts that the question asks about.
    * numbers: what the expected number of the things asked about, its logarithm and their evidence say of each number.
    Each part has a gate that is read off the question's states. A question that asks to count is answered by its
    numbers: as far as it does (`counting`), nothing else is told of the image.
    """

    names: Tensor
    numbers: Tensor
    values: Tensor
    agreeing: Tensor

    def __init__(self, answers: Sequence[str], concepts: Sequence[str], counted: int, width: int):
        super().__init__()
        self.sizes = (len(concepts), counted)
        index = {answer: number for number, answer in enumerate(answers)}
        values = [value for value in range(LARGEST + 1) if str(value) in index]
        self.register_buffer("names", answer_concepts(answers, concepts, counted))
        self.register_buffer("numbers", torch.tensor([index[str(v)] for v in values], dtype=torch.long), False)
        self.register_buffer("agreeing", _signs(index), False)
        self.own = nn.Linear(sum(self.sizes), len(answers))
        self.threshold = nn.Parameter(torch.ones(len(concepts)))
        self.gates = nn.Linear(width, len(GATES))
        self.leaning = nn.Linear(width, 1)  # to yes, whatever is seen
        self.counts = nn.Parameter(torch.zeros(counted))  # logarithm of what one thing of a class counts
        count = torch.tensor(values, dtype=torch.float)
        slopes = torch.stack([count, torch.zeros_like(count), torch.zeros_like(count)])  # Poisson's at first
        self.slopes = nn.Parameter(slopes)
        self.offsets = nn.Parameter(-0.6 * count - torch.lgamma(count + 1))
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        weight = torch.cat([self.shares(), torch.zeros(len(self.names), self.sizes[1])], 1)
        self.own.weight.copy_(weight)
        self.own.bias.copy_(torch.where(weight.any(1), 0.0, UNSEEN))
        for layer in (self.gates, self.leaning):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.gates.bias.copy_(torch.tensor([0.3, 0.5, 0.5, 0.0, 0.0, 0.0]))

    def shares(self) -> Tensor:
        """(N,E): 1 at an answer's concept, halves where it has two."""
        found = torch.zeros(len(self.names), self.sizes[0] + 1)
        found.scatter_add_(1, self.names.long(), torch.ones(self.names.shape))
        found = found[:, :-1]
        return found / found.sum(1, keepdim=True).clamp(min=1)

    def own_evidence(self, summary: Tensor) -> Tensor:
        """(B,N): each answer's own evidence."""
        logits, counts = summary.split(self.sizes, -1)
        return F.linear(torch.cat([logits, log_counts(counts)], -1), self.own.weight, self.own.bias)

    def forward(self, summary: Tensor, states: Tensor, concepts: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,N), and how far each question is to be answered by counting (B,), in [0, 1]."""
        logits, counts = summary.split(self.sizes, -1)
        states = F.dropout(states, DROPOUT, self.training)
        gates = dict(zip(GATES, self.gates(states).unbind(-1), strict=True))
        about = concepts[:, : self.sizes[1]].clamp(min=0)
        counting = gates["counting"].sigmoid() * about.sum(-1).clamp(max=1)
        named = self._named(concepts)
        trust = gates["own"][:, None] + gates["named_own"][:, None] * named
        scores = (1 - counting)[:, None] * trust * self.own_evidence(summary) + gates["named"][:, None] * named
        yes = gates["yes"] * self.agreement(logits, concepts) + self.leaning(states)[:, 0]
        scores = scores + yes[:, None] * self.agreeing
        if self.sizes[1] and len(self.numbers):
            told = F.softplus(gates["number"])[:, None] * self.told_numbers(logits, counts, about)
            scores = scores.index_add(1, self.numbers, told)
        return scores, counting

    def agreement(self, logits: Tensor, concepts: Tensor) -> Tensor:
        """(B,): by how much the evidence of what is asked about lies above its threshold."""
        return ((logits + self.threshold) * concepts).sum(-1) / concepts.clamp(min=0).sum(-1).clamp(min=1)

    def told_numbers(self, logits: Tensor, counts: Tensor, about: Tensor) -> Tensor:
        """(B,Y): what is said of each number where classes are asked about as far as `about` (B,C) says; 0 for none."""
        total = about.sum(-1)
        shares = about / total.clamp(min=0.5)[:, None]
        expected = (shares * counts * self.counts.exp()).sum(-1)
        seen = (shares * logits[:, : self.sizes[1]]).sum(-1)
        told = (
            torch.stack([(expected + FEW).log(), expected / LARGEST, seen / LARGEST], -1) @ self.slopes + self.offsets
        )
        return (told - told.mean(1, keepdim=True)) * total.clamp(max=1)[:, None]

    def _named(self, concepts: Tensor) -> Tensor:
        """(B,N): how far the question asks about the concepts with an answer's name."""
        none = self.names == self.sizes[0]
        found = F.pad(concepts, (0, 1))[:, self.names.long()]
        return found.sum(-1) / (~none).sum(-1).clamp(min=1)


UNSEEN = -4.0
"""What an answer's own evidence is at first where no concept has its name."""


def log_counts(counts: Tensor) -> Tensor:
    """Expected numbers on a scale like that of logits."""
    return 0.5 * (counts + 0.05).log()


def _signs(index: dict[str, int]) -> Tensor:
    """(N,): 1 for yes, -1 for no, 0 for any other answer."""
    signs = torch.zeros(len(index))
    for answer, sign in (("yes", 1.0), ("no", -1.0)):
        if answer in index:
            signs[index[answer]] = sign
    return signs

"""From answers by name, and contrasts, to targets.

Letters: B images, L tokens, N answers, T targets.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from common.errors import UserError
from common.request import Request, check_contrasts
from common.targets import Contrast
from vqa.metrics import normalise_answer
from vqa.targets import AnswerScore


class AnswerError(UserError):
    """An answer that the model does not have; the message names the nearest ones."""


def answer_request(
    network: Any, questions: Sequence[Any], answers: Sequence[Sequence[Any]], contrasts: Sequence[str]
) -> Request:
    """The targets for a batch of questions, in order: the answers asked for, then 'why each rather than that'.

    Every image has answers of its own, as many as the others. Contrasts are one for all answers, or one for each; an
    answer is not contrasted with itself.
    Raises `AnswerError` for an answer the model does not have.
    """
    if not contrasts:
        return network.request(questions, answers)
    count = len(answers[0])
    check_contrasts(len(contrasts), count, "answers")
    several = list(contrasts) * (count if len(contrasts) == 1 else 1)
    made = network.request(questions, [[*each, *several] for each in answers])
    own, other = made.targets[:count], made.targets[count:]
    pairs = [Contrast(this, that) for this, that in zip(own, other, strict=True)]
    names, rows = [], []
    for row in made.names:
        both = list(zip(row[:count], row[count:], strict=True))
        kept = [i for i, (this, that) in enumerate(both) if this != that]
        names.append([*row[:count], *(f"{both[i][0]} rather than {both[i][1]}" for i in kept)])
        rows.append([*range(count), *(count + i for i in kept)])
    return Request(made.query, [*own, *pairs], names, rows)


def numbered_request(query: Any, numbers: Sequence[Sequence[int]], names: Sequence[str]) -> Request:
    """Targets for a model that scores all its answers `names`, given the numbers of those of each image."""
    columns = list(zip(*numbers, strict=True))
    targets = [
        AnswerScore(column[0], names[column[0]]) if len(set(column)) == 1 else AnswerScore(torch.tensor(column))
        for column in columns
    ]
    return Request(query, list(targets), [[names[number] for number in row] for row in numbers])


def find_answer(answer: str, known: Mapping[str, int]) -> int:
    """The number of an answer in a model's list, whatever its spelling; `AnswerError` names the nearest ones.

    Compared in the official normal form; 'yellow and red' also finds 'red and yellow'.
    """
    if not isinstance(answer, str) or not answer.strip():
        raise AnswerError(f"an answer is a word or a few; received {answer!r}")
    if answer in known:
        return known[answer]
    plain = normalise_answer(answer)
    turned = " and ".join(reversed(plain.split(" and ")))
    for form in (answer.strip().lower(), plain, turned):
        if form in known:
            return known[form]
    raise AnswerError(f"the model has no answer '{answer}' among its {len(known)}; {_near(plain, known)}")


def _near(plain: str, known: Mapping[str, int]) -> str:
    near = difflib.get_close_matches(plain, known, n=5, cutoff=0.55)
    within = [name for name in known if set(plain.split()) & set(name.split())]
    hints = list(dict.fromkeys([*near, *within]))[:6]
    return f"nearest: {', '.join(hints)}" if hints else f"none is near it; among them: {', '.join([*known][:6])}"

"""VQA accuracy by the official formula and normalisation, exact match, and the language-only baselines.

Source: Antol et al., VQA, ICCV 2015, section 4 and the rules at visualqa.org/evaluation; Goyal et al., CVPR 2017.
All accuracies: higher is better, in [0, 1].
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

from common.metrics.grounding import summary
from data.records import Question

ARTICLES = frozenset({"a", "an", "the"})
DIGITS = {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's
there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't
what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def _without_some_apostrophes(word: str) -> Iterable[str]:
    """Every spelling of `word` that lacks at least one of its apostrophes."""
    marks = [index for index, letter in enumerate(word) if letter == "'"]
    for count in range(1, len(marks) + 1):
        for dropped in combinations(marks, count):
            yield "".join(letter for index, letter in enumerate(word) if index not in dropped)


CONTRACTIONS = {spelling: word for word in _CONTRACTED for spelling in _without_some_apostrophes(word)}


def normalise_answer(answer: str) -> str:
    """The official normal form of an answer.

    Lower case; punctuation removed beside a blank (and everywhere in an answer with a number such as 1,000),
    else turned into a blank; periods removed unless a digit follows; number words to digits, articles dropped,
    apostrophes of contractions restored.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    spaced = text
    for mark in PUNCTUATION:
        beside_blank = mark + " " in text or " " + mark in text
        spaced = spaced.replace(mark, "" if beside_blank or _COMMA_IN_NUMBER.search(text) else " ")
    words = _PERIOD.sub("", spaced).lower().split()
    kept = [DIGITS.get(word, word) for word in words]
    return " ".join(CONTRACTIONS.get(word, word) for word in kept if word not in ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Official VQA accuracy: mean over the leave-one-out subsets of min(1, matches / 3).

    Both sides are normalised first. NaN without answers. With a single answer there are no subsets of others,
    and the accuracy is an exact match.
    """
    if not answers:
        return math.nan
    given = normalise_answer(prediction)
    matches = [normalise_answer(answer) == given for answer in answers]
    if len(answers) == 1:
        return float(matches[0])
    total = sum(matches)
    return sum(min(1.0, (total - match) / 3) for match in matches) / len(matches)


def exact_match(prediction: str, question: Question) -> float:
    """1 when the normalised prediction is the normalised right answer, else 0; NaN without an answer."""
    if not question.answer:
        return math.nan
    return float(normalise_answer(prediction) == normalise_answer(question.answer))


def accuracy_of(prediction: str, question: Question) -> float:
    """The score a question is marked by: official VQA accuracy with several human answers, else exact match.

    Where the data says how accurate each answer is, it is that (0 for any other answer).
    """
    if question.soft_answers:
        given = normalise_answer(prediction)
        return max((s for answer, s in question.soft_answers if normalise_answer(answer) == given), default=0.0)
    if len(question.answers) > 1:
        return vqa_accuracy(prediction, question.answers)
    return exact_match(prediction, question)


def accuracy_scores(answers: Sequence[str]) -> dict[str, float]:
    """Normalised answer -> the accuracy it would get: the soft training target of a question."""
    texts = sorted({normalise_answer(answer) for answer in answers} - {""})
    return {text: vqa_accuracy(text, answers) for text in texts}


def mean_and_error(values: Sequence[float]) -> dict[str, float | int]:
    """Mean, standard error of the mean and n of the values that are not NaN; NaN where there are too few."""
    found = summary(values)
    return {"accuracy": found.mean, "se": found.error, "n": found.n}


def by_kind(predictions: Sequence[str], questions: Sequence[Question]) -> dict[str, dict[str, float | int]]:
    """Question type -> accuracy, standard error, n; `all` is over all questions."""
    groups: dict[str, list[float]] = defaultdict(list)
    for prediction, question in zip(predictions, questions, strict=True):
        groups[question.kind or "(none)"].append(accuracy_of(prediction, question))
    everything = [value for values in groups.values() for value in values]
    return {"all": mean_and_error(everything)} | {kind: mean_and_error(groups[kind]) for kind in sorted(groups)}


def by_source(
    predictions: Sequence[str], questions: Sequence[Question]
) -> dict[str, dict[str, dict[str, float | int]]]:
    """`by_kind` for each set that the questions are from."""
    groups: dict[str, list[tuple[str, Question]]] = defaultdict(list)
    for prediction, question in zip(predictions, questions, strict=True):
        groups[question.source].append((prediction, question))
    return {source: by_kind([p for p, _ in pairs], [q for _, q in pairs]) for source, pairs in groups.items()}


def commonest_answer(train: Sequence[Question]) -> Callable[[Question], str]:
    """Baseline: always the commonest answer of the training questions."""
    counts = Counter(normalise_answer(question.answer) for question in train if question.answer)
    best = _first(counts)
    return lambda question: best


def commonest_per_kind(train: Sequence[Question]) -> Callable[[Question], str]:
    """Baseline: the commonest training answer among questions of the same type."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in train:
        if question.answer:
            counts[question.kind][normalise_answer(question.answer)] += 1
    overall = commonest_answer(train)
    best = {kind: _first(counter) for kind, counter in counts.items()}
    return lambda question: best.get(question.kind) or overall(question)


def _first(counts: Counter[str]) -> str:
    """The commonest key; the alphabetically first on a tie."""
    return min(counts, key=lambda answer: (-counts[answer], answer)) if counts else ""

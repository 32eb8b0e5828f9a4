"""Caption metrics: BLEU (nltk), CIDEr-D and ROUGE-L as the COCO evaluation computes them; METEOR and SPICE
through the optional package `pycocoevalcap`, which needs Java. Higher is better for all.

A hypothesis is a list of words, its references are lists of words (`data.words.vocabulary.tokenize`).
"""

import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence

import numpy as np

from common.errors import UserError
from common.metrics.grounding import Summary, summary
from data.words.coco_classes import mentioned

Words = Sequence[str]
_ORDERS = 4
_SIGMA = 6.0
_BETA = 1.2


def evaluate(
    hypotheses: Sequence[Words], references: Sequence[Sequence[Words]], metrics: Sequence[str] | None = None
) -> dict[str, float]:
    """Corpus scores by name: `BLEU-1..4`, `ROUGE-L`, `CIDEr` (CIDEr-D), and by request `METEOR`, `SPICE`."""
    _check(hypotheses, references)
    scores: dict[str, float] = {}
    for name in metrics or ("BLEU", "ROUGE-L", "CIDEr"):
        if name not in METRICS:
            raise UserError(f"no caption metric '{name}'; choose from {', '.join(METRICS)}")
        scores.update(METRICS[name](hypotheses, references))
    return scores


def standard_errors(
    hypotheses: Sequence[Words], references: Sequence[Sequence[Words]], metrics: Sequence[str] | None = None
) -> dict[str, float]:
    """Standard errors over images of the scores of `evaluate`, by name, for those that are computed here.

    CIDEr and ROUGE-L are means over images; BLEU is not, so images are drawn anew a thousand times (bootstrap).
    """
    names, found = metrics or ("BLEU", "ROUGE-L", "CIDEr"), {}
    if "BLEU" in names:
        counts = _bleu_counts(hypotheses, references)
        draws = np.random.default_rng(0).integers(len(counts), size=(1000, len(counts)))
        scores = np.array([_bleu_of(counts[drawn].sum(0)) for drawn in draws])
        found.update({f"BLEU-{n}": float(error) for n, error in enumerate(scores.std(0), 1)})
    for name, each in (("ROUGE-L", rouge_l), ("CIDEr", cider)):
        if name in names:
            found[name] = summary(each(hypotheses, references).tolist()).error
    return found


def bleu(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """Corpus BLEU-1 to BLEU-4 (Papineni et al. 2002) with the closest reference's length, in [0, 1]."""
    return _bleu_of(_bleu_counts(hypotheses, references).sum(0))


def _bleu_counts(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """(images, 10): n-grams that a reference has, for n = 1 to 4, all n-grams, the length, the closest reference's."""
    from nltk.translate.bleu_score import closest_ref_length, modified_precision

    rows = []
    for words, each in zip(hypotheses, references, strict=True):
        pairs = [modified_precision(each, words, n) for n in range(1, _ORDERS + 1)]
        # a hypothesis shorter than n words has no n-grams, where nltk counts one
        all_ = [max(0, len(words) - n) for n in range(_ORDERS)]
        rows.append([*(pair.numerator for pair in pairs), *all_, len(words), closest_ref_length(each, len(words))])
    return np.array(rows)


def _bleu_of(counts: np.ndarray) -> list[float]:
    """BLEU-1 to BLEU-4 from the sums (10,) of `_bleu_counts`."""
    from nltk.translate.bleu_score import brevity_penalty

    matched, all_, (length, closest) = counts[:_ORDERS], counts[_ORDERS:-2], counts[-2:]
    precisions = matched / np.maximum(all_, 1)
    penalty = brevity_penalty(closest, length)
    return [
        float(penalty * np.exp(np.log(precisions[:n]).mean())) if precisions[:n].all() else 0.0
        for n in range(1, _ORDERS + 1)
    ]


class CiderD:
    """CIDEr-D (Vedantam et al. 2015) against fixed references: their n-gram vectors are computed once.

    Document frequencies come from the references themselves, an image being a document. Scores are per
    caption, about 0 to 10 (a table's 'CIDEr 0.60' is the mean of these).
    """

    def __init__(self, references: Sequence[Sequence[Words]]):
        counted = [[_ngrams(words) for words in each] for each in references]
        frequency: Counter = Counter(gram for each in counted for gram in set().union(*each))
        self.log_images = math.log(len(references)) if references else 0.0
        self.idf = defaultdict(
            lambda: self.log_images, {g: self.log_images - math.log(n) for g, n in frequency.items()}
        )
        self.references = [[self._vector(grams) for grams in each] for each in counted]

    def _vector(self, grams: Counter) -> tuple[list[dict], list[float], int]:
        weights: list[dict] = [{} for _ in range(_ORDERS)]
        norms, length = [0.0] * _ORDERS, 0
        for gram, count in grams.items():
            order = len(gram) - 1
            idf = self.idf.get(gram, self.log_images)
            weights[order][gram] = weight = count * idf
            norms[order] += weight * weight
            length += count if order == 1 else 0
        return weights, [math.sqrt(n) for n in norms], length

    def score(self, hypothesis: Words, image: int) -> float:
        """The score of one caption against the references of image number `image`."""
        weights, norms, length = self._vector(_ngrams(hypothesis))
        total = 0.0
        for ref_weights, ref_norms, ref_length in self.references[image]:
            penalty = math.exp(-((length - ref_length) ** 2) / (2 * _SIGMA**2))
            for order in range(_ORDERS):
                theirs, norm = ref_weights[order], norms[order] * ref_norms[order]
                if not norm:
                    continue
                shared = 0.0
                for gram, weight in weights[order].items():
                    other = theirs.get(gram)
                    if other is not None:
                        shared += min(weight, other) * other
                total += penalty * shared / norm
        return 10.0 * total / (_ORDERS * len(self.references[image]))


def cider(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """CIDEr-D of each caption, (images,)."""
    scorer = CiderD(references)
    return np.array([scorer.score(words, i) for i, words in enumerate(hypotheses)])


def rouge_l(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """ROUGE-L (Lin 2004) of each caption, (images,): F-measure (beta 1.2) of best precision and recall."""
    return np.array([_rouge(h, r) for h, r in zip(hypotheses, references, strict=True)])


def _rouge(hypothesis: Words, references: Sequence[Words]) -> float:
    if not hypothesis:
        return 0.0
    common = [_longest_common(hypothesis, reference) for reference in references]
    precision = max(n / len(hypothesis) for n in common)
    recall = max(n / len(r) for n, r in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _longest_common(a: Words, b: Words) -> int:
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def chair(
    captions: Sequence[Words], present: Sequence[Collection[str]], references: Sequence[Sequence[Words]] = ()
) -> dict[str, Summary]:
    """How truly captions name COCO's classes (Rohrbach et al. 2018), by name, with errors clustered by photograph.

    `CHAIRi`: share of the named classes that are not in the photograph; `CHAIRs`: share of captions that name
    such a one; `class recall`: share of the classes in the photograph that its caption names. `present` holds
    the classes of each photograph by its boxes; with `references`, as in the paper, those that people's
    captions name count as there too. A class named twice in a caption counts once.
    """
    if not len(captions) == len(present) == len(references or captions):
        raise UserError(f"{len(captions)} captions but the classes of {len(present)} photographs; give one of each")
    untrue: list[list[float]] = []
    found: list[list[float]] = []
    for number, (words, classes) in enumerate(zip(captions, present, strict=True)):
        named = mentioned(words)
        told = set().union(*map(mentioned, references[number])) if references else set()
        untrue.append([float(name not in told | set(classes)) for name in sorted(named)])
        found.append([float(name in named) for name in sorted(classes)])
    return {
        "CHAIRi": _clustered(untrue),
        "CHAIRs": summary([float(any(each)) for each in untrue]),
        "class recall": _clustered(found),
    }


def _clustered(values: Sequence[Sequence[float]]) -> Summary:
    """Summary of all values, those of one photograph standing together."""
    groups = [number for number, each in enumerate(values) for _ in each]
    return summary([value for each in values for value in each], groups)


def _ngrams(words: Words) -> Counter:
    return Counter(tuple(words[i : i + n]) for n in range(1, _ORDERS + 1) for i in range(len(words) - n + 1))


def _check(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> None:
    if len(hypotheses) != len(references):
        raise UserError(f"{len(hypotheses)} captions but references for {len(references)} images; give one of each")
    if not hypotheses:
        raise UserError("no captions to score; give at least one")
    for i, each in enumerate(references):
        if not each or not all(each):
            raise UserError(f"image number {i} has an empty reference caption, or none")


def _java(name: str, hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> dict[str, float]:
    if shutil.which("java") is None:
        raise UserError(
            f"{name} needs Java, and no 'java' is on the path; install Java 8 or newer, or leave {name} out"
        )
    try:
        if name == "METEOR":
            from pycocoevalcap.meteor.meteor import Meteor as Scorer
        else:
            from pycocoevalcap.spice.spice import Spice as Scorer
    except ImportError as error:
        raise UserError(f"{name} needs the package pycocoevalcap: pip install 'saywhy[metrics]'") from error
    candidates = {i: [" ".join(words)] for i, words in enumerate(hypotheses)}
    gold = {i: [" ".join(words) for words in each] for i, each in enumerate(references)}
    try:
        return {name: float(Scorer().compute_score(gold, candidates)[0])}
    except Exception as error:  # the Java side fails in many ways: version, memory, a model it cannot fetch
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise UserError(f"{name} failed: {reason}; it needs Java, and SPICE at its first use the internet") from error


METRICS: dict[str, Callable[[Sequence[Words], Sequence[Sequence[Words]]], dict[str, float]]] = {
    "BLEU": lambda h, r: {f"BLEU-{n}": value for n, value in enumerate(bleu(h, r), 1)},
    "ROUGE-L": lambda h, r: {"ROUGE-L": float(rouge_l(h, r).mean())},
    "CIDEr": lambda h, r: {"CIDEr": float(cider(h, r).mean())},
    "METEOR": lambda h, r: _java("METEOR", h, r),
    "SPICE": lambda h, r: _java("SPICE", h, r),
}

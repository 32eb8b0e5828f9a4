"""Words of captions and questions: one tokeniser for reading, training and scoring; a numbered vocabulary.

`tokenize` follows the Penn Treebank tokeniser that caption metrics are computed with (lower case,
contractions split off, punctuation dropped), so that a caption is scored as it was trained on.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from common.errors import UserError

PAD, START, END, UNKNOWN = 0, 1, 2, 3
SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
# Words that say nothing of what an image shows: no evidence is learned for them.
_FUNCTION_WORDS = """
a an the and or but of in on at by to for from with without into onto over under up down out off through
across along around behind between near next beside past above below against toward towards is are was were
be being been has have having had do does doing did it its 's he she they them his her their him himself
herself themselves itself that this these those there here who which what while as if so some something
someone other another each one two three four five six several many few both all others not no than then
very about during after before where when how can n't just like looks looking appears seen shown i you we
my your our more most only same own get gets getting go goes going also still such
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())

_QUOTES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": " "})
_ABBREVIATIONS = r"(?:mr|mrs|ms|dr|jr|sr|st|vs|inc|co|no)\.(?!\w)"
_TOKEN = re.compile(
    r"(?:https?://\S+|www\.\S+)"
    rf"|{_ABBREVIATIONS}"
    r"|(?:[a-z]\.){2,}"  # u.s., d.c.
    r"|\d+(?:[.,:/]\d+)*(?:[-/]?[^\W_]+(?:-[^\W_]+)*)?"  # 3, 1,000, 3rd, 4-wheeler
    r"|'(?:s|re|ve|ll|d|m|n'|em|til|cause)\b'?"
    r"|n't\b"
    r"|[^\W_](?:(?!n't\b)[^\W_])*(?:[-.&](?:(?!n't\b)[^\W_])+)*"
    r"|[#&$%=+@*]"
    r"|\S"
)
_DROPPED = re.compile(r"[^\w#&$%=+@*]+", re.UNICODE)


def tokenize(text: str) -> list[str]:
    """Lower-case words of `text`, punctuation dropped; symbols and emoji stay tokens of their own.

    Agrees with `pycocoevalcap`'s PTBTokenizer on more than 99.9 % of the captions of Flickr8k.
    """
    text = unicodedata.normalize("NFC", text).translate(_QUOTES).lower()
    return [token for token in _TOKEN.findall(text) if not _is_punctuation(token)]


def _is_punctuation(token: str) -> bool:
    return bool(_DROPPED.fullmatch(token)) and all(unicodedata.category(c)[0] in "PZC" for c in token)


class Vocabulary:
    """Words numbered from 0; the first four are padding, start, end and the unknown word."""

    def __init__(self, words: Sequence[str]):
        if tuple(words[: len(SPECIAL)]) != SPECIAL:
            raise UserError(f"a vocabulary starts with {', '.join(SPECIAL)}; received {list(words[:4])}")
        self.words = tuple(words)
        self.index = {word: i for i, word in enumerate(self.words)}
        if len(self.index) != len(self.words):
            twice = [word for word, count in Counter(self.words).items() if count > 1]
            raise UserError(f"a vocabulary names each word once; '{twice[0]}' stands in it more than once")

    @classmethod
    def build(cls, sentences: Iterable[Sequence[str]], minimum: int = 5) -> Vocabulary:
        """Words that occur `minimum` times or more in tokenised `sentences`: by frequency, then name."""
        counts = Counter(word for sentence in sentences for word in sentence)
        kept = sorted((w for w, n in counts.items() if n >= minimum), key=lambda w: (-counts[w], w))
        return cls([*SPECIAL, *kept])

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self.index

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """Numbers of `tokens`; a word outside the vocabulary becomes `UNKNOWN` (see `unknown`)."""
        return [self.index.get(token, UNKNOWN) for token in tokens]

    def unknown(self, tokens: Sequence[str]) -> list[str]:
        """Those of `tokens` that the vocabulary lacks, in order, each once."""
        return list(dict.fromkeys(token for token in tokens if token not in self.index))

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Words of `ids` up to the first end token, without padding and start."""
        words = []
        for i in ids:
            if int(i) == END:
                break
            if int(i) not in (PAD, START):
                words.append(self.words[int(i)])
        return words

    @property
    def fingerprint(self) -> str:
        """Short hash of the words in order: two vocabularies agree when it does."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()[:16]

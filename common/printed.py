"""Text as it is shown: what users' files, captions and labels hold can't move a terminal's cursor or break a picture.

>>> printable("a dog" + chr(27) + "[2J.jpg") == "a dog" + chr(92) + "x1b[2J.jpg"
True
"""

import io
import unicodedata
from typing import TextIO

LONGEST = 2000
_KEPT = {"\n", "\t"}
# Control characters, text that is turned round or has no width, halves of characters, and what is not assigned.
_ESCAPED = {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}
_JOINERS = {"\u200c", "\u200d"}  # parts of words and of emoji


def printable(text: object, longest: int | None = None) -> str:
    """The text with characters that have no picture written as Python escapes; line ends and tabs stay.

    One of more than `longest` characters loses its middle.
    """
    shown = str(text)
    if longest is not None and len(shown) > longest:
        half = (longest - 5) // 2
        shown = f"{shown[:half]} ... {shown[-half:]}"
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(map(_shown, shown))


def _shown(character: str) -> str:
    if character in _KEPT or character in _JOINERS or unicodedata.category(character) not in _ESCAPED:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


class PrintableStream(io.TextIOBase):
    """A text stream that passes on what is printable, in the characters that the stream behind it can write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding or "ascii"

    def write(self, text: str) -> int:
        shown = printable(text)
        self._stream.write(shown.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

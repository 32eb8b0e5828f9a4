"""An explanation as a piece of HTML: the photograph, and words to click that paint their maps over it.

    fragment(View(names, maps, notes))      # for a page or a notebook: style, script and all numbers are in it
    page(fragment(...), title)              # a document of its own, which may load nothing and run nothing else

No network, no library, nothing but what stands in it. Names, captions and the names of files are users' text, and are
escaped. Besides the photograph it is under 60 kB (see `values`); the files of `Explanation.save` hold everything.

T targets, L words, h,w map, H,W image.
"""

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from string import Template
from unicodedata import bidirectional

import matplotlib
from matplotlib.colors import to_hex
from PIL import Image
from torch import Tensor

from common.draw import SCALES, strengths
from common.errors import UserError
from common.methods.names import kind, label
from common.widget.values import encoded, photograph, shares

COLOURS = ("viridis", "cividis", "turbo")  # the first two for those who see red and green alike, too
_STOPS = 33  # colours of a ramp, between which the script interpolates
# What the ends of a ramp mean, by the kind of map.
_ENDS = {
    "evidence": ("weak", "strong evidence"),
    "against": ("weak", "strong evidence against it"),
    "signed": ("lowers", "raises the score"),
    "gradient": ("lowers", "raises the score; grey does nothing"),
}
_SHARES = "Below each word: the evidence in its map, in % of the strongest word's."
_VISUAL = "Below each word: what of it comes from the picture, in nats (log-probability with the picture less without)."


@dataclass(frozen=True)
class View:
    """What is shown of one image: T names, each method's maps (T, h, w) or gradients (T, 3, H, W), and a note each.

    `alt` names the photograph. `visual` (T) is how much of each target comes from the picture, in nats: it stands below
    the words and says how strongly each is drawn; without it each map's share of the strongest one's evidence does.
    `read` are L words that the model read, `weights` (T, L) what each adds to a score. `scale` 'own'
    draws all maps at full strength until the reader chooses otherwise. A first name that is made of the
    names behind it (a caption and its words) is shown as running text.
    """

    names: Sequence[str]
    maps: Mapping[str, Tensor]
    notes: Sequence[str]
    photo: Image.Image | None = None
    alt: str = ""
    visual: Sequence[float] | None = None
    read: Sequence[str] = ()
    weights: Sequence[Sequence[float]] = ()
    scale: str = SCALES[0]


def fragment(view: View) -> str:
    """The HTML of a view."""
    if view.scale not in SCALES:
        raise UserError(f"no scale '{view.scale}'; choose from {', '.join(SCALES)}")
    return Template(_asset("widget.html")).substitute(
        label=_escaped(f"Why {view.names[0]}"),
        alt=_escaped(f"Photograph {view.alt}".strip() if view.photo else "No photograph: the map alone"),
        photo=photograph(view.photo or _plate(view.maps)),
        ramps=_ramps(),
        style=_asset("widget.css"),
        script=_asset("widget.js"),
        read=_read(view.read),
        choices=_choices(view),
        alike=" checked" if view.scale == "own" else "",
        tabs="".join(map(_tab, view.maps)),
        colours="".join(f"<option>{name}</option>" for name in COLOURS),
    )


def page(fragment: str, title: str, framed: bool = False) -> str:
    """A document with one fragment, whose policy lets nothing be loaded, and nothing run but the fragment's script.

    Dark where the reader's system is. One that is `framed` stands in a frame of another page, and posts that page a
    message {saywhyHeight: pixels} whenever its height changes.
    """
    style, script = map(_digest, ("widget.css", "widget.js"))
    policy = f"default-src 'none'; img-src data:; style-src {style}; script-src {script}; base-uri 'none'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_escaped(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}; form-action \'none\'">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"></head>\n'
        f'<body class="sw-page{" sw-framed" if framed else ""}">\n{fragment}</body></html>\n'
    )


def running_words(names: Sequence[str]) -> int:
    """How many of the names behind the first are its words, in order: 0 where the first is no text of theirs."""
    whole, read = "".join(names[0].split()), ""
    for count, name in enumerate(names[1:], 1):
        read += "".join(name.split())
        if read == whole:
            return count
    return 0


def _lines(names: Sequence[str]) -> dict[str, list[int]]:
    """The targets' numbers line by line: a running text's words, the text as a whole, the rest."""
    count = running_words(names)
    lines = {"text": range(1, 1 + count), "whole": range(min(1, count)), "rest": range(count and 1 + count, len(names))}
    return {name: list(numbers) for name, numbers in lines.items() if numbers}


def _choices(view: View) -> str:
    """The lines of buttons, with all that the script needs to know of each."""
    lines = _lines(view.names)
    maps = encoded(view.maps, list(lines.values()))
    strong = _strengths(view, list(lines.values()))
    first = max(lines["text"], key=lambda number: strong[number]) if "text" in lines else 0

    def button(number: int, line: str) -> str:
        data = {"name": view.names[number], "note": view.notes[number], "line": line, "maps": "|".join(maps[number])}
        data |= {"level": str(round(4 * strong[number]))}
        data |= {"strength": f"{strong[number]:.3g}"} if view.visual is not None else {}
        data |= {"weights": " ".join(f"{weight:.3g}" for weight in view.weights[number])} if view.weights else {}
        attributes = " ".join(f'data-{key}="{_escaped(value)}"' for key, value in data.items())
        checked, inner = str(number == first).lower(), _label(view, number, line, strong[number])
        return f'<button type="button" role="radio" aria-checked="{checked}" {attributes}>{inner}</button>'

    texts = [button(number, "text") for number in lines.pop("text", [])]
    others = [button(number, line) for line, numbers in lines.items() for number in numbers]
    about = _SHARES if view.visual is None else _VISUAL
    parts = [_line("text", texts, view.names[0]), _small(about) if texts else "", _line("rest", others, view.names[0])]
    return "".join(parts)


def _line(name: str, buttons: Sequence[str], text: str) -> str:
    return f'<p class="sw-line sw-{name}" dir="{_direction(text)}">{" ".join(buttons)}</p>\n' if buttons else ""


def _direction(text: str) -> str:
    """'rtl' for a text that is read from right to left, by its first letter that has a direction."""
    found = next((kind for kind in map(bidirectional, text) if kind in ("L", "R", "AL")), "L")
    return "ltr" if found == "L" else "rtl"


def _strengths(view: View, lines: Sequence[Sequence[int]]) -> list[float]:
    """How strongly each target is drawn, 0 to 1, beside the others of its line."""
    if view.visual is not None:
        found = [0.0] * len(view.names)
        for line in lines:
            for number, strength in zip(line, strengths([view.visual[n] for n in line]), strict=True):
                found[number] = strength
        return found
    return shares(next(iter(view.maps.values())), lines)


def _label(view: View, number: int, line: str, strength: float) -> str:
    """What stands on a button: the word and its number, or the name and its note."""
    if line == "whole":
        return "<bdi>All words together</bdi>"
    below = view.notes[number]
    if line == "text":
        below = f"{strength:.0%}".replace("%", " %") if view.visual is None else f"{view.visual[number]:+.1f}"
    return f"<bdi>{_escaped(view.names[number])}</bdi><small>{_escaped(below)}</small>"


def _read(words: Sequence[str]) -> str:
    if not words:
        return ""
    spans = " ".join(f"<span>{_escaped(word)}</span>" for word in words)
    about = _small("Red words speak for what is chosen below, blue ones against it.")
    return f'<p class="sw-read" dir="{_direction(" ".join(words))}">{spans}</p>\n{about}'


def _small(text: str) -> str:
    return f'<p class="sw-small">{_escaped(text)}</p>\n'


def _tab(method: str) -> str:
    low, high = _ENDS[kind(method)]
    data = f'data-kind="{kind(method)}" data-low="{_escaped(low)}" data-high="{_escaped(high)}"'
    return f'<button type="button" role="radio" {data}>{_escaped(label(method))}</button>'


def _plate(maps: Mapping[str, Tensor]) -> Image.Image:
    """A grey plate of a map's proportions, where there is no photograph."""
    height, width = next(iter(maps.values())).shape[-2:]
    return Image.new("RGB", (320, max(1, round(320 * height / width))), (225, 228, 234))


@cache
def _ramps() -> str:
    names = {**{name: name for name in COLOURS}, "signed": "RdBu_r"}
    return " ".join(f"{name}:{_stops(colours)}" for name, colours in names.items())


def _stops(name: str) -> str:
    colours = matplotlib.colormaps[name]
    return "".join(to_hex(colours(stop / (_STOPS - 1))).removeprefix("#") for stop in range(_STOPS))


@cache
def _asset(name: str) -> str:
    return resources.files("common.widget").joinpath(name).read_text(encoding="utf-8").strip()


def _digest(name: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(_asset(name).encode()).digest()).decode()}'"


def _escaped(text: str) -> str:
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"), quote=True)

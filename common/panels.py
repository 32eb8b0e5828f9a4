"""The tiles of an explanation's panel: a picture for each target and method, how strongly it is drawn, its note."""

from collections.abc import Sequence

from common.draw import SCALES, Tile, draw_map, strengths
from common.errors import UserError
from common.explanation import Explanation
from common.methods.names import label


def explanation_tiles(
    photograph: Tile, explanation: Explanation, unit: str, names: Sequence[str] = (), scale: str = SCALES[0]
) -> tuple[list[Tile], int]:
    """(tiles, columns): the photograph and one tile for each target and method of one image's explanation.

    Several methods, up to five, give each target a row of its own beside the photograph. `unit` is what scores are,
    see `score_notes`; `names` are shown instead of the targets' own. `scale` 'visual' draws each map as strong as
    its target is visual, where that is known, 'own' all alike.
    """
    methods, tiles = list(explanation.maps), [photograph]
    strong = drawn_strengths(explanation, scale)
    in_rows = 1 < len(methods) <= 5
    titles = zip(names or explanation.names, score_notes(explanation, unit), strict=True)
    for index, (name, note) in enumerate(titles):
        if in_rows and index:
            tiles.append(photograph)
        for method, values in explanation.maps.items():
            title = f"{label(method)}: {name}" if len(methods) > 1 else name
            map_ = values[index, 0]
            full_note = note if bool(map_.any()) else f"{note}; nothing raises this score here"
            tiles.append(Tile(draw_map(method, photograph.picture, map_, strong[index]), title, full_note))
    return tiles, len(methods) + 1 if in_rows else min(4, len(tiles))


def drawn_strengths(explanation: Explanation, scale: str, among: slice = slice(None)) -> list[float]:
    """How strong to draw the maps of each target of one image's explanation: all alike where nothing else is known.

    `among` are the targets that are compared, see `strengths`.
    """
    if scale not in SCALES:
        raise UserError(f"no scale '{scale}'; choose from {', '.join(SCALES)}")
    if scale == "own" or explanation.visual is None:
        return [1.0] * len(explanation)
    visual = explanation.visual[:, 0].tolist()
    return strengths(visual, visual[among])


def score_notes(explanation: Explanation, unit: str) -> list[str]:
    """The score of each target, `unit` before it, and how visual it is; that of a contrast is a difference."""
    scores = zip(explanation.names, explanation.scores[:, 0].tolist(), strict=True)
    notes = [f"{'difference' if ' rather than ' in name else unit} {score:.2f}" for name, score in scores]
    if explanation.visual is None:
        return notes
    return [
        f"{note}; {visual_note(value)}" for note, value in zip(notes, explanation.visual[:, 0].tolist(), strict=True)
    ]


def visual_note(value: float) -> str:
    """What of a score comes from the picture, in nats, for people."""
    return f"picture {round(value, 2) + 0.0:+.2f}"  # no -0.00

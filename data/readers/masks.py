"""COCO's segmentations as masks: polygons, run lengths as numbers, and run lengths as compressed text.

Lin et al., Microsoft COCO (ECCV 2014). H,W image in pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from common.errors import UserError
from common.printed import printable
from data.readers.coco import sound_instances
from data.readers.files import AnyPath
from data.records import Box, Instance


def read_masks(path: AnyPath) -> tuple[dict[str, list[Instance]], dict[str, str]]:
    """The outlined objects of each image in an instances JSON, and what is broken: see `sound_instances`."""
    return sound_instances(path, ("segmentation",))


def mask_of(instance: Instance) -> np.ndarray:
    """(H, W), true on the object. Raises `UserError` for what is no segmentation."""
    return segmentation_mask(instance.segmentation, instance.size)


def tiled(instance: Instance) -> list[Instance]:
    """An outlined object as several, whose boxes together cover its mask exactly; one without an outline as it is.

    What asks boxes is so asked of a mask. Raises `UserError` for what is no segmentation.
    """
    if instance.segmentation is None:
        return [instance]
    return [replace(instance, box=box) for box in mask_boxes(mask_of(instance))]


def mask_boxes(mask: np.ndarray) -> list[Box]:
    """Boxes that cover a mask (H, W) exactly and do not overlap: runs of its rows, equal ones below each other joined.

    >>> mask_boxes(np.array([[1, 1, 0, 1], [1, 1, 0, 0]], dtype=bool))
    [Box(left=0.0, top=0.0, right=0.5, bottom=1.0), Box(left=0.75, top=0.0, right=1.0, bottom=0.5)]
    """
    H, W = mask.shape
    found: list[Box] = []
    open_runs: dict[tuple[int, int], int] = {}  # start and end of a run -> the row it began in
    for row in range(H + 1):
        steps = np.diff(mask[row].astype(np.int8), prepend=0, append=0) if row < H else np.zeros(W + 1)
        here = set(zip(np.flatnonzero(steps > 0).tolist(), np.flatnonzero(steps < 0).tolist(), strict=True))
        for start, stop in [run for run in open_runs if run not in here]:
            found.append(Box(start / W, open_runs.pop((start, stop)) / H, stop / W, row / H))
        open_runs.update({run: row for run in sorted(here) if run not in open_runs})
    return sorted(found)


def segmentation_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) of a segmentation in any of COCO's three forms."""
    if isinstance(segmentation, Mapping):
        given = segmentation.get("size", list(size))
        if not isinstance(given, (list, tuple)) or tuple(given) != tuple(size):
            raise UserError(f"run lengths are of {given}, the photograph is of {tuple(size)} (height, width)")
        counts = segmentation.get("counts")
        if isinstance(counts, (str, bytes)):
            counts = unpack_runs(counts)
        return runs_mask(counts, size)
    if isinstance(segmentation, Sequence) and not isinstance(segmentation, (str, bytes)):
        return polygons_mask(segmentation, size)
    raise UserError(f"a segmentation is a list of polygons or run lengths, not {type(segmentation).__name__}")


def _numbers(values: Any, kind: Any) -> np.ndarray:
    """Numbers of a JSON file; `UserError` for what are none."""
    try:
        return np.asarray(values, dtype=kind)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"a segmentation is of numbers, not {printable(repr(values), 60)}") from None


def runs_mask(counts: Any, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) of run lengths: pixels off, on, off, ..., column by column."""
    runs = _numbers(counts if counts is not None else [], np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise UserError(f"run lengths cover {int(runs.sum())} pixels of {size[0]} x {size[1]}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")


def unpack_runs(text: str | bytes) -> list[int]:
    """Run lengths from COCO's compressed text.

    Each number is written in groups of five bits, the lowest first, as characters from '0' (48) on; a sixth
    bit says that more follow, the highest bit of the last group is the sign. From the fourth run on, a
    number is the difference to the run before the last.
    """
    data = text.encode() if isinstance(text, str) else text
    runs: list[int] = []
    value = shift = 0
    for byte in data:
        group = byte - 48
        if not 0 <= group < 64:
            raise UserError(f"compressed run lengths hold the character {chr(byte)!r}; copy the file again")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise UserError("compressed run lengths end within a number; copy the file again")
    return runs


def polygons_mask(polygons: Sequence[Any], size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) of what lies in any of the polygons, each a list x1, y1, x2, y2, ... in pixels.

    A pixel is inside when its centre is (by the even-odd rule), so that edges may differ from COCO's own
    tools by a pixel.
    """
    mask = np.zeros(size, dtype=bool)
    for polygon in polygons:
        points = _numbers(polygon, np.float64)
        if not np.isfinite(points).all():
            raise UserError("a polygon has coordinates that are no numbers")
        if points.ndim != 1 or len(points) < 6 or len(points) % 2:
            raise UserError(f"a polygon has {points.size} coordinates; expected x,y pairs, three or more")
        mask |= _inside(points.reshape(-1, 2), size)
    return mask


def _inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    # A ray from each pixel's centre to the left crosses the outline an odd number of times.
    H, W = size
    ys, xs = np.arange(H) + 0.5, np.arange(W) + 0.5
    inside = np.zeros(size, dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        rows = np.nonzero((ys >= min(y0, y1)) & (ys < max(y0, y1)))[0]
        crossings = x0 + (ys[rows] - y0) * (x1 - x0) / (y1 - y0)
        inside[rows] ^= crossings[:, None] < xs[None]
    return inside

"""saywhy score: how well do maps, of any library, lie on what people drew boxes around?

    saywhy score --maps maps.npz --data boxes.json
    saywhy score --maps saywhy-out/*.classify.npz --data boxes.json --method guided-gradcam
    saywhy score --maps maps.npz --data voc:VOCdevkit/VOC2012 --json
    saywhy score --maps maps/ --data boxes.json                       # what `saywhy batch` wrote
    saywhy score --maps maps.npz --data imagenet:ILSVRC --references occlusion.npz

A file of maps is one that a command of saywhy or `Explanation.save` wrote: `cat.classify.npz` is of `cat.jpg`, and
each of its targets is scored against the boxes of the class of its name. Or it is an NPZ that holds `maps`
(N, h, w), or gradients of images (N, 3, H, W); `images` (N,), the names of the photographs; and `classes` (N,) where
a photograph has boxes of several. With another library's maps:

    maps = captum.attr.LayerGradCam(net, net.layer4).attribute(images, target=classes)       # (N, 1, h, w)
    numpy.savez("maps.npz", maps=maps[:, 0].detach().numpy(), images=names, classes=labels)

    maps = pytorch_grad_cam.GradCAM(model=net, target_layers=[net.layer4])(images, targets)  # (N, H, W)
    numpy.savez("maps.npz", maps=maps, images=names, classes=labels)

`boxes.json` is {"cat.jpg": {"cat": [[left, top, right, bottom], ...]}, ...}, in shares of width and height.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from common.errors import UserError
from scripts import console as cli


def add_parser(subparsers: Any) -> None:
    """Add the subcommand and its arguments."""
    about = "Score maps, of this or of any other library, against boxes that people drew."
    parser = subparsers.add_parser("score", help="score maps of any library against boxes", description=about)
    add, data = parser.add_argument, "boxes: boxes.json, voc:PATH, imagenet:PATH or coco:instances.json"
    maps = "NPZ or folder of a batch that saywhy wrote, or an NPZ with maps, images and classes"
    method = "the method whose maps are scored, where saywhy wrote the file (default: %(default)s)"
    add("--maps", required=True, nargs="+", metavar="FILE", help=maps)
    add("--data", required=True, metavar="DATA", help=data)
    add("--references", nargs="+", metavar="FILE", help="maps to agree with, such as occlusion's")
    add("--method", default="gradcam", metavar="NAME", help=method)
    add("--split", default="val", help="VOC's list (default: %(default)s)")
    add("--json", action="store_true", help="print one JSON record, and nothing else")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Score the maps and print a table."""
    from data.readers.boxes import read_boxes

    truth, problems = read_boxes(args.data, args.split)
    for line in [*problems[:3], *([f"{len(problems) - 3} more"] if len(problems) > 3 else [])]:
        cli.report(f"left out: {line}")
    maps = _read_all(args.maps, args.method, truth)
    boxes = [boxes_of(truth, each.image, each.label) for each in maps]
    found = score([each.values for each in maps], boxes)
    if args.references:
        found["rank_correlation"] = agreement(maps, _read_all(args.references, args.method, truth))
    scores = {name: {key: _finite(value) for key, value in vars(s).items()} for name, s in found.items()}
    record = {"maps": len(maps), "data": args.data, "scores": scores}
    if args.json:
        print(json.dumps(record))
        return cli.OK
    print(f"{len(maps)} maps scored against {args.data}")
    for name, summary in found.items():
        left = f", {summary.left_out} undefined" if summary.left_out else ""
        print(f"  {_NAMES[name]:44}{summary}{left}")
    return cli.OK


_NAMES = {
    "pointing": "peak in a box",
    "energy": "share of the positive map in the boxes",
    "inside_outside": "mean inside over mean outside the boxes",
    "box_overlap": "IoU of the box at 15 % with the best box",
    "localised": "that IoU is at least 0.5",
    "rank_correlation": "rank correlation with the references",
}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Map:
    """A map (h, w), its photograph's name, and the class it is of ('' where none is given)."""

    values: Any
    image: str
    label: str = ""


def score(maps: Sequence[Any], boxes: Sequence[Any]) -> dict[str, Any]:
    """A `Summary` for each measure of maps (h, w), with a list of boxes each; all are better high."""
    import torch

    from common.metrics.grounding import energy_inside, inside_outside, pointing, summary

    measures = {
        "pointing": pointing, "energy": energy_inside, "inside_outside": inside_outside,
        "box_overlap": _best_overlap,
    }  # fmt: skip
    pairs = [(values[None], [these]) for values, these in zip(maps, boxes, strict=True)]
    found = {name: torch.cat([measure(*pair) for pair in pairs]) for name, measure in measures.items()}
    overlap = found["box_overlap"]
    found["localised"] = (overlap >= 0.5).double().where(~overlap.isnan(), overlap)
    return {name: summary(values) for name, values in found.items()}


def _best_overlap(maps: Any, boxes: Sequence[Any]) -> Any:
    """IoU (1,) of the box of one map (1, h, w) with the best of its boxes; 0 for a map without a box."""
    import torch

    from common.metrics.localisation import box_overlap, segment_boxes

    if not len(boxes[0]):
        return torch.full((1,), torch.nan, dtype=torch.float64)
    return box_overlap(segment_boxes(maps), boxes[0]).nan_to_num(0).max()[None].double()


def agreement(maps: Sequence[Map], references: Sequence[Map]) -> Any:
    """The rank correlation with reference maps, one for each."""
    import torch

    from common.metrics.faithfulness import rank_correlation
    from common.metrics.grounding import summary

    if len(references) != len(maps):
        raise UserError(f"the references hold {len(references)} maps; expected one for each of {len(maps)}, in order")
    pairs = zip(maps, references, strict=True)
    return summary(torch.cat([rank_correlation(a.values[None], b.values[None]) for a, b in pairs]))


def _read_all(paths: Sequence[str], method: str, truth: Any) -> list[Map]:
    read = {path: _of_batch if "://" in path or Path(path).is_dir() else read_maps for path in paths}
    found = [each for path in paths for each in read[path](path, method, truth)]
    if not all(bool(each.values.isfinite().all()) for each in found):
        raise UserError(f"'{', '.join(paths)}' has maps with NaN or infinity; mend them first")
    return found


def _of_batch(folder: str, method: str, truth: Any) -> list[Map]:
    """The maps of a folder that `saywhy batch` wrote, of photographs that have boxes; the others are counted."""
    from common.explanation import Explanation
    from scripts.batch.store import rows

    found, left = list[Map](), 0
    for row, _ in rows(folder):
        image = next((name for name in (Path(row["key"]).stem, Path(row["key"]).name) if name in truth), None)
        if row["error"] is not None or row["names"] is None or image is None:
            left += 1
            continue
        found += _of_explanation(Explanation.from_row(row), image, f"{folder}: {row['key']}", method, truth)
    if left:
        cli.report(f"left out: {left} rows of '{folder}' without maps or boxes")
    if not found:
        raise UserError(f"no photograph of '{folder}' has boxes; the data has {_some(truth)}")
    return found


def read_maps(path: str, method: str = "gradcam", truth: Any = None) -> list[Map]:
    """The maps of one file: an `Explanation`, or an NPZ of any library's with the names of the photographs."""
    import numpy as np

    try:
        with np.load(Path(path), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile, AttributeError) as error:
        raise UserError(f"cannot read maps from '{path}' ({error}); write it with numpy.savez") from error
    return _explained(path, method, truth or {}) if "about" in arrays else _any_librarys(path, arrays)


def _explained(path: str, method: str, truth: Any) -> list[Map]:
    """The maps of a saved explanation; cat.classify.npz is of cat.jpg."""
    from common.explanation import Explanation

    image = Path(path).stem
    image = image if image in truth else image.rpartition(".")[0] or image
    return _of_explanation(Explanation.load(path), image, path, method, truth)


def _of_explanation(explanation: Any, image: str, path: str, method: str, truth: Any) -> list[Map]:
    """The maps of an image's explanation whose targets have boxes; the other targets are named on standard error."""
    from common.metrics.localisation import pixel_strength

    name = method.strip().lower().replace("-", "_")
    if name not in explanation.maps:
        held = ", ".join(explanation.maps)
        raise UserError(f"'{path}' has no maps by '{method}'; it has {held}; choose one with --method")
    maps = explanation.maps[name]
    if maps.shape[1] != 1:
        raise UserError(f"'{path}' explains {maps.shape[1]} images; save `explanation.image(i)` of each")
    values = pixel_strength(maps[:, 0]) if maps.dim() == 5 else maps[:, 0]
    classes = {label.casefold(): label for label in truth.get(image, {})}
    known = [(n, _class_of(target, classes)) for n, target in enumerate(explanation.names)]
    found = [Map(values[n].float(), image, label) for n, label in known if label is not None]
    if len(classes) == 1 and len(known) == 1:  # what else could be meant?
        return [Map(values[0].float(), image)]
    for n, label in known if found else []:
        if label is None:
            cli.report(f"left out: '{explanation.names[n]}' of '{path}', of which '{image}' has no boxes")
    return found or [Map(each.float(), image, n) for each, n in zip(values, explanation.names, strict=True)]


def _class_of(target: str, classes: dict[str, str]) -> str | None:
    """The class that a target names, by any of its names ('tabby, tabby cat'); None where it names none."""
    names = [name.strip().casefold() for name in (target, *target.split(","))]
    return next((classes[name] for name in names if name in classes), None)


def _any_librarys(path: str, arrays: dict[str, Any]) -> list[Map]:
    import numpy as np
    import torch

    from common.metrics.localisation import pixel_strength

    maps = arrays.get("maps", arrays.get("heatmaps"))
    if maps is None or maps.dtype.kind != "f" or "images" not in arrays:
        held = ", ".join(f"{name} {values.shape}" for name, values in arrays.items()) or "nothing"
        raise UserError(f"'{path}' holds {held}; expected maps (N, h, w), floating, and images (N,)")
    tensor = torch.from_numpy(maps).float()
    tensor = pixel_strength(tensor) if tensor.dim() == 4 else tensor
    images = [str(name) for name in arrays["images"].tolist()]
    classes = [str(name) for name in arrays.get("classes", np.full(len(images), "")).tolist()]
    if tensor.dim() != 3 or not len(tensor) == len(images) == len(classes):
        raise UserError(
            f"'{path}' has maps {tuple(maps.shape)}, {len(images)} images and {len(classes)} classes;"
            " expected (N, h, w)"
        )
    return [Map(*each) for each in zip(tensor, images, classes, strict=True)]


def boxes_of(truth: Any, image: str, label: str) -> list[Any]:
    """The boxes that a map is scored against. Raises `UserError` where it is not clear which."""
    stem = Path(image).stem if Path(image).stem in truth else image
    if stem not in truth:
        raise UserError(f"no boxes for '{image}'; the data has {_some(truth)}")
    classes = truth[stem]
    if label:
        if label not in classes:
            raise UserError(f"'{image}' has no boxes of '{label}'; it has {_some(classes)}")
        return classes[label]
    if len(classes) > 1:
        raise UserError(f"'{image}' has boxes of {_some(classes)}; say which in the NPZ's classes")
    return next(iter(classes.values()), [])


def _some(names: Any) -> str:
    listed = list(names)
    return ", ".join(f"'{name}'" for name in listed[:4]) + (", ..." if len(listed) > 4 else "") or "none"

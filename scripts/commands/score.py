"""saywhy score: how well do maps, of any library, lie on what people drew boxes around?

    saywhy score --maps maps.npz --data boxes.json
    saywhy score --maps maps.npz --data voc:VOCdevkit/VOC2012 --json
    saywhy score --maps maps.npz --data imagenet:ILSVRC --references occlusion.npz

`maps.npz` holds `maps` (N, h, w), or gradients of images (N, 3, H, W); `images` (N,), the names of the
photographs; and `classes` (N,) where a photograph has boxes of several. With another library's maps:

    maps = captum.attr.LayerGradCam(net, net.layer4).attribute(images, target=classes)       # (N, 1, h, w)
    numpy.savez("maps.npz", maps=maps[:, 0].detach().numpy(), images=names, classes=labels)

    maps = pytorch_grad_cam.GradCAM(model=net, target_layers=[net.layer4])(images, targets)  # (N, H, W)
    numpy.savez("maps.npz", maps=maps, images=names, classes=labels)

`boxes.json` is {"cat.jpg": {"cat": [[left, top, right, bottom], ...]}, ...}, in shares of width and height.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from common.errors import UserError
from scripts import console as cli

Truth = dict[str, dict[str, list[Any]]]  # photograph's stem -> class -> boxes


def add_parser(subparsers: Any) -> None:
    """Add the subcommand and its arguments."""
    parser = subparsers.add_parser(
        "score",
        help="score maps of any library against boxes",
        description="Score maps, of this or of any other library, against boxes that people drew.",
        epilog="DATA is boxes.json, voc:PATH, imagenet:PATH or coco:instances.json.",
    )
    parser.add_argument("--maps", required=True, metavar="FILE", help="NPZ with maps, images and classes")
    parser.add_argument("--data", required=True, metavar="DATA", help="boxes, see below")
    parser.add_argument(
        "--references", metavar="FILE", help="NPZ with maps to agree with, such as occlusion's"
    )
    parser.add_argument("--split", default="val", help="VOC's list (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON record, and nothing else")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Score the maps and print a table."""
    maps, images, classes = read_maps(args.maps)
    truth = read_truth(args.data, args.split)
    boxes = [boxes_of(truth, image, label) for image, label in zip(images, classes, strict=True)]
    found = score(maps, boxes)
    if args.references:
        found["rank_correlation"] = agreement(maps, read_maps(args.references)[0], args.references)
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


def score(maps: Any, boxes: Sequence[Any]) -> dict[str, Any]:
    """A `Summary` for each measure of maps (N, h, w), with a list of boxes each; all are better high."""
    from common.metrics.grounding import summary

    return {name: summary(measure(maps, boxes)) for name, measure in _measures().items()}


def _measures() -> dict[str, Callable[[Any, Any], Any]]:
    from common.metrics import grounding

    return {
        "pointing": grounding.pointing,
        "energy": grounding.energy_inside,
        "inside_outside": grounding.inside_outside,
        "box_overlap": _best_overlap,
        "localised": lambda maps, boxes: _at_least(_best_overlap(maps, boxes), 0.5),
    }


def _best_overlap(maps: Any, boxes: Sequence[Any]) -> Any:
    """IoU of each map's box with the best of its boxes; 0 for a map without a box."""
    import torch

    from common.metrics.localisation import box_overlap, segment_boxes

    found = segment_boxes(maps)
    rows = [
        box_overlap(found[n : n + 1], these).nan_to_num(0).max() if len(these) else torch.tensor(torch.nan)
        for n, these in enumerate(boxes)
    ]
    return torch.stack([row.double() for row in rows])


def _at_least(values: Any, least: float) -> Any:
    return (values >= least).double().where(~values.isnan(), values)


def agreement(maps: Any, references: Any, path: str) -> Any:
    """The rank correlation with reference maps, one for each."""
    from common.metrics.faithfulness import rank_correlation
    from common.metrics.grounding import summary

    if len(references) != len(maps):
        raise UserError(
            f"'{path}' holds {len(references)} maps; expected one for each of {len(maps)}, in order"
        )
    return summary(rank_correlation(maps, references))


def read_maps(path: str) -> tuple[Any, list[str], list[str]]:
    """Maps (N, h, w), the photographs' names and the classes ('' where none are given) of an NPZ."""
    import numpy as np
    import torch

    from common.metrics.localisation import pixel_strength

    try:
        with np.load(Path(path), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile, AttributeError) as error:
        raise UserError(f"cannot read maps from '{path}' ({error}); write it with numpy.savez") from error
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
    if not bool(torch.isfinite(tensor).all()):
        raise UserError(f"'{path}' has maps with NaN or infinity; mend them first")
    return tensor, images, classes


def boxes_of(truth: Truth, image: str, label: str) -> list[Any]:
    """The boxes that a map is scored against. Raises `UserError` where it is not clear which."""
    stem = Path(image).stem
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


def read_truth(data: str, split: str = "val") -> Truth:
    """Boxes by photograph and class, from any of the layouts."""
    kind, colon, place = data.partition(":")
    if colon and kind in _READERS:
        return _READERS[kind](place, split)
    return _from_json(data)


def _from_json(path: str) -> Truth:
    from data.readers.files import read_json

    record = read_json(path)
    found: Truth = {}
    for image, classes in record.items() if isinstance(record, dict) else ():
        if not isinstance(classes, dict) or not all(isinstance(boxes, list) for boxes in classes.values()):
            raise UserError(f"{path}: '{image}' is not {{class: [[left, top, right, bottom], ...]}}")
        found[Path(image).stem] = classes
    if not found:
        raise UserError(f'{path}: expected {{"cat.jpg": {{"cat": [[left, top, right, bottom]]}}}}')
    return found


def _voc(folder: str, split: str) -> Truth:
    from data.readers import voc

    return _from_items(voc.read(folder, split))


def _imagenet(folder: str, split: str) -> Truth:
    from data.readers import ilsvrc

    return _from_items(ilsvrc.read_validation(folder))


def _from_items(reading: Any) -> Truth:
    for problem in reading.problems[:3]:
        cli.report(f"left out: {problem}")
    if len(reading.problems) > 3:
        cli.report(f"left out: {len(reading.problems) - 3} more")
    return {item.name: {name: item.boxes(name) for name in item.classes} for item in reading.items}


def _coco(path: str, split: str) -> Truth:
    from data.readers.coco import read_instances

    found: Truth = {}
    for image, instances in read_instances(path).items():
        classes = found.setdefault(Path(image).stem, {})
        for instance in instances:
            if not instance.crowd:
                classes.setdefault(instance.name, []).append(instance.box)
    return found


_READERS: dict[str, Callable[[str, str], Truth]] = {"voc": _voc, "imagenet": _imagenet, "coco": _coco}


def _some(names: Any) -> str:
    listed = list(names)
    return ", ".join(f"'{name}'" for name in listed[:4]) + (", ..." if len(listed) > 4 else "") or "none"

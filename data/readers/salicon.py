"""Reader for SALICON: where people look at COCO's photographs when nothing is asked, one grey PNG for each.

The maps of the challenge: `maps/{train,val}/COCO_val2014_000000000042.png`. Its JSON of raw points, in which x and y
changed places between versions, is not read.
Source: Jiang et al., SALICON: Saliency in Context, CVPR 2015.
"""

from pathlib import Path

from common.errors import UserError
from data.readers.coco import image_id_of
from data.readers.files import AnyPath


def find_salicon(folder: AnyPath) -> dict[str, Path]:
    """`coco:ID` of a photograph -> its map, for all PNGs named as COCO's photographs in a folder and those below it.

    Raises `UserError` when there is none.
    """
    named = {image_id_of(f"{path.stem}.jpg"): path for path in sorted(Path(folder).rglob("COCO_*.png"))}
    found = {image: path for image, path in named.items() if image.removeprefix("coco:").isdecimal()}
    if not found:
        raise UserError(f"no map named as COCO's photographs (COCO_val2014_000000000042.png) in '{folder}' or below it")
    return found

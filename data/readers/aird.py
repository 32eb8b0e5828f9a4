"""Reader for AiR-D: where people looked while they answered a question of GQA, one grey PNG for each question.

`aggregated_maps/fixmaps/QUESTIONID.png` are the maps of everybody; beside them lie `fixmaps_corr` and `fixmaps_incorr`,
of those who answered rightly and wrongly. The ids are those of GQA's balanced validation questions, as strings: some
begin with 0. Maps of single seconds (`temporal_maps`) are not read.
Source: Chen, Jiang, Yang and Zhao, AiR: Attention with Reasoning Capability, ECCV 2020.
"""

from pathlib import Path

from common.errors import UserError
from data.readers.files import AnyPath

WHOSE = {"all": "fixmaps", "right": "fixmaps_corr", "wrong": "fixmaps_incorr"}


def find_aird(folder: AnyPath, whose: str = "all") -> dict[str, list[Path]]:
    """Question id -> its map, of everybody or of those who answered `right` or `wrong`.

    `folder` is AiR-D's, its `aggregated_maps`, or the folder of the PNGs itself. Raises `UserError` without a map.
    """
    if whose not in WHOSE:
        raise UserError(f"whose is one of {', '.join(WHOSE)}; received {whose!r}")
    name, folder = WHOSE[whose], Path(folder)
    places = [folder / "aggregated_maps" / name, folder / name, *([folder] if folder.name == name else [])]
    for place in places:
        found = {path.stem: [path] for path in sorted(place.glob("*.png")) if path.stem.isdecimal()}
        if found:
            return found
    looked = ", ".join(map(str, places))
    raise UserError(f"no map named by a question of GQA ({name}/00126851.png) in '{folder}'; looked in {looked}")

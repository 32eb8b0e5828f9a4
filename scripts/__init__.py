"""The command line. A folder of the user's own may bear the name of a package of ours where Python starts: say so."""

import importlib.util
import sys
from pathlib import Path

_HOME = Path(__file__).resolve().parents[1]


def _shadow() -> str | None:
    """What stands in the place of one of our packages, if anything does."""
    for name in ("common", "data", "captioning", "vqa", "classification"):
        found = importlib.util.find_spec(name)
        places = [Path(place).resolve() for place in found.submodule_search_locations or ()] if found else []
        if places and _HOME / name not in places:
            return str(places[0])
    return None


if _found := _shadow():
    print(
        f"saywhy: error: '{_found}' hides a package of saywhy; start from another folder, or rename it", file=sys.stderr
    )
    sys.exit(2)

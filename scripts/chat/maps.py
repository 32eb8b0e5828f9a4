"""The image tokens of photographs, before the projector: made once, cross-fitted where the trunk was trained on them.

A trunk is surer of photographs that it was trained on than of new ones (`common.training.summaries`). So the maps of
these come from the trunks of its run that were trained without them.

n photographs, N image tokens, K channels.
"""

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.errors import UserError
from common.networks.trunk import SeeingTrunk
from common.training.loop import fold_of, seed_of, show_progress
from common.training.store import FeatureStore, complete
from common.training.summaries import Summaries
from scripts.chat.build import put_trunk

BATCH = 16


def token_store(
    model: Any, processor: Any, summaries: Summaries, photographs: Mapping[str, Path], folds: Mapping[int, SeeingTrunk]
) -> FeatureStore:
    """What the tower makes of `photographs` (image id -> file), (n,N,K), in a file of the summaries' folder.

    `folds` are trunks by the number of the part of the photographs that each was trained without; see `read_folds`.
    """
    config = model.config
    shape = (config.image_seq_length, config.vision_config.hidden_size)
    which = f"{summaries.trunk.fingerprint}-{len(folds)}-{seed_of(*photographs):08x}"
    file = summaries.folder / f"tokens-{which}.h5"
    if (known := complete(file, list(photographs), which)) is not None:
        return known
    by_trunk: dict[int, list[str]] = defaultdict(list)
    for image_id in photographs:
        by_trunk[fold_of(image_id, len(folds)) if folds and summaries.fitted(image_id) else -1].append(image_id)
    with FeatureStore.open(file, list(photographs), shape, which) as store:
        missing = set(store.missing())
        progress, done = show_progress("image tokens of photographs"), len(photographs) - len(missing)
        for number, ids in sorted(by_trunk.items()):
            put_trunk(model, folds.get(number, summaries.trunk))
            rows = [row for row in store.rows(ids) if row in missing]
            for start in range(0, len(rows), BATCH):
                some = rows[start : start + BATCH]
                store.write(some, image_tokens(model, processor, [photographs[store.names[row]] for row in some]))
                done += len(some)
                progress(done - done % BATCH, len(photographs))
    put_trunk(model, summaries.trunk)
    return FeatureStore(file, which)


@torch.no_grad()
def image_tokens(model: Any, processor: Any, paths: Sequence[Path]) -> np.ndarray:
    """The last map of the model's tower for photographs, as tokens (n,N,K)."""
    images = [Image.open(path).convert("RGB") for path in paths]
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    tower = model.model.vision_tower
    pixels = pixels.to(tower.device).contiguous(memory_format=torch.channels_last)
    with torch.autocast(tower.device.type, torch.bfloat16):  # twice as fast, and exact enough
        found = tower(pixels).last_hidden_state
    return found.flatten(2).transpose(1, 2).cpu().half().numpy()


def read_folds(folder: Path | None, trunk: SeeingTrunk) -> dict[int, SeeingTrunk]:
    """The trunks in `fold-1`, `fold-2`, .. of a trunk's run, by the number of the part that each left out."""
    found: dict[int, SeeingTrunk] = {}
    while folder is not None and (file := folder / f"fold-{len(found) + 1}" / "state.pt").is_file():
        state = torch.load(file, map_location="cpu", weights_only=True)["module"]
        other = copy.deepcopy(trunk)
        try:
            other.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"'{file}' is of another trunk than '{folder}'") from error
        found[len(found)] = other.eval()
    return found

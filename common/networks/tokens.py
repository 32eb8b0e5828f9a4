"""Where a transformer's tokens lie on the image, and which of its layers to explain.

The layer is one whose tokens all reach the score: the normalisation that opens the last block where the
class is read off one token (behind the last block, the patch tokens' gradient is zero), or the last
normalisation where the tokens are averaged (Swin).
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from common.grid import TokenGrid
from common.layers import Layer, first_tensor, hooked
from common.state import untouched

Tokens = tuple[str, TokenGrid | None]  # the layer to explain, and the grid of its tokens


def token_layer(module: nn.Module) -> Tokens | None:
    """The layer to explain and its grid, for transformers of timm, torchvision, `transformers`; else None."""
    library = type(module).__module__.split(".")[0]
    finder = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}.get(library)
    return finder(module) if finder else None


def _timm(module: nn.Module) -> Tokens | None:
    names = dict(module.named_modules())
    if type(module).__name__ in ("SwinTransformer", "SwinTransformerV2"):
        return "norm", TokenGrid(layout="channels_last")
    blocks = getattr(module, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not hasattr(module, "patch_embed"):
        return None
    layer = f"blocks.{len(blocks) - 1}.norm1"
    patch = getattr(module.patch_embed, "patch_size", None)
    if layer not in names or patch is None:
        return None
    return layer, TokenGrid(int(getattr(module, "num_prefix_tokens", 1)), patch=_pair(patch))


def _torchvision(module: nn.Module) -> Tokens | None:
    if type(module).__name__ == "SwinTransformer":
        return "norm", TokenGrid(layout="channels_last")
    if type(module).__name__ == "VisionTransformer":
        last = len(module.encoder.layers) - 1  # type: ignore[union-attr,arg-type]
        return f"encoder.layers.encoder_layer_{last}.ln_1", TokenGrid(1)
    return None


# Model types of `transformers` that are built like ViT: (prefix tokens, name of a block's first norm).
_VIT_LIKE = {
    "vit": (1, "layernorm_before"),
    "deit": (2, "layernorm_before"),
    "beit": (1, "layernorm_before"),
    "data2vec-vision": (1, "layernorm_before"),
    "vit_msn": (1, "layernorm_before"),
    "dinov2": (1, "norm1"),
}


def _transformers(module: nn.Module) -> Tokens | None:
    config = module.config
    kind = str(getattr(config, "model_type", ""))
    names = [name for name, _ in module.named_modules()]
    if kind in ("swin", "swinv2"):
        return f"{kind}.layernorm", TokenGrid()
    if kind in ("convnext", "convnextv2"):
        # The trunk as a whole returns this map and its average, of which the head sees the average alone.
        stages = [name for name in names if re.fullmatch(rf"{kind}\.encoder\.stages\.\d+", name)]
        return stages[-1], None
    if kind not in _VIT_LIKE:
        return None
    prefix, norm = _VIT_LIKE[kind]
    layer = [name for name in names if name.endswith("." + norm)][-1]
    return layer, TokenGrid(prefix, patch=_pair(config.patch_size))  # type: ignore[union-attr]


def _pair(sides: Any) -> tuple[int, int]:
    height, width = sides if isinstance(sides, (tuple, list)) else (sides, sides)
    return int(height), int(width)


def token_layers(
    module: nn.Module, images: Tensor, grid: TokenGrid, forward: Callable[..., Any] | None = None
) -> list[Layer]:
    """The layers of a transformer whose tokens lie on `grid`, with the shapes (K, h, w) of their maps."""
    found: dict[str, Layer] = {}
    names = {part: name for name, part in module.named_modules() if name}

    def record(part: nn.Module, inputs: Any, output: Any) -> None:
        tokens = first_tensor(output)
        if tokens is not None and grid.fits(tokens, images):
            _, K, h, w = grid.to_map(tokens, images).shape
            found[names[part]] = Layer(names[part], type(part).__name__, (K, h, w))

    with untouched(module), hooked(names, record), torch.no_grad():
        module(images) if forward is None else forward(images, None)
    return list(found.values())

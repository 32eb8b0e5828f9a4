"""How a transformer's tokens lie on the image.

B images, N tokens, K channels, h,w grid, H,W image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import LayerError


@dataclass(frozen=True)
class TokenGrid:
    """How a layer's tokens lie on the image, for transformers.

    `prefix` tokens (class, distillation, register; None: however many there are before `size`) come first, then h*w
    patch tokens row by row. `size` is (h, w); None takes it from the image's size: the one grid of equal patches that
    has as many. `patch` is their (height, width), of which the ratio counts. Layouts: 'tokens' (B, N, K) or
    'channels_last' (B, h, w, K).
    """

    prefix: int | None = 0
    size: tuple[int, int] | None = None
    layout: str = "tokens"
    patch: tuple[int, int] = (1, 1)

    def to_map(self, tokens: Tensor, images: Tensor) -> Tensor:
        """(B, N, K) or (B, h, w, K), and the images (B, 3, H, W) they come from -> (B, K, h, w)."""
        self._check(tokens, images)
        if self.layout == "channels_last":
            return tokens.permute(0, 3, 1, 2)
        patches = tokens[:, self._prefix(tokens) :].transpose(1, 2)
        return patches.unflatten(2, self._size(patches.shape[2], images.shape[-2:]))

    def to_tokens(self, features: Tensor, tokens: Tensor) -> Tensor:
        """The inverse of `to_map`: `tokens` with its patch tokens taken from `features`."""
        if self.layout == "channels_last":
            return features.permute(0, 2, 3, 1)
        patches = features.flatten(2).transpose(1, 2)
        return torch.cat([tokens[:, : self._prefix(tokens)].detach(), patches], dim=1)

    def fits(self, tokens: Tensor, images: Tensor) -> bool:
        """Whether a tensor can be tokens on this grid, more than one, of more than one channel."""
        try:
            return min(self.to_map(tokens, images).flatten(2).shape[1:]) > 1
        except LayerError:
            return False

    def _prefix(self, tokens: Tensor) -> int:
        if self.prefix is not None:
            return self.prefix
        return max(0, tokens.shape[1] - math.prod(self.size or (tokens.shape[1],)))

    def _check(self, tokens: Tensor, images: Tensor) -> None:
        form = "(B, h, w, K)" if self.layout == "channels_last" else "(B, N, K)"
        shape, image = tuple(tokens.shape), images.shape[-2:]
        if len(shape) != form.count(",") + 1 or shape[0] != len(images):
            raise LayerError(
                f"a {shape} tensor of {len(images)} image(s) is not {form}; name another layer or TokenGrid layout"
            )
        if self.layout == "channels_last" and not lies_on(shape[1:3], image, self.patch):
            raise LayerError(f"a {shape} tensor is no (B, h, w, K) of {image[0]}x{image[1]} images; name another layer")

    def _size(self, patches: int, image: Sequence[int]) -> tuple[int, int]:
        sides = [(h, patches // h) for h in range(1, patches + 1) if patches % h == 0]
        if self.size is not None:
            sides = [size for size in sides if size == tuple(self.size)]
        else:
            sides = [size for size in sides if lies_on(size, image, self.patch)]
        if not sides:
            grid = "{}x{} grid".format(*self.size) if self.size else f"grid on {image[0]}x{image[1]} pixels"
            raise LayerError(f"{patches} patch tokens do not fill a {grid}; give TokenGrid(prefix=..., size=(h, w))")
        width_to_height = image[1] * self.patch[0] / image[0] / self.patch[1]
        return min(sides, key=lambda size: abs(math.log(size[0] / size[1] * width_to_height)))


def lies_on(size: Sequence[int], image: Sequence[int], patch: Sequence[int] = (1, 1)) -> bool:
    """Whether equal patches of this ratio, h by w, can cover an image (H, W), what is left over cut or padded."""
    h, w = size
    H, W = image[0] / patch[0], image[1] / patch[1]
    cut = H / (h + 1) < W / w and W / (w + 1) < H / h
    return cut or (H * (w - 1) < W * h and W * (h - 1) < H * w)

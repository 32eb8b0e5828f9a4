"""Images changed so little that nobody sees it, until a classifier says something else.

Kurakin et al., Adversarial Examples in the Physical World (2017): targeted iterative FGSM; with a random
start, PGD (Madry et al. 2018). B images, C classes; pixels in [0, 1].
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from common.errors import UserError

Logits = Callable[[Tensor], Tensor]  # pixels (B, 3, H, W) in [0, 1] -> (B, C), with a graph


def targeted(
    logits: Logits,
    pixels: Tensor,
    classes: Tensor,
    epsilon: float = 8 / 255,
    step: float = 1 / 255,
    iterations: int = 100,
    probability: float = 0.9999,
    random_start: bool = False,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Pixels (B, 3, H, W) taken for `classes` (B,), none changed by more than `epsilon`; and how sure (B,).

    Each step goes `step` along the sign of the gradient of log p(class); an image is left alone once its
    probability exceeds `probability`. Among all steps the most convincing image is returned.
    """
    _check(pixels, classes, epsilon, step, iterations)
    low, high = (pixels - epsilon).clamp(min=0), (pixels + epsilon).clamp(max=1)
    now = pixels.clone()
    if random_start:
        noise = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed)).to(pixels)
        now = low + noise * (high - low)
    best, reached = now.clone(), pixels.new_zeros(len(pixels))
    for _ in range(iterations + 1):
        chance, gradient = _ascent(logits, now, classes)
        better = chance > reached
        best = torch.where(better[:, None, None, None], now, best)
        reached = torch.where(better, chance, reached)
        moving = (reached <= probability)[:, None, None, None]
        if not bool(moving.any()):
            break
        now = torch.where(moving, (now + step * gradient.sign()).clamp(low, high), now)
    return best, reached


def _check(pixels: Tensor, classes: Tensor, epsilon: float, step: float, iterations: int) -> None:
    if pixels.dim() != 4 or classes.shape != pixels.shape[:1]:
        raise UserError(f"pixels {tuple(pixels.shape)} and classes {tuple(classes.shape)}; give (B, 3, H, W), (B,)")
    if float(pixels.min()) < 0 or float(pixels.max()) > 1:
        raise UserError("pixels are outside [0, 1]; undo the network's normalisation first")
    if min(epsilon, step) <= 0 or iterations < 1:
        raise UserError(f"epsilon {epsilon}, step {step} and iterations {iterations} are all above 0")


def _ascent(logits: Logits, pixels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = pixels.detach().requires_grad_()
        chosen = logits(leaf).log_softmax(1).gather(1, classes[:, None])[:, 0]
        (gradient,) = torch.autograd.grad(chosen.sum(), leaf)
    return chosen.detach().exp(), gradient


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pixels in [0, 1], (B, 3, H, W) twice: (B,).

    Infinite for equal images; above 40 dB a change is hardly ever seen.
    """
    error = (images.double() - others.double()).square().flatten(1).mean(1)
    return torch.where(error > 0, -10 * torch.log10(error.clamp(min=1e-300)), torch.full_like(error, math.inf))

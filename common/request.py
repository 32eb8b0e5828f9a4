"""From what a user asked to one explanation an image: what all facades share.

    encoded = encode(network, "photo.jpg")                        # the one pass of the trunk
    request = Request(query, targets, names, rows)                # what is asked, as the model reads it
    explain_each(network.explainable(None), encoded, request)     # [Explanation]

A request is for a whole batch: the targets are read off the output for all images at once, and `rows` says which of
them were asked of which image.

    >>> from common.explainable import HookedModel
    >>> from common.targets import Index
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    >>> model, images = HookedModel(network, "1"), torch.rand(2, 3, 16, 16)
    >>> encoded = Encoded(images, model.features(images), single=False)
    >>> request = Request(None, [Index(0), Index(4)], names=[["cat", "dog"], ["dog"]], rows=[[0, 1], [1]])
    >>> [(found.names, tuple(found.heatmaps.shape)) for found in explain_each(model, encoded, request)]
    [(('cat', 'dog'), (2, 1, 14, 14)), (('dog',), (1, 1, 14, 14))]

Letters: B images, T targets, K channels, h,w map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Protocol, TypeVar, cast

import torch
from PIL import Image
from torch import Tensor, nn

from common import gradcam
from common.errors import UserError
from common.explainable import Explainable
from common.explanation import Explanation
from common.images import ImageLike, Photo, Preprocessing, as_batch, as_image
from common.methods.occlusion import OcclusionOptions, select_rows
from common.state import untouched
from common.targets import Contrast, Target, target_name


@dataclass(frozen=True)
class Encoded:
    """Images that went through the trunk once: `pixels` (B, 3, H, W) and `features` as the network made them.

    Of models that make more of a larger image, these are `Ragged`: one entry an image, whatever its shape.
    It stands for the images wherever a facade takes images, so that predictions and explanations share the pass.
    `single` says whether one image was given, and so one result is due. `states` (B, ...) is what the head reads of
    the images, where a facade asks for it once and uses it again. `photos` are the images as they were given, of those
    that were no tensor: explanations show them. `made_by` is the fingerprint of the trunk: heads on the same trunk take
    what either has encoded.
    """

    pixels: Any
    features: Any
    single: bool
    states: Any = None
    photos: tuple[Photo, ...] = ()
    made_by: str = ""

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: int | slice | Sequence[int]) -> Encoded:
        """Some of the images; one number gives one image, whose result is single."""
        single = isinstance(rows, int)
        index = [rows] if isinstance(rows, int) else rows
        states = None if self.states is None else self.states[index]
        numbers = range(len(self))[index] if isinstance(index, slice) else index
        photos = tuple(self.photos[number] for number in numbers) if self.photos else ()
        return Encoded(self.pixels[index], self.features[index], single, states, photos, self.made_by)


def joined(parts: Sequence[Encoded]) -> Encoded:
    """Images that one network has encoded in several parts."""
    if len(parts) == 1:
        return replace(parts[0], single=False)
    fields = {}
    for name in ("pixels", "features", "states"):
        values = [getattr(part, name) for part in parts]
        whole = values[0] is None or not isinstance(values[0], Tensor)
        fields[name] = (None if values[0] is None else Ragged(chain(*values))) if whole else torch.cat(values)
    photos = tuple(chain.from_iterable(part.photos for part in parts))
    return Encoded(**fields, single=False, photos=photos, made_by=parts[0].made_by)


class Ragged(tuple[Any, ...]):
    """What was made of each image of a batch, where it differs in shape: rows are taken of it as of a tensor."""

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, int):
            return super().__getitem__(rows)
        numbers = range(len(self))[rows] if isinstance(rows, slice) else rows
        return Ragged(super(Ragged, self).__getitem__(number) for number in numbers)


Batch = Iterable[ImageLike] | Tensor  # a path that is a string is iterable, too: facades' overloads overlap in that
Images = ImageLike | Batch | Encoded
Texts = str | Iterable[str] | None


class Encoder(Protocol):
    """A model that makes features of images."""

    @property
    def module(self) -> Any: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    def encode(self, images: Tensor) -> Tensor:
        """Features of images (B, 3, H, W), without a graph."""
        ...


class PhotoReader:
    """A model that reads each photograph as it is, at its own size, and not a tensor of all of them.

    `look` gives what the model made of one (RGB); `explainable(layer)` is then a function that splits the model for
    one photograph, given what `look` made of it.
    """

    name: str
    fingerprint: str

    @property
    def preprocessing(self) -> Preprocessing:
        raise UserError(
            f"{self.name} reads each photograph at its own size, so this command, which makes one tensor of many, can't"
            " run it: use 'saywhy caption', 'saywhy vqa --questions FILE' or 'saywhy batch'"
        )

    def look(self, photograph: Image.Image) -> Any:
        raise NotImplementedError


class Network(Encoder, Protocol):
    """What every facade needs of the model behind it: how images become features, and how it is split."""

    name: str
    source: str

    @property
    def layer(self) -> str:
        """The name of the layer that is explained by default."""
        ...

    def explainable(self, layer: str | None) -> Explainable:
        """The model split at a layer; None is the map that its head reads."""
        ...


F = TypeVar("F", bound="Facade")


class Facade:
    """What a user's captioner and VQA model have in common: a network, and the layer of it that is explained."""

    network: Network

    def __init__(self, network: Network, layer: str | None = None) -> None:
        self.network, self._layer = network, layer

    @property
    def name(self) -> str:
        return self.network.name

    @property
    def layer(self) -> str:
        """The layer that is explained."""
        return self._layer or self.network.layer

    @property
    def device(self) -> torch.device:
        return next(self.network.module.parameters()).device

    def to(self: F, device: str | torch.device) -> F:
        """Move the model; returns the facade."""
        self.network.module.to(device)
        return self

    def encode(self, images: Images) -> Encoded:
        """The images' pixels and features: the one pass of the trunk."""
        return encode(self.network, images)


def encode(network: Encoder, images: Images) -> Encoded:
    """The images' pixels and features: the one pass of the trunk. What is encoded already is returned as it is.

    One image (a path or a PIL image) is single; anything else that holds images is a batch, and so is a tensor
    (B, 3, H, W), which is taken to be preprocessed. Raises `UserError` for what another trunk encoded.
    """
    own = str(getattr(network, "fingerprint", ""))
    if isinstance(images, Encoded):
        _check_maker(images.made_by, own)
        return images
    batch, single = as_batch(images)
    if isinstance(network, PhotoReader):
        return _looked_at(network, batch, single)
    pixels = batch if isinstance(batch, Tensor) else network.preprocessing(batch)
    photos = () if isinstance(batch, Tensor) else tuple(Photo.of(each, network.preprocessing) for each in batch)
    if pixels.dim() != 4 or pixels.shape[1] != 3 or not len(pixels):
        raise UserError(f"images are {tuple(pixels.shape)}; give files, PIL images or a tensor (B, 3, H, W)")
    like = _first_float(network.module)
    pixels = pixels.to(like.device, like.dtype)
    with untouched(network.module), torch.no_grad():
        return Encoded(pixels, network.encode(pixels), single, photos=photos, made_by=own)


def _looked_at(network: Any, batch: Any, single: bool) -> Encoded:
    """Photographs as a `PhotoReader` sees them; of the pixels, only a small picture of each is kept."""
    if isinstance(batch, Tensor) or not batch:
        given = f"a tensor {tuple(batch.shape)}" if isinstance(batch, Tensor) else "none"
        raise UserError(f"images are {given}; {network.name} reads photographs as they are: give files or PIL images")
    small = Preprocessing((32, 32))
    pixels, features = [], []
    with untouched(network.module), torch.no_grad():
        for image in map(as_image, batch):
            pixels.append(small(image))
            features.append(network.look(image))
    photos = tuple(Photo.of(each) for each in batch)
    return Encoded(Ragged(pixels), Ragged(features), single, photos=photos, made_by=network.fingerprint)


def _check_maker(made_by: str, own: str) -> None:
    if made_by and own and made_by != own:
        raise UserError(
            f"these images were encoded by another trunk ({made_by}) than this model's ({own}); encode them with it, "
            "or load both models on one trunk"
        )


def _first_float(module: nn.Module) -> Tensor:
    """A tensor on the module's device, of its floating-point type."""
    return next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))


@dataclass(frozen=True)
class Request:
    """What a user asked, as the model reads it.

    `query` goes to the model with the images; `targets` are read off its output for all B images at once;
    `rows[b]` says which of them are asked of image b, and `names[b]` what they are called there.
    """

    query: Any
    targets: list[Target]
    names: list[list[str]]
    rows: list[list[int]] = field(default_factory=list)

    def own(self, image: int) -> list[int]:
        """The numbers of the targets that are asked of one image."""
        return self.rows[image] if self.rows else list(range(len(self.targets)))

    def of(self, image: int, images: int) -> Request:
        """What is asked of one image of so many, as a request about it alone."""
        rows = self.own(image)
        query, targets = self.query, [self.targets[row] for row in rows]
        if images > 1:
            query, targets = (select_rows(part, [image], images, axis=1) for part in (query, targets))
        return Request(query, list(targets), [self.names[image]])

    def on(self, device: torch.device, targets: list[Target] | None = None) -> Request:
        """The request with its query on a device, and its targets read otherwise."""
        return replace(self, query=_moved(self.query, device), targets=targets or self.targets)


def explain_each(
    explainable: Any,
    encoded: Encoded,
    request: Request,
    methods: gradcam.Methods = "gradcam",
    provenance: Mapping[str, Any] | None = None,
    occlusion_options: OcclusionOptions | None = None,
    known: gradcam.Known | Sequence[gradcam.Known] | None = None,
) -> list[Explanation]:
    """One explanation (B = 1) of each image, with the targets that are its own.

    Of images that are taken one by one (`Ragged`), what is `known` is a list, one entry an image.
    """
    if isinstance(encoded.features, Ragged):
        of_each: Any = known or [None] * len(encoded)
        return [
            one
            for image in range(len(encoded))
            for one in explain_each(
                explainable(encoded.features[image]),
                _alone(encoded, image),
                request.of(image, len(encoded)),
                methods,
                provenance,
                occlusion_options,
                of_each[image],
            )
        ]
    found = gradcam.explain(
        explainable,
        encoded.pixels,
        request.targets,
        query=request.query,
        methods=methods,
        features=encoded.features,
        occlusion_options=occlusion_options,
        known=cast(gradcam.Known | None, known),
    )
    about = {**found.provenance, **explainable.about, **(provenance or {})}
    photos: Sequence[Photo | None] = encoded.photos or [None] * len(encoded)
    return [
        replace(found.image(image).select(request.own(image)), names=tuple(names), provenance=about, photo=photo)
        for image, (names, photo) in enumerate(zip(request.names, photos, strict=True))
    ]


def split_alone(explainable: Any, encoded: Encoded) -> tuple[Explainable, Tensor, Tensor | None]:
    """(the split model, pixels, features) of images that are explained together: of photographs that are taken one by
    one (`Ragged`), `encoded` is one.
    """
    if not isinstance(encoded.features, Ragged):
        return explainable, encoded.pixels, encoded.features
    return explainable(encoded.features[0]), encoded.pixels[0], None


def _alone(encoded: Encoded, image: int) -> Encoded:
    """One image of a batch that is `Ragged`, as a batch of one."""
    one = encoded[[image]]
    return replace(one, pixels=one.pixels[0], features=None)


def with_visual(found: Sequence[Explanation], request: Request, visual: Tensor | None) -> list[Explanation]:
    """The explanations of a request with what of each target comes from the picture (T, B), where that is known."""
    if visual is None:
        return list(found)
    return [replace(each, visual=visual[request.own(image), image][:, None]) for image, each in enumerate(found)]


def _moved(query: Any, device: torch.device) -> Any:
    if isinstance(query, tuple):
        return tuple(_moved(part, device) for part in query)
    return query.to(device) if isinstance(query, Tensor) else query


def contrasted(targets: Sequence[Target], others: Sequence[Target]) -> list[Target]:
    """Why each target rather than the other: one other for all targets, or one for each; none against itself."""
    check_contrasts(len(others), len(targets), "targets")
    several = list(others) * (len(targets) if len(others) == 1 else 1)
    pairs = zip(targets, several, strict=True)
    return [Contrast(this, other) for this, other in pairs if target_name(this) != target_name(other)]


def check_contrasts(contrasts: int, asked: int, what: str) -> None:
    """Raises `UserError` unless there is one contrast for all that is asked, or one for each."""
    if contrasts not in (1, asked):
        raise UserError(f"{contrasts} contrasts for {asked} {what}; give one for all, or one for each")


def listed(given: Any) -> list[Any]:
    """What a caller may write for several texts: nothing, one, or an iterable of them."""
    if given is None:
        return []
    return [given] if isinstance(given, (str, int)) or callable(given) else list(given)

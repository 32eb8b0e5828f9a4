"""Occlusion: exact for every model, by the quick way where there is one, and the model left as it was."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn

from common.errors import UserError
from common.explainable import HookedModel, SplitModel
from common.fast.spine import Axis, plan_step
from common.methods import occlusion as module
from common.methods.cells import cell_occlusion
from common.methods.occlusion import OcclusionOptions, occlusion, select_rows
from common.targets import Contrast, Index, Negated, as_targets
from tests.nets import Functional, Plain, seeded


class Block(nn.Module):
    """A residual block that starts with an in-place ReLU, as pre-activation networks do."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(x)
        y = self.bn(self.conv(x))
        y += x  # in place: the norm's output tensor is not the norm's output any more
        return y


class Chain(nn.Module):
    """Strides, pooling that overlaps, an unpadded convolution, residual blocks; flattened at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 6, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(6), nn.ReLU6(inplace=True)
        )
        self.blocks = nn.Sequential(
            Block(6), nn.MaxPool2d(3, 2, 1), Block(6, dilation=2), nn.Conv2d(6, 8, 2), nn.ReLU(inplace=True)
        )
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.fc = nn.Linear(72, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.blocks(self.stem(images))), 1))


class SamePadding(nn.Module):
    """TensorFlow's padding, which depends on the size and is not symmetric, and blocks as in
    EfficientNet-Lite.
    """

    def __init__(self) -> None:
        super().__init__()
        from timm.layers import Conv2dSame
        from timm.models._efficientnet_blocks import InvertedResidual

        self.stem, self.act = Conv2dSame(3, 6, 3, stride=2), nn.ReLU6()
        self.a = InvertedResidual(6, 6, act_layer=nn.ReLU6)
        self.b = InvertedResidual(6, 8, 5, stride=2, pad_type="same", act_layer=nn.ReLU6)
        self.fc = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.b(self.a(self.act(self.stem(images)))).amax((-2, -1)))


class KnowsPlaces(nn.Module):
    """A convolution whose output depends on where in the map it is: right only when whole maps are run."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * torch.linspace(0, 1, x.shape[-1], dtype=x.dtype)


class Skips(nn.Module):
    """An early map is used again at the end, behind the back of the chain."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.late = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        early = self.early(images)
        return (self.late(early).relu() + 2 * early.relu()).mean((-2, -1))


class MixesImages(nn.Module):
    """Scores that depend on the other images of the batch: there is only the definition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images).relu().mean((-2, -1))
        return x / x.norm()


class Mirrored(nn.Module):
    """Padding that isn't zero, in a convolution and as a module of its own: borders reach further."""

    def __init__(self, mode: str, pad: type[nn.Module]) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1, padding_mode=mode), nn.ReLU(), pad(2), nn.Conv2d(6, 6, 5),
            nn.ReLU(), pad(1), nn.Conv2d(6, 8, 3, padding=1),
        )  # fmt: skip
        self.fc = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.trunk(images).relu().mean((-2, -1)))


class Corner(nn.Module):
    """A convolution that is another one in two corners of the map only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        gain = torch.ones(x.shape[-2:], dtype=x.dtype)
        gain[:4, :4], gain[-1, :20] = 1.5, 2
        return self.conv(x) * gain


class OddCorners(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(Corner(), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, padding=1))
        self.fc = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.trunk(images).relu().mean((-2, -1)))


class BatchStatistics(nn.Module):
    """Normalised over the batch, with scores so large that what the batch does looks like rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3))
        self.fc = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = F.batch_norm(self.trunk(images), None, None, training=True)
        return self.fc(x.relu().pow(2).mean((-2, -1))) + 1000


def images(count: int = 1, size: tuple[int, int] = (75, 90), dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, *size, generator=generator, dtype=torch.float64).to(dtype)


def lively(network: nn.Module) -> nn.Module:
    """Running statistics and affine parameters that are not the identity."""
    generator = torch.Generator().manual_seed(1)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.running_mean, norm.bias):
                tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
            for tensor in (norm.running_var, norm.weight):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network


def definition(network, x: Tensor, score, window: int, stride: int, fill: float | Tensor = 0.0, query=None) -> Tensor:
    """(B, h, w), float64, one window at a time through the network itself."""
    call = (lambda z: network(z)) if query is None else (lambda z: network(z, query))
    with torch.no_grad():
        base = score(call(x))
        rows = []
        for top in range(0, x.shape[2] - window + 1, stride):
            row = []
            for left in range(0, x.shape[3] - window + 1, stride):
                mask = torch.zeros(x.shape[2:], dtype=torch.bool)
                mask[top : top + window, left : left + window] = True
                row.append(base - score(call(torch.where(mask, torch.zeros_like(x) + fill, x))))
            rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


def way(network: nn.Module, x: Tensor, layer: str, options: OcclusionOptions) -> str:
    """The way that `occlusion` takes."""
    with torch.no_grad():
        task = module._Task(HookedModel(network, layer), x, as_targets([0]), None, options)
        return type(module._exact(task)[0]).__name__


NETWORKS = [
    (Chain, "blocks.4", "_Cropped"), (SamePadding, "b", "_Cropped"), (Plain, "features.5", "_Cropped"),
    (Functional, "conv3", "_Batched"), (KnowsPlaces, "conv", "_Batched"), (Skips, "late", "_Batched"),
    (MixesImages, "conv", "_Plain"),
]  # fmt: skip


def pooled(build) -> nn.Module:
    network = lively(seeded(build))
    return nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval() if build is KnowsPlaces else network


@pytest.mark.parametrize(("build", "layer", "expected"), NETWORKS)
def test_maps_agree_with_the_definition_in_float64(build, layer, expected) -> None:
    network, x = pooled(build).double(), images(2)
    layer = f"0.{layer}" if build is KnowsPlaces else layer
    options = OcclusionOptions(window=14, stride=9, fill=0.3)
    maps = occlusion(HookedModel(network, layer), x, as_targets([0, 2]), None, options)
    for row, index in zip(maps, (0, 2), strict=True):
        twin = definition(network, x, lambda output, index=index: output[:, index], 14, 9, 0.3)
        torch.testing.assert_close(row, twin, rtol=1e-7, atol=1e-10)
    assert way(network, x, layer, options) == expected


@pytest.mark.parametrize(("build", "layer", "expected"), NETWORKS)
def test_windows_of_the_blurred_image_agree_with_the_definition(build, layer, expected) -> None:
    network, x = pooled(build).double(), images(2)
    layer = f"0.{layer}" if build is KnowsPlaces else layer
    options = OcclusionOptions(window=15, stride=9, fill="blur")
    found = occlusion(HookedModel(network, layer), x, as_targets([1]), None, options)[0]
    soft = torch.from_numpy(ndimage.gaussian_filter(x.numpy(), (0, 0, 5, 5), mode="nearest", truncate=3.0))
    twin = definition(network, x, lambda output: output[:, 1], 15, 9, soft)
    torch.testing.assert_close(found, twin, rtol=1e-7, atol=1e-10)
    assert way(network, x, layer, options) == expected


def test_another_fill_is_refused() -> None:
    model, options = HookedModel(seeded(Plain), "features.5"), OcclusionOptions(fill="noise")
    with pytest.raises(UserError, match="fill is 'noise'; give a number, one for each channel, or 'blur'"):
        occlusion(model, images(), as_targets([0]), None, options)


def test_cells_of_the_map_are_occluded_one_by_one() -> None:
    """Behind pooling and a linear layer a cell's drop is what it adds to the score: (T, B, h, w)."""
    trunk = nn.Sequential(nn.Conv2d(3, 6, 5, stride=6), nn.ReLU())
    network = seeded(lambda: nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))).double()
    model, x = HookedModel(network, "0"), images(2, (30, 24))
    with torch.no_grad():
        A = network[0](x)
    expected = torch.einsum("bkhw,tk->tbhw", A, network[3].weight[[2, 0]].detach()) / A[0, 0].numel()
    found = cell_occlusion(model, x, as_targets([2, 0]))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(cell_occlusion(model, x, as_targets([2, 0]), None, A), expected)
    assert not network[0][0]._forward_hooks and network[3].weight.requires_grad


PADDINGS = {"reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d, "circular": nn.CircularPad2d}


def assert_exact(network: nn.Module, layer: str, x: Tensor) -> None:
    """Within a thousandth of the largest drop, at every window of every image."""
    options = OcclusionOptions(window=14, stride=9, fill=0.3)
    maps = occlusion(HookedModel(network, layer), x, as_targets([0]), None, options)[0]
    twin = definition(network, x, lambda output: output[:, 0], 14, 9, 0.3)
    assert (maps - twin).abs().max() <= 1e-3 * twin.abs().max()


@pytest.mark.parametrize("mode", PADDINGS)
def test_windows_at_borders_are_exact_whatever_the_padding(mode) -> None:
    assert_exact(seeded(lambda: Mirrored(mode, PADDINGS[mode])), "trunk.6", images(1, dtype=torch.float32))
    assert_exact(seeded(lambda: Mirrored(mode, nn.ZeroPad2d)), "trunk.6", images(1, dtype=torch.float32))


def test_parts_that_differ_in_a_corner_of_the_map_are_exact() -> None:
    assert_exact(seeded(OddCorners), "trunk.2", images(1, dtype=torch.float32))


@pytest.mark.parametrize("filled", [None, 0, 1])
def test_networks_that_mix_images_are_exact_also_beside_an_image_of_the_fill(filled) -> None:
    x = images(2, dtype=torch.float32)
    if filled is not None:
        x[filled] = 0.3
    assert_exact(seeded(BatchStatistics), "trunk.2", x)
    mostly = torch.full_like(x[:1], 0.3)
    mostly[..., :14, :14] = x[:1, :, :14, :14]
    assert_exact(seeded(BatchStatistics).double(), "trunk.2", mostly.double())


@pytest.mark.parametrize("error", [TypeError, KeyError, AttributeError])
def test_a_targets_own_mistake_is_seen(error) -> None:
    def mistaken(output: Tensor) -> Tensor:
        if len(output) > 1:
            raise error("a mistake")
        return output[:, 0]

    with pytest.raises(error, match="a mistake"):
        occlusion(HookedModel(seeded(Chain), "blocks.4"), images(1, dtype=torch.float32), [mistaken])


@pytest.mark.parametrize("size", [(64, 64), (65, 67), (70, 61)])
def test_quick_way_is_exact_in_float32_at_odd_sizes(size) -> None:
    for build, layer in ((Chain, "blocks.4"), (SamePadding, "b")):
        network = lively(seeded(build))
        x = images(1, size, torch.float32)
        options = OcclusionOptions(window=8, stride=7)
        assert way(network, x, layer, options) == "_Cropped"
        maps = occlusion(HookedModel(network, layer), x, as_targets([1]), None, options)
        twin = definition(network.double(), x.double(), lambda output: output[:, 1], 8, 7)
        torch.testing.assert_close(maps[0].double(), twin, rtol=1e-4, atol=1e-5)


def test_slow_option_takes_whole_networks_and_gives_the_same() -> None:
    network, x = lively(seeded(Chain)).double(), images()
    maps = [
        occlusion(
            HookedModel(network, "blocks.4"), x, as_targets([1]), None, OcclusionOptions(14, 9, fast=fast, batch=batch)
        )
        for fast, batch in ((True, None), (False, None), (True, 1), (True, 1000))
    ]
    assert way(network, x, "blocks.4", OcclusionOptions(14, 9, fast=False)) == "_Batched"
    for other in maps[1:]:
        torch.testing.assert_close(other, maps[0], rtol=1e-8, atol=1e-10)


def test_drop_is_what_the_window_took_away() -> None:
    network = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 1, bias=False)).eval()
    nn.init.ones_(network[2].weight)
    x = torch.zeros(1, 3, 4, 4)
    x[:, :, :2, 2:] = torch.tensor([[4.0, 8.0], [0.0, 0.0]])
    maps = occlusion(HookedModel(network, "0"), x, as_targets([0]), None, OcclusionOptions(2, 2, fill=(1.0, 2.0, 0.0)))
    # Each 2x2 mean of a channel counts once: 3 channels with 3.0 in the top right corner; the fill adds 1 + 2
    # + 0.
    assert maps.tolist() == [[[[-3.0, 6.0], [-3.0, -3.0]]]]


class Reader(nn.Module):
    """A trunk run to its end, of which only the last map is read, and a head that reads tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = lively(seeded(Chain))
        self.words = nn.Embedding(9, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def features(self, images: Tensor) -> Tensor:
        found: list[Tensor] = []
        handle = self.trunk.blocks.register_forward_hook(lambda module, inputs, output: found.append(output))
        self.trunk(images)
        handle.remove()
        return found[0]

    def head(self, A: Tensor, tokens: Tensor) -> Tensor:
        start = A.mean((-2, -1))[:, None]
        return self.lstm(torch.cat([start, self.words(tokens)], 1))[0][:, -1]

    def forward(self, images: Tensor, query) -> Tensor:
        A = self.features(images)
        if isinstance(query, Question):
            return self.head(A, query.tokens) * query.weight
        if query.dim() == 2:
            return self.head(A, query)
        return torch.stack([self.head(A, tokens) for tokens in query]).sum(0)  # (S, B, L)


@dataclass(frozen=True)
class Question:
    tokens: Tensor
    weight: float = 2.0


class ReaderSplit(SplitModel):
    layer = "trunk.blocks"

    def __init__(self, network: Reader) -> None:
        self.network = network

    def features(self, images: Tensor, query=None) -> Tensor:
        return self.network.features(images)

    def forward(self, images: Tensor, query=None, relu_rule=None) -> Tensor:
        return self.network(images, query)


TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 1]])


@pytest.mark.parametrize("query", [TOKENS, Question(TOKENS), torch.stack([TOKENS, TOKENS.flip(0)])])
def test_each_image_keeps_its_query_and_its_target(query, monkeypatch) -> None:
    network = seeded(Reader).double()
    x, index = images(3), torch.tensor([5, 0, 3])
    target = Contrast(Index(index), Negated(Index(1)))
    monkeypatch.setattr(module._Plain, "base", lambda self, image: pytest.fail("the definition was fallen back to"))
    monkeypatch.setattr(module._Batched, "__init__", _no_whole_networks(module._Batched.__init__))
    maps = occlusion(ReaderSplit(network), x, [target], query, OcclusionOptions(14, 9))
    score = lambda output: output.gather(1, index[:, None])[:, 0] + output[:, 1]  # noqa: E731
    torch.testing.assert_close(maps[0], definition(network, x, score, 14, 9, query=query), rtol=1e-7, atol=1e-10)


def _no_whole_networks(init):
    def checked(self, *args):
        assert isinstance(self, module._Cropped), "whole networks were fallen back to"
        init(self, *args)

    return checked


def test_model_is_left_as_it_was_also_after_an_error() -> None:
    network = lively(seeded(Chain)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    calls = []

    def fails(output: Tensor) -> Tensor:
        calls.append(len(output))
        if len(calls) > 8:
            raise KeyboardInterrupt
        return output[:, 0]

    x = images(1, dtype=torch.float32)
    explainable = HookedModel(network, "blocks.4")
    occlusion(explainable, x, as_targets([0]), None, OcclusionOptions(14, 9))
    with pytest.raises(KeyboardInterrupt):
        occlusion(explainable, x, [fails], None, OcclusionOptions(14, 9))
    assert all("forward" not in module.__dict__ for module in network.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(module.training for module in network.modules())
    assert network.blocks[0].act.inplace
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert network.stem[0].weight.is_contiguous() and network.stem[0].bias is None


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 7), stride=st.sampled_from([1, 2, 4]), padding=st.integers(0, 3),
    side=st.integers(20, 45), start=st.integers(0, 1000), size=st.integers(1, 12),
)  # fmt: skip
def test_a_planned_crop_gives_the_changed_part_exactly(kernel, stride, padding, side, start, size) -> None:
    padding = min(padding, kernel // 2)
    conv = lambda x: F.conv1d(x, weight, stride=stride, padding=padding)  # noqa: E731
    weight = torch.arange(1.0, kernel + 1, dtype=torch.float64)[None, None]
    before = torch.randn(1, 1, side, dtype=torch.float64)
    starts = sorted({start % (side - size), (3 * start) % (side - size), side - size, 0})
    outputs = conv(before).shape[-1]
    step = plan_step(Axis(stride, padding, kernel - 1 - padding, side, outputs), starts, size)
    for at, first, low in zip(starts, step.crop_starts, step.starts, strict=True):
        after = before.clone()
        after[..., at : at + size] += 1
        part = conv(after[..., first : first + step.crop])[..., low - first // stride :][..., : step.size]
        expected = conv(before)
        expected[..., low : low + step.size] = part
        assert 0 <= first <= at and at + size <= first + step.crop <= side
        assert torch.allclose(expected, conv(after))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (OcclusionOptions(window=200), "window of 200 does not fit"),
        (OcclusionOptions(window=0), "window of 0"),
        (OcclusionOptions(stride=0), "stride 0"), (OcclusionOptions(batch=0), "batch 0"),
        (OcclusionOptions(fill=(0.0, 1.0)), "fill"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(options, message) -> None:
    with pytest.raises(UserError, match=message):
        occlusion(HookedModel(seeded(Chain), "blocks.4"), images(), as_targets([0]), None, options)


def test_not_finite_scores_are_reported_not_mapped() -> None:
    network = seeded(Chain)
    network.fc.weight.data[0] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        occlusion(HookedModel(network, "blocks.4"), images(1, dtype=torch.float32), as_targets([0]))


def test_rows_are_selected_in_every_kind_of_query() -> None:
    query = {"ids": torch.tensor([[1], [2]]), "text": ["a", "b"], "other": (torch.ones(3, 2), 5, None)}
    chosen = select_rows(query, [1, 1, 0], 2)
    assert chosen["ids"].tolist() == [[2], [2], [1]] and chosen["text"] == ["b", "b", "a"]
    assert chosen["other"][0].shape == (3, 2) and chosen["other"][1:] == (5, None)
    assert query["text"] == ["a", "b"]
    assert select_rows(torch.arange(8).view(2, 2, 2), [1], 2, axis=1).tolist() == [[[2, 3]], [[6, 7]]]

"""Image classifiers of `transformers`: built tiny, saved, and loaded from their folder."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

import classification
from common.errors import UserError
from common.gradcam import gradcam
from common.images import Preprocessing
from common.networks.loading import load_network

SIDE = 64
VIT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": SIDE, "patch_size": 16,
}  # fmt: skip
SWIN: dict[str, Any] = {
    "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "image_size": SIDE, "patch_size": 4,
    "window_size": 4,
}  # fmt: skip
CONV: dict[str, Any] = {"depths": [1, 1], "hidden_sizes": [16, 32]}
# model type -> options, the map's shape, the layer (None: whatever the last convolutional one is)
KINDS: dict[str, tuple[dict[str, Any], tuple[int, ...], str | None]] = {
    "resnet": (CONV | {"embedding_size": 16, "layer_type": "basic"}, (32, 8, 8), None),
    "convnext": (CONV | {"num_stages": 2}, (32, 8, 8), None),
    "vit": (VIT, (32, 4, 4), "layernorm_before"),
    "deit": (VIT, (32, 4, 4), "layernorm_before"),
    "beit": (VIT, (32, 4, 4), "layers.1"),  # reads the mean of its tokens
    "swin": (SWIN, (32, 8, 8), "swin.layernorm"),
    "swinv2": (SWIN, (32, 8, 8), "swinv2.layernorm"),
    "clip": ({"vision_config": VIT, "text_config": VIT}, (32, 4, 4), "layers.1"),
    "siglip": ({"vision_config": VIT, "text_config": VIT}, (32, 4, 4), "post_layernorm"),
    "dinov2_with_registers": (VIT | {"num_register_tokens": 4}, (32, 4, 4), "layernorm"),
    "ijepa": (VIT, (32, 4, 4), "ijepa.layernorm"),
    "hiera": (
        {"embed_dim": 16, "image_size": [SIDE, SIDE], "depths": [1, 1, 1], "num_heads": [1, 2, 4],
         "num_query_pool": 2, "masked_unit_size": [4, 4]},
        (64, 4, 4), "stages.2.layers.0",
    ),
    "focalnet": (
        {"image_size": SIDE, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3]},
        (32, 8, 8), "focalnet.layernorm",
    ),
    "pvt_v2": (
        {"image_size": SIDE, "depths": [1] * 4, "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1] * 4},
        (32, 2, 2), "pvt_v2.encoder",
    ),
}  # fmt: skip
NAMES = {0: "cat", 1: "dog", 2: "boat", 3: "tree", 4: "house"}


def saved(folder: Path, kind: str, processor: Any = True, **options: Any) -> str:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **KINDS[kind][0] | {"id2label": NAMES} | options)
    two = {"deit": ["DeiTForImageClassification"], "levit": ["LevitForImageClassification"]}  # that have two kinds
    config.architectures = two.get(kind)
    model = transformers.AutoModelForImageClassification.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    if processor is True:
        processor = transformers.ViTImageProcessor(
            size={"height": SIDE, "width": SIDE}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]
        )
    if processor:
        processor.save_pretrained(folder)
    return f"hf:{folder}"


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_saved_classifier_is_explained(tmp_path: Path, kind: str) -> None:
    classifier = classification.load(saved(tmp_path, kind))
    _, shape, layer = KINDS[kind]
    assert classifier.labels[2] == "boat" and len(classifier.labels) == 5
    assert layer is None or classifier.layer.endswith(layer)
    assert classifier.layer in {found.name for found in classifier.layers()}
    images = torch.randn(2, 3, SIDE, SIDE)
    A, output = classifier.explainable.split(images)
    assert A.shape == (2, *shape)
    original = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = original(pixel_values=images).logits
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
    both = classifier.explain(images, targets=["boat", 0])
    assert all(found.heatmaps.shape == (2, 1, *shape[1:]) for found in both)
    assert any(bool((found.heatmaps > 0).any()) for found in both)
    scores = torch.cat([found.scores for found in both], 1)
    torch.testing.assert_close(scores, expected.T[[2, 0]], atol=1e-5, rtol=1e-4)


def test_vit_tokens_lie_on_the_grid_where_their_patches_are(tmp_path: Path) -> None:
    """Before any block has mixed the tokens, a change of one patch changes one cell."""
    network = load_network(saved(tmp_path, "vit", num_hidden_layers=1))
    explainable = network.explainable()  # the first norm of the only block
    images = torch.randn(1, 3, SIDE, SIDE)
    changed = images.clone()
    changed[:, :, 16:32, 48:64] += 1  # row 1, column 3 of the 4x4 patches
    difference = (explainable.features(images) - explainable.features(changed)).abs().sum(1)[0]
    assert difference.nonzero().tolist() == [[1, 3]]


def test_vit_gradcam_equals_a_float64_twin(tmp_path: Path) -> None:
    network = load_network(saved(tmp_path, "vit"))
    module = network.module.double()
    images = torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64)
    kept = {}
    norm = module.get_submodule(network.explainable().layer)
    handle = norm.register_forward_hook(lambda part, inputs, output: kept.setdefault("tokens", output))
    logits = module(pixel_values=images).logits
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, 1], kept["tokens"])
    tokens, gradient = kept["tokens"][0, 1:].detach(), gradient[0, 1:]
    twin = torch.zeros(4, 4, dtype=torch.float64)
    for row in range(4):
        for column in range(4):
            twin[row, column] = max(0.0, float(gradient.mean(0) @ tokens[row * 4 + column]))
    ours = gradcam(network.explainable(), images, [1])
    torch.testing.assert_close(ours[0, 0], twin)


def test_swin_gradcam_of_a_pooled_linear_head_is_cam(tmp_path: Path) -> None:
    network = load_network(saved(tmp_path, "swin"))
    images = torch.randn(1, 3, SIDE, SIDE)
    explainable = network.explainable()
    A = explainable.features(images)
    weights = network.module.classifier.weight  # type: ignore[union-attr]
    cam = torch.einsum("k,khw->hw", weights[3], A[0]).relu() / 64
    torch.testing.assert_close(gradcam(explainable, images, [3])[0, 0], cam, atol=1e-6, rtol=1e-4)


def test_the_saved_image_processor_is_followed(tmp_path: Path) -> None:
    name = saved(tmp_path, "vit")
    image = Image.effect_noise((90, 50), 60).convert("RGB")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    ours = load_network(name).preprocessing(image)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().mean() < 0.02  # two resizers; a wrong mean or deviation would be far off


def test_a_processor_that_crops_gives_its_crop_size_and_scale(tmp_path: Path) -> None:
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 48}, do_normalize=False)
    preprocessing = load_network(saved(tmp_path, "convnext", processor)).preprocessing
    assert preprocessing.size == (48, 48) and preprocessing.crop is None
    assert preprocessing.mean == (0, 0, 0) and preprocessing.std == (1, 1, 1)


def test_without_an_image_processor_the_assumption_is_said(tmp_path: Path) -> None:
    name = saved(tmp_path, "vit", processor=None)
    with pytest.warns(UserWarning, match=f"no preprocessor_config.json: assuming {SIDE}x{SIDE}"):
        network = load_network(name)
    assert network.preprocessing.size == (SIDE, SIDE) and network.preprocessing.mean == (0.5, 0.5, 0.5)


def test_weights_are_never_random_unless_asked_for(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", "vit").removeprefix("hf:")
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)  # a trunk without its head
    with pytest.raises(UserError, match="no weights for 'classifier"):
        load_network(f"hf:{folder}")
    (Path(folder) / "model.safetensors").unlink()
    with pytest.raises(UserError, match="could not be loaded .*model.safetensors.*get its files again"):
        load_network(f"hf:{folder}")
    assert load_network(f"hf:{folder}", random_weights=True).source == "random weights"


def test_nan_weights_and_empty_folders_are_refused(tmp_path: Path) -> None:
    name = saved(tmp_path / "a", "vit")
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "a")
    model.classifier.bias.data[0] = float("nan")
    model.save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match="'classifier.bias' holds NaN"):
        load_network(name)
    with pytest.raises(UserError, match="no config.json"):
        load_network(f"hf:{tmp_path}")


def test_a_model_of_ones_own_is_explained_without_a_folder() -> None:
    config = transformers.ViTConfig(**VIT, id2label=NAMES)
    classifier = classification.load(transformers.ViTForImageClassification(config).train())
    assert classifier.network.module.training and classifier.labels[1] == "dog"
    assert classifier.explain(torch.randn(1, 3, SIDE, SIDE))[0].heatmaps.shape == (1, 1, 4, 4)
    assert classifier.network.module.training


def test_a_wrong_layer_of_a_transformer_gets_the_candidates(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"default is 'vit\.layers\.1\.layernorm_before'.*32x4x4"):
        classification.load(saved(tmp_path, "vit"), layer="classifier")


def test_nothing_but_errors_is_said_while_loading(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    name = saved(tmp_path, "resnet")
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_network(name)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["swin", "swinv2"])
def test_swin_tokens_of_a_wide_image_lie_on_a_wide_grid(tmp_path: Path, kind: str) -> None:
    options = {"depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "embed_dim": 4, "image_size": [32, 128]}
    name = saved(tmp_path, kind, **options, window_size=2, patch_size=2)
    network = load_network(name, preprocessing=Preprocessing((32, 128)))
    images = torch.randn(2, 3, 32, 128)
    kept = []
    norm = network.module.get_submodule(f"{kind}.layernorm")
    handle = norm.register_forward_hook(lambda part, inputs, output: kept.append(output))
    A = network.explainable().features(images)
    handle.remove()
    assert torch.equal(A, kept[-1].view(2, 2, 8, -1).movedim(3, 1).detach())
    shapes = {layer.name: layer.shape for layer in network.layers()}
    assert shapes[f"{kind}.layernorm"][1:] == A.shape[2:]


def test_vit_patches_that_are_no_squares(tmp_path: Path) -> None:
    network = load_network(saved(tmp_path, "vit", num_hidden_layers=1, patch_size=[16, 8]))
    images = torch.randn(1, 3, SIDE, SIDE)
    changed = images.clone()
    changed[:, :, 32:48, 8:16] += 1  # row 2, column 1 of 4x8 patches
    difference = (network.explainable().features(images) - network.explainable().features(changed)).abs()
    assert difference.sum(1)[0].nonzero().tolist() == [[2, 1]] and difference.shape[2:] == (4, 8)


def test_names_that_a_config_lacks_are_numbered() -> None:
    options = {"depths": [1] * 4, "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1] * 4}
    config = transformers.PvtConfig(image_size=SIDE, num_labels=5, **options)
    config.__dict__["id2label"] = None
    module = transformers.PvtForImageClassification(config)
    classifier = classification.load(module)
    assert classifier.labels[4] == "class 4" and len(classifier.labels) == 5


def test_a_folder_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "m", "resnet")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_network("hf:~/m").num_classes == 5
    with pytest.raises(UserError, match="no such folder"):
        load_network("hf:~/nosuch")


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["beit", "swin", "swinv2", "vit"])
def test_folders_in_half_precision_are_read_and_explained(tmp_path: Path, kind: str, half: torch.dtype) -> None:
    name = saved(tmp_path, kind)
    images = torch.randn(2, 3, SIDE, SIDE)
    expected = classification.load(name).explain(images, 0)
    transformers.AutoModelForImageClassification.from_pretrained(tmp_path).to(half).save_pretrained(tmp_path)
    classifier = classification.load(name)
    assert next(classifier.network.module.parameters()).dtype == half
    for ours, theirs in zip(classifier.explain(images, 0), expected, strict=True):
        assert ours.heatmaps.dtype == torch.float32
        assert float((ours.heatmaps - theirs.heatmaps).abs().max()) < 0.1 * float(theirs.heatmaps.max())

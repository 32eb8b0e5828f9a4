"""`saywhy score`: maps of this and of other libraries against boxes in every layout."""

import argparse
import json

import numpy as np
import pytest
import torch
from PIL import Image

import classification
from common.errors import UserError
from common.explanation import Explanation
from common.gradcam import gradcam
from common.images import Preprocessing
from scripts.commands import score
from tests.nets import Plain, seeded
from tests.test_ilsvrc import folder as ilsvrc_folder  # noqa: F401
from tests.test_voc import folder as voc_folder  # noqa: F401


def run(*arguments) -> int:
    parser = argparse.ArgumentParser()
    score.add_parser(parser.add_subparsers())
    args = parser.parse_args(["score", *map(str, arguments)])
    return args.run(args)


@pytest.fixture
def boxes(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"a.jpg": {"cat": [[0, 0, 0.5, 0.5]]}, "b.jpg": {"dog": [[0.5, 0.5, 1, 1]]}}))
    return path


def corner(place) -> np.ndarray:
    values = np.zeros((4, 4), np.float32)
    values[:2, :2] = place == "top left"
    values[2:, 2:] = place == "bottom right"
    return values


def scores(capsys, *arguments):
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)["scores"]


def test_maps_on_their_boxes_score_well_and_others_badly(tmp_path, boxes, capsys):
    path, names = tmp_path / "maps.npz", ["a.jpg", "b.jpg"]
    np.savez(path, maps=np.stack([corner("top left"), corner("bottom right")]), images=names)
    good = scores(capsys, "--maps", path, "--data", boxes)
    np.savez(path, maps=np.stack([corner("bottom right"), corner("top left")]), images=names)
    bad = scores(capsys, "--maps", path, "--data", boxes)
    assert good["pointing"]["mean"] == 1 and good["localised"]["mean"] == 1 and good["energy"]["mean"] > 0.8
    assert bad["pointing"]["mean"] == 0 and bad["localised"]["mean"] == 0 and bad["energy"]["mean"] < 0.1
    assert good["pointing"]["n"] == 2


def test_the_table_names_each_measure(tmp_path, boxes, capsys):
    path = tmp_path / "maps.npz"
    np.savez(path, maps=np.stack([corner("top left"), np.zeros((4, 4), np.float32)]), images=["a", "b"])
    assert run("--maps", path, "--data", boxes, "--references", path) == 0
    out = capsys.readouterr().out
    assert "2 maps scored" in out and "peak in a box" in out and "rank correlation" in out
    assert "1 undefined" in out


@pytest.fixture
def explained():
    net = seeded(Plain)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return net, images, [1, 3]


def test_captums_maps_score_as_ours(tmp_path, boxes, capsys, explained):
    attr = pytest.importorskip("captum.attr")
    net, images, classes = explained
    theirs = attr.LayerGradCam(net, net.features).attribute(images, target=classes, relu_attributions=True)
    ours = gradcam(net, images, torch.tensor(classes))[0]
    found = []
    for number, maps in enumerate((theirs[:, 0].detach().numpy(), ours.numpy())):
        path = tmp_path / f"maps{number}.npz"
        np.savez(path, maps=maps, images=["a.jpg", "b.jpg"], classes=["cat", "dog"])
        found.append(scores(capsys, "--maps", path, "--data", boxes))
    for name in found[0]:
        assert found[0][name]["mean"] == pytest.approx(found[1][name]["mean"], rel=1e-4, nan_ok=True), name


def test_pytorch_grad_cams_maps_are_scored(tmp_path, boxes, capsys, explained):
    library = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net, images, classes = explained
    with library.GradCAM(model=net, target_layers=[net.features]) as cam:
        maps = cam(images, [ClassifierOutputTarget(c) for c in classes])
    path = tmp_path / "maps.npz"
    np.savez(path, maps=maps, images=["a.jpg", "b.jpg"])
    np.savez(tmp_path / "ours.npz", maps=gradcam(net, images, torch.tensor(classes))[0].numpy(), images=["a", "b"])
    found = scores(capsys, "--maps", path, "--data", boxes, "--references", tmp_path / "ours.npz")
    assert found["energy"]["n"] + found["energy"]["left_out"] == 2
    if found["rank_correlation"]["n"]:
        assert found["rank_correlation"]["mean"] > 0.8  # its maps are resized to the image, ours are not


def test_our_own_saved_explanations_can_be_scored(tmp_path, boxes, capsys):
    path = tmp_path / "maps.npz"
    np.savez(path, heatmaps=np.stack([corner("top left")] * 2), images=["a.jpg", "a.jpg"])
    assert scores(capsys, "--maps", path, "--data", boxes)["pointing"]["mean"] == 1


def test_gradient_images_are_taken_by_their_strongest_channel(tmp_path, boxes, capsys):
    pixels = np.zeros((1, 3, 4, 4), np.float32)
    pixels[0, 1] = -corner("top left")
    np.savez(tmp_path / "maps.npz", maps=pixels, images=["a.jpg"])
    assert scores(capsys, "--maps", tmp_path / "maps.npz", "--data", boxes)["pointing"]["mean"] == 1


def test_voc_and_ilsvrc_and_coco_layouts_are_read(tmp_path, capsys, voc_folder, ilsvrc_folder):  # noqa: F811
    maps = np.ones((1, 4, 4), np.float32)
    maps[0, 2, 2] = 2
    np.savez(tmp_path / "voc.npz", maps=maps, images=["2007_000027.jpg"], classes=["dog"])
    assert scores(capsys, "--maps", tmp_path / "voc.npz", "--data", f"voc:{voc_folder}")["pointing"]["mean"] == 1
    np.savez(tmp_path / "val.npz", maps=maps, images=["ILSVRC2012_val_00000001.JPEG"])
    found = scores(capsys, "--maps", tmp_path / "val.npz", "--data", f"imagenet:{ilsvrc_folder}")
    assert found["pointing"]["mean"] == 1
    record = {
        "images": [{"id": 1, "file_name": "c.jpg", "width": 10, "height": 10}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [5, 5, 5, 5]}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(record))
    np.savez(tmp_path / "coco.npz", maps=maps, images=["c.jpg"], classes=["dog"])
    found = scores(capsys, "--maps", tmp_path / "coco.npz", "--data", f"coco:{tmp_path / 'instances.json'}")
    assert found["pointing"]["mean"] == 1


def test_what_does_not_fit_is_refused(tmp_path, boxes):
    path, maps = tmp_path / "maps.npz", np.ones((1, 4, 4), np.float32)

    def refused(message, data=boxes, **arrays):
        np.savez(path, **arrays)
        with pytest.raises(UserError, match=message):
            run("--maps", path, "--data", data)

    refused("expected maps", maps=maps)
    refused("expected maps", maps=np.ones((1, 4, 4), int), images=["a.jpg"])
    refused("2 images and 2 classes", maps=maps, images=["a.jpg", "b.jpg"])
    refused("no boxes for 'z.jpg'; the data has 'a', 'b'", maps=maps, images=["z.jpg"])
    refused("no boxes of 'dog'; it has 'cat'", maps=maps, images=["a.jpg"], classes=["dog"])
    refused("NaN", maps=maps * np.nan, images=["a.jpg"])
    two = tmp_path / "two.json"
    two.write_text(json.dumps({"a.jpg": {"cat": [], "dog": []}}))
    refused("say which", two, maps=maps, images=["a.jpg"])
    two.write_text(json.dumps({"a.jpg": [[0, 0, 1, 1]]}))
    refused("'a.jpg' is not", two, maps=maps, images=["a.jpg"])
    two.write_text(json.dumps({"a.jpg": {"cat": [[10, 20, 100, 120]]}}))  # pixels
    refused(r"'a.jpg': box .* is not left < right, top < bottom within \[0, 1\]", two, maps=maps, images=["a.jpg"])
    np.savez(path, maps=maps, images=["a.jpg"])
    np.savez(tmp_path / "more.npz", maps=np.ones((2, 4, 4), np.float32), images=["a", "b"])
    with pytest.raises(UserError, match="hold 2 maps; expected one for each of 1"):
        run("--maps", path, "--data", boxes, "--references", tmp_path / "more.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match="write it with numpy.savez"):
        run("--maps", tmp_path / "text.npz", "--data", boxes)


def saved(path, maps, names, method="gradcam"):
    """An explanation of one image with these maps, as `Explanation.save` and the commands write it."""
    values = torch.from_numpy(np.stack(maps))[:, None]
    Explanation(tuple(names), torch.zeros(len(maps), 1), {method: values}).save(path)
    return path


def test_what_the_commands_wrote_is_scored_target_by_target(tmp_path, capsys):
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"a.jpg": {"cat": [[0, 0, 0.5, 0.5]], "dog": [[0.5, 0.5, 1, 1]]}}))
    maps = [corner("top left"), corner("top left"), corner("bottom right")]
    path = saved(tmp_path / "a.classify.npz", maps, ["tabby, Cat", "dog", "boxer"])
    assert run("--maps", path, "--data", boxes) == 0
    printed = capsys.readouterr()
    assert "2 maps scored" in printed.out and "'boxer'" in printed.err
    found = scores(capsys, "--maps", path, path, "--data", boxes, "--references", path, path)
    assert found["pointing"]["mean"] == 0.5 and found["pointing"]["n"] == 4
    assert found["rank_correlation"]["mean"] == pytest.approx(1)


def test_one_target_goes_with_the_only_class_whatever_its_name(tmp_path, boxes, capsys):
    path = saved(tmp_path / "b.npz", [corner("bottom right")], ["the answer: dog"])
    assert scores(capsys, "--maps", path, "--data", boxes)["pointing"]["mean"] == 1


def test_an_explanation_by_another_method_or_of_nothing_known_is_refused(tmp_path, boxes):
    path = saved(tmp_path / "a.vqa.npz", [corner("top left")] * 2, ["red", "blue"], "occlusion")
    with pytest.raises(UserError, match="no maps by 'gradcam'; it has occlusion; choose one with --method"):
        run("--maps", path, "--data", boxes)
    with pytest.raises(UserError, match="'a' has no boxes of 'red'; it has 'cat'"):
        run("--maps", path, "--data", boxes, "--method", "occlusion")


def test_a_classifiers_saved_explanation_is_scored(tmp_path, boxes, capsys):
    net = seeded(Plain)
    preprocessing = Preprocessing((16, 16), (0.5,) * 3, (0.5,) * 3)
    classifier = classification.load(net, labels=["cat", "dog", "x", "y", "z"], preprocessing=preprocessing)
    explanation = classifier.explain(Image.new("RGB", (20, 20), "red"), ["cat", "dog"], methods=("gradcam", "guided"))
    explanation.save(tmp_path / "a.classify.npz")
    for method in ("gradcam", "guided"):
        found = scores(capsys, "--maps", tmp_path / "a.classify.npz", "--data", boxes, "--method", method)
        assert found["energy"]["n"] + found["energy"]["left_out"] == 1

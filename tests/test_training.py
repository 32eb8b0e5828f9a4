"""What the trainings of all tasks share: trunks, views, evidence, stages that go on, and checkpoints."""

import captioners
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from common.errors import UserError
from common.networks.trunk import load_trunk
from common.training.checkpoints import load_checkpoint, load_weights, save_checkpoint
from common.training.loop import Average, Stage, cosine, seed_of
from common.training.loop import train as train_stages
from common.training.run import Run
from common.training.views import view


def test_front_and_tail_make_the_whole_trunk():
    trunk = load_trunk("efficientnet_lite0", random_weights=True)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        whole = trunk.module.forward_features(images)
        for blocks in (None, 0, 5, 7):
            front, tail = trunk.split(blocks)
            torch.testing.assert_close(tail(front(images)), whole)
    assert len(list(tail.parameters())) == 3  # conv_head's weight, and the norm's scale and shift
    with pytest.raises(UserError, match="blocks 0 to 7; cannot train it from 9"):
        trunk.split(9)


@pytest.mark.parametrize(
    ("name", "layer", "channels", "front", "trained"),
    [
        ("small_cnn", "trunk.body", 96, (3, 64, 64), 12),  # knows nothing yet: trained whole
        ("timm:test_convnext", "trunk", 64, (64, 2, 2), 0),  # can't be cut: stays as it is
        ("resnet18", "trunk.layer4", 512, (512, 2, 2), 0),
    ],
)
def test_any_trunk_is_cut_where_it_can_be(name, layer, channels, front, trained):
    trunk = load_trunk(name, random_weights=True)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before, tail = trunk.split(5)
        assert before(images).shape[1:] == front and len(list(tail.parameters())) == trained
        torch.testing.assert_close(tail(before(images)), trunk.features(images))
        assert trunk.features(images).shape[1] == trunk.channels == channels
    assert trunk.layer_name == layer and trunk.classifier is None
    frozen, nothing = trunk.split(None)
    assert not list(nothing.parameters()) and torch.equal(frozen(images), trunk.features(images))


def test_a_network_of_tokens_is_no_trunk():
    with pytest.raises(UserError, match="has tokens, not a feature map"):
        load_trunk("timm:test_vit", random_weights=True)


def test_views_depend_on_name_and_number_alone():
    image = torch.rand(3, 32, 32)
    assert torch.equal(view(image, "a.jpg", 0), image)
    assert torch.equal(view(image, "a.jpg", 1), image.flip(-1))
    crop = view(image, "a.jpg", 2)
    assert crop.shape == image.shape and torch.equal(crop, view(image, "a.jpg", 2))
    assert not torch.equal(crop, view(image, "b.jpg", 2)) and not torch.equal(crop, image)


def test_averaged_weights_follow_and_give_way():
    module = nn.Linear(1, 1, bias=False)
    average = Average(module, decay=0.5)
    start = float(module.weight.detach())
    with torch.no_grad():
        module.weight.fill_(start + 1)
    average.update()  # the first decay is 2/11
    expected = start + (1 - 2 / 11)
    with pytest.raises(ZeroDivisionError), average.applied():
        assert float(module.weight.detach()) == pytest.approx(expected)
        raise ZeroDivisionError
    assert float(module.weight.detach()) == pytest.approx(start + 1)
    average.settle()
    assert float(module.weight.detach()) == pytest.approx(expected)


def test_the_learning_rate_rises_then_falls_to_nothing():
    rates = [cosine(step, 100, warmup=10) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11) and max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5) and rates[100] == pytest.approx(0.0, abs=1e-12)
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_seeds_differ_by_every_part():
    assert len({seed_of(1, 2), seed_of(2, 1), seed_of(12), seed_of("1", "2", "3")}) == 4


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    module = nn.Linear(1, 1)
    stage = Stage(
        "x", 1, 1, lambda: [{"params": list(module.parameters()), "lr": 1.0}], lambda seed: [0],
        lambda batch: (module.weight.sum() * float("nan"), {}),
    )  # fmt: skip
    with pytest.raises(UserError, match="the loss is nan in stage 'x'"):
        train_stages([stage], module, Run(tmp_path, {}), 0)


def _one_stage(module, epochs):
    return Stage(
        "x", epochs, 2, lambda: [{"params": list(module.parameters()), "lr": 0.1}], lambda seed: [1.0, 2.0],
        lambda batch: ((module.weight * batch - 1).square().sum(), {}), warmup=0,
    )  # fmt: skip


def test_a_run_begun_on_a_gpu_goes_on_where_there_is_none(tmp_path, monkeypatch):
    torch.manual_seed(0)
    module = nn.Linear(3, 2, bias=False)
    start = module.weight.detach().clone()
    train_stages([_one_stage(module, 3)], module, Run(tmp_path / "whole", {}), 0)
    whole = module.weight.detach().clone()

    save = Run.save

    def on_a_gpu(self, state):
        monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        save(self, state)
        raise KeyboardInterrupt

    module.load_state_dict({"weight": start})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "save", on_a_gpu)
        train_stages([_one_stage(module, 3)], module, Run(tmp_path / "stopped", {}), 0)
    monkeypatch.undo()
    module = nn.Linear(3, 2, bias=False)
    train_stages([_one_stage(module, 3)], module, Run(tmp_path / "stopped", {}), 0)
    assert torch.equal(module.weight, whole) and not torch.equal(whole, start)


def test_the_log_of_a_killed_run_is_brought_to_where_its_state_is(tmp_path):
    def trained(folder):
        torch.manual_seed(0)
        module = nn.Linear(3, 2, bias=False)
        train_stages([_one_stage(module, 3)], module, run := Run(tmp_path / folder, {}), 0)
        return run

    def lines(run):
        return [{k: v for k, v in record.items() if "seconds" not in k} for record in run.records()]

    whole = trained("whole")
    with (tmp_path / "whole" / "log.jsonl").open("a") as log:
        log.write('{"stage": "x", "epoch": 4, "of": 3, "loss": 0.5}\n{"stage": "x", "epo')  # killed before its state
    (tmp_path / "whole" / "curve.png").unlink()
    assert len(whole.records()) == 4
    assert lines(trained("whole")) == lines(trained("other")) and len(whole.records()) == 3
    assert (tmp_path / "whole" / "curve.png").is_file()
    (tmp_path / "whole" / "state.pt").unlink()  # killed within the first epoch
    assert lines(trained("whole")) == lines(trained("other"))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", None, 5, [], {"settings": 3}])
def test_a_state_that_is_none_is_named(tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / "state.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "state.pt")
    with pytest.raises(UserError, match=r"state\.pt' cannot be read; delete it or start with --restart"):
        Run(tmp_path, {}).load()


def test_averaged_weights_go_on_in_a_module_of_another_device_or_type():
    saved = Average(nn.Linear(2, 1))
    module = nn.Linear(2, 1).double()
    average = Average(module)
    average.load(saved.state())
    average.update()
    assert average.values["weight"].dtype == torch.float64 and average.updates == 1


def test_a_broken_state_file_says_how_to_go_on(tmp_path):
    run = Run(tmp_path, {})
    run.state_path.write_bytes(b"not a state")
    with pytest.raises(UserError, match="delete it or start with --restart"):
        run.load()


def test_checkpoints_come_back_as_they_were_saved(tmp_path):
    tensors = {"a.weight": torch.randn(3, 2), "bn.running_var": torch.tensor([70000.0]), "n": torch.tensor(3)}
    path = save_checkpoint(tmp_path / "m", tensors, {"kind": "x", "word": "été"})
    assert load_file(path)["a.weight"].dtype == torch.float16
    loaded, config = load_checkpoint(path)
    assert config == {"kind": "x", "word": "été"}
    torch.testing.assert_close(loaded["a.weight"], tensors["a.weight"].half().float())
    assert float(loaded["bn.running_var"]) == 70000.0 and int(loaded["n"]) == 3


def test_weights_of_another_model_are_refused():
    model = captioners.small()
    state = model.state_dict()
    missing = {k: v for k, v in state.items() if k != "decoder.bias"}
    with pytest.raises(UserError, match="entry 'decoder.bias' is in only one of them"):
        load_weights(model, missing, "x")

"""The policy's experiment: its world is MiniGrid's, it learns, and maps are measured on the right cells."""

import json
import random

import numpy as np
import pytest
import torch

from common.errors import UserError
from scripts.experiments import agent, doorkey, policy
from scripts.experiments.doorkey import ACTIONS, CLOSED, LOCKED, OPEN, Layout, State, World, layouts

pytest.importorskip("minigrid", reason="needs minigrid: pip install 'saywhy[policy]'")


@pytest.fixture(scope="module")
def world():
    return World(6)


def test_states_after_actions_are_those_of_the_game(world):
    rng = random.Random(0)
    for layout in layouts(world, 4, 0):
        state, doors = layout.start, set()
        for _ in range(150):
            np.testing.assert_array_equal(world.seen(), world.picture(layout, state))
            action = rng.choice([*ACTIONS, "toggle", "go forward", "pick up"])
            _, over = world.act(action)
            state = layout.after(state, action)
            doors.add(state.door)
            if over:
                break
    assert doors & {OPEN, CLOSED}


def test_best_actions_lead_to_the_goal_in_as_many_steps_as_are_told(world):
    for layout in layouts(world, 6, 50):
        steps, state, taken = layout.steps(), layout.start, 0
        over = False
        while not over:
            shares = agent.best_actions(layout, state, steps)
            assert sum(shares) == pytest.approx(1)
            action = agent.NAMES[int(np.argmax(shares))]
            reward, over = world.act(action)
            state, taken = layout.after(state, action), taken + 1
        assert reward > 0 and taken == steps[layout.start]


def test_no_way_is_shorter_than_the_one_that_is_told():
    # Five cells in a row: agent, key, floor, door, goal. Pick up, four steps with the door to open in between.
    walls = frozenset((x, y) for x in range(7) for y in (0, 2)) | {(0, 1), (6, 1)}
    layout = Layout(7, walls, door=(4, 1), key=(2, 1), goal=(5, 1), start=State((1, 1), 0, False, LOCKED))
    steps = layout.steps()
    assert steps[layout.start] == 1 + 2 + 1 + 2  # pick up, to the door, open it, through it to the goal
    assert layout.wanted(layout.start) == "key" and "key" in layout.objects(layout.start)
    assert layout.wanted(State((3, 1), 0, True, LOCKED)) == "door"
    assert layout.wanted(State((3, 1), 0, True, OPEN)) == "goal"
    assert steps[State((1, 1), 1, False, LOCKED)] == steps[layout.start] + 1


def test_the_same_seed_gives_the_same_world_and_known_layouts_are_left_out(world):
    first = world.reset(7)
    assert world.reset(7) == first
    goals = {world.reset(seed).goal for seed in range(40)}
    assert len(goals) > 1  # not in its corner only
    known = frozenset(layout.places for layout in layouts(world, 10, 0))
    assert not known & {layout.places for layout in layouts(world, 10, 0, known)}


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    known = agent.lessons(world, 20, 20)
    return known, agent.taught(known, tmp_path_factory.mktemp("run"), world.side, 6, batch=8, rate=2e-3)


def test_it_learns_what_is_best_and_what_states_are_worth(trained):
    known, made = trained
    output = made(agent.as_images(known.pictures))
    chosen = known.best[np.arange(len(known.best)), output.logits.argmax(1)] > 0
    untaught = agent.Policy(6)(agent.as_images(known.pictures)).logits.argmax(1)
    assert chosen.mean() > 0.6 > (known.best[np.arange(len(known.best)), untaught] > 0).mean()
    assert np.corrcoef(output.value.numpy(), known.values)[0, 1] > 0.7


def test_maps_of_actions_and_values_are_eq_1_and_2_by_autograd(trained):
    known, made = trained
    picture = known.pictures[0]
    found = policy.maps_of(made, picture, "toggle")
    A = made.maps(agent.as_images(picture[None])).detach().requires_grad_()
    read = made.hidden(A)
    scores = made.action(read)[0, agent.NAMES.index("toggle")], made.value(read)[0, 0]
    for t, score in enumerate(scores):
        (gradient,) = torch.autograd.grad(score, A, retain_graph=True)
        expected = (gradient.mean((2, 3), keepdim=True) * A).sum(1).relu()[0]
        torch.testing.assert_close(found["gradcam"][t], expected.detach(), atol=1e-6, rtol=1e-4)
    assert found["occlusion"].shape == found["gradcam"].shape == (2, 6, 6)  # a position for each cell


def test_maps_after_an_earlier_convolution_are_pooled_to_cells(trained):
    known, made = trained
    picture = known.pictures[0]
    found = policy.maps_of(made, picture, "toggle", "maps.1", ["activation"])["activation"]
    fine = policy.explain(policy.HookedModel(made, "maps.1"), agent.as_images(picture[None]), [0], methods="activation")
    assert fine.activation.shape == (1, 1, 12, 12) and found.shape == (2, 6, 6)
    torch.testing.assert_close(found[0], fine.activation[0, 0].reshape(6, 2, 6, 2).mean((1, 3)))
    assert len(policy.on_layers(made, picture, "toggle", (1, 1), (2, 2))) == 4 * 3


def test_maps_are_measured_on_the_cells_of_the_agent_and_of_what_it_wants():
    layout = Layout(4, frozenset(), door=(2, 1), key=(1, 2), goal=(3, 3), start=State((1, 1), 0, False, LOCKED))
    heat = torch.zeros(2, 4, 4)
    heat[0, 2, 1], heat[0, 1, 1], heat[0, 0, 3] = 3.0, 1.0, 4.0  # the key, the agent, elsewhere (the peak)
    maps = {"gradcam": heat, "occlusion": heat - 1}
    found = policy.on_cells(maps, layout, layout.start)
    assert found["action gradcam next"] == 3 / 8 and found["action gradcam agent"] == 1 / 8
    assert found["action gradcam peak"] == 0 and found["action even peak"] == 2 / 16
    assert found["action even next"] == 1 / 16 and np.isnan(found["value gradcam next"])
    assert found["action gradcam rank"] == pytest.approx(1)
    heat[0, 0, 3] = 0
    assert policy.on_cells(maps, layout, layout.start)["action gradcam peak"] == 1


def test_the_program_plays_explains_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(policy, "World", lambda: World(6))
    monkeypatch.setattr(policy, "PATIENCE", 30)
    options = ["--layouts", "20", "--epochs", "2", "--episodes", "3", "--out", str(tmp_path / "p.png")]
    policy.main([*options, "--run", str(tmp_path / "run")])
    shown = capsys.readouterr().out
    assert "Policy, episodes won" in shown and "at random" in shown
    figures = json.loads((tmp_path / "p.json").read_text())
    assert figures["policy won"]["n"] == 3 and figures["taught"]["layouts"] == 20
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_without_the_extra_a_line_says_how_to_get_it(monkeypatch):
    import scripts.batch.files as files

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(files, "import_module", missing)
    with pytest.raises(UserError, match=r"minigrid is not installed, .* pip install 'saywhy\[policy\]'"):
        doorkey.World()

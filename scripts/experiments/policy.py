"""Reinforcement learning, which the paper's abstract names: why a policy acts as it does, and why it likes a state.

    pip install 'saywhy[policy]'                                       # gymnasium and minigrid
    python -m scripts.experiments.policy                               # about 3 min on one CPU core

A small convolutional network is taught MiniGrid's DoorKey from pixels by who knows the way (`agent`, `doorkey`).
On layouts that it never saw it plays beside one that acts at random. Then its actions and values are explained, and
their maps measured on the cells of what is there: of the agent, and of the key, door or goal that it goes to next.

To expect: it wins 87 % of the layouts, at random 1 %. Covering a cell shows that it decides by the agent and what it
goes to next (98 % of the peaks); Grad-CAM at the last map does not (7 %, 3 % by chance). Its head reads every position
by weights of its own, which pooled gradients mix, and convolutions spread what they read: after the first of them
HiResCAM, which does not pool, has 97 %, Grad-CAM 23 %.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common.draw import Tile, draw_map, legends_of, panel
from common.explainable import HookedModel
from common.gradcam import explain
from common.methods.names import label
from common.methods.occlusion import OcclusionOptions
from common.metrics.faithfulness import rank_correlation
from common.targets import Index, Target
from scripts.console import whole
from scripts.experiments.agent import LAYER, NAMES, Lessons, Policy, PolicyOutput, as_images, lessons, taught
from scripts.experiments.doorkey import ACTIONS, CELL, Cell, Layout, State, World, layouts
from scripts.experiments.drawing import figure_parser, save_figure
from scripts.experiments.lab import measured, paired
from scripts.experiments.report import Table, against, row_of, text_table
from scripts.experiments.run import run_program

METHODS = ("gradcam", "hirescam", "activation", "occlusion")
COVER = OcclusionOptions(window=CELL, stride=CELL, fill=0.0)  # a cell, as black as the floor
PATIENCE = 100  # steps until an episode is lost
HELD_OUT = 10**6  # the first seed of the layouts that are played
EXPLAINED = ("action", "value")
PLAYERS = ("policy", "at random")
ROWS = {
    **{name: label(name) for name in METHODS},
    "activation": "activation energy, whatever is explained",
    "even": "an even map, a random cell",
}
# What is measured of maps, and how a table names it.
MEASURES = {
    "next": "share of the map on the thing to go to next",
    "agent": "share of the map on the agent",
    "peak": "peak on the agent or the thing to go to next",
    "rank": "rank correlation with occlusion of cells",
}
LAYERS = {f"maps.{place}": f"after convolution {n}" for n, place in enumerate((1, 3, 6, 8), 1)}
SUBTITLES = {"action": "the action taken", "value": "the value of the state"}


def value(output: PolicyOutput) -> Tensor:
    """What a state is worth, as a target: (B,)."""
    return output.value


def greedy(policy: Policy) -> Callable[[np.ndarray], str]:
    """The likeliest action for a picture."""
    return lambda picture: NAMES[int(policy(as_images(picture[None])).logits.argmax())]


def played(world: World, layout: Layout, act: Callable[[np.ndarray], str]) -> tuple[bool, list[tuple[State, str]]]:
    """Whether an episode is won, and its states with the actions taken; `layout` is what `world` made last."""
    world.restart(layout)
    state, path = layout.start, []
    for _ in range(PATIENCE):
        action = act(world.seen())
        path.append((state, action))
        reward, over = world.act(action)
        if over:
            return reward > 0, path
        state = layout.after(state, action)
    return False, path


def play(policy: Policy, world: World, count: int, known: frozenset[Any], seed: int = 0) -> dict[str, Any]:
    """Of the policy and of one that acts at random: episodes won, and steps of those won over the fewest.

    On layouts that are not `known`, each played by both.
    """
    rng = random.Random(seed)
    acting = dict(zip(PLAYERS, (greedy(policy), lambda picture: rng.choice(NAMES)), strict=True))

    def episode(number: int, layout: Layout) -> dict[str, list[float]]:
        fewest, found = layout.steps()[layout.start], {}
        for who, act in acting.items():
            won, path = played(world, layout, act)
            found[f"{who} won"] = [float(won)]
            found[f"{who} steps"] = [len(path) / fewest if won else float("nan")]
        return found

    return measured(layouts(world, count, HELD_OUT, known), episode)


def moments(layout: Layout, path: Sequence[tuple[State, str]]) -> list[tuple[State, str]]:
    """The first state, with its action, of each stage of an episode: on the way to the key, the door, the goal."""
    first: dict[str, tuple[State, str]] = {}
    for state, action in path:
        first.setdefault(layout.wanted(state), (state, action))
    return list(first.values())


def maps_of(
    policy: Policy, picture: np.ndarray, action: str, layer: str = LAYER, methods: Sequence[str] = METHODS
) -> dict[str, Tensor]:
    """Method -> maps (2,h,w), a position for each cell: of the action's score before the softmax, and of the value."""
    images = as_images(picture[None])
    targets: list[Target] = [Index(NAMES.index(action)), value]
    found = explain(HookedModel(policy, layer), images, targets, methods=methods, occlusion_options=COVER)
    cells = (picture.shape[0] // CELL, picture.shape[1] // CELL)
    return {name: F.adaptive_avg_pool2d(each[:, 0], cells) for name, each in found.maps.items()}


def on_cells(maps: dict[str, Tensor], layout: Layout, state: State) -> dict[str, float]:
    """'target method measure' -> value, for one state; of a map that is zero everywhere, nothing."""
    things = layout.objects(state)
    agent, wanted = things["agent"], things[layout.wanted(state)]
    found = {}
    for t, target in enumerate(EXPLAINED):
        for name, each in maps.items():
            found.update({f"{target} {name} {key}": x for key, x in _measures(each[t], agent, wanted).items()})
            if name != "occlusion":
                rank = rank_correlation(each[t : t + 1], maps["occlusion"][t : t + 1])
                found[f"{target} {name} rank"] = float(rank[0])
        even = _measures(torch.ones_like(maps["gradcam"][t]), agent, wanted)
        found.update({f"{target} even {key}": x for key, x in even.items()})
    return found


def on_layers(policy: Policy, picture: np.ndarray, action: str, agent: Cell, wanted: Cell) -> dict[str, float]:
    """'layer method' -> whether the peak of the action's map after each convolution is on either cell."""
    found = {}
    for layer in LAYERS:
        for name, each in maps_of(policy, picture, action, layer, METHODS[:3]).items():
            found[f"{layer} {name}"] = _measures(each[0], agent, wanted)["peak"]
    return found


def _measures(values: Tensor, agent: Cell, wanted: Cell) -> dict[str, float]:
    """Shares of what is positive of a map (h,w), and the chance that its peak (any of several) is on either cell."""
    positive = values.clamp(min=0)
    if not float(positive.sum()):
        return {key: float("nan") for key in ("next", "agent", "peak")}
    shares, peaks = positive / positive.sum(), (positive == positive.max()).float()
    return {
        "next": float(shares[wanted[1], wanted[0]]),
        "agent": float(shares[agent[1], agent[0]]),
        "peak": float(sum(peaks[y, x] for x, y in {agent, wanted}) / peaks.sum()),
    }


def explained(policy: Policy, world: World, count: int, known: frozenset[Any]) -> dict[str, Any]:
    """'target method measure' -> its mean over the moments of so many episodes, errors over episodes."""

    def episode(number: int, layout: Layout) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for state, action in moments(layout, played(world, layout, greedy(policy))[1]):
            picture, things = world.picture(layout, state), layout.objects(state)
            row = on_cells(maps_of(policy, picture, action), layout, state)
            row |= on_layers(policy, picture, action, things["agent"], things[layout.wanted(state)])
            for key, each in row.items():
                found.setdefault(key, []).append(each)
        return found

    return measured(layouts(world, count, HELD_OUT, known), episode)


def tables(games: dict[str, Any], maps: dict[str, Any]) -> list[Table]:
    """How well it plays; and for what is explained and each measure, the methods beside what needs no explanation."""
    source = "MiniGrid's DoorKey, 8 x 8, the goal anywhere behind the wall; layouts that it was not taught"
    found = [
        Table("Policy, episodes won", source, "share", _rows(games, PLAYERS, "{} won", PLAYERS), reference="policy"),
        Table(
            "Policy, steps over the fewest possible",
            source,
            "ratio, of those won",
            _rows(games, PLAYERS, "{} steps", ()),
        ),
    ]
    for target in EXPLAINED:
        for key, what in MEASURES.items():
            keys = [name for name in ROWS if f"{target} {name} {key}" in maps]
            rows = _rows(maps, keys, f"{target} {{}} {key}", keys)
            found.append(Table(f"Policy, {SUBTITLES[target]}", source, what, rows, reference=ROWS[keys[0]]))
    for layer, what in LAYERS.items():
        rows = _rows(maps, METHODS[:3], f"{layer} {{}}", METHODS[:3])
        title = f"Policy, {SUBTITLES['action']}, {what}"
        found.append(Table(title, source, MEASURES["peak"], rows, reference=ROWS[METHODS[0]]))
    return found


def _rows(found: dict[str, Any], keys: Sequence[str], name: str, compared: Sequence[str]) -> list[Any]:
    first = found[name.format(keys[0])]
    rows = [row_of(ROWS.get(key, key), found[name.format(key)]) for key in keys]
    others = [paired(found[name.format(key)], first) if key in compared[1:] else None for key in keys]
    return [against(row, other) for row, other in zip(rows, others, strict=True)]


def draw(policy: Policy, world: World, known: frozenset[Any], seed: int = HELD_OUT) -> Image.Image:
    """The moments of one episode: the picture, and maps of the action that is taken and of the state's value."""
    layout = next(layouts(world, 1, seed, known))
    tiles = []
    for state, action in moments(layout, played(world, layout, greedy(policy))[1]):
        picture = world.picture(layout, state)
        shown = Image.fromarray(picture).resize((320, 320), Image.Resampling.NEAREST)
        worth = float(policy(as_images(picture[None])).value)
        maps = maps_of(policy, picture, action)
        tiles.append(Tile(shown, f"To the {layout.wanted(state)}: {action}", f"value {worth:.2f}"))
        early = maps_of(policy, picture, action, next(iter(LAYERS)), ["hirescam"])["hirescam"]
        for name, values, what, where in (
            ("occlusion", maps["occlusion"][0], action, "a cell at a time"),
            ("hirescam", early[0], action, "after the first convolution"),
            ("gradcam", maps["gradcam"][0], action, "after the last convolution"),
            ("gradcam", maps["gradcam"][1], "value", "after the last convolution"),
        ):
            tiles.append(Tile(draw_map(name, shown, values), f"{label(name)}: {what}", where))
    note = "The red triangle is the agent; yellow: key and door, green: goal. Each map on its own scale."
    return panel("Why a policy acts as it does", tiles, 5, legends_of(("gradcam", "occlusion")), 220, note)


def main(arguments: Sequence[str] | None = None) -> None:
    """Teach, play, explain; write the picture and the figures."""
    parser = figure_parser(__doc__, "saywhy-out/policy.png", model=None)
    add = parser.add_argument
    add("--layouts", type=whole(), default=1500, metavar="N", help="layouts that it is taught on, 16 states of each")
    add("--epochs", type=whole(), default=6, metavar="N", help="passes over these states")
    add("--episodes", type=whole(), default=200, metavar="N", help="other layouts, which are played and explained")
    add("--run", default="saywhy-out/policy-run", metavar="DIR", help="folder of the training, which goes on there")
    args = parser.parse_args(arguments)
    world = World()
    known: Lessons = lessons(world, args.layouts, 16)
    policy = taught(known, Path(args.run), world.side, args.epochs)
    games = play(policy, world, args.episodes, known.places)
    maps = explained(policy, world, args.episodes, known.places)
    for table in tables(games, maps):
        print(text_table(table))
    without = {key: {k: v for k, v in each.items() if k != "by_item"} for key, each in {**games, **maps}.items()}
    figures = {"taught": {"layouts": args.layouts, "states": len(known.pictures), "actions": list(ACTIONS)}, **without}
    save_figure(draw(policy, world, known.places), args.out, figures)


if __name__ == "__main__":
    run_program(main)

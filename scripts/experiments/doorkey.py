"""A world of pixels in which an agent has to fetch a key, open a door and go to the goal, and who knows the way.

MiniGrid's DoorKey (Chevalier-Boisvert et al. 2023), with the goal anywhere behind the wall, not in its corner only: so
the picture, one cell eight pixels wide, has to be looked at for it. A layout has some hundred states; from all of
them the fewest steps to the goal are known by breadth-first search, and with them every best action.

    world = World(8)
    layout = world.reset(seed=3)
    state, ways = layout.start, layout.steps()
    world.picture(layout, state)                             # (64, 64, 3), bytes
    [action for action in ACTIONS if ways[layout.after(state, action)] < ways[state]]
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from scripts.batch.files import needed

CELL = 8  # pixels
LOCKED, CLOSED, OPEN = range(3)
# MiniGrid's numbers of the actions that lead anywhere.
ACTIONS = {"turn left": 0, "turn right": 1, "go forward": 2, "pick up": 3, "toggle": 5}
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up: x to the right, y down

Cell = tuple[int, int]


class State(NamedTuple):
    """Where the agent is and looks (an index of `STEPS`), whether it has the key, and how the door is."""

    at: Cell
    looks: int
    has_key: bool
    door: int


@dataclass(frozen=True)
class Layout:
    """Where the walls, the door, the key and the goal are, of a world of `side` cells; and where the agent starts."""

    side: int
    walls: frozenset[Cell]
    door: Cell
    key: Cell
    goal: Cell
    start: State

    @property
    def places(self) -> tuple[Cell, Cell, Cell]:
        """What tells two layouts apart, wherever the agent starts."""
        return self.door, self.key, self.goal

    def objects(self, state: State) -> dict[str, Cell]:
        """The cells of what is seen: agent, door, goal, and the key as long as it lies there."""
        found = {"agent": state.at, "door": self.door, "goal": self.goal}
        return found if state.has_key else {**found, "key": self.key}

    def wanted(self, state: State) -> str:
        """What the agent has to go to next: key, door or goal."""
        if state.door == OPEN:
            return "goal"
        return "door" if state.has_key or state.door == CLOSED else "key"

    def after(self, state: State, action: str) -> State:
        """The state after an action; the same where it does nothing."""
        if action.startswith("turn"):
            return state._replace(looks=(state.looks + (1 if action == "turn right" else -1)) % 4)
        ahead = (state.at[0] + STEPS[state.looks][0], state.at[1] + STEPS[state.looks][1])
        if action == "go forward":
            return state._replace(at=ahead) if self._free(ahead, state) else state
        if action == "pick up":
            return state._replace(has_key=True) if ahead == self.key and not state.has_key else state
        if ahead != self.door or (state.door == LOCKED and not state.has_key):
            return state
        return state._replace(door=CLOSED if state.door == OPEN else OPEN)

    def _free(self, cell: Cell, state: State) -> bool:
        if cell == self.door:
            return state.door == OPEN
        return cell not in self.walls and (cell != self.key or state.has_key)

    def steps(self) -> dict[State, int]:
        """The fewest steps to the goal from every state that can be come to from the start."""
        before: dict[State, set[State]] = defaultdict(set)
        seen, queue = {self.start}, deque([self.start])
        while queue:
            state = queue.popleft()
            for action in ACTIONS:
                reached = self.after(state, action)
                before[reached].add(state)
                if reached not in seen:
                    seen.add(reached)
                    queue.append(reached)
        found = {state: 0 for state in seen if state.at == self.goal}
        queue = deque(found)
        while queue:
            state = queue.popleft()
            for earlier in before[state]:
                if earlier not in found:
                    found[earlier] = found[state] + 1
                    queue.append(earlier)
        return found


class World:
    """MiniGrid's DoorKey of `side` cells. Raises `UserError` where the extra is not installed."""

    def __init__(self, side: int = 8) -> None:
        needed("minigrid", "policy")
        gymnasium = needed("gymnasium", "policy")
        self.env: Any = gymnasium.make(f"MiniGrid-DoorKey-{side}x{side}-v0")
        self.side = side

    @property
    def game(self) -> Any:
        return self.env.unwrapped

    def reset(self, seed: int) -> Layout:
        """A new layout, the same for the same seed."""
        self.env.reset(seed=seed)
        found: dict[str, list[Cell]] = defaultdict(list)
        for y in range(self.side):
            for x in range(self.side):
                thing = self.game.grid.get(x, y)
                found[thing.type if thing else "floor"].append((x, y))
        (door,), (key,), (goal,) = found["door"], found["key"], found["goal"]
        free = [cell for cell in found["floor"] if cell[0] > door[0]]
        moved = random.Random(seed).choice([goal, *free])
        self.game.grid.set(*moved, self.game.grid.get(*goal))
        if moved != goal:
            self.game.grid.set(*goal, None)
        start = State(_cell(self.game.agent_pos), int(self.game.agent_dir), False, LOCKED)
        return Layout(self.side, frozenset(found["wall"]), door, key, moved, start)

    def picture(self, layout: Layout, state: State) -> np.ndarray:
        """The picture of a state of the layout that `reset` made last: (8 side, 8 side, 3), bytes."""
        game = self.game
        key, door = game.carrying or game.grid.get(*layout.key), game.grid.get(*layout.door)
        game.grid.set(*layout.key, None if state.has_key else key)
        game.carrying = key if state.has_key else None
        door.is_locked, door.is_open = state.door == LOCKED, state.door == OPEN
        game.agent_pos, game.agent_dir = state.at, state.looks
        return self.seen()

    def restart(self, layout: Layout) -> None:
        """Play the layout that `reset` made last from its start."""
        self.picture(layout, layout.start)
        self.game.step_count = 0

    def seen(self) -> np.ndarray:
        """The picture of the world as it is."""
        return np.asarray(self.game.get_frame(highlight=False, tile_size=CELL))

    def act(self, action: str) -> tuple[float, bool]:
        """Take an action; returns the reward, and whether the episode is over."""
        _, reward, reached, late, _ = self.env.step(ACTIONS[action])
        return float(reward), bool(reached or late)


def layouts(world: World, count: int, first: int, without: frozenset[Any] = frozenset()) -> Iterator[Layout]:
    """So many layouts, of the seeds from `first` on, none with the places of those in `without`."""
    seed = first
    while count:
        layout = world.reset(seed)
        seed += 1
        if layout.places not in without:
            count -= 1
            yield layout


def _cell(position: Any) -> Cell:
    x, y = position
    return int(x), int(y)

"""The engine of a Ray cluster: an actor a worker, which holds the model and does a shard at a time; see `pool`.

Ray finds room for actors and says when one or its node is lost; what is done stands in the results' folder, as for any
engine. Every node needs saywhy in the driver's version (the plan's, which is checked), and to see input and `--out`.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stdout
from typing import Any, NamedTuple

from common.errors import UserError
from scripts.batch import files, pool
from scripts.batch.plan import Plan
from scripts.batch.pool import Died, Outcome


class Cluster(NamedTuple):
    """A Ray cluster's address ('auto': the one of this machine), and what each of its actors takes.

    `workers` None: as many as there is room for now.
    """

    address: str
    workers: int | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0


class Actor:
    """An actor: a process somewhere on the cluster, started elsewhere once it has died."""

    def __init__(self, ray: Any, cluster: Cluster) -> None:
        self.ray, self.folder = ray, os.getcwd()
        options = {"num_cpus": cluster.num_cpus, "num_gpus": cluster.num_gpus, "scheduling_strategy": "SPREAD"}
        self.kind = ray.remote(max_restarts=0, **options)(_Remote)
        self.actor: Any = None

    def start(self) -> None:
        self.kill()
        self.actor = self.kind.remote(self.folder)
        self.node = self.actor.node.remote().future()

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return pool.translated(self.actor.do.remote(work, *arguments).future(), self._meant)

    def end(self) -> None:
        self.kill()

    def kill(self) -> None:
        if self.actor is not None:
            self.ray.kill(self.actor)

    def _meant(self, problem: BaseException) -> BaseException:
        """What an exception of Ray's means: the work's own, or that the actor or its node is gone."""
        errors = self.ray.exceptions
        if isinstance(problem, errors.RayTaskError):
            return problem.cause or problem
        if isinstance(problem, errors.ActorUnavailableError):
            return Died(lost=True)
        return Died(lost=self._node_is_lost()) if isinstance(problem, errors.RayError) else problem

    def _node_is_lost(self) -> bool:
        if not self.node.done() or self.node.exception():
            return True  # it never came to life
        return not any(node["Alive"] and node["NodeID"] == self.node.result() for node in self.ray.nodes())


class _Remote:
    """What runs on a node."""

    def __init__(self, folder: str) -> None:
        warnings.filterwarnings("ignore")
        if os.path.isdir(folder):  # so that relative paths mean what they mean to the driver
            os.chdir(folder)

    def node(self) -> str:
        return needed().get_runtime_context().get_node_id()

    def do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)


def run(
    cluster: Cluster, plan: Plan, shards: Sequence[int], retry: bool = False, tell: Callable[[int], None] | None = None
) -> Outcome:
    """Explain these shards on a cluster. `tell(shard)` is called when one is done.

    Raises `UserError` where there is no such cluster, and whatever `pool.run` raises.
    """
    # Ray prints the last words of a node that is lost, a screen of them, even as it ends; `pool` says it in a line.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), connected(cluster.address) as ray:
        count = min(_room(ray, cluster) if cluster.workers is None else cluster.workers, len(shards))
        return pool.run(plan, shards, [Actor(ray, cluster) for _ in range(count)], retry, tell)


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster for as long as the block lasts; a connection that is there already is used."""
    ray = needed()
    if ray.is_initialized():
        yield ray
        return
    try:
        _answers(address)
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, OSError, ValueError, RuntimeError) as problem:
        reason = str(problem).splitlines()[0][:150] if str(problem) else type(problem).__name__
        way = "start one with `ray start --head`, give its HOST:PORT, or leave --ray out"
        raise UserError(f"no Ray cluster at '{address}' ({reason}); {way}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _answers(address: str) -> None:
    """Raises `OSError` where nothing answers at HOST:PORT, for which Ray alone would wait for minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+)\]?:(\d+)", address)
    if found:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()


def needed() -> Any:
    """The package; one line says how to get it."""
    files.needed("ray.exceptions", "ray")
    return files.needed("ray", "ray")


def _room(ray: Any, cluster: Cluster) -> int:
    """Actors that the cluster's nodes have room for; at least one, which waits until there is some."""
    wanted = {"CPU": cluster.num_cpus, "GPU": cluster.num_gpus}
    wanted = {name: share for name, share in wanted.items() if share}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    count = sum(min((int(node.get(name, 0) / share) for name, share in wanted.items()), default=1) for node in nodes)
    if not count:
        text = " and ".join(f"{share:g} {name}" for name, share in wanted.items())
        logging.getLogger("saywhy").warning(f"saywhy: no node of the Ray cluster has {text}; waiting for one")
    return max(1, count)

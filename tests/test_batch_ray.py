"""Batches on a Ray cluster of three nodes on this machine: whatever is killed, every photograph has its one row."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")
pytest.importorskip("ray", reason="ray is not installed: pip install 'saywhy[ray]'")

import ray  # noqa: E402

from common.errors import UserError  # noqa: E402
from scripts.batch import cluster, store  # noqa: E402
from scripts.batch.inputs import sources  # noqa: E402
from scripts.batch.status import status  # noqa: E402
from scripts.benchmark.killed import NODE, lose_one, ray_nodes  # noqa: E402
from tests.stub import plan_of  # noqa: E402
from tests.test_batch import done, photographs, rows  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]

_DRIVER = """
import sys
from scripts.batch import cluster, store
from scripts.batch.inputs import sources
from tests.stub import plan_of
plan = plan_of(sys.argv[1], sources([sys.argv[2]]), shard_size=2, seconds=0.04)
there = store.done(plan)
todo = [shard for shard in range(plan.shards) if shard not in there]
cluster.run(cluster.Cluster(sys.argv[3]), plan, todo)
"""


@pytest.fixture(scope="module")
def nodes():
    """Three nodes, of one processor each."""
    with ray_nodes(3) as found:
        yield found


def driver(nodes, out, given):
    command = [sys.executable, "-c", _DRIVER, str(out), given, nodes.address]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def actors(out):
    """The processes that say that they are at a shard."""
    found = []
    for path in (out / ".plan" / "running").glob("*.json"):
        try:
            found.append(json.loads(path.read_text())["pid"])
        except (OSError, ValueError):  # it was done meanwhile
            continue
    return found


def under_way(running, out, files=3):
    """Wait until some shards are done and others are being done."""
    until = time.time() + 90
    while running.poll() is None and time.time() < until:
        if len(list(out.glob("shard-*.parquet"))) >= files and actors(out):
            return
        time.sleep(0.01)
    raise AssertionError("the run ended, or never began")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The photographs, and what an uninterrupted run on this machine says of them."""
    folder = tmp_path_factory.mktemp("whole")
    given = photographs(folder / "in", 60, broken={7, 30, 41})
    done(folder / "out", given, shard_size=2, seconds=0.04)
    return given, rows(folder / "out")


def test_a_node_that_is_lost_costs_no_row_and_is_blamed_on_none(nodes, whole, tmp_path):
    given, wanted = whole
    running = driver(nodes, tmp_path / "out", given)
    under_way(running, tmp_path / "out")
    lose_one(nodes)
    try:
        printed, said = running.communicate(timeout=120)
        assert running.returncode == 0 and printed == "" and len(said.splitlines()) <= 2  # no last words of the node
    finally:
        nodes.add_node(**NODE)
    assert rows(tmp_path / "out") == wanted
    assert status(str(tmp_path / "out"))["left"] == 0


@pytest.mark.parametrize("seed", range(int(os.environ.get("SAYWHY_KILLS", 1))))
def test_an_actor_and_then_the_driver_are_killed_and_no_row_is_lost(nodes, whole, tmp_path, seed):
    given, wanted = whole
    chance = random.Random(seed)
    out = tmp_path / "out"
    running = driver(nodes, out, given)
    for victims in (lambda: actors(out), lambda: [running.pid]):
        under_way(running, out, files=len(list(out.glob("shard-*.parquet"))) + 1 + chance.randrange(8))
        with contextlib.suppress(IndexError, ProcessLookupError):
            os.kill(chance.choice(victims()), signal.SIGKILL)
    assert running.wait(60) == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.parquet")}
    assert 0 < len(before) < 30
    assert driver(nodes, out, given).wait(120) == 0
    assert sum(path.stat().st_mtime_ns != written for path, written in before.items()) <= 3  # one an actor
    assert rows(out) == wanted


def test_a_photograph_that_kills_actors_is_marked_and_bad_news_is_one_line(nodes, tmp_path):
    given = photographs(tmp_path / "in", 8)
    (tmp_path / "in" / "004.jpg").write_bytes(b"killer")
    (tmp_path / "in" / "006.jpg").write_bytes(f"once {tmp_path}/once".encode())
    plan = plan_of(tmp_path / "out", sources([given]), shard_size=3)
    ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
    told = []
    try:
        outcome = cluster.run(cluster.Cluster(nodes.address, workers=2), plan, range(3), tell=told.append)
        assert outcome.errors == 1 and not outcome.failed and sorted(told) == [0, 1, 2]
        other = plan_of(tmp_path / "other", sources([given]), shard_size=3, methods=["layercam"])
        os.rename(tmp_path / "other" / ".plan" / "plan.json", tmp_path / "plan.json")
        with pytest.raises(UserError, match="has no plan"):
            cluster.run(cluster.Cluster(nodes.address), other, range(3))
    finally:
        ray.shutdown()
    found = {row["key"]: row["error"] for row, _ in store.rows(plan.out)}
    assert len(found) == 8 and {key for key, error in found.items() if error} == {"004.jpg"}


def test_a_cluster_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match=r"no Ray cluster at '127.0.0.1:1'.*ray start --head"):
        cluster.run(cluster.Cluster("127.0.0.1:1"), None, [0])

"""python -m scripts.benchmark.killed PHOTOGRAPHS --out DIR [--nodes N] [--kills K] [--same-as DIR] [--json FILE]

`saywhy batch caption`, killed with -9 while it runs and begun again by the same command, and what came of it: rows,
photographs lost or double, errors. By two processes, or with `--nodes` on a Ray cluster of so many nodes of a processor
each on this machine, of which one is lost before the first kill; the kills are of the driver. `--same-as` compares with
the folder of another run. The 7,000 photographs of Flickr8k on two CPU cores: 20 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import write_json
from scripts.batch import store
from scripts.batch.inputs import items, sources
from scripts.batch.plan import opened
from scripts.console import whole
from scripts.door import guarded

ROOT = Path(__file__).resolve().parents[2]
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


@contextmanager
def ray_nodes(count: int) -> Iterator[Any]:
    """A Ray cluster of so many nodes on this machine, for as long as the block lasts; see `ray.cluster_utils`."""
    import ray
    from ray.cluster_utils import Cluster

    wanted = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    head = {**NODE, "include_dashboard": False, "_system_config": HEALTH}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(count - 1):
            nodes.add_node(**NODE)
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def lose_one(nodes: Any) -> None:
    """Have a node go down that is not the head."""
    nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The run with all that befalls it, and what came of it."""
    if not args.nodes:
        told = killed(args, ["--workers", "2"])
    else:
        with ray_nodes(args.nodes) as nodes:
            told = killed(args, ["--ray", nodes.address], nodes)
    found = {**told, **counted(args.out, args.photographs)}
    return found if args.same_as is None else {**found, **compared(args.out, args.same_as)}


def killed(args: argparse.Namespace, engine: Sequence[str], nodes: Any = None) -> dict[str, Any]:
    """Run, and kill at even distances; a line to standard error for each. Returns the seconds from start to end."""
    command = [sys.executable, "-m", "scripts.saywhy", "batch", "caption", args.photographs, "--out", args.out]
    command += ["--shard-size", str(args.shard_size), "--quiet", *engine]
    events = [] if nodes is None else [lambda running: lose_one(nodes)]
    events += [subprocess.Popen.kill] * args.kills
    began, when, running = time.time(), list[str](), begun(command)
    for number, event in enumerate(events, 1):
        files = under_way(running, args.out, number / (len(events) + 1))
        event(running)
        when.append(f"{'driver killed' if event is subprocess.Popen.kill else 'node lost'} at {files} files")
        print(f"{when[-1]}, {time.time() - began:.0f} s, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        if event is subprocess.Popen.kill:
            running.wait()
            running = begun(command)
    return {"events": when, "status": running.wait(), "seconds": time.time() - began}


def begun(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=os.getcwd(), env={**os.environ, "PYTHONPATH": str(ROOT)})


def under_way(running: subprocess.Popen[bytes], out: str, share: float) -> int:
    """Wait until such a share of the files is there; returns how many. Raises `UserError` where the run ends before."""
    folder, shards = Path(out), 0
    while running.poll() is None:
        if not shards and (folder / ".plan" / "plan.json").exists():
            shards = opened(out).shards
        files = len(list(folder.glob("shard-*.parquet")))
        if shards and files >= share * shards:
            return files
        time.sleep(0.2)
    raise UserError(f"the run ended with status {running.returncode} before it was killed; give a new --out")


def counted(out: str, photographs: str) -> dict[str, Any]:
    """Rows, and of the photographs those that are lost, double, or an error; files, bytes, processor seconds."""
    wanted = {item.key for source in sources([photographs]) for item in items(source)}
    keys, errors = Counter[str](), 0
    for row, _ in store.rows(out, ["key", "error"]):
        keys[row["key"]] += 1
        errors += row["error"] is not None
    files = sorted(Path(out).glob("shard-*.parquet"))
    spent = sum(about["processor_seconds"] for path in files if (about := store.about(str(path))))
    return {
        "rows": keys.total(), "lost": len(wanted - set(keys)), "double": sum(count > 1 for count in keys.values()),
        "errors": errors, "files": len(files), "bytes": sum(path.stat().st_size for path in files),
        "processor_seconds": spent,
    }  # fmt: skip


def compared(out: str, other: str) -> dict[str, int]:
    """How many rows of two folders differ: in hash, caption, or anything (maps, scores, ...)."""
    theirs, ours = (
        {row["key"]: {**row, "number": 0} for row, _ in store.rows(folder)}  # its place in a file of any size
        for folder in (other, out)
    )
    both = [(ours[key], theirs[key]) for key in ours.keys() & theirs.keys()]
    differing = {f"other_{name}": sum(one[name] != two[name] for one, two in both) for name in ("sha256", "text")}
    anything = sum(any(one[name] != two[name] for name in one.keys() & two.keys()) for one, two in both)
    return {"compared": len(both), **differing, "other_in_anything": anything}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.benchmark.killed", description="Batches that are killed.")
    add = parser.add_argument
    add("photographs", metavar="PHOTOGRAPHS", help="what `saywhy batch` takes: a folder, a list, tar shards")
    add("--out", required=True, metavar="DIR", help="a new folder for results, on this machine")
    add("--nodes", type=whole(2, 16), metavar="N", help="a Ray cluster of N nodes (default: two processes)")
    add("--kills", type=whole(0, 100), default=2, metavar="N", help="of the driver (default: %(default)s)")
    add("--shard-size", type=whole(), default=100, metavar="N", help="photographs a file (default: %(default)s)")
    add("--same-as", metavar="DIR", help="another run's folder, to compare with")
    add("--json", metavar="FILE", help="write the figures there as well")
    args = parser.parse_args(arguments)
    found = run(args)
    print(json.dumps(found, indent=2))
    if args.json:
        write_json(args.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))

"""python -m scripts.benchmark.throughput costs|memory|workers|million [--photographs N] [--ray ADDRESS] [--json FILE]

What `saywhy batch` takes: `costs`, processor time and bytes an image of each task, with maps and without; `memory`, the
peak resident set over N photographs (10,000) against 100; `workers`, two workers over one, by the clock and by the
processor time that each takes an image, which others that use the machine change less; `million`, a plan of N
photographs (1,000,000) with a model that costs nothing: planning, rows a second, the driver's peak memory, and what a
start takes when all is done. On two CPU cores that nobody else uses: 4, 6, 3 and 8 minutes; a million files take 4 GB
of disk in the temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from common.files import write_json
from scripts.batch import cluster, local, store
from scripts.batch.inputs import sources
from scripts.batch.plan import Plan, prepared
from scripts.benchmark.run import machine, reset_peak, resident
from scripts.door import guarded

SAMPLES = Path(__file__).resolve().parents[2] / "data" / "samples"
LOADER = "scripts.benchmark.throughput:load"
SIDE = 96  # pixels of the small photographs


class Nothing:
    """A model that costs nothing: a map of four values for any bytes."""

    about = {"name": "nothing", "layer": "none", "weights": "none", "versions": {}}

    def prepare(self, data: bytes, item: Any) -> bytes:
        return data

    def explain(self, samples: Sequence[bytes]) -> list[dict[str, Any]]:
        map_ = {"data": bytes(8), "shape": [1, 2, 2], "scale": 1.0}
        return [{"text": "", "names": ["all"], "scores": [len(each)], "maps": {"gradcam": map_}} for each in samples]


def load(task: str, asked: dict[str, Any], how: dict[str, Any]) -> Nothing:
    return Nothing()


def small_photographs(folder: Path, count: int) -> Path:
    """So many names of the bundled photographs, made small."""
    folder.mkdir()
    kept = []
    for path in sorted(SAMPLES.glob("*.jpg")):
        kept.append(folder / f"kept-{path.name}")
        Image.open(path).convert("RGB").resize((SIDE, SIDE)).save(kept[-1])
    for number in range(count - len(kept)):
        os.link(kept[number % len(kept)], folder / f"{number:07}.jpg")
    return folder


def batch(task: str, given: Path, out: Path, *arguments: str, cores: int | None = None) -> dict[str, Any]:
    """Run `saywhy batch`: the driver's peak memory in MB, rows, bytes, and the speed of its files.

    That is images a second from the beginning of the first to the end of the last, and the processor seconds an image
    of the median file.
    """
    here = [sys.executable, "-m", "scripts.benchmark.throughput", "--peak-of", str(cores or "")]
    command = [*here, "batch", task, str(given), "--out", str(out), "--quiet", *arguments]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    paths = list(out.glob("shard-*.parquet"))
    files = [about for path in paths if (about := store.about(str(path)))]
    began, ended = min(each["began"] for each in files), max(each["began"] + each["seconds"] for each in files)
    rows, size = sum(each["rows"] for each in files), sum(path.stat().st_size for path in paths)
    spent = statistics.median(each["processor_seconds"] / each["rows"] for each in files)
    speed = {"images_per_second": rows / (ended - began), "processor_seconds_per_image": spent}
    return {"peak_mb": float(printed.split()[-1]), "rows": rows, "bytes": size, **speed}


def peak_of(cores: str, *arguments: str) -> None:
    """In a process of its own, on so many cores: run the command, and print the peak resident set in MB."""
    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    from scripts.saywhy import main as saywhy

    reset_peak()
    saywhy(list(arguments))
    print(resident("VmHWM") / 1024)


def costs(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Each task with maps and without, over photographs as they are, two workers of a thread each."""
    given = args.input or SAMPLES
    found = [str(path.resolve()) for path in sorted(given.glob("*.jpg"))[: args.photographs or 512]]
    (folder / "list.txt").write_text("\n".join(found))
    rows = {}
    for task in ("caption", "vqa", "classify"):
        question = ("--question", "what is in the picture?") if task == "vqa" else ()
        for name, more in (("maps", ()), ("predictions alone", ("--no-explain",))):
            out = folder / f"{task} {name}"
            rows[out.name] = batch(task, folder / "list.txt", out, "--workers", "2", *question, *more)
            print(out.name, rows[out.name], file=sys.stderr, flush=True)
    return rows


def memory(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Peak memory of one process over many photographs and over 100."""
    found = {}
    for count in (100, args.photographs or 10_000):
        photographs = small_photographs(folder / f"in-{count}", count)
        found[str(count)] = batch(
            "classify", photographs, folder / f"out-{count}", "--workers", "0", "--shard-size", "100"
        )
    few, many = found.values()
    return {**found, "ratio": many["peak_mb"] / few["peak_mb"]}


def workers(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One worker on one core and two on two, in turn; and one on two.

    `ratio` is of images a second. `ratio_unshared` is twice the processor time an image of one worker over that of two:
    what the ratio is where nobody else wants the cores.
    """
    photographs = small_photographs(folder / "in", args.photographs or 600)
    rounds = []
    for number in range(args.repeats):
        found = {}
        for name, count, cores in (("one", 1, 1), ("two", 2, 2), ("one of two threads", 1, 2)):
            out = folder / f"out-{number}-{name}"
            found[name] = batch("classify", photographs, out, "--workers", str(count), cores=cores)
        one, two = found["one"], found["two"]
        ratio = two["images_per_second"] / one["images_per_second"]
        unshared = 2 * one["processor_seconds_per_image"] / two["processor_seconds_per_image"]
        rounds.append({**found, "ratio": ratio, "ratio_unshared": unshared})
        print(f"{ratio:.2f}, unshared {unshared:.2f}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    return {"rounds": rounds}


def million(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A plan of a million files, done, and started once more when it is done."""
    count = args.photographs or 1_000_000
    timed: dict[str, Any] = {"files": count}
    timed["making_s"], photographs = seconds(lambda: tiny_files(folder / "in", count))
    run = _engine(args)
    before = resident("VmRSS") if reset_peak() else 0.0
    asked = Plan(str(folder / "out"), "nothing", LOADER, {"methods": ["gradcam"]}, Nothing.about, how={"batch": 64})

    def planned() -> Plan:
        return prepared(asked, sources([str(photographs)]), args.shard_size)

    timed["planning_s"], plan = seconds(planned)
    timed["running_s"], outcome = seconds(lambda: run(plan, range(plan.shards)))
    timed["rows_per_second"] = count / timed["running_s"]
    timed["comparing_s"], again = seconds(planned)
    timed["reading_what_is_done_s"], done = seconds(lambda: store.done(again))
    rows, grown = sum(each["rows"] for each in done.values()), (resident("VmHWM") - before) / 1024
    assert rows == count and not outcome.errors and not outcome.failed
    size = sum(path.stat().st_size for path in (folder / "out").glob("*.parquet"))
    return {**timed, "shards": plan.shards, "rows": rows, "driver_grows_mb": grown, "bytes_of_results": size}


def _engine(args: argparse.Namespace) -> Callable[..., Any]:
    if args.ray:
        cluster.needed()  # so that importing it is not counted
        return lambda plan, shards: cluster.run(cluster.Cluster(args.ray), plan, shards)
    return lambda plan, shards: local.run(2, plan, shards)


def tiny_files(folder: Path, count: int) -> Path:
    """So many files of a few bytes, a thousand a folder."""
    for number in range(count):
        if number % 1000 == 0:
            here = folder / f"{number // 1000:04}"
            here.mkdir(parents=True)
        (here / f"{number % 1000:03}.jpg").write_bytes(b"photo %d" % number)
    return folder


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.benchmark.throughput", description="What batches take.")
    add, rows = parser.add_argument, {"costs": costs, "memory": memory, "workers": workers, "million": million}
    add("row", choices=rows, help="what to measure")
    add("--photographs", type=int, metavar="N", help="how many (default: 512, 10,000, 600 and 1,000,000)")
    add("--input", type=Path, metavar="DIR", help="of costs: a folder of JPEGs (default: the bundled ones)")
    add("--repeats", type=int, default=3, metavar="N", help="of workers (default: %(default)s)")
    add("--shard-size", type=int, metavar="N", help="of million (default: 256)")
    add("--ray", metavar="ADDRESS", help="of million: a Ray cluster in place of two processes")
    add("--folder", metavar="DIR", help="for temporary files (default: the system's)")
    add("--json", metavar="FILE", help="write the figures there as well")
    args = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        found = {"row": args.row, "machine": machine(), "load": os.getloadavg(), **rows[args.row](args, folder)}
        print(json.dumps(found, indent=2), flush=True)
        if args.json:
            write_json(args.json, found)
    finally:
        shutil.rmtree(folder)  # of a million files minutes
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak-of"]:
        peak_of(*sys.argv[2:])
    else:
        sys.exit(guarded(main))

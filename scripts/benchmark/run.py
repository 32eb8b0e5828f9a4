"""python -m scripts.benchmark [--repeats N] [--rows NAME ...] [--json FILE] [--quick]

What explaining costs next to predicting, here and with pytorch-grad-cam, captum and torch-cam (`pip install -e
'.[bench]'`; each is left out with a line where it is missing). EfficientNet-Lite0, 224x224. Every figure is a ratio to
the plain forward pass of the same network in the same round: median of the rounds, and quartiles. Memory is the growth
of the process's peak resident set over what it held before the call, in a process of its own for each. About 5 minutes
on two CPU cores that are otherwise idle; --quick: half a minute, without peers where these are slow.
"""

import argparse
import gc
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import Any

import torch

from common.files import write_json
from scripts.benchmark.rows import MEMORY_BATCH, OURS, ROWS, Bench, Work, gradcam_ways
from scripts.console import whole
from scripts.door import guarded

# name of the package on PyPI -> name of the module
PEERS = {"grad-cam": "pytorch_grad_cam", "captum": "captum", "torchcam": "torchcam"}


@dataclass
class Figure:
    """Median and quartiles of the ratios to the reference; megabytes where `unit` says so."""

    median: float
    low: float
    high: float
    unit: str = "x"
    wrong: bool = False

    def __str__(self) -> str:
        digits = 0 if self.unit == "MB" else 2 if self.high < 10 else 1
        spread = "" if self.low == self.high else f" ({self.low:.{digits}f}-{self.high:.{digits}f})"
        unit = " MB" if self.unit == "MB" else ""
        return f"{self.median:.{digits}f}{unit}{spread}{', wrong' if self.wrong else ''}"


@dataclass
class Row:
    title: str
    reach: str
    figures: dict[str, Figure] = field(default_factory=dict)


def measure(work: Work, rounds: int) -> Row:
    """Time reference and ways in turn, `rounds` times; the first, which warms up, is not counted."""
    ratios: dict[str, list[float]] = {name: [] for name in work.ways}
    results: dict[str, Any] = {}
    for counted in range(-1, rounds):
        gc.collect()
        before = seconds(work.reference)[0]
        for name, way in work.ways.items():
            taken, results[name] = seconds(way)
            # The reference on both sides of it, so that a machine that slows down does not count against it.
            after = seconds(work.reference)[0]
            if counted >= 0:
                ratios[name].append(taken / ((before + after) / 2))
            before = after
    figures = {name: summary(values) for name, values in ratios.items()}
    for name, result in results.items():
        figures[name].wrong = work.same is not None and not work.same(results[OURS], result)
    return Row(work.title, work.reach, figures)


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def summary(values: list[float]) -> Figure:
    """Median and quartiles.

    >>> str(summary([1.0, 2.0, 3.0, 4.0, 5.0]))
    '3.00 (2.00-4.00)'
    """
    if len(values) < 2:
        return Figure(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Figure(median, low, high)


def memory_row(peers: list[str], repeats: int) -> Row:
    """Peak memory of Grad-CAM at batch 16 over what the process held before, each in processes of its own."""
    title = f"Grad-CAM, peak memory over baseline, batch {MEMORY_BATCH}"
    row = Row(title, "a quarter of the best peer's")
    for name in ("plain forward", OURS, *peers):
        command = [sys.executable, "-m", "scripts.benchmark", "--memory-of", name]
        outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(repeats)]
        figure = summary([float(output.split()[-1]) for output in outputs])
        figure.unit = "MB"
        row.figures[name] = figure
    return row


def peak_memory(name: str) -> float:
    """Megabytes by which the peak resident set grows while `name` explains a batch (or predicts it)."""
    bench = Bench([name])
    ways = {"plain forward": bench.forward(MEMORY_BATCH), **gradcam_ways(bench, MEMORY_BATCH, [281])}
    gradcam_ways(bench, 1, [281]).get(name, bench.forward())()  # imports and whatever is made once
    gc.collect()
    before = resident("VmRSS") if reset_peak() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ways[name]()
    after = resident("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after - before) / 1024


def reset_peak() -> bool:
    """Ask Linux to forget the peak so far (that of loading weights, say)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def resident(key: str) -> float:
    """Kilobytes from the process's status; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((float(line.split()[1]) for line in lines if line.startswith(key)), 0)


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    except OSError:
        pass
    packages = ["torch", "timm", *(name for name in PEERS if installed(name))]
    found = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = f"{cores} cores, {torch.get_num_threads()} threads"
    return f"{cpu}, {threads}; Python {platform.python_version()}, {found}"


def installed(peer: str) -> bool:
    return util.find_spec(PEERS[peer]) is not None


def table(rows: list[Row], names: list[str]) -> str:
    """Markdown: a line for each row, a column for each library."""
    lines = [["work", "to reach", *names], ["---"] * (len(names) + 2)]
    for row in rows:
        cells = [str(row.figures[name]) if name in row.figures else "" for name in names]
        lines.append([row.title, row.reach, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.benchmark", description="What explaining costs.")
    add, known = parser.add_argument, [*ROWS, "memory"]
    add("--repeats", type=whole(), default=15, metavar="N", help="rounds; a third of it for slow rows (default: 15)")
    names = f"{', '.join(known)} (default: all)"
    add("--rows", nargs="+", metavar="NAME", choices=known, default=known, help=names)
    add("--json", metavar="FILE", help="write the figures there as well")
    add("--quick", action="store_true", help="3 rounds, 1 for slow rows and without peers in these")
    add("--memory-of", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats}: give at least 1")
    warnings.filterwarnings("ignore")
    if args.memory_of:
        print(peak_memory(args.memory_of))
        return 0
    peers = [name for name in PEERS if installed(name)]
    for name in PEERS:
        if name not in peers:
            print(f"{name} is not installed and left out: pip install -e '.[bench]'", file=sys.stderr)
    rows = run(args, peers)
    columns = ["plain forward", OURS, *peers]
    shown = [name for name in columns if any(name in row.figures for row in rows)]
    print(f"{table(rows, shown)}\n\n{machine()}")
    if args.json:
        write_json(args.json, {"machine": machine(), "rows": [asdict(row) for row in rows]})
    return 0


def run(args: argparse.Namespace, peers: list[str]) -> list[Row]:
    bench, usual, rows = Bench(peers), 3 if args.quick else args.repeats, []
    for name in args.rows:
        print(f"{name} ...", file=sys.stderr, flush=True)
        if name == "memory":
            rows.append(memory_row(peers, 1 if args.quick else 3))
            continue
        work = ROWS[name](bench)
        if work.slow and args.quick:
            work.ways = {OURS: work.ways[OURS]}
        rows.append(measure(work, max(1, usual // 3) if work.slow else usual))
        figures = ", ".join(f"{who} {figure}" for who, figure in rows[-1].figures.items())
        print(figures, file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(guarded(main))

"""saywhy batch: a data set explained, on one machine or on many, into Parquet files.

    saywhy batch caption photos/ --out maps
    saywhy batch classify "shards/{000..099}.tar" --target top5 --methods gradcam,hirescam --out maps
    saywhy batch vqa pairs.jsonl --out s3://bucket/maps --workers 2
    saywhy batch caption photos/ --shard $SLURM_ARRAY_TASK_ID/100 --out maps
    saywhy batch caption table.parquet --ray auto --out maps
    saywhy batch status maps

A run that was stopped, however, goes on where it was when the same command is given again. See docs/scale.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from common.errors import UserError
from scripts import console as cli


def add_parser(subparsers: Any) -> None:
    """Add the subcommand, with one of its own for each task."""
    about = "Explain a data set into Parquet files; the same command again goes on where one was stopped."
    parser = subparsers.add_parser("batch", help="explain a data set, on one machine or on many", description=about)
    parser.set_defaults(run=lambda args: _needs_task())
    tasks = parser.add_subparsers(dest="task", metavar="TASK", parser_class=type(parser))
    for task, add in (("caption", _add_caption), ("vqa", _add_vqa), ("classify", _add_classify)):
        each = tasks.add_parser(task, help=f"{task} photographs and explain it", description=about)
        each.add_argument(
            "inputs", nargs="+", metavar="INPUT",
            help="folders, globs, photographs, .txt .jsonl .csv lists, .tar shards, .parquet; local or of fsspec",
        )  # fmt: skip
        add(each)
        _add_run_arguments(each)
        each.set_defaults(run=run)
    status = tasks.add_parser("status", help="what is done of a batch", description="What is done of a batch.")
    status.add_argument("out", metavar="DIR", help="the folder that the batch writes to")
    status.add_argument("--json", action="store_true", help="print one JSON record, and nothing else")
    status.set_defaults(run=status_of)


def _add_caption(parser: Any) -> None:
    cli.add_model_arguments(parser)
    cli.add_chat_arguments(parser, prompt=True)
    parser.add_argument("--beam", type=int, metavar="N", help="beam width (default: the checkpoint's)")
    parser.add_argument(
        "--phrase", action="append", default=[], metavar="TEXT", dest="phrases", help="explain it as well; repeatable"
    )
    parser.add_argument("--score", default="logit", choices=("logit", "log_probability"), help="of each word")


def _add_vqa(parser: Any) -> None:
    cli.add_model_arguments(parser)
    cli.add_chat_arguments(parser)
    parser.add_argument("--question", metavar="TEXT", help="for every photograph that brings none of its own")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="answers to list (default: %(default)s)")


def _add_classify(parser: Any) -> None:
    cli.add_classifier_arguments(parser, "network; see 'saywhy models' (default: %(default)s)")
    parser.add_argument(
        "--target", nargs="+", default=["top1"], metavar="CLASS", dest="targets",
        help="what to explain: topN, the first N classes of each photograph, or classes by name (default: top1)",
    )  # fmt: skip
    parser.add_argument("--weights", metavar="FILE", help="weights of your own for the named network")
    parser.add_argument("--labels", metavar="FILE", help="class names of your own: one a line, or JSON")
    parser.add_argument("--crop", type=cli.share, metavar="SHARE", help="look at the centre alone (0.875 is usual)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="predictions to list (default: %(default)s)")
    parser.add_argument("--fast", action="store_true", help="fold batch normalisation: quicker on a CPU, same maps")


def _add_run_arguments(parser: Any) -> None:
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder for results, local or of fsspec")
    add("--methods", default="gradcam", metavar="A,B", help="as for single photographs (default: %(default)s)")
    add("--no-explain", action="store_true", help="predictions only, no maps")
    add("--workers", type=int, metavar="N", help="processes (default: one a core, at most 4; on a GPU 1); 0: this one")
    add("--ray", metavar="ADDRESS", help="on a Ray cluster: auto, HOST:PORT or ray://HOST:PORT; --workers: its actors")
    add("--num-cpus", type=float, metavar="N", help="processors of a Ray actor, also its threads (default: 1)")
    add("--num-gpus", type=float, metavar="N", help="GPUs of a Ray actor (default: 1 with --device cuda, else 0)")
    add("--batch", type=int, metavar="N", help="photographs explained together (default: 16, classify 4; on a GPU 64)")
    add("--shard", metavar="I/N", help="do part I of N, counted from 0, such as $SLURM_ARRAY_TASK_ID/100")
    add("--shard-size", type=int, metavar="N", help="photographs in a file (default: 256; fewer for fewer than 4096)")
    add("--retry-errors", action="store_true", help="do again what ended in an error")
    add("--quiet", action="store_true", help="no progress bar")


_ASKED = {
    "caption": ("model", "layer", "beam", "phrases", "score"),
    "vqa": ("model", "layer", "top"),
    "classify": (
        "model", "layer", "targets", "weights", "labels", "crop", "top", "fast", "random_weights"
    ),
}  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Do what is not done yet of a batch; returns the exit status: 2 where a photograph could not be explained."""
    methods = [] if args.no_explain else list(cli.methods_of(args))
    part, parts = _check(args)
    from scripts.batch import files, inputs, plan, shard, store, tasks

    files.needed("pyarrow")
    engine, how = _engine(args)
    asked = {**{name: getattr(args, name) for name in _ASKED[args.task]}, "methods": methods, **_chat_options(args)}
    about = tasks.load(args.task, asked, {**how, "device": "cpu", "device_map": None} if args.ray else how).about
    made = plan.Plan(args.out, args.task, tasks.LOADER, asked, about, how=how)
    made = plan.prepared(made, inputs.sources(args.inputs, getattr(args, "question", None)), args.shard_size)
    done = store.done(made)
    shard.clear_marks(made, done)
    todo = [
        number
        for number in range(part, made.shards, parts)
        if number not in done or (args.retry_errors and done[number]["errors"])
    ]
    with _Progress(made.shards, args.quiet) as progress:
        progress.update(made.shards - len(todo))
        found = engine(made, todo, args.retry_errors, lambda shard: progress.update(1))
    return _told(made, range(part, made.shards, parts), found, args)


def _chat_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked of a chat model, without where it is held: that changes no value."""
    return {name: value for name, value in cli.chat_options(args).items() if name != "device_map"}


def _engine(args: argparse.Namespace) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What does the shards: processes of this machine or actors of a Ray cluster; and how: device, batch, threads."""
    from scripts.batch import cluster, local, tasks

    how = {"device": args.device, "batch": args.batch or tasks.batch_size(args.task, args.device), "decoders": 2}
    if getattr(args, "device_map", None):
        how["device_map"] = args.device_map
    if args.ray is not None:
        cluster.needed()
        cpus = 1.0 if args.num_cpus is None else args.num_cpus
        gpus = float(args.device != "cpu") if args.num_gpus is None else args.num_gpus
        actors = cluster.Cluster(args.ray, args.workers, cpus, gpus)
        return partial(cluster.run, actors), {**how, "threads": max(1, int(cpus))}
    cli.device_of(args)
    default = 1 if "device_map" in how else tasks.default_workers(args.device)  # one that is spread takes all devices
    workers = default if args.workers is None else args.workers
    return partial(local.run, workers), {**how, "threads": tasks.threads_of(workers)}


def _told(plan: Any, shards: range, found: Any, args: argparse.Namespace) -> int:
    """Say what came of it; returns the exit status."""
    from scripts.batch import store

    for shard, problem in found.failed.items():
        cli.report(f"error: shard {shard} failed: {problem}")
    done = [record for shard, record in store.done(plan).items() if shard in shards]
    rows, errors = (sum(record[name] for record in done) for name in ("rows", "errors"))
    if errors:
        again = "" if args.retry_errors else "; --retry-errors does them again"
        cli.report(f"{errors} of {rows} rows are errors, {_an_error(plan, done)}{again}")
    if not args.quiet:
        print(f"{rows} rows in {len(done)} files: {plan.address('shard-*.parquet')}")
    return cli.FAILED if errors or found.failed else cli.OK


def _an_error(plan: Any, done: list[Any]) -> str:
    from scripts.batch import store

    shard = next(record["shard"] for record in done if record["errors"])
    rows = store.rows_of(plan.shard_address(shard), ["error"])
    return "such as " + next(row["error"] for row in rows if row["error"])


class _Progress:
    """A bar of shards on a terminal, nothing elsewhere."""

    def __init__(self, count: int, quiet: bool) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=count, disable=quiet or not sys.stderr.isatty(), unit="shard", file=sys.stderr)

    def __enter__(self) -> Any:
        return self.bar

    def __exit__(self, *_: Any) -> None:
        self.bar.close()


def status_of(args: argparse.Namespace) -> int:
    """Print what is done, running and failed of a batch, its speed, and the time left."""
    import json

    from scripts.batch.status import line, status

    found = status(args.out)
    print(json.dumps(found) if args.json else line(found))
    return cli.OK


def _check(args: argparse.Namespace) -> tuple[int, int]:
    """(part, parts) of --shard. Raises `UserError` for numbers out of range."""
    if args.ray is None and (args.num_cpus, args.num_gpus) != (None, None):
        raise UserError("--num-cpus and --num-gpus are of the actors on a Ray cluster; give --ray auto as well")
    numbers = {"workers": int(args.ray is not None), "num_cpus": 0, "num_gpus": 0}
    for name, least in {**numbers, **dict.fromkeys(("batch", "shard_size", "top", "beam"), 1)}.items():
        value = getattr(args, name, None)
        if value is not None and not value >= least:
            raise UserError(f"--{name.replace('_', '-')} is {value}; give at least {least}")
    if args.shard is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", args.shard)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"--shard is '{args.shard}'; give I/N with I from 0 to N - 1 (of a SLURM array: --array=0-99)")
    return int(match[1]), int(match[2])


def _needs_task() -> int:
    raise UserError("say what to do: saywhy batch caption, vqa, classify or status; see 'saywhy batch --help'")

"""What the subcommands share: errors, runs over several images, progress, and where results go."""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.methods.names import METHOD_NAMES

OK, FAILED = 0, 2


def report(message: str) -> None:
    """One line on standard error."""
    print(f"saywhy: {' '.join(str(message).split())}", file=sys.stderr)


def error(problem: BaseException) -> None:
    report(f"error: {problem}")


def add_image_arguments(parser: argparse.ArgumentParser, nargs: str = "+") -> None:
    parser.add_argument("images", nargs=nargs, metavar="IMAGE", help="image files")
    add_output_arguments(parser)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", default="saywhy-out", metavar="DIR", help="folder for results (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON record a line, and nothing else")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no list of files written")


def add_classifier_arguments(parser: argparse.ArgumentParser, help_model: str) -> None:
    add_model_arguments(parser, help_model, "the last convolutional map", "efficientnet_lite0")
    parser.add_argument(
        "--random-weights", action="store_true", help="untrained weights, for tests and timing"
    )


def add_model_arguments(
    parser: argparse.ArgumentParser,
    help_model: str = "a checkpoint, or hf:PATH_OR_NAME for transformers (default: the shipped one)",
    layer: str = "the map that the head reads",
    default: str | None = None,
) -> None:
    """Which model, which of its layers (`layer` says which is explained by default), and where it runs."""
    parser.add_argument("--model", default=default, metavar="NAME", help=help_model)
    parser.add_argument("--layer", metavar="NAME", help=f"layer to explain (default: {layer})")
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:N (default: %(default)s)"
    )


def add_contrast_argument(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--contrast", action="append", metavar="TEXT", default=[],
        help=f"explain as well why {what} rather than TEXT; repeatable: one for all, or one for each",
    )  # fmt: skip


def add_method_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--methods", default="gradcam", metavar="A,B",
        help=f"comma-separated: {', '.join(METHOD_NAMES).replace('_', '-')} (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--window", type=int, metavar="PIXELS", help="side of the occlusion window (default: 32)"
    )
    parser.add_argument(
        "--stride", type=int, metavar="PIXELS", help="step of the occlusion window (default: 16)"
    )


def methods_of(args: argparse.Namespace) -> tuple[str, ...]:
    """The methods asked for, as `common.gradcam.METHODS` spells them, each once."""
    from common.gradcam import METHODS, method_names

    names = method_names(args.methods)
    if set(names) - set(METHODS):
        raise UserError("the method 'importance' gives one number a channel and no map: use it from Python")
    return names


def occlusion_options(args: argparse.Namespace) -> Any:
    """The occlusion window asked for, with the defaults for what was not."""
    from common.methods.occlusion import OcclusionOptions

    given = {name: getattr(args, name) for name in ("window", "stride") if getattr(args, name) is not None}
    return OcclusionOptions(**given)


def device_of(args: argparse.Namespace) -> Any:
    """The device asked for. Raises `UserError` when this machine does not have it."""
    import torch

    try:
        device = torch.device(args.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        found = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise UserError(f"device '{args.device}' is not to be had here; use one of: {found}") from problem
    return device


def output_folder(args: argparse.Namespace) -> Path:
    """The folder for results, made and tried out before any work is done."""
    from common.files import atomic_path

    folder = Path(args.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / ".writable"):
            pass
        (folder / ".writable").unlink()
    except (OSError, UserError) as problem:
        raise UserError(
            f"cannot write to '{args.out}': {getattr(problem, 'strerror', None) or problem};"
            " give a folder you can write to with --out"
        ) from problem
    return folder


def run_each(items: Sequence[Any], work: Callable[[Any], dict[str, Any]], args: argparse.Namespace) -> int:
    """Do `work` for each item; a bad one is reported and the others are done.

    `work` returns the JSON record, which `--json` prints; otherwise the files named under its key
    '_files' and the line under '_line' are. Returns the exit status: 2 when any item failed.
    """
    from tqdm import tqdm

    quiet = args.quiet or len(items) < 2 or not sys.stderr.isatty()
    failures = 0
    for item in tqdm(items, disable=quiet, unit="image", file=sys.stderr):
        try:
            record = work(item)
        except UserError as problem:
            failures += 1
            error(problem)
            continue
        line, files = record.pop("_line", ""), record.pop("_files", [])
        if args.json:
            print(json.dumps(record, ensure_ascii=False), flush=True)
        elif not args.quiet:
            tqdm.write(line, file=sys.stdout)
            for file in files:
                tqdm.write(f"  {file}", file=sys.stdout)
    if failures and len(items) > 1:
        report(f"{failures} of {len(items)} failed; the others are done")
    return FAILED if failures else OK


def write_results(
    folder: Path, stem: str, task: str, record: dict[str, Any], explanation: Any, picture: Any
) -> list[str]:
    """Write `<stem>.<task>.png`, `.json` and `.npz`; returns the names of the files."""
    from common.draw import save_picture
    from common.files import write_json

    base = folder / f"{stem}.{task}"
    explanation.save(f"{base}.npz")
    write_json(f"{base}.json", record)
    save_picture(picture, f"{base}.png")
    return [f"{base}.{suffix}" for suffix in ("png", "json", "npz")]


def target_records(explanation: Any) -> list[dict[str, Any]]:
    """`targets` as every record has them: name and score, of an explanation of one image."""
    scores = explanation.scores[:, 0].tolist()
    return [{"name": name, "score": score} for name, score in zip(explanation.names, scores, strict=True)]


def silence_libraries() -> None:
    """Warnings of libraries are for developers; a user of the command sees lines of ours alone."""
    warnings.filterwarnings("ignore")

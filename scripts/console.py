"""What the subcommands share: errors, runs over several images, progress, and where results go."""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.methods.names import METHOD_NAMES
from common.printed import LONGEST, PrintableStream, printable

OK, FAILED = 0, 2


def report(message: str) -> None:
    """One line on standard error."""
    line = printable(" ".join(str(message).split()), LONGEST)
    print(f"saywhy: {line}", file=PrintableStream(sys.stderr))


def error(problem: BaseException) -> None:
    report(f"error: {problem}")


def whole(least: int = 1, most: int = 10**9) -> Callable[[str], int]:
    """The type of an argument that is a whole number from `least` to `most`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if least <= number <= most:
            return number
        raise argparse.ArgumentTypeError(f"'{printable(text, 40)}' is not a whole number from {least} to {most}")

    return read


def share(text: str) -> float:
    """The type of an argument that is a share of a photograph's side, from 0.05 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if 0.05 <= number <= 1:
        return number
    raise argparse.ArgumentTypeError(f"'{printable(text, 40)}' is not a number from 0.05 to 1")


def name(text: str) -> str:
    """The type of an argument that is a name: something has to stand there."""
    if text.strip():
        return text
    raise argparse.ArgumentTypeError("the name is empty; leave the option out for the default")


def add_image_arguments(parser: argparse.ArgumentParser, nargs: str = "+") -> None:
    parser.add_argument("images", nargs=nargs, metavar="IMAGE", help="image files")
    add_output_arguments(parser)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="saywhy-out", metavar="DIR", help="folder for results (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON record a line, and nothing else")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no list of files written")


def add_classifier_arguments(parser: argparse.ArgumentParser, help_model: str) -> None:
    add_model_arguments(parser, help_model, "the last convolutional map", "efficientnet_lite0")
    parser.add_argument("--random-weights", action="store_true", help="untrained weights, for tests and timing")


def add_model_arguments(
    parser: argparse.ArgumentParser,
    help_model: str = "a checkpoint, or hf:PATH_OR_NAME for transformers (default: the shipped one)",
    layer: str = "the map that the head reads",
    default: str | None = None,
) -> None:
    """Which model, which of its layers (`layer` says which is explained by default), and where it runs."""
    parser.add_argument("--model", type=name, default=default, metavar="NAME", help=help_model)
    parser.add_argument("--layer", type=name, metavar="NAME", help=f"layer to explain (default: {layer})")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:N (default: %(default)s)")


def add_chat_arguments(parser: argparse.ArgumentParser, prompt: bool = False) -> None:
    """How a chat model of transformers is held in memory; where it captions, what it is asked (`prompt`)."""
    if prompt:
        parser.add_argument("--prompt", metavar="TEXT", help="what a chat model is asked (default: for one sentence)")
    parser.add_argument("--dtype", metavar="TYPE", help="chat models: float32, bfloat16, float16 (default: as saved)")
    parser.add_argument(
        "--max-tokens", type=whole(1, 4096), metavar="N", help="chat models: cut replies there (default: 64)"
    )
    parser.add_argument("--device-map", metavar="MAP", help="chat models: 'auto' spreads one over devices (accelerate)")


def chat_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of chat models that were given, as `load` takes them."""
    given = {name: getattr(args, name, None) for name in ("prompt", "dtype", "device_map", "max_tokens")}
    return {name: value for name, value in given.items() if value is not None}


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
        "--window", type=whole(1, 4096), metavar="PIXELS", help="side of the occlusion window (default: 32)"
    )
    parser.add_argument(
        "--stride", type=whole(1, 4096), metavar="PIXELS", help="step of the occlusion window (default: 16)"
    )
    parser.add_argument("--html", action="store_true", help="write a page with words to click as well: a .html file")


def add_scale_argument(parser: argparse.ArgumentParser) -> None:
    """Whether maps are drawn as strong as what they explain is visual, where the model can say."""
    from common.draw import SCALES

    parser.add_argument(
        "--scale", default=SCALES[0], choices=SCALES,
        help="draw each map as strong as its word comes from the picture, or all alike, each on its own scale"
        " (default: %(default)s)",
    )  # fmt: skip


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
        torch.empty(1, device=device).item()  # what has no values, such as 'meta', can't be asked for one
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as problem:
        found = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise UserError(f"device '{args.device}' is not to be had here; use one of: {found}") from problem
    return device


def output_folder(args: argparse.Namespace) -> Path:
    """The folder for results, made and tried out before any work is done."""
    from common.files import temporary_beside

    folder = Path(args.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_beside(folder / "tried"):
            pass
    except (OSError, UserError) as problem:
        raise UserError(
            f"cannot write to '{args.out}': {getattr(problem, 'strerror', None) or problem};"
            " give a folder you can write to with --out"
        ) from problem
    return folder


@dataclass
class Outcome:
    """What a command found of one photograph: its JSON record, its line, what was explained and drawn, if so."""

    record: dict[str, Any]
    line: str
    explanation: Any = None
    picture: Any = None
    page: str | None = None


def run_each(items: Sequence[Any], work: Callable[..., Outcome], args: argparse.Namespace, folder: Path | None) -> int:
    """Do `work(*item)` for each item, which begins with a photograph's file; of a bad one is told, the others are done.

    `--json` prints the records; otherwise the lines are printed, and the files that explanations went to in `folder`.
    Returns the exit status: 2 when any item failed.
    """
    from tqdm import tqdm

    from common.images import unique_stems

    stems = unique_stems([file for file, *_ in items])
    quiet = args.quiet or len(items) < 2 or not sys.stderr.isatty()
    failures = 0
    for item, stem in zip(tqdm(items, disable=quiet, unit="image", file=sys.stderr), stems, strict=True):
        try:
            found = work(*item)
            files = write_results(folder, stem, found) if folder else []
        except UserError as problem:
            failures += 1
            error(problem)
            continue
        if args.json:
            print(json.dumps(found.record), flush=True)
        elif not args.quiet:
            tqdm.write("\n  ".join([found.line, *files]), file=sys.stdout)
    if failures and len(items) > 1:
        report(f"{failures} of {len(items)} failed; the others are done")
    return FAILED if failures else OK


def write_results(folder: Path, stem: str, found: Outcome) -> list[str]:
    """Write `<stem>.<task>.png`, `.json`, `.npz` and, where asked for, `.html`, all or none; returns their names."""
    from common.draw import save_picture
    from common.files import atomic_paths, write_json, write_text

    suffixes = ("png", "json", "npz") if found.page is None else ("png", "json", "npz", "html")
    files = [f"{folder / stem}.{found.record['task']}.{suffix}" for suffix in suffixes]
    with atomic_paths(*files) as (picture, record, maps, *page):
        save_picture(found.picture, picture)
        write_json(record, found.record)
        found.explanation.save(maps)
        if found.page is not None:
            write_text(page[0], found.page)
    return files


def page_of(args: argparse.Namespace, explanation: Any, title: str, notes: Sequence[str]) -> str | None:
    """The explanation as a page to click, where `--html` asks for one."""
    from common.widget.fragment import page

    return page(explanation.html(notes, getattr(args, "scale", "visual")), title) if args.html else None


def explained(explanation: Any) -> dict[str, Any]:
    """What every record says of one image's explanation: each target's name and scores, and what made it."""
    columns = {"name": explanation.names, "score": explanation.scores[:, 0].tolist()}
    if explanation.visual is not None:
        columns["visual"] = explanation.visual[:, 0].tolist()
    about = {key: explanation.provenance[key] for key in ("layer", "methods", "weights", "versions")}
    rows = zip(*columns.values(), strict=True)
    return {"targets": [dict(zip(columns, row, strict=True)) for row in rows], **about}


def silence_libraries() -> None:
    """Warnings of libraries are for developers; a user of the command sees lines of ours alone."""
    warnings.filterwarnings("ignore")
    for library in ("HF_HUB", "DATASETS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")

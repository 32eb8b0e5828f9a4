"""saywhy reproduce: every experiment of the paper, published values beside ours, in one report.

    saywhy reproduce --out report                # under 40 minutes on two CPU cores
    saywhy reproduce --quick --out report        # under 5 minutes
    saywhy reproduce --only table1,fig9 --limit 50 --imagenet PATH --voc PATH --coco PATH --out report

Writes `index.html` (pictures inside it, no network), `results.json`, and `cells/` with one file for each
cell of a table: what is there is not measured again, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from common.errors import UserError
from scripts import console as cli


def add_parser(subparsers: Any) -> None:
    """Add the subcommand and its arguments."""
    parser = subparsers.add_parser(
        "reproduce",
        help="repeat the paper's experiments",
        description="Repeat the paper's experiments, with named substitutes for data that is not at hand.",
    )
    parser.add_argument("--imagenet", metavar="PATH", help="ILSVRC validation: photographs and boxes")
    parser.add_argument("--voc", metavar="PATH", help="PASCAL VOC 2007 or 2012")
    parser.add_argument("--coco", metavar="PATH", help="COCO photographs and annotations")
    parser.add_argument(
        "--flickr8k", metavar="PATH", help="Flickr8k, with flickr30k_entities beside its text"
    )
    parser.add_argument("--vqa2", metavar="PATH", help="VQA v2 questions, annotations and photographs")
    parser.add_argument("--vqahat", metavar="PATH", help="VQA-HAT: PNGs of human attention by question id")
    parser.add_argument("--samples", metavar="PATH", help="photographs named n01440764_tench.JPEG")
    parser.add_argument("--datasets", metavar="PATH", help="folder with flickr8k, coco and imagenet_samples")
    parser.add_argument(
        "--out", default="report", metavar="DIR", help="folder of the report (default: %(default)s)"
    )
    parser.add_argument("--only", metavar="A,B", help="experiments to do (default: all)")
    parser.add_argument("--limit", type=int, metavar="N", help="images an experiment takes at most")
    parser.add_argument(
        "--ten-crop", action="store_true", help="table 1: classes from ten crops, as published"
    )
    parser.add_argument("--quick", action="store_true", help="few images: under 5 minutes in all")
    parser.add_argument(
        "--neuron-names",
        metavar="CSV",
        help="names of the classifier's units, by NetDissect or CLIP-Dissect; left out, figure 9 finds them",
    )
    parser.add_argument("--neuron-layer", metavar="NAME", help="which layer's names to take of that file")
    parser.add_argument("--quiet", action="store_true", help="no tables on standard output")
    cli.add_classifier_arguments(parser, "classifier (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do the experiments, writing the report after each."""
    from common.checks.dissection import read_names
    from scripts.experiments import EXPERIMENTS
    from scripts.experiments.lab import KINDS, Lab, data_folders

    names = chosen(args.only, tuple(EXPERIMENTS))
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit is {args.limit}; give at least 1 image")
    cli.device_of(args)
    folder = cli.output_folder(args)
    data = data_folders({kind: getattr(args, kind) for kind in KINDS}, args.datasets)
    lab = Lab(folder, data, args.limit, args.quick, args.model, args.device, args.ten_crop)
    if args.neuron_names is not None:
        read_names(args.neuron_names, args.neuron_layer)  # its faults are named before an hour of work
        lab.neuron_names, lab.neuron_layer = Path(args.neuron_names), args.neuron_layer
    return experiment_all({name: EXPERIMENTS[name] for name in names}, lab, args.quiet)


def chosen(only: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """The experiments asked for, in the order of the report. Raises `UserError` for one that is not known."""
    if only is None:
        return known
    asked = [name.strip().lower() for name in only.split(",") if name.strip()]
    unknown = [name for name in asked if name not in known]
    if unknown or not asked:
        raise UserError(f"no experiment '{unknown[0] if unknown else only}'; known: {', '.join(known)}")
    return tuple(name for name in known if name in asked)


def experiment_all(experiments: dict[str, Any], lab: Any, quiet: bool) -> int:
    """Run each experiment and write the report after it; one that fails is reported and named in the
    report.
    """
    from scripts.experiments.lab import Absent
    from scripts.experiments.report import Section, text_table, write_report

    sections: dict[str, Section] = {}
    seconds: dict[str, float] = {}
    failures = 0
    files: list[Path] = []
    for name, experiment in experiments.items():
        start = time.monotonic()
        try:
            sections[name] = experiment(lab)
        except Absent as absent:
            cli.report(f"{name} left out: {absent}")
            sections[name] = Section(_title(experiment), notes=[f"Left out: {absent}"])
        except UserError as problem:
            failures += 1
            cli.error(UserError(f"{name}: {problem}"))
            sections[name] = Section(_title(experiment), notes=[f"Failed: {problem}"])
        seconds[name] = round(time.monotonic() - start, 1)
        if not quiet:
            print("\n\n".join(map(text_table, sections[name].tables)) or sections[name].title, flush=True)
        files = write_report(lab.out, sections, _about(lab, seconds))
    if not quiet:
        print("\n".join(map(str, files)))
    return cli.FAILED if failures else cli.OK


def _about(lab: Any, seconds: dict[str, float]) -> dict[str, Any]:
    """The manifest: settings, versions and times; data by kind, without the reader's own paths."""
    from common.explanation import versions

    return {
        "model": lab.model,
        "device": lab.device,
        "limit": "none" if lab.limit is None else lab.limit,
        "quick": str(lab.quick).lower(),
        "data": ", ".join(sorted(lab.data)) or "none",
        "seconds": seconds,
        "versions": versions(),
    }


def _title(experiment: Any) -> str:
    return (experiment.__doc__ or experiment.__name__).strip().splitlines()[0].rstrip(".")

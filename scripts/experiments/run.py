"""Running experiments: the arguments, the lab they make, and the report that is written after each.

python -m scripts.experiments.figure7 --samples PATH        # one experiment by itself, as `alone` runs it
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from scripts import console as cli
from scripts.door import guarded
from scripts.experiments import EXPERIMENTS, section_of

_DATA = {
    "imagenet": "ILSVRC validation: photographs and boxes",
    "voc": "PASCAL VOC 2007 or 2012",
    "coco": "COCO photographs and annotations",
    "flickr8k": "Flickr8k, with flickr30k_entities beside its text",
    "vqa2": "VQA v2 questions, annotations and photographs",
    "vqa": "VQA v1 questions, whose ids VQA-HAT bears (default: where VQA v2's are)",
    "vqahat": "VQA-HAT: PNGs of human attention by question id",
    "salicon": "SALICON: PNGs of where people look freely, named as COCO's photographs",
    "aird": "AiR-D: PNGs of where people looked to answer questions of GQA",
    "gqa": "GQA: val_balanced_questions.json and images, which AiR-D's ids are of",
    "densecap": "region captions: DenseCap's results.json, beside its photographs",
    "visualgenome": "region captions: Visual Genome's region_descriptions.json, photographs in VG_100K",
    "samples": "photographs named n01440764_tench.JPEG",
    "datasets": "folder with flickr8k, coco and imagenet_samples (default: the variable SAYWHY_DATA)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Data by kind, the model, how much is done, and where the report goes."""
    for kind, what in _DATA.items():
        parser.add_argument(f"--{kind}", metavar="PATH", help=what)
    units = "names of the classifier's units, by NetDissect or CLIP-Dissect; left out, figure 9 finds them"
    add = parser.add_argument
    add("--out", default="report", metavar="DIR", help="folder of the report (default: %(default)s)")
    add("--limit", type=cli.whole(), metavar="N", help="images that are measured, more or fewer than the usual number")
    add("--ten-crop", action="store_true", help="table 1: classes from ten crops, as published")
    add("--quick", action="store_true", help="few images: under 5 minutes in all")
    add("--neuron-names", metavar="CSV", help=units)
    add("--neuron-layer", metavar="NAME", help="which layer's names to take of that file")
    add("--quiet", action="store_true", help="no tables on standard output")
    cli.add_classifier_arguments(parser, "classifier (default: %(default)s)")


def chosen(only: str | None, known: Sequence[str] = tuple(EXPERIMENTS)) -> tuple[str, ...]:
    """The experiments asked for, in the order of the report. Raises `UserError` for one that is not known."""
    if only is None:
        return tuple(known)
    asked = [name.strip().lower() for name in only.split(",") if name.strip()]
    unknown = [name for name in asked if name not in known]
    if unknown or not asked:
        raise UserError(f"no experiment '{unknown[0] if unknown else only}'; known: {', '.join(known)}")
    return tuple(name for name in known if name in asked)


def run(args: argparse.Namespace, names: Sequence[str]) -> int:
    """Do the named experiments with what the arguments say; returns the exit status."""
    from common.files import held

    lab = lab_of(args)
    with held(lab.out):
        return experiment_all({name: section_of(name) for name in names}, lab, args.quiet)


def lab_of(args: argparse.Namespace) -> Any:
    """The lab that the arguments describe. What is wrong with them is said before any work is done."""
    from common.checks.dissection import read_names
    from scripts.experiments.lab import KINDS, Lab, data_folders

    cli.device_of(args)
    folder = cli.output_folder(args)
    data = data_folders({kind: getattr(args, kind) for kind in KINDS}, args.datasets)
    lab = Lab(folder, data, args.limit, args.quick, args.model, args.device, args.ten_crop)
    if args.neuron_names is not None:
        read_names(args.neuron_names, args.neuron_layer)  # its faults are named before an hour of work
        lab.neuron_names, lab.neuron_layer = Path(args.neuron_names), args.neuron_layer
    return lab


def experiment_all(experiments: Mapping[str, Callable[[Any], Any]], lab: Any, quiet: bool) -> int:
    """Run each experiment and write the report after it; one that fails is reported and named in the report."""
    from scripts.experiments.manifest import manifest
    from scripts.experiments.page import write_report
    from scripts.experiments.report import Section, text_table

    sections: dict[str, Section] = {}
    seconds: dict[str, float] = {}
    failures, files = 0, list[Path]()
    for name, experiment in experiments.items():
        start = time.monotonic()
        sections[name], failed = _done(name, experiment, lab)
        failures += failed
        seconds[name] = round(time.monotonic() - start, 1)
        if not quiet:
            print("\n\n".join(map(text_table, sections[name].tables)) or sections[name].title, flush=True)
        files = write_report(lab.out, sections, manifest(lab, seconds))
    if not quiet:
        print("\n".join(map(str, files)))
    return cli.FAILED if failures else cli.OK


def alone(name: str, doc: str | None) -> None:
    """Run one experiment as a program of its own: `main` of its file."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0])
    add_arguments(parser)
    args = parser.parse_args()
    run_program(lambda: run(args, (name,)))


def run_program(main: Callable[[], Any]) -> None:
    """Run `main` as a program, through the door that all commands go through."""
    cli.silence_libraries()
    sys.exit(guarded(main))


def _done(name: str, experiment: Callable[[Any], Any], lab: Any) -> tuple[Any, bool]:
    """The section of one experiment, and whether it failed."""
    from scripts.experiments.lab import Absent
    from scripts.experiments.report import Section

    try:
        return experiment(lab), False
    except Absent as absent:
        cli.report(f"{name} left out: {absent}")
        return Section(_title(experiment), notes=[f"Left out: {absent}"]), False
    except UserError as problem:
        cli.error(UserError(f"{name}: {problem}"))
        return Section(_title(experiment), notes=[f"Failed: {problem}"]), True


def _title(experiment: Any) -> str:
    return (experiment.__doc__ or experiment.__name__).strip().splitlines()[0].rstrip(".")

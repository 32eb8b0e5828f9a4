"""saywhy study: what do people make of the maps? Sections 5.1 and 5.2 of the paper, with people of your own.

    saywhy study build discriminate --photos VOC --methods deconv,guided,deconv-gradcam,guided-gradcam --out study
    saywhy study build trust --strong resnet50 --weak alexnet --photos VOC --out study
    saywhy study power study --people 10,20,40 --difference 0.1
    saywhy study rehearse study --people 20
    saywhy study serve study --port 8000
    saywhy study analyse study --out study/report.html

See docs/study.md.
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import Any

from common.errors import UserError
from scripts import console as cli

_KINDS = {
    "discriminate": (
        "which of two objects does a map show? (section 5.1)", "deconv,guided,deconv-gradcam,guided-gradcam"
    ),
    "trust": ("which of two networks that are right is more reasonable? (5.2)", "guided,guided-gradcam"),
    "words": ("which word of a caption does a map explain?", "gradcam,guided-gradcam"),
}  # fmt: skip
_DIFFERENCE = {"choice": 0.1, "rating": 0.3}
_MOST = 10_000  # people that are simulated
_SEED = cli.whole(0, 2**32 - 1)


def add_parser(subparsers: Any) -> None:
    """Add the subcommand with one of its own for each step of a study."""
    about = "A study with people: build it, serve it, analyse it. See docs/study.md."
    parser = subparsers.add_parser("study", help="ask people what maps show them", description=about)
    steps = parser.add_subparsers(dest="step", metavar="STEP", parser_class=type(parser), required=True)
    _add_build(steps)
    _add_serve(steps)
    _add_analyse(steps)
    _add_power(steps)
    _add_rehearse(steps)


def _add_build(steps: Any) -> None:
    about = "Make a study's folder: pictures, balanced lists, the plan, the key, pages with jsPsych."
    build = steps.add_parser("build", help="make a study's folder", description=about)
    kinds = build.add_subparsers(dest="kind", metavar="KIND", parser_class=type(build), required=True)
    for kind, (what, methods) in _KINDS.items():
        each = kinds.add_parser(kind, help=what, description=f"Make a study: {what}")
        _add_material(each, kind, methods)
        _add_pages(each)
        each.set_defaults(run=build_one)


def _add_material(parser: Any, kind: str, methods: str) -> None:
    add, words = parser.add_argument, kind == "words"
    photos = "PASCAL VOC, or a folder of photographs" if words else "PASCAL VOC 2007 or 2012: the folder or VOCdevkit"
    add("--photos", required=True, metavar="PATH", help=photos)
    add("--out", required=True, metavar="DIR", help="folder of the study")
    add("--methods", default=methods, metavar="A,B", help="what is compared (default: %(default)s)")
    if kind == "trust":
        add("--strong", default="efficientnet_lite2", metavar="NAME", help="the better network (default: %(default)s)")
        add("--weak", default="efficientnet_lite0", metavar="NAME", help="the other one (default: %(default)s)")
    else:
        network = "captioner: a checkpoint, or hf:NAME" if words else "network; see 'saywhy models'"
        default = "" if words else "efficientnet_lite0"
        add("--model", default=default, metavar="NAME", help=f"{network} (default: {default or 'the shipped one'})")
    add(
        "--count",
        type=cli.whole(1, 10_000),
        default=48,
        metavar="N",
        help="photographs that a person judges (default: %(default)s)",
    )
    add("--split", default="val", metavar="NAME", help="VOC's list of photographs (default: %(default)s)")
    if not words:
        train = "photographs to fine-tune on; 0: ImageNet's classes, in groups (default: %(default)s)"
        add("--train", type=cli.whole(0), default=6000, metavar="N", help=train)
        networks = "where fine-tuned networks are kept (default: networks, in the folder of the study)"
        add("--networks", metavar="DIR", help=networks)
    add("--seed", type=_SEED, default=0, metavar="N", help="of photographs, lists and names (default: %(default)s)")
    add("--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:N (default: %(default)s)")


def _add_pages(parser: Any) -> None:
    jspsych = "node_modules to copy jsPsych from, for use offline (default: pages load it from unpkg, by its hash)"
    parser.add_argument("--jspsych", metavar="DIR", help=jspsych)
    parser.add_argument("--completion", metavar="URL", help="where people are sent at the end, such as Prolific's link")


def _add_serve(steps: Any) -> None:
    about = "Serve a study's pages and keep the answers, each synced to the disk before it is confirmed."
    serve = steps.add_parser("serve", help="a small server for a lab or a classroom", description=about)
    serve.add_argument("study", metavar="DIR", help="folder of the study")
    host = "0.0.0.0 for other computers in the room (default: %(default)s, this one alone)"
    serve.add_argument("--host", default="127.0.0.1", metavar="NAME", help=host)
    serve.add_argument(
        "--port", type=cli.whole(0, 65535), default=8000, metavar="N", help="(default: %(default)s; 0: any)"
    )
    serve.set_defaults(run=serve_one)


def _add_analyse(steps: Any) -> None:
    about = "Means, differences and what was left out; a page, and the same as CSV and JSON beside it."
    analyse = steps.add_parser("analyse", help="the report of a study", description=about)
    analyse.add_argument("study", metavar="DIR", help="folder of the study")
    analyse.add_argument("--out", metavar="FILE", help="the page (default: report.html in the study's folder)")
    analyse.add_argument("--results", metavar="DIR", help="folder of .jsonl files (default: the study's results)")
    analyse.add_argument("--quiet", action="store_true", help="no table on standard output")
    analyse.set_defaults(run=analyse_one)


def _add_power(steps: Any) -> None:
    about = "How many people does the study need? Simulated studies that hold a true difference; how often it is found."
    power = steps.add_parser("power", help="how many people are needed", description=about)
    power.add_argument("study", metavar="DIR", help="folder of the study")
    power.add_argument("--people", default="10,20,40,80", metavar="N,N", help="how many (default: %(default)s)")
    _add_difference(power)
    power.add_argument(
        "--studies",
        type=cli.whole(1, 100_000),
        default=200,
        metavar="N",
        help="simulated for each (default: %(default)s)",
    )
    power.set_defaults(run=power_one)


def _add_rehearse(steps: Any) -> None:
    about = "Write answers of simulated people into rehearsal/, to see the whole analysis before anybody takes part."
    rehearse = steps.add_parser("rehearse", help="simulated people, to try the analysis", description=about)
    rehearse.add_argument("study", metavar="DIR", help="folder of the study")
    rehearse.add_argument(
        "--people", type=cli.whole(2, _MOST), default=20, metavar="N", help="how many (default: %(default)s)"
    )
    _add_difference(rehearse)
    rehearse.set_defaults(run=rehearse_one)


def _add_difference(parser: Any) -> None:
    told = "true difference of the planned pairs: a share, or points of a rating (default: 0.1, or 0.3)"
    parser.add_argument("--difference", type=float, metavar="X", help=told)
    parser.add_argument("--seed", type=_SEED, default=0, metavar="N", help="of the simulation (default: %(default)s)")


def build_one(args: argparse.Namespace) -> int:
    """Build a study of one kind."""
    from scripts.study.build import build_study, new_folder
    from scripts.study.material import Asked
    from scripts.study.pages import page_options

    if not Path(args.photos).is_dir():
        raise UserError(f"--photos: '{args.photos}' is not a folder; give the folder of the photographs")
    methods, options, out = cli.methods_of(args), page_options(args.jspsych, args.completion), Path(args.out)
    cli.device_of(args)
    new_folder(out)
    cli.output_folder(args)
    models = (args.strong, args.weak) if args.kind == "trust" else (args.model,)
    train = getattr(args, "train", 0)
    networks = Path(getattr(args, "networks", None) or out / "networks")
    asked = Asked(Path(args.photos), methods, models, networks, args.count, args.split, train, args.seed, args.device)
    study = build_study(args.kind, asked, out, options)
    print(f"{out}: {study.plan['count']} photographs, {len(study.lists)} lists; {out / 'plan.json'} is to preregister")
    print(f"  edit {out / 'public' / 'texts'}/consent.txt and debriefing.txt; then")
    print(f"  saywhy study power {out}\n  saywhy study serve {out}")
    return cli.OK


def serve_one(args: argparse.Namespace) -> int:
    """Serve a study until the command is stopped."""
    from scripts.study.plan import open_study
    from scripts.study.serve import Server, address, unedited

    study = open_study(args.study)
    server = Server(study, args.host, args.port)
    for name in unedited(study):
        cli.report(f"{name} is still the template: edit it in {study.folder / 'public' / 'texts'}")
    print(f"serving '{study.plan['title']}' at {address(server, args.host)} (Ctrl-C stops it)", flush=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        thread.join()
    finally:
        server.shutdown()
        server.server_close()
    return cli.OK


def analyse_one(args: argparse.Namespace) -> int:
    """Write the report, its CSV and its JSON; what was odd about the answers is told in lines."""
    from scripts.study.analyse import analyse, shown_interval, verdicts
    from scripts.study.plan import open_study
    from scripts.study.report import write_report

    study = open_study(args.study)
    out = Path(args.out) if args.out else study.folder / "report.html"
    if out.suffix != ".html":
        raise UserError(f"--out is '{out}'; the report is a page: give a name that ends in .html")
    analysis = analyse(study, args.results)
    for remark in analysis.remarks:
        cli.report(remark)
    files = write_report(analysis, out)
    if not args.quiet:
        print(f"{analysis.people} people, {len(analysis.judged.counted)} answers")
        for name, found in analysis.means.items():
            print(f"  {study.plan['labels'][name]}: {shown_interval(found, study.rates)}")
        print("\n".join([*verdicts(analysis), *map(str, files)]))
    return cli.OK


def power_one(args: argparse.Namespace) -> int:
    """Print how often a true difference is found."""
    from scripts.study.analyse import shown, spread_shown
    from scripts.study.plan import open_study
    from scripts.study.simulate import power

    study, difference = _simulated(open_study(args.study), args)
    try:
        people = [int(part) for part in args.people.split(",")]
    except ValueError:
        raise UserError(f"--people is '{args.people}'; give whole numbers, such as 10,20,40") from None
    if not 2 <= min(people) <= max(people) <= _MOST:
        raise UserError(f"--people is '{args.people}'; give whole numbers from 2 to {_MOST}")
    one, other = (study.plan["labels"][name] for name in study.plan["comparisons"][0])
    print(f"{one} less {other}, truly {shown(difference, study.rates, '+')}, in {args.studies} simulated studies:")
    for found in power(study, people, difference, args.studies, args.seed):
        reach = spread_shown(found.reach, study.rates)
        print(f"  {found.people} people: found in {found.share:.0%}, 95 % interval ± {reach}", flush=True)
    return cli.OK


def rehearse_one(args: argparse.Namespace) -> int:
    """Write simulated answers, apart from real ones."""
    from scripts.study.plan import open_study
    from scripts.study.simulate import rehearse

    study, difference = _simulated(open_study(args.study), args)
    path = rehearse(study, args.people, difference, study.folder / "rehearsal", args.seed)
    print(f"{path}\n  saywhy study analyse {args.study} --results {path.parent} --out {path.parent / 'report.html'}")
    return cli.OK


def _simulated(study: Any, args: argparse.Namespace) -> tuple[Any, float]:
    """The study, and the difference that is simulated. Raises `UserError` for one out of range."""
    difference = _DIFFERENCE[study.plan["measure"]] if args.difference is None else args.difference
    most = 2.0 if study.rates else 0.9 - study.guess
    if not 0 <= difference <= most:
        raise UserError(f"--difference is {difference:g}; give 0 to {most:.2g}")
    if not study.plan["comparisons"]:
        raise UserError("the study has one method: there is no difference to simulate")
    return study, difference

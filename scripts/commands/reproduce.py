"""saywhy reproduce: every experiment of the paper, published values beside ours, in one report.

    saywhy reproduce --out report                # under 40 minutes on two CPU cores
    saywhy reproduce --quick --out report        # under 5 minutes
    saywhy reproduce --only table1,fig9 --limit 50 --imagenet PATH --voc PATH --coco PATH --out report

Writes `index.html` (pictures inside it, no network), `results.json`, and `cells/` with one file for each
cell of a table: what is there is not measured again, so a run that was stopped goes on where it was.
"""

from typing import Any

from scripts.experiments import run as experiments


def add_parser(subparsers: Any) -> None:
    """Add the subcommand and its arguments."""
    parser = subparsers.add_parser(
        "reproduce",
        help="repeat the paper's experiments",
        description="Repeat the paper's experiments, with named substitutes for data that is not at hand.",
    )
    known = ", ".join(experiments.EXPERIMENTS)
    parser.add_argument("--only", metavar="A,B", help=f"comma-separated: {known} (default: all)")
    experiments.add_arguments(parser)
    parser.set_defaults(run=lambda args: experiments.run(args, experiments.chosen(args.only)))

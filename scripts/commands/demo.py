"""saywhy demo: a page in the browser on which the models are asked about photographs, and explained."""

import argparse
import contextlib
import signal
import threading
from typing import Any

from common.errors import UserError
from scripts import console as cli

TASKS = ("classify", "caption", "vqa")


def add_parser(subparsers: Any) -> None:
    """Add the subcommand and its arguments."""
    parser = subparsers.add_parser(
        "demo",
        help="a page in the browser: upload a photograph, ask, click on words",
        description="Serve a page on which photographs are classified, captioned and asked about, and every word and"
        " answer can be clicked to see what it rests on. For this machine alone, unless you give another --host.",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="NAME",
        help="address to serve on; 0.0.0.0 for everyone who can reach this machine (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="port (default: %(default)s)")
    parser.add_argument(
        "--model", action="append", default=[], metavar="TASK=NAME", dest="models",
        help=f"another model for a task ({', '.join(TASKS)}), by the name its command takes; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--share", action="store_true",
        help="also ask Gradio's service for a public address for a week: photographs then pass through it",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted; returns the exit status."""
    from scripts.demo.answers import load
    from scripts.demo.server import check_port, need_gradio, serving

    names = models_of(args.models)
    need_gradio()
    check_port(args.host, args.port)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with serving(load(names), args.host, args.port, args.share) as address:
        print(f"saywhy demo: {address} (stop with Ctrl-C)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            ended.wait()
    cli.report("the demo has stopped; uploaded photographs are deleted")
    return cli.OK


def models_of(given: list[str]) -> dict[str, str]:
    """The models given as TASK=NAME, by task."""
    names = {}
    for text in given:
        task, equals, name = text.partition("=")
        if task not in TASKS or not name:
            raise UserError(f"--model is '{text}'; give TASK=NAME, TASK one of {', '.join(TASKS)}")
        names[task] = name
    return names

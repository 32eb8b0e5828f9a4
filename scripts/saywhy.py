"""The `saywhy` command: why a vision model said what it said."""

import argparse
import importlib
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from scripts import console as cli
from scripts.door import guarded

COMMANDS = (
    "classify", "caption", "vqa", "batch", "show", "models", "train", "evaluate", "reproduce", "score", "study", "demo",
)  # fmt: skip


class _Help(argparse.HelpFormatter):
    def _split_lines(self, text: str, width: int) -> list[str]:  # names are not broken at their hyphens
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help, **options})

    def error(self, message: str) -> None:  # type: ignore[override]
        cli.report(f"error: {message}; see '{self.prog} --help'")
        raise SystemExit(cli.FAILED)


def build_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand; what a subcommand needs is imported when it runs."""
    parser = _Parser(
        prog="saywhy", description="Why a vision model said what it said: explains captions, answers and labels."
    )
    parser.add_argument("--version", action="store_true", help="print the versions of what decides the numbers")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from; goes anywhere")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        importlib.import_module(f"scripts.commands.{command}").add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, as `scripts.door` lists them."""
    parser = build_parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    return guarded(lambda: _run(parser, [argument for argument in given if argument != "--debug"]), debug)


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    args = parser.parse_args(arguments)
    if args.version:
        from common.explanation import versions

        print(" ".join(f"{name} {version}" for name, version in versions().items()))
        return cli.OK
    if args.command is None:
        parser.print_help()
        return cli.FAILED
    cli.silence_libraries()
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())

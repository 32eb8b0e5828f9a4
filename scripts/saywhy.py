"""The `saywhy` command: why a vision model said what it said."""

import argparse
import importlib
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from common.errors import UserError
from scripts import console as cli

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
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        importlib.import_module(f"scripts.commands.{command}").add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, or 2 for what a user can mend."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.version:
        from common.explanation import versions

        print(" ".join(f"{name} {version}" for name, version in versions().items()))
        return cli.OK
    if args.command is None:
        parser.print_help()
        return cli.FAILED
    cli.silence_libraries()
    try:
        return args.run(args)
    except UserError as problem:
        cli.error(problem)
        return cli.FAILED
    except KeyboardInterrupt:
        cli.report("stopped; what was finished is kept")
        return 130
    except BrokenPipeError:
        # Whoever reads us has left (`saywhy ... | head`): nothing more can be said, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())

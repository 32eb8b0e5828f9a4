"""saywhy models: which networks can be loaded here, where their weights come from, what chat models are covered."""

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the subcommand and its arguments."""
    about = "The networks that classify --model and train --trunk take, and where their weights come from."
    parser = subparsers.add_parser("models", help="list the networks that can be loaded", description=about)
    parser.add_argument("--search", default="", metavar="WORD", help="only names that contain WORD, timm's too")
    parser.add_argument(
        "--family", choices=("classifiers", "chat"), default="classifiers",
        help="chat: the families of transformers that caption and vqa --model hf:... take (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON record a line, and nothing else")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the list; returns the exit status."""
    from common.errors import UserError
    from common.networks.catalogue import available

    records = chat_families(args.search) if args.family == "chat" else available(args.search)
    if not records:
        raise UserError(f"no model's name contains '{args.search}'; `saywhy models` lists them")
    if args.json:
        for record in records:
            print(json.dumps(record))
        return 0
    if args.family == "chat":
        for record in records:
            print(f"{record['family']}\n  A: {record['features']}\n  tokens: {record['tokens']}")
        return 0
    print(table(records))
    if any(record["status"].startswith("downloads") for record in records):
        print("\nWithout a network: --json names each file's address and the place to put it.")
    return 0


def chat_families(word: str = "") -> list[dict[str, str]]:
    """The families of chat models whose image tokens have a tested place: what A is in each, and how they lie."""
    from common.chat.families import FAMILIES

    return [
        {"family": name, "features": family.features, "tokens": family.places}
        for name, family in FAMILIES.items()
        if word in name
    ]


def table(records: list[dict[str, str]]) -> str:
    """The records as lined-up columns, those that are ready first."""
    ordered = sorted(records, key=lambda record: record["status"] != "ready")
    rows = [{key: key.upper() for key in ordered[0]}, *ordered]
    widths = [max(len(row[key]) for row in rows) for key in ("name", "source")]
    return "\n".join(f"{row['name']:<{widths[0]}}  {row['source']:<{widths[1]}}  {row['status']}" for row in rows)

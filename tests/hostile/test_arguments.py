"""Wrong arguments and files of every command: status 2 and one line that says what was given and what helps."""

import os
import struct
import zlib

import pytest
from PIL import Image

from scripts.saywhy import main

NO_WHOLE = ["0", "-1", "x", "", "1.5", "nan", "inf", "1e3", "9" * 5000, "\x1b[2J", "\u0663x"]
EVALUATE = [["evaluate", "captioner", "--data", "coco:gone"], ["evaluate", "vqa", "--data", "cocoqa:gone"]]
TRAIN = [["train", kind, "--data", "coco:gone", "--out", "OUT"] for kind in ("trunk", "captioner", "vqa")]
NUMBERS = {
    ("--limit",): [*EVALUATE, *TRAIN, ["reproduce", "--out", "OUT"]],
    ("--threads",): TRAIN,
    ("--batch", "--human-captions", "--beam"): EVALUATE[:1],
    ("--max-tokens", "--window", "--stride"): [["caption", "PHOTO"], ["vqa", "PHOTO", "what is it?"]],
    ("--count",): [["study", "build", "words", "--photos", "FOLDER", "--out", "OUT"]],
    ("--studies",): [["study", "power", "FOLDER"]],
    ("--people",): [["study", "rehearse", "FOLDER"], ["study", "power", "FOLDER"]],
    ("--crop",): [["classify", "PHOTO"], ["batch", "classify", "PHOTO", "--out", "OUT"]],
}
WRONG_NUMBERS = [
    [*command, f"{option}={value}"]
    for options, commands in NUMBERS.items()
    for option in options
    for command in commands
    for value in (NO_WHOLE if option != "--crop" else [v for v in NO_WHOLE if v != "1e3"] + ["1e-300", "2", "1e3"])
]
NO_SEED = ["-1", "x", "", "1.5", "nan", "9" * 5000, "4294967296"]
WRONG_NUMBERS += [
    *(["study", "build", "words", "--photos", "FOLDER", "--out", "OUT", f"--seed={value}"] for value in NO_SEED),
    *(["study", step, "FOLDER", f"--seed={value}"] for step in ("power", "rehearse") for value in NO_SEED),
    *(["study", "serve", "FOLDER", f"--port={value}"] for value in ("-1", "65536", "x", "", "9" * 5000)),
    *(["study", "power", "FOLDER", f"--difference={value}"] for value in ("nan", "inf", "-1", "x", "9" * 5000)),
    *(["demo", f"--port={value}"] for value in ("-1", "0", "65536", "x", "9" * 5000)),
    *(["demo", "--model", value] for value in ("", "caption", "caption=", "=x", "nothing=x", "\x1b=x")),
    *(["batch", "classify", "PHOTO", "--out", "OUT", "--ray", "auto", f"--num-cpus={value}"]
      for value in ("nan", "-1", "x", "-inf")),
    *(["batch", "classify", "PHOTO", "--out", "OUT", f"--{name}={value}"]
      for name in ("workers", "batch", "shard-size", "top") for value in ("-1", "x", "1.5", "nan", "9" * 5000)),
]  # fmt: skip
TASKS = [["classify", "PHOTO"], ["caption", "PHOTO"], ["vqa", "PHOTO", "what is it?"]]
WRONG = [
    *([*task, "--device", device] for task in TASKS
      for device in ("meta", "hpu", "cuda:99", "", "gpu", "cpu:x", "\x1b")),
    *([*task, "--layer", layer] for task in TASKS for layer in ("", "   ")),
    *([*task, "--methods", methods] for task in TASKS
      for methods in ("", ",", "no", "gradcam,no", "importance", "\x1b[2J")),
    *([*task, "--model", model] for task in TASKS
      for model in ("no/such\x1b[2J", "hf:/no/such/folder", "/dev/null", "")),
    *([*task, "--window", value, "--methods", "occlusion"] for task in TASKS for value in ("0", "-3", "x", "1.5")),
    *([*task, "--out", "PHOTO"] for task in TASKS),
    *([*task, "--no-such-option"] for task in TASKS),
    *(["classify", "PHOTO", "--target", target]
      for target in ("9" * 5000, "1000", "-1", "", " ", "no such class", "\x1b[2J")),
    *(["classify", "PHOTO", "--top", top] for top in ("0", "-1", "x")),
    *(["classify", "PHOTO", "--labels", file] for file in ("/no/such", "/dev/zero", "FOLDER", "PHOTO")),
    *(["classify", "PHOTO", "--weights", file] for file in ("/no/such", "FOLDER", "PHOTO")),
    *(["caption", "PHOTO", "--caption", text]
      for text in ("", "   ", "...", "\u65e5\u672c\u8a9e", "dog " * 2000, "x" * 100_000)),
    *(["caption", "PHOTO", "--phrase", text] for text in ("", "...", "dog " * 2000)),
    *(["caption", "PHOTO", "--contrast", text] for text in ("", "dog " * 2000)),
    *(["caption", "PHOTO", "--beam", beam] for beam in ("0", "-1", "65", "x")),
    *(["caption", "PHOTO", "--score", score] for score in ("", "chance")),
    *(["caption", "PHOTO", "--no-explain", "--phrase", "a dog"] for _ in range(1)),
    *(["vqa", "PHOTO", question] for question in ("", "   ", "?", "what " * 2000)),
    *(["vqa", "PHOTO", "what is it?", "--answer", answer]
      for answer in ("", "no such answer", "x" * 100_000, "\x1b[2J")),
    *(["vqa", "PHOTO", "what is it?", "--top", top] for top in ("0", "-1", "x")),
    ["vqa", "PHOTO"],
    ["evaluate", "captioner", "--data", "no:such"],
    ["evaluate", "captioner", "--data", ""],
    ["evaluate", "captioner", "--data", "flickr8k:"],
    ["evaluate", "vqa", "--data", "coco:gone"],
    ["evaluate", "vqa", "--data", "vqa2:gone", "--split", "**"],
    ["evaluate", "vqa", "--data", "file:/dev/null"],
    *(["train", "captioner", "--data", "coco:gone", "--out", "OUT", f"--dropout={value}"]
      for value in ("nan", "inf", "x", "-1", "2")),
    *(["train", "captioner", "--data", "coco:gone", "--out", "OUT", f"--weight-decay={value}"]
      for value in ("nan", "-inf", "x")),
    ["train", "captioner", "--data", "nothing", "--out", "OUT"],
    ["train", "captioner", "--data", "coco:gone", "--out", "OUT"],
    ["train", "nothing"],
    ["train"],
    ["reproduce", "--out", "OUT", "--only", "figure99"],
    ["reproduce", "--out", "PHOTO"],
    ["score", "--maps", "/no/such.npz", "--data", "/no/such.json"],
    ["score", "--maps", "PHOTO", "--data", "PHOTO"],
    ["show", "/no/such", "x.jpg", "--out", "OUT/x.png"],
    ["show", "FOLDER", "x.jpg", "--out", "OUT/x.png"],
    ["batch", "status", "/no/such"],
    ["batch", "status", "FOLDER"],
    *(["batch", "caption", "PHOTO", "--out", "OUT", "--shard", shard]
      for shard in ("1", "x/y", "2/2", "-1/2", "0/0", "1/2/3")),
    ["batch", "caption", "/no/such/folder", "--out", "OUT"],
    ["batch", "vqa", "PHOTO", "--out", "OUT"],
    ["no-such-command"],
    ["--no-such-option"],
    ["\x1b[2J"],
]  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    photo = folder / "photo.jpg"
    Image.new("RGB", (40, 30), (200, 100, 0)).save(photo)
    (folder / "empty").mkdir()
    return {"PHOTO": str(photo), "FOLDER": str(folder / "empty"), "OUT": str(folder / "out")}


def ends_in_a_line(arguments, places, capsys, monkeypatch):
    """The last line, after status 2; lines before it may be warnings of ours."""
    monkeypatch.chdir(os.path.dirname(places["PHOTO"]))
    filled = [places.get(argument, argument).replace("OUT/", places["OUT"] + "/") for argument in arguments]
    try:
        status = main(filled)
    except SystemExit as left:
        status = left.code
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert status == 2, (status, said.err)
    assert lines and lines[-1].startswith("saywhy: ") and len(lines[-1]) < 2100, said.err
    assert "Traceback" not in said.err and "\x1b" not in said.err + said.out and "internal" not in said.err
    return lines[-1]


@pytest.mark.parametrize(
    "arguments", WRONG_NUMBERS + WRONG, ids=lambda given: " ".join(given)[:60].encode("unicode_escape").decode()
)
def test_a_wrong_argument_is_one_line(arguments, places, capsys, monkeypatch):
    ends_in_a_line(arguments, places, capsys, monkeypatch)


def _png(width, height, body=b""):
    """A PNG whose header says a size and whose pixels are missing."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


PICTURES = {
    "empty.jpg": b"",
    "text.jpg": b"no picture at all",
    "html.png": b"<html><body>404</body></html>",
    "cut.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    "nothing.png": b"\x89PNG\r\n\x1a\n",
    "flat.png": _png(0, 0),
    "thin.png": _png(0, 10),
    "bomb.png": _png(100_000, 100_000),
    "absurd.png": _png(2**31 - 1, 2**31 - 1),
    "without_pixels.png": _png(32, 32),
    "zeros.webp": bytes(1000),
    "riff.webp": b"RIFF\x00\x00\x00\x00WEBPVP8 ",
    "gif.gif": b"GIF89a\xff\xff\xff\xff\x00\x00\x00",
    "tiff.tif": b"II*\x00\xff\xff\xff\xff",
    "svg.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "zip.jpg": b"PK\x03\x04" + bytes(30),
    "bmp.bmp": b"BM" + b"\xff" * 60,
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task[0])
def test_a_file_that_is_no_photograph_is_one_line(name, task, places, tmp_path, capsys, monkeypatch):
    (tmp_path / name).write_bytes(PICTURES[name])
    arguments = [str(tmp_path / name) if argument == "PHOTO" else argument for argument in task]
    assert name in ends_in_a_line([*arguments, "--out", str(tmp_path / "out")], places, capsys, monkeypatch)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "name", ["/dev/null", "/dev/zero", "/proc/self/mem", ".", "no/such.jpg", "\x1b[2J.jpg", "a" * 300]
)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task[0])
def test_what_is_no_file_is_one_line(name, task, places, tmp_path, capsys, monkeypatch):
    arguments = [name if argument == "PHOTO" else argument for argument in task]
    ends_in_a_line([*arguments, "--out", str(tmp_path / "out")], places, capsys, monkeypatch)


def test_a_pipe_is_not_waited_for(places, tmp_path, capsys, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    for task in TASKS:
        arguments = [str(tmp_path / "pipe.jpg") if argument == "PHOTO" else argument for argument in task]
        assert "not a regular file" in ends_in_a_line([*arguments, "--out", str(tmp_path)], places, capsys, monkeypatch)
    labels = tmp_path / "labels.txt"
    os.mkfifo(labels)
    ends_in_a_line(["classify", "PHOTO", "--labels", str(labels)], places, capsys, monkeypatch)


@pytest.mark.parametrize(
    "stem", ["x" * 240, "\u65e5" * 80, "a" * 243 + "\u00e9", "caf\u00e9\x1b[2J", os.fsdecode(b"caf\xe9")]
)
def test_any_name_of_a_photograph_gives_its_files(stem, places, tmp_path, capsys):
    photo = tmp_path / f"{stem}.jpg"
    Image.new("RGB", (40, 30), (200, 100, 0)).save(photo)
    assert main(["classify", str(photo), "--out", str(tmp_path / "out"), "--html"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".html", ".json", ".npz", ".png"]

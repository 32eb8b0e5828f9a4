"""The door of every command: what nobody foresaw ends in one line and a status, and what is printed is printable."""

import errno
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.draw import save_picture
from common.errors import UserError
from common.files import atomic_path, atomic_paths, held, sweep
from common.printed import PrintableStream, printable
from scripts.door import guarded

ROOT = Path(__file__).parents[2]


def raising(problem):
    def work():
        raise problem

    return work


@pytest.mark.parametrize(
    ("problem", "status", "said"),
    [
        (UserError("no such thing 'x'; give 'y'"), 2, "error: no such thing 'x'; give 'y'"),
        (ZeroDivisionError("division by zero"), 70, "internal error: ZeroDivisionError: division by zero; --debug"),
        (KeyError("word"), 70, "internal error: KeyError: 'word'; --debug shows where"),
        (RuntimeError("two\nlines"), 70, "internal error: RuntimeError: two; --debug"),
        (MemoryError(), 2, "error: not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "error: not enough memory"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y.npz"), 2, "No space left on device '/x/y.npz'; look"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/x"), 2, "Permission denied '/x'; look"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), 2, "File too large; look"),
        (RecursionError("maximum recursion depth exceeded"), 2, "error: something is nested too deeply"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), 70, "internal error: UnicodeDecodeError"),
        (KeyboardInterrupt(), 130, "stopped; what was finished is kept"),
        (BrokenPipeError(), 141, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_each_problem_has_its_line_and_status(problem, status, said, capsys):
    assert guarded(raising(problem)) == status
    err = capsys.readouterr().err
    assert err.count("\n") == (1 if said else 0) and said in err and "Traceback" not in err


def test_debug_shows_where(capsys, monkeypatch):
    assert guarded(raising(KeyError("word")), debug=True) == 70
    assert "in work" in capsys.readouterr().err
    monkeypatch.setenv("SAYWHY_DEBUG", "1")
    assert guarded(raising(UserError("no"))) == 2
    assert "Traceback" in capsys.readouterr().err


def test_statuses_are_passed_on_and_argparse_has_its_own():
    assert guarded(lambda: None) == 0 and guarded(lambda: 2) == 2
    with pytest.raises(SystemExit):
        guarded(raising(SystemExit(2)))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a dog", "a dog"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("back\rward\x08", "back\\rward\\x08"),
        ("\x9b31m", "\\x9b31m"),
        ("cat\u202egpj.exe", "cat\\u202egpj.exe"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("na\u00efve \u65e5\u672c \U0001f600", "na\u00efve \u65e5\u672c \U0001f600"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
        ("lone \udce9.jpg", "lone \\udce9.jpg"),
        ("line\u2028end", "line\\u2028end"),
        ("\x00", "\\x00"),
    ],
)
def test_what_has_no_picture_is_written_as_an_escape(given, shown):
    assert printable(given) == shown


def test_a_long_text_loses_its_middle():
    shown = printable("a" * 5000 + "; give less", 100)
    assert len(shown) <= 100 and shown.startswith("aaa") and shown.endswith("; give less")


def test_a_stream_writes_what_its_terminal_can_show():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print("caf\u00e9 \x1b[2J \udce9", file=PrintableStream(stream), flush=True)
    assert raw.getvalue() == b"caf\\xe9 \\x1b[2J \\udce9\n"


def saywhy(*arguments, **options):
    options.setdefault("cwd", ROOT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    command = [sys.executable, "-m", "scripts.saywhy", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, **options)


def test_a_full_output_is_one_line():
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "scripts.saywhy", "models"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (found.returncode, found.stderr.count("\n")) == (2, 1) and "No space left on device" in found.stderr


def test_a_closed_output_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run(
        [sys.executable, "-m", "scripts.saywhy", "models"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (found.returncode, found.stderr) == (141, "")


def test_names_that_are_not_utf_8_are_named_in_any_locale(tmp_path):
    name = os.fsdecode(b"caf\xe9\x1b[2J.jpg")
    found = saywhy("classify", str(tmp_path / name), env={"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"})
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    assert "caf\\udce9\\x1b[2J.jpg: no such file" in found.stderr


def test_a_folder_that_hides_ours_is_named(tmp_path):
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("")
    found = saywhy("models", cwd=tmp_path)
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    assert f"'{tmp_path / 'common'}' hides a package of saywhy" in found.stderr


def test_sigterm_leaves_nothing_half_done(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from common.files import atomic_path\n"
        "from scripts.door import guarded\n"
        "def work():\n"
        "    with atomic_path(Path(sys.argv[1]) / 'maps.npz') as file:\n"
        "        file.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
        "sys.exit(guarded(work))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "saywhy: terminated; what was finished is kept\n")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    script = (
        "import sys; from pathlib import Path; from common.files import atomic_path; import os, signal\n"
        "with atomic_path(Path(sys.argv[1]) / 'maps.npz') as file:\n"
        "    file.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment)
    (left,) = tmp_path.iterdir()
    other = tmp_path / ".saywhy-00000000-1-x.npz"  # of another machine
    other.write_text("")
    sweep.cache_clear()
    with atomic_path(tmp_path / "maps.npz") as file:
        file.write_text("whole")
        assert left not in tmp_path.iterdir()
    assert {path.name for path in tmp_path.iterdir()} == {"maps.npz", other.name}


def test_files_of_one_result_are_all_written_or_none(tmp_path):
    old = tmp_path / "a.json"
    old.write_text("old")

    def write(fail):
        with atomic_paths(tmp_path / "a.json", tmp_path / "a.npz") as (record, maps):
            record.write_text(json.dumps({}))
            if fail:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with atomic_path(maps) as inner:  # a writer that is atomic itself
                np.savez(inner, a=np.zeros(1))

    with pytest.raises(UserError, match="cannot write .*a.npz': No space left"):
        write(fail=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and old.read_text() == "old"
    write(fail=False)
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "a.npz"} and old.read_text() == "{}"


@pytest.mark.parametrize("short", [1, 100, 3000])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_picture_that_finds_no_room_for_its_end_is_not_written_without_it(name, short, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    save_picture(picture, tmp_path / name)
    size = (tmp_path / name).stat().st_size
    (tmp_path / name).unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - short, limits[1]))
        with pytest.raises(UserError, match=rf"cannot write '.*{name}': File too large"):
            save_picture(picture, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_of_no_known_kind_is_refused(tmp_path):
    for name in ("a", "a.txt", "a.json", "a.html"):
        with pytest.raises(UserError, match="ends in .png or .jpg"):
            save_picture(Image.new("RGB", (4, 4)), tmp_path / name)


def test_files_of_one_result_that_a_killed_process_began_to_rename_are_all_renamed(tmp_path):
    for name in ("a.json", "a.npz", "a.png"):
        (tmp_path / name).write_text("old")
    script = (
        "import os, signal, sys; from pathlib import Path; from common.files import atomic_paths\n"
        "renamed, calls, number = os.replace, [], int(sys.argv[2])\n"
        "def replace(*pair):\n"
        "    calls.append(pair)\n"
        "    if len(calls) == number:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    renamed(*pair)\n"
        "os.replace = replace\n"
        "with atomic_paths(*(Path(sys.argv[1]) / name for name in ('a.json', 'a.npz', 'a.png'))) as files:\n"
        "    for file in files:\n        file.write_text('new')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for number, wanted in ((1, "old"), (2, "new"), (3, "new"), (4, "new")):
        for name in ("a.json", "a.npz", "a.png"):
            (tmp_path / name).write_text("old")
        found = subprocess.run([sys.executable, "-c", script, str(tmp_path), str(number)], env=environment)
        assert found.returncode == -signal.SIGKILL
        sweep.cache_clear()
        sweep(tmp_path)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
            ("a.json", "a.npz", "a.png"), wanted
        )


def test_an_interrupt_between_two_renames_finishes_them(tmp_path, monkeypatch):
    renamed, calls = os.replace, []

    def replace(*pair):
        calls.append(pair)
        if len(calls) == 3:
            raise KeyboardInterrupt
        renamed(*pair)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt), atomic_paths(tmp_path / "a.json", tmp_path / "a.npz") as files:
        for file in files:
            file.write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.json": "new", "a.npz": "new"}


def test_a_folder_in_the_place_of_one_file_leaves_the_others_as_they_were(tmp_path):
    (tmp_path / "a.json").write_text("old")
    (tmp_path / "a.npz").mkdir()
    with (
        pytest.raises(UserError, match=r"cannot write '.*a\.npz': Is a directory"),
        atomic_paths(tmp_path / "a.json", tmp_path / "a.npz") as files,
    ):
        for file in files:
            file.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "a.npz"}
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_file_of_our_own_number_that_we_have_not_made_is_of_an_earlier_process(tmp_path):
    with atomic_path(tmp_path / "a.json") as ours:
        ours.write_text("new")
        left = ours.with_name(ours.name.rpartition("-")[0] + "-left.npz")
        left.write_text("half")
        sweep.cache_clear()
        sweep(tmp_path)
        assert ours.exists() and not left.exists()


def test_a_second_run_into_a_folder_is_refused_and_a_dead_one_holds_nothing(tmp_path):
    script = (
        "import sys, time; from common.files import held\n"
        "with held(sys.argv[1]):\n    print('ready', flush=True); time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert other.stdout.readline() == "ready\n"
    with pytest.raises(UserError, match="another run is writing to"), held(tmp_path):
        pass
    other.kill()
    other.wait()
    time.sleep(0.05)
    with held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []

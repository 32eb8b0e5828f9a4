"""Batches: whatever is killed, broken or changed, every photograph has its one row in the end."""

import contextlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pytest

from common.errors import UserError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("fsspec")

from scripts.batch import local, store  # noqa: E402
from scripts.batch.files import place, read_bytes  # noqa: E402
from scripts.batch.inputs import items, sources  # noqa: E402
from scripts.batch.plan import opened  # noqa: E402
from scripts.batch.shard import clear_marks, explain_shard  # noqa: E402
from scripts.batch.status import line, status  # noqa: E402
from scripts.benchmark.killed import compared, counted  # noqa: E402
from tests.stub import plan_of  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def photographs(folder, count=20, broken=()):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:03}.jpg").write_bytes(b"broken" if number in broken else b"photo %d" % number)
    return str(folder)


def rows(out):
    """The rows of a folder, each once."""
    found = [row for row, _ in store.rows(str(out))]
    assert len({(row["key"], row["question"]) for row in found}) == len(found)
    return sorted(json.dumps({**row, "maps": repr(row["maps"])}, sort_keys=True) for row in found)


def done(out, given, workers=0, **options):
    plan = plan_of(out, sources([given]), **options)
    there = store.done(plan)
    missing = [shard for shard in range(plan.shards) if shard not in there]
    return local.run(workers, plan, missing)


def keys(given, **options):
    return [item.key for source in sources([given], **options) for item in items(source)]


# What is read


def test_folders_globs_and_lists_are_read(tmp_path, monkeypatch):
    photographs(tmp_path / "a", 3)
    photographs(tmp_path / "a" / "deeper", 1)
    (tmp_path / "a" / "notes.md").write_text("no photograph")
    photographs(tmp_path / "a" / ".hidden", 1)
    assert keys(str(tmp_path / "a")) == ["000.jpg", "001.jpg", "002.jpg", "deeper/000.jpg"]
    assert keys(f"file://{tmp_path}/a") == ["000.jpg", "001.jpg", "002.jpg", "deeper/000.jpg"]
    assert keys(f"{tmp_path}/a/*.jpg") == ["000.jpg", "001.jpg", "002.jpg"]
    assert keys(f"{tmp_path}/a/{{001..002}}.jpg") == ["001.jpg", "002.jpg"]
    monkeypatch.chdir(tmp_path)
    assert keys("a/00[01].jpg") == ["000.jpg", "001.jpg"] and keys("a/000.jpg") == ["a/000.jpg"]
    (tmp_path / "list.txt").write_text("a/000.jpg\n\na/002.jpg\n")
    assert keys("list.txt") == ["a/000.jpg", "a/002.jpg"]
    both = [item.key for source in sources(["a", "a/deeper"]) for item in items(source)]
    assert both == ["a/000.jpg", "a/001.jpg", "a/002.jpg", "a/deeper/000.jpg", "a/deeper/000.jpg"]


def test_questions_come_with_the_photographs_or_for_all(tmp_path):
    photographs(tmp_path, 2)
    lines = [{"image": "000.jpg", "question": "what?", "answers": ["cat", "cat", "dog"]}, {"image": "001.jpg"}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "q.csv").write_text("image,question,answer\n000.jpg,what?,cat\n001.jpg,,\n")
    for name, answers in (("q.jsonl", ("cat", "dog")), ("q.csv", ("cat",))):
        first, second = sources([str(tmp_path / name)], "who?")
        assert (first.question, first.answers) == ("what?", answers) and second.question == "who?"
    (tmp_path / "q.jsonl").write_text('{"image": "000.jpg"}\n{"picture": "x"}')
    with pytest.raises(UserError, match=r"line 2: expected an image's path as 'image'.*has picture"):
        list(sources([str(tmp_path / "q.jsonl")]))


def tar(path, samples, ending=".tar"):
    with tarfile.open(path, "w:gz" if ending.endswith("gz") else "w") as archive:
        for name, data in samples:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return str(path)


def test_tar_shards_are_read_as_webdataset_writes_them(tmp_path):
    question = json.dumps({"question": "what?", "answers": ["cat"]}).encode()
    samples = [("a/1.jpg", b"one"), ("a/1.json", question), ("a/2.jpg", b"two"), ("a/2.txt", b"who?"), ("r.md", b"")]
    for ending in (".tar", ".tar.gz"):
        given = tar(tmp_path / f"000{ending}", samples, ending)
        (source,) = sources([given])
        found = list(items(source))
        assert [(item.key, item.read(), item.question, item.answers) for item in found] == [
            (f"{given}/a/1", b"one", "what?", ("cat",)), (f"{given}/a/2", b"two", "who?", ()),
        ]  # fmt: skip


def test_a_truncated_tar_gives_what_it_has_and_an_error(tmp_path):
    path = tmp_path / "000.tar"
    tar(path, [(f"{number}.jpg", b"photo %d" % number * 200) for number in range(6)])
    path.write_bytes(path.read_bytes()[:6000])
    assert done(tmp_path / "out", str(path)).errors == 1
    found = [row for row, _ in store.rows(str(tmp_path / "out"))]
    assert [row["error"] is None for row in found] == [True] * (len(found) - 1) + [False] and len(found) >= 3
    assert "truncated" in found[-1]["error"] and found[-1]["key"] == str(path)


def test_parquet_with_bytes_of_images_is_read(tmp_path):
    rows = [{"image": {"bytes": b"photo %d" % n, "path": f"{n}.jpg"}, "question": f"q{n}"} for n in range(5)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    found = [(source.part, item) for source in sources([str(path)]) for item in items(source)]
    part, third = found[3]
    assert (part, third.key, third.read(), third.question) == (1, f"{path}/3.jpg", b"photo 3", "q3")
    assert len(found) == 5
    pq.write_table(pa.table({"id": ["x"], "picture": [b"bytes"]}), path)
    assert keys(str(path)) == [f"{path}/x"]
    pq.write_table(pa.table({"id": ["x"], "label": [3]}), path)
    with pytest.raises(UserError, match="has no column of images: id, label"):
        list(sources([str(path)]))
    path.write_bytes(b"text")
    with pytest.raises(UserError, match="is no Parquet file"):
        list(sources([str(path)]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none", "is not there"), ("empty", "holds no photographs"), ("*.jpg", "no file matches"),
        ("a.doc", "no known kind"), ("what://a", "cannot be opened"),
    ],
)  # fmt: skip
def test_input_that_is_none_is_refused(tmp_path, given, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(UserError, match=message):
        list(sources([given if "://" in given else str(tmp_path / given)]))


# What is written


def test_every_photograph_has_a_row_and_broken_ones_an_error(tmp_path):
    given = photographs(tmp_path / "in", 40, broken={3, 17})
    (tmp_path / "in" / "020.jpg").write_bytes(b"heavy")
    assert done(tmp_path / "out", given).errors == 3
    found = {row["key"]: row for row, _ in store.rows(str(tmp_path / "out"))}
    assert sorted(found) == [f"{number:03}.jpg" for number in range(40)]
    assert found["003.jpg"]["error"] == "003.jpg: the image is broken" and found["003.jpg"]["maps"] is None
    assert found["020.jpg"]["error"] == "out of memory" and found["021.jpg"]["error"] is None
    told = status(str(tmp_path / "out"))
    assert (told["done"], told["left"], told["rows"], told["errors"], told["running"]) == (14, 0, 40, 3, 0)
    assert "14 of 14 shards done" in line(told) and "3 with an error" in line(told)


def test_the_same_rows_by_any_number_of_workers_and_on_any_address(tmp_path):
    given = photographs(tmp_path / "in", 30, broken={4})
    done(tmp_path / "one", given)
    done(tmp_path / "two", given, workers=2)
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    done("memory://maps", given)
    assert rows("memory://maps") == rows(tmp_path / "one")
    fs, _ = place("memory://maps")
    assert not [name for name in fs.find("/maps") if "running" in name]


def test_errors_are_done_again_and_nothing_else(tmp_path):
    given = photographs(tmp_path / "in", 12, broken={5})
    plan = plan_of(tmp_path / "out", sources([given]), shard_size=4)
    local.run(0, plan, range(3))
    before = {row["key"]: row for row, _ in store.rows(plan.out)}
    (tmp_path / "in" / "005.jpg").write_bytes(b"photo!")  # as long as before
    (tmp_path / "in" / "006.jpg").unlink()  # is not looked at
    assert explain_shard(plan, 1, retry=True) == 0
    after = {row["key"]: row for row, _ in store.rows(plan.out)}
    assert after.pop("005.jpg")["error"] is None and before.pop("005.jpg")["error"]
    assert after == before


def test_a_photograph_that_changes_meanwhile_is_an_error(tmp_path):
    given = photographs(tmp_path / "in", 2)
    plan = plan_of(tmp_path / "out", sources([given]), shard_size=2)
    (tmp_path / "in" / "001.jpg").write_bytes(b"another one")
    assert explain_shard(plan, 0) == 1


def test_a_photograph_that_kills_the_process_is_found_and_marked(tmp_path):
    given = photographs(tmp_path / "in", 9)
    (tmp_path / "in" / "004.jpg").write_bytes(b"killer")
    outcome = done(tmp_path / "out", given, workers=2, shard_size=3)
    assert outcome.errors == 1 and not outcome.failed
    found = {row["key"]: row["error"] for row, _ in store.rows(str(tmp_path / "out"))}
    assert len(found) == 9 and {key for key, error in found.items() if error} == {"004.jpg"}
    assert "took the process down" in found["004.jpg"]


def test_one_that_kills_the_process_only_beside_others_is_done_when_it_is_alone(tmp_path):
    given = photographs(tmp_path / "in", 9)
    (tmp_path / "in" / "004.jpg").write_bytes(f"once {tmp_path}/once".encode())
    outcome = done(tmp_path / "out", given, workers=2, shard_size=3)
    assert outcome.errors == 0 and not outcome.failed and (tmp_path / "once").exists()
    assert len(rows(tmp_path / "out")) == 9


def test_a_model_that_kills_every_worker_ends_the_run(tmp_path, monkeypatch):
    given = photographs(tmp_path / "in", 4)
    plan = plan_of(tmp_path / "out", sources([given]), loads="not")
    with pytest.raises(UserError, match=r"workers die while they load the model.*--workers"):
        local.run(1, plan, range(plan.shards))
    plan = plan_of(tmp_path / "other", sources([given]), loads="wrong")
    with pytest.raises(UserError, match=r"a worker cannot load the model: KeyError: .*weights"):
        local.run(1, plan, range(plan.shards))


# Another plan, another input


def test_another_plan_in_the_folder_is_refused_and_told_what_differs(tmp_path):
    given = photographs(tmp_path / "in")
    plan_of(tmp_path / "out", sources([given]), beam=3)
    assert plan_of(tmp_path / "out", sources([given]), beam=3).hash == opened(str(tmp_path / "out")).hash
    with pytest.raises(UserError, match=r"begun with asked.beam 3, and this is 4; .*--out"):
        plan_of(tmp_path / "out", sources([given]), beam=4)
    with pytest.raises(UserError, match=r"begun with shard_size 2, and this is 5"):
        plan_of(tmp_path / "out", sources([given]), beam=3, shard_size=5)


@pytest.mark.parametrize("change", ["new", "gone", "written again"])
def test_changed_input_is_refused_and_the_file_is_named(tmp_path, change):
    given = photographs(tmp_path / "in")
    plan_of(tmp_path / "out", sources([given]))
    if change == "gone":
        (tmp_path / "in" / "007.jpg").unlink()
    else:
        (tmp_path / "in" / ("007.jpg" if change == "written again" else "007a.jpg")).write_bytes(b"other")
    name = "007a.jpg" if change == "new" else "007.jpg"
    said = {"new": "is new", "gone": "is not there any more", "written again": "was written again"}[change]
    with pytest.raises(UserError, match=f"input has changed .*'{name}' {said}"):
        plan_of(tmp_path / "out", sources([given]))


def test_a_changed_plan_and_a_folder_without_one_are_refused(tmp_path):
    given = photographs(tmp_path / "in")
    with pytest.raises(UserError, match="has no plan"):
        status(str(tmp_path))
    plan = plan_of(tmp_path / "out", sources([given]))
    path = Path(plan.address(".plan", "plan.json"))
    path.write_text(path.read_text().replace('"stub"', '"caption"'))
    with pytest.raises(UserError, match="changed by hand"):
        opened(plan.out)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    given = photographs(tmp_path / "in", 2)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        plan_of(tmp_path / "file", sources([given]))
    plan = plan_of(tmp_path / "out", sources([given]))
    os.rename(tmp_path / "out" / ".plan" / "items.parquet", tmp_path / "items")
    with pytest.raises((UserError, OSError)):
        explain_shard(plan, 0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_leaves_no_file_and_one_line(tmp_path, monkeypatch):
    given = photographs(tmp_path / "in", 4)
    plan = plan_of(tmp_path / "out", sources([given]), shard_size=4)
    writer = pq.ParquetWriter

    def full(path, *arguments, **options):
        return writer(open("/dev/full", "wb", buffering=0), *arguments, **options)

    monkeypatch.setattr(pq, "ParquetWriter", full)
    with pytest.raises(UserError, match="No space left"):
        explain_shard(plan, 0)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".plan"]
    assert explain_shard(plan, 0) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits a process's files")
def test_a_file_that_cannot_grow_ends_the_run_in_one_line_and_it_goes_on_later(tmp_path):
    """A quota, or a full disk, met by a worker that is a process of its own."""
    import resource

    given = photographs(tmp_path / "in", 40)
    done(tmp_path / "whole", given, shard_size=4)
    plan_of(tmp_path / "out", sources([given]), shard_size=4, seconds=0.01)
    limit = (3000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])  # a shard's file has more

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    running = driver(tmp_path / "out", given, 1, preexec_fn=limited, stderr=subprocess.PIPE)
    said = running.communicate(timeout=60)[1].decode()
    assert running.returncode and "UserError: cannot write" in said and "File too large" in said.splitlines()[-1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".plan"]
    assert driver(tmp_path / "out", given).wait(60) == 0
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


@contextlib.contextmanager
def somebody():
    """As a user who may not write everywhere, where the tests run as root."""
    root = os.geteuid() == 0
    try:
        os.seteuid(65534) if root else None
        yield
    finally:
        os.seteuid(0) if root else None


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs users")
def test_a_folder_that_may_only_be_read_is_one_line():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        given = photographs(folder / "in", 2)
        plan = plan_of(folder / "out", sources([given]), shard_size=2)
        assert explain_shard(plan, 0) == 0
        before = rows(plan.out)
        for path in (folder / "out" / ".plan", folder / "out", folder):
            path.chmod(0o555)
        try:
            with somebody(), pytest.raises(UserError, match="cannot write .*Permission denied"):
                local.run(0, plan, [0])
            with somebody(), pytest.raises(UserError, match="cannot write .*Permission denied"):
                plan_of(folder / "new", sources([given]))
        finally:
            for path in (folder, folder / "out", folder / "out" / ".plan"):
                path.chmod(0o755)
        assert rows(plan.out) == before


# Killed

_DRIVER = """
import sys
from scripts.batch import local, store
from scripts.batch.inputs import sources
from tests.stub import plan_of
if __name__ == "__main__":
    plan = plan_of(sys.argv[1], sources([sys.argv[2]]), shard_size=4, seconds=0.01)
    print("begun", flush=True)
    there = store.done(plan)
    local.run(int(sys.argv[3]), plan, [s for s in range(plan.shards) if s not in there])
"""


def driver(out, given, workers=2, **options):
    """A run in a process of its own."""
    command = [sys.executable, "-c", _DRIVER, str(out), given, str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, **options)


def children(pid):
    """The processes that a process has started and that run Python code of ours."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except (OSError, IndexError):
            continue
    return found


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks for processes in /proc")
@pytest.mark.parametrize("seed", range(int(os.environ.get("SAYWHY_KILLS", 2))))
def test_whatever_is_killed_a_resumed_run_has_the_same_rows(tmp_path, seed):
    chance = random.Random(seed)
    given = photographs(tmp_path / "in", 60, broken={7, 30, 41})
    done(tmp_path / "whole", given, shard_size=4, seconds=0.01)
    running = driver(tmp_path / "out", given)
    running.stdout.readline()
    workers = []
    until = time.time() + 60
    while not workers and running.poll() is None and time.time() < until:
        workers = children(running.pid)
    time.sleep(chance.uniform(0, 1.5))
    workers = children(running.pid)
    victim = chance.choice([running.pid, *workers])
    if running.poll() is None:
        os.kill(victim, signal.SIGKILL)
    running.wait(120)
    until = time.time() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.time() < until:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)  # none outlives its driver
    if victim != running.pid:
        assert running.returncode == 0
    again = driver(tmp_path / "out", given)
    assert again.wait(120) == 0
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
    assert multiprocessing.active_children() == []


def test_rows_that_are_lost_double_or_other_than_in_another_run_are_counted(tmp_path):
    given = photographs(tmp_path / "in", 12, broken={5})
    ours, other = tmp_path / "out", tmp_path / "other"
    done(ours, given, shard_size=4)
    found = counted(str(ours), given)
    assert {name: found[name] for name in ("rows", "lost", "double", "errors", "files")} == {
        "rows": 12, "lost": 0, "double": 0, "errors": 1, "files": 3,
    }  # fmt: skip
    (tmp_path / "in" / "001.jpg").write_bytes(b"another one")
    done(other, given, shard_size=6)
    same = {"compared": 12, "other_sha256": 1, "other_text": 1, "other_in_anything": 1}
    assert compared(str(ours), str(other)) == same
    (ours / "shard-00001.parquet").replace(ours / "shard-00007.parquet")  # four photographs
    shutil.copy(ours / "shard-00000.parquet", ours / "shard-00008.parquet")
    (ours / "shard-00002.parquet").unlink()
    found = counted(str(ours), given)
    assert (found["rows"], found["lost"], found["double"]) == (12, 4, 4)


def test_what_is_no_list_and_what_is_no_file_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00cat")
    (tmp_path / "list.csv").write_bytes(b"image\n\xff\xfe")
    for name in ("list.txt", "list.csv"):
        with pytest.raises(UserError, match=f"{name}: not UTF-8 text"):
            keys(str(tmp_path / name))
    with pytest.raises(UserError, match="/dev/zero: is not a regular file"):
        read_bytes("/dev/zero")
    fs = place("memory://x")[0]

    def unreachable(path):
        raise RuntimeError("nobody\nthere")  # as packages of addresses raise errors of their own

    monkeypatch.setattr(type(fs), "isdir", lambda self, path: unreachable(path))
    monkeypatch.setattr(type(fs), "cat_file", lambda self, path, **options: unreachable(path))
    with pytest.raises(UserError, match=r"memory://x/a.jpg: cannot be reached \(RuntimeError: nobody there\)"):
        keys("memory://x/a.jpg")
    with pytest.raises(UserError, match="cannot be reached"):
        read_bytes("memory://x/a.jpg")


def test_a_shard_that_rotted_is_named(tmp_path):
    done(tmp_path / "out", photographs(tmp_path / "in", 3))
    shard = sorted((tmp_path / "out").glob("shard-*.parquet"))[0]
    data = shard.read_bytes()
    shard.write_bytes(data[:4] + bytes(60) + data[64:])
    with pytest.raises(UserError, match="is damaged .*; delete it and run the batch again"):
        list(store.rows(str(tmp_path / "out")))


def test_the_mark_of_a_shard_that_is_done_goes_and_what_is_no_mark_is_nobodys(tmp_path):
    plan = plan_of(tmp_path / "out", sources([photographs(tmp_path / "in", 3)]), shard_size=1)
    local.run(0, plan, [0, 1])
    running = tmp_path / "out" / ".plan" / "running"
    running.mkdir(exist_ok=True)
    for number in (0, 2):  # killed when its rows were there, and before
        (running / f"shard-{number:05d}.json").write_text("{}")
    (running / "junk.json").write_text("[]")
    clear_marks(plan, store.done(plan))
    assert sorted(path.name for path in running.iterdir()) == ["junk.json", "shard-00002.json"]
    assert status(str(tmp_path / "out"))["running"] == 0

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest

from common.errors import UserError
from common.training import store as features
from common.training.store import FeatureStore

NAMES = [f"{i}.jpg" for i in range(20)]
SHAPE = (2, 3, 4, 4)


def _value(name):
    return np.full(SHAPE, int(name.split(".")[0]), np.float16)


def _compute(names):
    return np.stack([_value(name) for name in names])


def _filled(path):
    with FeatureStore.open(path, NAMES, SHAPE, "trunk-a") as store:
        store.fill(_compute, batch=6)
    return FeatureStore(path, "trunk-a")


def test_rows_come_back_in_the_order_asked_for(tmp_path):
    store = _filled(tmp_path / "s.h5")
    assert len(store) == 20 and store.missing() == []
    np.testing.assert_array_equal(store.read(store.rows(["7.jpg", "3.jpg"])), _compute(["7.jpg", "3.jpg"]))
    assert store.read([5, 2], [1, 0]).shape == (2, 3, 4, 4)
    with pytest.raises(UserError, match="has no image 'x.jpg'"):
        store.rows(["x.jpg"])


def test_filling_goes_on_where_it_stopped_and_computes_nothing_twice(tmp_path):
    path, asked = tmp_path / "s.h5", []

    def failing(names):
        if len(asked) >= 12:
            raise KeyboardInterrupt
        asked.extend(names)
        return _compute(names)

    with pytest.raises(KeyboardInterrupt), FeatureStore.open(path, NAMES, SHAPE, "t") as store:
        store.fill(failing, batch=6)
    with pytest.raises(UserError, match="not complete: image '12.jpg' is missing"):
        FeatureStore(path, "t").read([12])

    def rest(names):
        asked.extend(names)
        return _compute(names)

    with FeatureStore.open(path, NAMES, SHAPE, "t") as store:
        assert store.missing() == list(range(12, 20))
        store.fill(rest, batch=6)
    assert asked == NAMES
    np.testing.assert_array_equal(FeatureStore(path, "t").read(range(20)), _compute(NAMES))


KILLED = """
    import os, signal, sys
    import numpy as np
    sys.path.insert(0, {root!r})
    from common.training.store import FeatureStore
    names, shape = [f"{{i}}.jpg" for i in range(20)], (2, 3, 4, 4)
    write = FeatureStore.write
    def dying(self, rows, values):
        if rows[0] == {at}:
            self.file["features"][rows[0]] = 99  # data without its mark
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, rows, values)
    FeatureStore.write = dying
    with FeatureStore.open({path!r}, names, shape, "t") as store:
        store.fill(lambda n: np.stack([np.full(shape, int(x.split(".")[0]), np.float16) for x in n]), batch=4)
"""


@pytest.mark.parametrize("at", [0, 8])
def test_a_kill_leaves_a_file_that_opens_and_rows_that_are_right(tmp_path, at):
    path = tmp_path / "s.h5"
    root = os.path.dirname(os.path.dirname(os.path.dirname(features.__file__)))
    code = textwrap.dedent(KILLED.format(root=root, path=str(path), at=at))
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    with FeatureStore.open(path, NAMES, SHAPE, "t") as store:
        assert store.missing() == list(range(at, 20))
        store.fill(_compute)
    store = FeatureStore(path, "t")
    assert store.names == NAMES
    np.testing.assert_array_equal(store.read(store.rows(NAMES)), _compute(NAMES))


def test_the_file_has_its_full_size_from_the_start(tmp_path):
    path = tmp_path / "s.h5"
    FeatureStore.open(path, NAMES, SHAPE, "t").close()
    size = path.stat().st_size
    assert size >= 20 * np.prod(SHAPE) * 2
    with FeatureStore.open(path, NAMES, SHAPE, "t") as store:
        store.fill(_compute)
    assert path.stat().st_size == size


def test_features_of_another_trunk_or_other_images_are_refused(tmp_path):
    path = tmp_path / "s.h5"
    _filled(path).close()
    with pytest.raises(UserError, match="another trunk \\(trunk-a, wanted trunk-b\\)"):
        FeatureStore(path, "trunk-b")
    with pytest.raises(UserError, match="made for 20 images"):
        FeatureStore.open(path, NAMES[:5], SHAPE, "trunk-a")


def test_missing_foreign_and_truncated_files_are_clear_errors(tmp_path):
    path = tmp_path / "s.h5"
    with pytest.raises(UserError, match="is missing; run the training command"):
        FeatureStore(path, "t")
    _filled(path).close()
    whole = path.read_bytes()
    for cut in (0, 10, 1000, len(whole) - 100):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match="truncated or not an HDF5 file; delete it and run again"):
            FeatureStore(path, "trunk-a")
    with h5py.File(path, "w") as file:
        file["other"] = 1
    with pytest.raises(UserError, match="not a feature store"):
        FeatureStore(path, "trunk-a")


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: type("U", (), {"free": 100})())
    with pytest.raises(UserError, match="the disk has 0.00 GB free"):
        FeatureStore.open(tmp_path / "s.h5", NAMES, SHAPE, "t")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_a_clear_error_and_finished_rows_stay(tmp_path, monkeypatch):
    path = tmp_path / "s.h5"
    with FeatureStore.open(path, NAMES, SHAPE, "t") as store:
        store.write([0, 1], _compute(NAMES[:2]))
        monkeypatch.setattr(h5py.File, "flush", lambda self: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(UserError, match="No space left on device; free some space and run again"):
            store.write([2], _compute(NAMES[2:3]))
    monkeypatch.undo()
    with FeatureStore.open(path, NAMES, SHAPE, "t") as store:
        assert store.missing()[0] == 2


def _read_in_worker(store, row, queue):
    queue.put(float(store.read([row])[0, 0, 0, 0, 0]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_several_workers_read_one_store(tmp_path, method):
    store = _filled(tmp_path / "s.h5")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    workers = [context.Process(target=_read_in_worker, args=(store, row, queue)) for row in (3, 11)]
    for worker in workers:
        worker.start()
    found = sorted(queue.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert found == [3.0, 11.0]


def test_an_image_listed_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match="listed twice"):
        FeatureStore.open(tmp_path / "s.h5", ["a", "a"], SHAPE, "t")


def test_a_disk_that_is_too_full_for_a_store_is_one_line_and_no_file(tmp_path):
    # In a process of its own, which HDF5 used to end by a segmentation fault.
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from common.errors import UserError; from common.training.store import FeatureStore\n"
        "for limit in (100, 3000, 10000, 30000, 34000):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))\n"
        "    try:\n"
        "        FeatureStore.open(Path(sys.argv[1]) / 'a.h5', list(map(str, range(100))), (2, 10, 8), 'f')\n"
        "    except UserError as problem:\n"
        "        print(str(problem).partition(': ')[2])\n"
    )
    found = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.splitlines() == ["File too large; choose another folder or free some space"] * 5
    assert list(tmp_path.iterdir()) == []

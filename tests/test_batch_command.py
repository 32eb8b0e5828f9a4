"""`saywhy batch`, `show` and `score` of a folder as a user runs them, with the classifier and small models."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from common.explanation import Explanation
from common.images import Preprocessing, decoded_image, open_image
from common.request import Encoded
from scripts.saywhy import main
from tests.nets import Plain, seeded

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

import classification  # noqa: E402
from scripts.batch import find, store, tasks  # noqa: E402
from scripts.batch.records import Item  # noqa: E402
from scripts.batch.shard import _loaded as tasks_loaded  # noqa: E402

LABELS = ["cat", "dog", "bird", "car", "cup"]


def small(model, labels, **options):
    """The network that the tests' classifier stands on, whatever was asked for."""
    preprocessing = Preprocessing((16, 16), (0.5,) * 3, (0.5,) * 3)
    return REAL(seeded(Plain), labels=LABELS, preprocessing=preprocessing)


REAL = classification.load


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Seven photographs, one of them broken, and a run over them."""
    monkeypatch.setattr(classification, "load", small)
    tasks_loaded.cache_clear()
    (tmp_path / "in").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "6.png").write_bytes((tmp_path / "in" / "0.png").read_bytes()[:200])
    return tmp_path


def batch(folder, *arguments):
    given = ["batch", "classify", str(folder / "in"), "--out", str(folder / "out"), "--workers", "0", "--quiet"]
    return main([*given, *arguments])


def test_a_row_is_the_explanation_that_the_facade_gives(folder, capsys):
    assert batch(folder, "--target", "top2", "bird", "--methods", "gradcam,guided-gradcam", "--batch", "3") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "1 of 7 rows are errors, such as 6.png" in said[0] and "--retry-errors" in said[0]
    classifier = small(None, None)
    for row, about in store.rows(str(folder / "out")):
        if row["error"]:
            continue
        path = folder / "in" / row["key"]
        best = classifier.predict(path, top=2)
        wanted = classifier.explain(path, [best[0].index, best[1].index, "bird"], methods="gradcam,guided-gradcam")
        found = Explanation.from_row(row, find.provenance(row, about))
        assert found.names == wanted.names and row["text"] == best[0].label
        assert row["choices"][1]["probability"] == pytest.approx(best[1].probability, rel=1e-4)
        torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-4, atol=1e-5)
        for method, values in wanted.maps.items():
            torch.testing.assert_close(
                found.maps[method], values, rtol=2e-3, atol=1e-6 + 1e-4 * float(values.abs().max())
            )
        assert (row["width"], row["height"]) == Image.open(path).size
        assert (
            found.provenance["layer"] == classifier.layer
            and found.provenance["methods"] == wanted.provenance["methods"]
        )


def test_of_a_hundred_photographs_five_are_broken_each_in_its_way(folder, capsys):
    whole = (folder / "in" / "0.png").read_bytes()
    for number in range(7, 100):
        (folder / "in" / f"{number}.png").write_bytes(whole)
    broken = {"10": b"", "20": b"<html>not found</html>", "30": whole[:60], "40": whole[::-1]}
    for name, data in broken.items():
        (folder / "in" / f"{name}.png").write_bytes(data)
    assert batch(folder) == 2
    rows = {row["key"]: row for row, _ in store.rows(str(folder / "out"))}
    assert len(rows) == 100 and {key for key, row in rows.items() if row["error"]} == {
        f"{name}.png" for name in ("6", *broken)
    }
    assert all(key in row["error"] and len(row["error"]) < 200 for key, row in rows.items() if row["error"])
    assert "5 of 100 rows are errors" in capsys.readouterr().err


def test_pandas_and_duckdb_and_datasets_read_what_was_written(folder):
    batch(folder)
    rows = {row["key"]: row for row, _ in store.rows(str(folder / "out"))}
    pandas = pytest.importorskip("pandas")
    table = pandas.read_parquet(folder / "out")
    assert sorted(table["key"]) == sorted(rows) and table["error"].notna().sum() == 1
    good = table[table["error"].isna()]
    for row in good.to_dict("records"):
        torch.testing.assert_close(Explanation.from_row(row).heatmaps, Explanation.from_row(rows[row["key"]]).heatmaps)


def test_duckdb_reads_what_was_written(folder):
    duckdb = pytest.importorskip("duckdb")
    batch(folder)
    query = f"select count(*), count(error), max(len(maps.gradcam.shape)) from '{folder}/out/*.parquet'"
    assert duckdb.connect().execute(query).fetchone() == (7, 1, 3)


def test_datasets_reads_what_was_written(folder):
    datasets = pytest.importorskip("datasets")
    batch(folder)
    found = datasets.load_dataset("parquet", data_dir=str(folder / "out"), cache_dir=str(folder / "cache"))["train"]
    assert len(found) == 7 and Explanation.from_row(next(row for row in found if row["names"])).heatmaps.shape[:2] == (
        1,
        1,
    )


def test_predictions_alone_have_no_maps_and_are_the_same(folder):
    batch(folder)
    main(["batch", "classify", str(folder / "in"), "--out", str(folder / "bare"), "--no-explain", "--workers", "0"])
    explained, bare = ({row["key"]: row for row, _ in store.rows(str(folder / name))} for name in ("out", "bare"))
    assert "maps" not in bare["0.png"] and bare["0.png"]["names"] is None
    for key, row in bare.items():
        assert row["text"] == explained[key]["text"] and row["sha256"] == explained[key]["sha256"]
        assert row["probability"] == pytest.approx(explained[key]["probability"])


def test_parts_make_the_whole_and_the_same_command_goes_on(folder, capsys):
    for part in range(3):
        batch(folder, "--shard", f"{part}/3")
    files = sorted((folder / "out").glob("*.parquet"))
    assert len(files) == 7
    written = {path: path.stat().st_mtime_ns for path in files}
    files[2].unlink()
    batch(folder)
    assert [path for path in files if path.stat().st_mtime_ns != written[path]] == [files[2]]
    assert main(["batch", "status", str(folder / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["done"] == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shard", "3/3"], ["3/3", "0 to N - 1"]),
        (["--target", "unicorn"], ["unicorn"]),
        (["--methods", "lime"], ["lime"]),
        (["--batch", "0"], ["--batch", "0"]),
        (["--num-cpus", "2"], ["--ray auto as well"]),
        (["--ray", "auto", "--workers", "0"], ["--workers is 0", "at least 1"]),
        (["--ray", "auto", "--workers", "1", "--num-gpus", "-1"], ["--num-gpus is -1.0", "at least 0"]),
        (["--device", "cuda:77"], ["cuda:77"]),
    ],
    ids=str,
)
def test_wrong_arguments_are_one_line_and_write_nothing(folder, capsys, arguments, words):
    assert batch(folder, *arguments) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and all(word in said[0] for word in words)
    assert not (folder / "out").exists()


def test_other_targets_into_the_same_folder_are_refused(folder, capsys):
    batch(folder)
    capsys.readouterr()
    assert batch(folder, "--target", "top3") == 2
    assert 'asked.targets ["top1"], and this is ["top3"]' in capsys.readouterr().err


def test_show_draws_the_panel_that_the_command_draws(folder, capsys, monkeypatch):
    batch(folder, "--target", "top1", "bird")
    out = ["--out", str(folder / "single")]
    best = small(None, None).predict(folder / "in" / "2.png")[0].label
    main(["classify", str(folder / "in" / "2.png"), "--target", best, "--target", "bird", *out])
    assert main(["show", str(folder / "out"), "2.png", "--out", str(folder / "panel.png")]) == 0
    ours, single = (
        np.asarray(Image.open(path), float) for path in (folder / "panel.png", folder / "single" / "2.classify.png")
    )
    assert ours.shape == single.shape and np.abs(ours - single).mean() < 0.1
    capsys.readouterr()
    for key, words in (("6.png", "only an error"), ("9.png", "0 rows of '9.png'"), ("png", "0 rows")):
        assert main(["show", str(folder / "out"), key]) == 2
        assert words in capsys.readouterr().err
    for image, words in (("nope.png", "no such file"), ("in", "in: ")):
        assert main(["show", str(folder / "out"), "2.png", "--image", str(folder / image)]) == 2
        assert words in capsys.readouterr().err
    (folder / "in" / "2.png").write_bytes((folder / "in" / "3.png").read_bytes())
    assert main(["show", str(folder / "out"), "2.png"]) == 2


@pytest.mark.parametrize("task", ["caption", "vqa"])
def test_show_draws_the_panel_of_a_caption_and_of_an_answer(sample_images, tmp_path, task):
    """What differs is rounding: a row's maps are float16."""
    photo = next(path for path in sample_images if path.stem == "cows")
    asked, question = ["--methods", "gradcam,hirescam", "--out"], "what animals are these?"
    given = ["--question", question] if task == "vqa" else ["--phrase", "a field"]
    batched = [*given, *asked, str(tmp_path / "out"), "--workers", "0", "--quiet"]
    assert main(["batch", task, str(photo), *batched]) == 0
    assert main([task, str(photo), *(given[1:] if task == "vqa" else given), *asked, str(tmp_path / "single")]) == 0
    assert main(["show", str(tmp_path / "out"), "cows", "--out", str(tmp_path / "panel.png")]) == 0
    files = tmp_path / "panel.png", tmp_path / "single" / f"cows.{task}.png"
    ours, single = (np.asarray(Image.open(path), float) for path in files)
    assert ours.shape == single.shape and np.abs(ours - single).mean() < 0.1


def test_a_folder_of_a_batch_is_scored(folder, capsys):
    batch(folder, "--target", "cat", "dog")
    boxes = {f"{number}.png": {"cat": [[0, 0, 0.5, 0.5]]} for number in range(4)}
    (folder / "boxes.json").write_text(json.dumps(boxes))
    capsys.readouterr()
    assert main(["score", "--maps", str(folder / "out"), "--data", str(folder / "boxes.json"), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["maps"] == 4 and "3 rows" in printed.err


def test_a_large_jpeg_is_decoded_at_reduced_scale_and_looks_the_same(sample_images, tmp_path):
    image = Image.open(sample_images[0]).convert("RGB").resize((1600, 1200))
    image.save(tmp_path / "large.jpg", quality=95)
    data = (tmp_path / "large.jpg").read_bytes()
    small, whole = decoded_image(data, "large.jpg", at_least=448), open_image(tmp_path / "large.jpg")
    assert small.size == (800, 600) and small.info["original_size"] == whole.size == (1600, 1200)
    look = Preprocessing((224, 224))
    assert float((look(small) - look(whole)).abs().mean()) < 0.02
    assert decoded_image(data, "large.jpg", at_least=1000).size == (1600, 1200)


def test_on_a_cpu_classes_are_explained_by_few_photographs_and_texts_by_more():
    """Sixteen at once take a classifier's trunk longer an image, and hold 400 MB more; texts share their steps."""
    assert tasks.batch_size("classify", "cpu") == tasks.TRUNK < tasks.batch_size("caption", "cpu")
    assert tasks.batch_size("vqa", "cpu") == tasks.batch_size("caption", "cpu")


def test_a_row_keeps_maps_of_any_size(tmp_path):
    for factor in (1e-9, 1.0, 1e9):
        maps = factor * torch.rand(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
        found = Explanation.from_row(Explanation(("a", "b"), torch.ones(2, 1), {"gradcam": maps}).to_row())
        torch.testing.assert_close(found.heatmaps, maps, rtol=1e-3, atol=0)
    zero = Explanation(("a",), torch.ones(1, 1), {"gradcam": torch.zeros(1, 1, 2, 2)})
    assert not Explanation.from_row(zero.to_row()).heatmaps.any()


def test_a_fingerprint_tells_weights_apart():
    assert tasks.fingerprint(seeded(Plain)) == tasks.fingerprint(seeded(Plain)) != tasks.fingerprint(seeded(Plain, 1))


def test_the_questions_of_a_row_are_explained_each_with_its_answers():
    """Those of whom the same is asked go through the model together; each row has its own."""

    class Fake:
        device = torch.device("cpu")

        def encode(self, pixels):
            return Encoded(pixels, pixels, single=False)

        def answer(self, encoded, texts, top):
            from vqa.network import Answer

            return [Answer("yes", 1.0, 0.5, (Answer("no", 0.0, 0.25),)) for _ in texts]

        def explain(self, encoded, texts, answers, methods):
            names = tuple(answers or ["yes"])
            maps = torch.zeros(len(names), 1, 1, 1)
            return [
                Explanation(names, e.reshape(1, 1).expand(len(names), 1), {"gradcam": maps}, {"layer": "last"})
                for e in encoded.features
            ]

    class Network:
        def read(self, text):
            from common.text import Text

            return Text.of(text.split(), [1] * len(text.split()))

    answers = tasks.Answers.__new__(tasks.Answers)
    answers.asked, answers.answerer = {"top": 2, "methods": ["gradcam"]}, Fake()
    answers.answerer.network, answers.about = Network(), {"layer": "last"}
    samples = [
        tasks.Sample(torch.full((1, 1), float(n)), (2, 1), f"question {n}", ("red", "blue") if n % 2 else ())
        for n in range(5)
    ]
    rows = answers.explain(samples)
    assert [row["scores"][0] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["names"] for row in rows] == [["yes"], ["red", "blue"]] * 2 + [["yes"]]
    assert rows[0]["text"] == "yes" and rows[0]["choices"][1] == {"text": "no", "probability": 0.25}


def test_photographs_take_the_trunk_a_few_at_a_time_and_are_explained_together(sample_images, monkeypatch):
    """Whatever the sizes, a row is that of the photograph alone, with the captioner's own caption and `visual`."""
    asked = {"model": None, "layer": None, "beam": 2, "phrases": [], "score": "logit", "methods": ["gradcam"]}
    task = tasks.Captions(asked, "cpu")
    samples = [task.prepare(path.read_bytes(), Item(path.name, bytes)) for path in sample_images[:3]]
    monkeypatch.setattr(tasks, "TRUNK", 2)
    together, alone = task.explain(samples), [task.explain([sample])[0] for sample in samples]
    for row, single, sample in zip(together, alone, samples, strict=True):
        caption = task.captioner.caption(sample.pixels)[0]
        assert row["text"] == single["text"] == caption.text and row["names"] == single["names"]
        words = slice(1, 1 + len(row["words"]))
        np.testing.assert_allclose(row["visual"][words], caption.visual, rtol=1e-3, atol=1e-3)
        found, wanted = Explanation.from_row(row), Explanation.from_row(single)
        torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-3, atol=1e-3)
        scale = float(wanted.heatmaps.abs().max())
        torch.testing.assert_close(found.heatmaps, wanted.heatmaps, rtol=2e-3, atol=2e-3 * scale)

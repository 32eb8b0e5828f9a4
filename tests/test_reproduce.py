"""`saywhy reproduce` on tiny data and a tiny network: every experiment, the report, and going on after a
stop.
"""

import argparse
import json
import re
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import classification
from common.errors import MethodError, UserError
from common.explanation import Explanation
from common.gradcam import gradcam
from common.images import Preprocessing
from data.words import imagenet_nouns as nouns
from scripts.commands import reproduce
from scripts.experiments import (
    EXPERIMENTS,
    faithfulness,
    figure3,
    figure6,
    figure8,
    grid,
    manifest,
    maps,
    paper,
    rows,
    run,
    sanity,
    section_of,
)  # fmt: skip
from scripts.experiments.lab import Absent, Lab, data_folders, measured, paired
from scripts.experiments.page import write_report
from scripts.experiments.report import Picture, Row, Section, Table, against, row_of, text_table
from scripts.experiments.samples import right_samples, samples
from scripts.experiments.scenes import Scene, grouped, scenes
from tests.nets import seeded
from tests.test_ilsvrc import BOX_XML

ROOT = Path(__file__).parents[1]
WITHOUT_MODELS = tuple(
    name for name in EXPERIMENTS if name not in ("fig1", "fig3", "fig10", "fig11", "fig12", "vqa", "sanity")
)


class Tiny(nn.Module):
    """A thousand classes out of three convolutions; a ReLU stands behind the second."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(8, 12, 3, 1, 1), nn.ReLU())
        self.fc = nn.Linear(12, 1000)

    def forward(self, images):
        return self.fc(self.last(self.block(self.stem(images))).mean((-2, -1)))


@pytest.fixture(scope="module")
def classifier():
    preprocessing = Preprocessing((48, 48), (0.5,) * 3, (0.5,) * 3)
    return classification.load(seeded(Tiny, 3), preprocessing=preprocessing)


def picture(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((64, 48))


@pytest.fixture(scope="module")
def sample_folder(classifier, tmp_path_factory):
    """Photographs named by what the tiny network takes them for, but for one."""
    folder = tmp_path_factory.mktemp("samples")
    for seed in range(9):
        image = picture(seed)
        best = classifier.predict(image, top=1)[0].index
        label = (best + 1) % 1000 if seed == 8 else best
        image.save(folder / f"{classifier.labels.wnid(label)}_thing{seed}.png")
    (folder / "n01440764_broken.JPEG").write_bytes(b"no photograph")
    return folder


CAPTIONS = (
    ("dog", "grass"), ("child", "water"), ("dog", "water"), ("child", "grass"),
)  # fmt: skip


@pytest.fixture(scope="module")
def flickr_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flickr8k")
    photographs, text = folder / "Flicker8k_Dataset", folder / "Flickr8k_text"
    notes = folder / "flickr30k_entities"
    for place in (photographs, text, notes / "Annotations", notes / "Sentences"):
        place.mkdir(parents=True)
    lines, names = [], [f"{1000 + i}_{i:04x}.jpg" for i in range(24)]
    for i, name in enumerate(names):
        subject, place = CAPTIONS[i % 4]
        picture(100 + i).save(photographs / name)
        lines.append(f"{name}#0\tA {subject} in the {place} .")
        stem = name.partition("_")[0]
        (notes / "Sentences" / f"{stem}.txt").write_text(
            f"[/EN#1/animals A {subject}] in [/EN#2/scene the {place}] .\n"
        )
        boxes = "".join(
            f"<object><name>{n}</name><bndbox><xmin>{x}</xmin><ymin>5</ymin><xmax>{x + 25}</xmax>"
            "<ymax>40</ymax></bndbox></object>"
            for n, x in ((1, 2), (2, 30))
        )
        (notes / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><size><width>64</width><height>48</height></size>{boxes}</annotation>"
        )
    (text / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    (text / "Flickr_8k.trainImages.txt").write_text("\n".join(names[:16]) + "\n")
    (text / "Flickr_8k.devImages.txt").write_text("\n".join(names[16:]) + "\n")
    return folder


@pytest.fixture
def lab(classifier, sample_folder, flickr_folder, tmp_path):
    data = {"samples": sample_folder, "flickr8k": flickr_folder}
    return Lab(tmp_path / "report", data, 4, True, "tiny", shared={"classifier": classifier})


class Outline(HTMLParser):
    """The headings, links and images' sources of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses, self.headings, self.depth = [], 0, 0

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        self.headings += tag == "h2"
        self.depth += tag not in ("meta", "img", "br")

    def handle_endtag(self, tag):
        self.depth -= 1


@pytest.mark.parametrize("name", WITHOUT_MODELS)
def test_every_experiment_gives_tables_that_name_their_data(lab, name):
    section = section_of(name)(lab)
    assert section.tables or section.pictures
    for table in section.tables:
        assert table.substitute and "substitute: " in table.heading
        assert any(row.ours is not None for row in table.rows)
        assert all(row.ours is None or np.isfinite(row.ours) for row in table.rows)
    for shown in section.pictures:
        with Image.open(shown.path) as image:
            assert min(image.size) > 50


def test_the_report_is_one_page_without_a_network(lab):
    chosen = {name: section_of(name) for name in ("table1", "fig6", "fig9")}
    assert run.experiment_all(chosen, lab, quiet=True) == 0
    page = (lab.out / "index.html").read_text()
    outline = Outline()
    outline.feed(page)
    assert outline.headings == 1 + len(chosen) and outline.depth == 0
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in outline.addresses)
    assert "http" not in page and str(lab.out) not in page
    record = json.loads((lab.out / "results.json").read_text())
    assert list(record["sections"]) == list(chosen)
    rows = record["sections"]["fig6"]["tables"][0]["rows"]
    assert rows[0]["n"] == 9 and rows[0]["left_out"] == 1 and rows[0]["ours"] == pytest.approx(8 / 9)
    about = record["about"]
    assert about["versions"]["torch"] and about["command"] and about["date"] and about["quick"] is True
    assert set(about["weights"]) <= set(about["layers"]) and len(about["weights"]["classifier"]) == 12
    assert "A quick run" in page and "Network Dissection:" not in page  # nothing is concluded from a few photographs
    lab.quick = False
    assert "A quick run" not in write_and_read(lab) and "Network Dissection:" in write_and_read(lab)


def write_and_read(lab):
    run.experiment_all({"fig9": section_of("fig9")}, lab, quiet=True)
    return (lab.out / "index.html").read_text()


def test_a_second_run_measures_nothing_again_and_another_limit_does(lab):
    faithfulness.section(lab)
    cells = {path: path.stat().st_mtime_ns for path in (lab.out / "cells").iterdir()}
    faithfulness.section(lab)
    assert cells == {path: path.stat().st_mtime_ns for path in (lab.out / "cells").iterdir()}
    lab.limit = 3
    faithfulness.section(lab)
    changed = [path.name for path, time in cells.items() if path.stat().st_mtime_ns != time]
    assert changed == ["occlusion-ranks.json"]


def test_a_stopped_run_goes_on_where_it_was(lab):
    calls = []

    def measure(fails):
        calls.append(fails)
        if fails:
            raise KeyboardInterrupt
        return {"mean": 1.0}

    lab.cell("first", lambda: measure(False))
    with pytest.raises(KeyboardInterrupt):
        lab.cell("second", lambda: measure(True))
    assert lab.cell("first", lambda: measure(True)) == {"mean": 1.0}
    assert lab.cell("second", lambda: measure(False)) == {"mean": 1.0}
    assert calls == [False, True, False]
    (lab.out / "cells" / "first.json").write_text("{ half")
    assert lab.cell("first", lambda: measure(False)) == {"mean": 1.0}
    assert not list((lab.out / "cells").glob(".*"))


def test_a_report_that_goes_on_names_the_models_of_cells_that_are_at_hand(lab):
    def made():
        assert lab.classifier
        return {"mean": 0.5}

    lab.cell("table", made)
    again = Lab(lab.out, lab.data, lab.limit, lab.quick, lab.model)
    again.cell("table", made)
    assert again.shared == {} and again.models() == lab.models() == ["classifier"]


def test_items_that_cannot_be_read_are_left_out_and_an_undefined_method_is_said():
    def measure(number, item):
        if isinstance(item, Exception):
            raise item
        return {"share": torch.tensor(item)}

    found = measured([[1.0, 3.0], UserError("broken"), [8.0]], measure, ("share", "none"), broken=2)
    assert (found["share"]["mean"], found["share"]["n"], found["share"]["left_out"]) == (4.0, 3, 3)
    # Of two groups with deviations -4 and 4 from the mean (the cluster-robust error).
    assert found["share"]["error"] == pytest.approx((2 * 32) ** 0.5 / 3)
    assert (found["none"]["n"], found["none"]["left_out"]) == (0, 3)
    with pytest.raises(UserError, match="first"):
        measured([UserError("first"), UserError("second")], measure)
    with pytest.raises(MethodError):
        measured([[1.0], MethodError("CAM is not defined")], measure)


def test_other_data_is_measured_again(lab, tmp_path):
    on = lab.on("samples")
    assert on.cell("cell", lambda: {"n": 1}) == {"n": 1}
    on.data["samples"] = tmp_path
    assert on.cell("cell", lambda: {"n": 2}) == {"n": 2}


def test_an_experiment_without_its_data_is_named_in_the_report(lab, capsys):
    lab.data = {}
    assert run.experiment_all({"fig9": section_of("fig9")}, lab, quiet=True) == 0
    assert "Left out: no flickr8k data; give its folder with --flickr8k PATH" in (lab.out / "index.html").read_text()
    with pytest.raises(Absent):
        lab.on("voc")


def test_an_experiment_that_fails_does_not_stop_the_others(lab, capsys):
    def broken(lab):
        """A title."""
        raise UserError("the file is broken")

    status = run.experiment_all({"bad": broken, "fig6": section_of("fig6")}, lab, quiet=True)
    assert status == 2 and "error: bad: the file is broken" in capsys.readouterr().err
    page = (lab.out / "index.html").read_text()
    assert "Failed: the file is broken" in page and "top-1 accuracy" in page


def test_ilsvrcs_protocol_runs_on_its_layout(lab, classifier, tmp_path):
    photographs, boxes = tmp_path / "val", tmp_path / "bbox_val_v3" / "val"
    photographs.mkdir()
    boxes.mkdir(parents=True)
    for n in range(1, 4):
        name, image = f"ILSVRC2012_val_{n:08d}", picture(n)
        image.save(photographs / f"{name}.JPEG", quality=100)
        wnid = classifier.predict(photographs / f"{name}.JPEG", top=1)[0].wnid
        whole = BOX_XML.format(name=name, wnid=wnid)
        (boxes / f"{name}.xml").write_text(whole if n < 3 else whole[:200])
    lab.data["imagenet"] = tmp_path
    section = section_of("table1")(lab)
    top1, top5, *grids = section.tables
    assert {table.title for table in grids} == {"Grid game", "Grid game, peaks"}
    assert not top1.substitute and top1.heading == "Table 1, top-1 localisation error; ILSVRC val"
    rows = {row.what: row for row in top1.rows}
    assert rows["Grad-CAM"].published == "56.51" and rows["Grad-CAM"].n == 2 and rows["Grad-CAM"].left_out == 1
    assert all(a.ours >= b.ours for a, b in zip(top1.rows, top5.rows, strict=True))


def test_a_limit_raises_as_well_as_lowers(tmp_path):
    assert Lab(tmp_path).count(5000, 50) == 5000 and Lab(tmp_path, limit=50_000).count(5000, 50) == 50_000
    assert Lab(tmp_path, limit=10).count(5000, 50) == 10
    assert [Lab(tmp_path, limit=n, quick=True).count(5000, 50) for n in (None, 10, 60)] == [50, 10, 50]
    assert Lab(tmp_path).count(5000, 50, 300) == 300 and Lab(tmp_path, device="cuda").count(5000, 50, 300) == 5000
    # A classifier trained on as few photographs as one looks at would know nothing.
    assert [Lab(tmp_path, limit=9, quick=q).trained_on(6000, 30, 1500) for q in (False, True)] == [1500, 30]


class Pooling(Tiny):
    """Max-pooling, whose switches let deconvolution see the photograph."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(6, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2))


def test_deconvolution_without_max_pooling_sees_no_photograph_and_has_no_row(lab, classifier):
    images = [classifier.images(picture(seed)) for seed in (1, 2)]
    one, two = (maps.method_maps(classifier, image, 5, "deconv") for image in images)
    assert torch.equal(one, two) and not maps.deconv_sees(classifier)
    section = section_of("discrimination")(lab)
    names = [row.what for row in section.tables[0].rows]
    assert "Deconvolution" not in names and "Deconv Grad-CAM" in names
    assert any(note.startswith("Deconvolution (published 53.33 %) has no row") for note in section.notes)
    preprocessing = Preprocessing((48, 48), (0.5,) * 3, (0.5,) * 3)
    pooling = classification.load(seeded(Pooling, 3), preprocessing=preprocessing)
    assert maps.deconv_sees(pooling)


def test_figure_3_shows_counterfactuals_of_the_logit_and_by_log_probability(classifier, monkeypatch):
    shown = []
    monkeypatch.setattr(figure3, "panel", lambda title, tiles, *args, **options: shown.append(tiles))
    figure3.FIGURE.draw(classifier, picture(4), [3, 5])
    (tiles,) = shown
    assert len(tiles) == 8
    notes = [tile.note for tile in tiles if tile.title.startswith("Counterfactual")]
    assert [note.rpartition(",")[0] for note in notes] == ["of the logit", "by log-probability"] * 2
    assert float(notes[1].rpartition(" ")[2]) < 0
    pictures = [np.asarray(tile.picture) for tile in tiles if tile.title.startswith("Counterfactual")]
    assert not np.array_equal(pictures[0], pictures[1])


def test_figure_6_shows_guided_grad_cam(lab, monkeypatch):
    drawn = []

    def draw(method, image, values):
        drawn.append((method, tuple(values.shape)))
        return image

    monkeypatch.setattr(figure6, "draw_map", draw)
    wrong = [sample for sample in samples(lab)[0] if not sample.right]
    figure6.draw(lab, wrong[:1])
    assert drawn == [("guided_gradcam", (3, 48, 48))] * 2


def test_mosaics_are_the_same_for_every_method_and_of_right_samples(lab):
    lab = lab.on("samples")
    one, two = grid.mosaics(lab, 2, 3), grid.mosaics(lab, 2, 3)
    assert one == two and all(len({s.path for s in parts}) == 4 and all(s.right for s in parts) for parts in one)
    known, broken = samples(lab)
    assert len(known) == 9 and broken == 1
    assert len(right_samples(lab)) == 8 and len(right_samples(lab, 3)) == 3


def test_training_sets_are_of_one_size_and_differ_in_what_goes_with_what(lab):
    kinds = figure8.by_kind(scenes(lab, "train")[0])
    assert [len(kinds[kind]) for kind in figure8.KINDS] == [4, 4, 4, 4]
    sets = figure8.training_sets(kinds, 4)
    assert len(sets["biased"]) == len(sets["balanced"]) == 8
    aligned = [sum(figure8.kind_of(scene) in figure8.ALIGNED for scene in chosen) for chosen in sets.values()]
    assert aligned == [6, 4]


def test_the_linear_head_separates_what_can_be_separated():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0.0, 1.0]).repeat(20)
    features = torch.randn(40, 5, generator=generator) * 0.3
    features[:, 2] += 3 * labels
    head = figure8.train_head(features, labels)
    assert (head.said(features[:, :, None, None]) == labels).all()
    assert head.weight.abs().argmax() == 2


def test_groups_of_nouns_name_imagenets_classes():
    labels = classification.imagenet()
    assert labels[nouns.GROUPS["dog"][0]] == "Chihuahua" and labels[nouns.GROUPS["dog"][-1]] == "Mexican hairless"
    expected = {
        "aeroplane": "airliner", "bicycle": "mountain bike", "boat": "speedboat", "bottle": "wine bottle",
        "bus": "school bus", "car": "convertible", "cat": "tabby", "chair": "folding chair", "cow": "ox",
        "diningtable": "dining table", "horse": "sorrel", "motorbike": "moped", "pottedplant": "pot",
        "sheep": "ram", "sofa": "studio couch", "train": "bullet train", "tvmonitor": "television",
        "ball": "soccer ball", "bench": "park bench", "bird": "goldfinch",
    }  # fmt: skip
    for group, name in expected.items():
        assert labels.find(name) in nouns.GROUPS[group], (group, name)
    indices = [index for group in nouns.GROUPS.values() for index in group]
    assert len(indices) == len(set(indices)) and max(indices) < 1000


def test_group_scores_are_the_best_classes(lab):
    scores = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    names, best, indices = maps.group_scores(scores)
    for name, value, index in zip(names, best.tolist(), indices.tolist(), strict=True):
        assert index == max(nouns.GROUPS[name], key=lambda i: float(scores[i])) and value == float(scores[index])


def test_a_table_tells_what_was_left_out_and_escapes_names(tmp_path):
    row = row_of("<b>", {"mean": 0.5, "error": float("nan"), "n": 3, "left_out": 2}, "0.4", "net")
    assert row == Row("<b>", 0.5, None, 3, "0.4", "net", 2)
    table = Table("A", "B", "share", [row, row_of("none", None)], True)
    Image.new("RGB", (9, 9)).save(tmp_path / "p.png")
    section = Section("S", [table], [Picture(tmp_path / "p.png", "shows")], ["a note"])
    page, figures = write_report(tmp_path, {"s": section}, {"model": "net"})
    text = page.read_text()
    assert "A<span>; substitute: B" in text and "3 (2 left out)" in text and "&lt;b&gt;" in text and "<b>" not in text
    assert "data:image/png;base64," in text
    record = json.loads(figures.read_text())["sections"]["s"]
    assert record["pictures"] == [{"file": "p.png", "caption": "shows"}]
    assert "not defined for this network" in text_table(table) or table.rows[1].note == "not defined for this network"


def test_all_that_results_json_holds_is_documented(tmp_path):
    """Every field of a table and a row, and every entry of the manifest, by its name."""
    text = (ROOT / "docs" / "results.md").read_text()
    told = set(re.findall(r"\w+", text[: text.index("## cells")]))
    lab = Lab(tmp_path, shared={})
    about = manifest.manifest(lab, {"fig1": 1.0})
    assert set(about) | set(about["paper"][0]) <= told
    assert {field.name for kind in (Row, Table, Section, Picture) for field in fields(kind)} - {"path"} <= told
    assert {"heading", "verdict", "file"} <= told
    assert (
        manifest.command(["/usr/bin/saywhy", "reproduce", "--voc", "/data/VOCdevkit"])
        == "saywhy reproduce --voc VOCdevkit"
    )
    assert manifest.commit(tmp_path) == {}


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    reproduce.add_parser(parser.add_subparsers())
    return parser.parse_args(["reproduce", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "table9"], "no experiment 'table9'; known: fig1, .*appendix_b"),
        (["--only", ","], "no experiment"),
        (["--voc", "/nowhere"], "--voc: '/nowhere' is not a folder"),
        (["--datasets", "/nowhere"], "--datasets: '/nowhere' is not a folder"),
    ],
)
def test_what_a_user_gets_wrong_is_said_in_a_line(arguments, message, tmp_path):
    args = parsed("--out", str(tmp_path), *arguments)
    with pytest.raises(UserError, match=message):
        args.run(args)


def test_an_experiment_runs_by_itself_and_its_faults_are_one_line(sample_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SAYWHY_DATA", raising=False)
    out = tmp_path / "report"
    monkeypatch.setattr("sys.argv", ["figure6", "--samples", str(sample_folder), "--out", str(out), "--limit", "1"])
    with pytest.raises(SystemExit) as ended:
        run.alone("fig6", "Figure 6.")
    assert ended.value.code == 0 and "Figure 6" in capsys.readouterr().out
    assert list(json.loads((out / "results.json").read_text())["sections"]) == ["fig6"]
    monkeypatch.setattr("sys.argv", ["figure6", "--samples", "/nowhere", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        run.alone("fig6", "Figure 6.")
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_every_experiment_has_a_section_in_a_file_of_its_own():
    assert len(set(EXPERIMENTS.values())) == len(EXPERIMENTS)
    assert all(callable(section_of(name)) for name in EXPERIMENTS)


def test_experiments_are_chosen_in_the_reports_order():
    assert run.chosen("FIG9, table1", ("table1", "fig4", "fig9")) == ("table1", "fig9")
    assert run.chosen(None, ("a", "b")) == ("a", "b")


def test_data_is_found_in_a_folder_of_data_sets(tmp_path, monkeypatch):
    (tmp_path / "flickr8k").mkdir()
    (tmp_path / "mine").mkdir()
    monkeypatch.delenv("SAYWHY_DATA", raising=False)
    assert data_folders({"flickr8k": None}, None) == {}
    monkeypatch.setenv("SAYWHY_DATA", str(tmp_path))
    found = data_folders({"flickr8k": None, "samples": str(tmp_path / "mine")}, None)
    assert found == {"flickr8k": tmp_path / "flickr8k", "samples": tmp_path / "mine"}


def test_boxes_of_nouns_of_one_group_belong_together(tmp_path):
    one, two = (0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)
    scene = Scene(tmp_path, {"dog": (one,), "puppy": (two,), "idea": (one,)}, frozenset({"dog", "puppy"}))
    assert grouped(scene) == {"dog": [one, two]}


def test_sanity_curves_end_lower_than_they_start_and_tell_what_is_missing(lab, monkeypatch):
    def spoken(lab, task, count):
        if task == "captioner":
            raise UserError("no checkpoint")
        module = seeded(Tiny, 1)
        images = [lab.classifier.images(sample.path) for sample in right_samples(lab, count)]
        return sanity.cascaded(module, [lambda x=x: gradcam(module, x, 5)[:, 0] for x in images])

    def no_words(lab, count):
        raise UserError("none")

    monkeypatch.setattr(sanity, "replaced_words", no_words)
    monkeypatch.setattr(sanity, "spoken", spoken)
    section = sanity.section(lab)
    assert list(section.notes) == ["Left out: captioner (no checkpoint)", "Left out: randomised words (none)"]
    table, labels = section.tables
    assert labels.rows[0].what == "head trained on shuffled labels"
    assert all(-1 <= row.ours <= 1 for row in labels.rows)
    last = table.rows[-1]
    assert last.what == "Grad-CAM before its ReLU, VQA model" and last.n + last.left_out == 2
    assert all(row.ours is None or row.ours < 0.99 for row in table.rows)


def test_shares_of_a_map_on_a_mask():
    maps = torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]], [[1.0, 1.0]]])
    masks = torch.tensor([[[False, True]], [[True, True]], [[False, False]]])
    found = figure8.share_inside(maps, masks).tolist()
    assert found[0] == 0.75 and np.isnan(found[1:]).all()


def test_a_head_that_looks_at_the_ground_is_found_out(tmp_path):
    """Channel 0 fires at the subject (left half), channel 1 at the ground (right half)."""
    features = torch.zeros(4, 2, 2, 2)
    kinds = list(figure8.KINDS)
    for n, (subject, place) in enumerate(kinds):
        features[n, 0, :, 0] = 1.0 if subject == "dog" else -1.0
        features[n, 1, :, 1] = 1.0 if place == "grass" else -1.0
    left, right = (0.0, 0.0, 0.5, 1.0), (0.0, 0.0, 1.0, 1.0)
    seen = [
        Scene(tmp_path, {subject: (left,), place: (right,)}, frozenset({subject, place})) for subject, place in kinds
    ]
    heads = (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    good, bad = (
        {
            name: float(values.nanmean())
            for name, values in figure8.judgements(features, figure8.Head(w, torch.zeros(1)), seen).items()
        }
        for w in heads
    )
    assert good["accuracy"] == 1 and bad["accuracy"] == 0.5 and bad["against"] == 0
    assert good["subject"] > 0.8 and bad["nuisance"] > 0.8
    assert good["nuisance"] < 0.2 and good["subject_area"] == 0.5
    # The surroundings' box is the whole picture: the first measure cannot tell the heads apart.
    assert good["first"] == bad["first"] == good["first_area"] == 1


def test_the_page_opens_with_all_that_was_published(tmp_path):
    rows = [
        row_of("Grad-CAM", {"mean": 0.5, "error": 0.1, "n": 3, "left_out": 2}, "70.58 %", "net"),
        row_of("CAM", {"mean": 0.4, "error": 0.1, "n": 3}, "", "net"),
        row_of("c-MWP", None, "60.30 %", "net"),
    ]
    section = Section(
        "4.3: pointing", [Table("4.3, pointing game with reject option", "photos", "share", rows, True, 2)]
    )
    about = {"seconds": {"s": 120.0}, "versions": {"torch": "2"}, "paper": paper.reported(Lab(tmp_path))}
    page, _ = write_report(tmp_path, {"pointing": section}, about)
    text = page.read_text()
    overview = text[text.index("The paper's experiments</h2>") : text.index('<h2 id="pointing">')]
    assert "Grad-CAM 0.50 ± 0.10, n = 3 (2 left out)" in overview and "c-MWP 60.30 %" in overview
    assert "CAM 0.40" not in overview.replace("Grad-CAM", "")  # it was not published
    assert overview.count("<tr>") == 1 + len(paper.ROWS) and overview.count("differs in") > 10
    assert "2.0 minutes" in text and "torch 2" in text
    below = text[text.index('<h2 id="pointing">') :]
    assert "Pointing game with reject option<span>; substitute: photos" in below  # '4.3' stands above


def test_the_papers_rows_say_how_the_protocol_differs(tmp_path):
    rows = {row["paper"]: row["protocol"] for row in paper.reported(Lab(tmp_path, model="vgg16"))}
    assert rows["5.2"].startswith("not done: it needs people")
    assert rows["Table 1"].startswith("differs in data (Flickr8k boxes, not ILSVRC-15 val)")
    whole = Lab(tmp_path, {"imagenet": tmp_path}, 50_000, model="vgg16")
    told = {row["paper"]: row["protocol"] for row in paper.reported(whole)}
    assert told["Table 1"] == told["Appendix B"] == "as published"
    small = Lab(tmp_path, {"imagenet": tmp_path}, model="alexnet")
    told = {row["paper"]: row["protocol"] for row in paper.reported(small)}
    assert told["Table 1"] == "differs in network (alexnet, not VGG-16); number of photographs (5,000 of 50,000)"
    for year, differs in (("2007", []), ("2012", ["data (VOC 2012)"])):
        root = tmp_path / year / f"VOC{year}"
        for part in ("Annotations", "JPEGImages"):
            (root / part).mkdir(parents=True)
        lab = Lab(tmp_path, {"voc": tmp_path / year, "densecap": tmp_path}, model="vgg16", device="cuda")
        told = {row["paper"]: row["protocol"] for row in paper.reported(lab)}
        assert told["5.3"] == (f"differs in {differs[0]}" if differs else "as published")
        for listing in ("Main", "Segmentation"):
            place = root / "ImageSets" / listing
            place.mkdir(parents=True)
            (place / "val.txt").write_text("1\n2\n3\n")
        shown = {row["paper"]: row["protocol"] for row in paper.reported(lab)}
        assert shown["5.3"].endswith("number of photographs (3 of 2,510)") and "(3 of 1,449)" in shown["Figure 4"]
        lab.device = "cpu"  # where what takes hours is cut, and said
        cut = {row["paper"]: row["protocol"] for row in paper.reported(lab)}
        assert "last layer alone" in cut["5.3"] and "last layers alone" in cut["Figure 4"]
        assert told["5.1"].endswith("; ".join(["a rule in the place of people, whom `saywhy study` asks", *differs]))
        assert told["Figure 10b"] == "differs in network (our captioner, not neuraltalk2)"


def test_only_paired_differences_rank_methods_in_words(tmp_path):
    gradcam = {"mean": 0.6, "error": 0.3, "n": 3, "by_item": {"0": [0.1], "1": [0.6], "2": [1.1]}}
    cam = {"mean": 0.5, "error": 0.3, "n": 3, "by_item": {"0": [0.0], "1": [0.5], "2": [1.01], "9": [7.0]}}
    far = {"mean": 0.5, "error": 0.3, "n": 2, "by_item": {"0": [0.9], "1": [0.5], "2": [None]}}
    rows = [row_of("Grad-CAM", gradcam)]
    rows += [against(row_of(name, cell), paired(cell, gradcam)) for name, cell in (("CAM", cam), ("far", far))]
    assert rows[1].difference == pytest.approx(-0.29 / 3) and rows[1].n == 3
    table = Table("A", "B", "share", rows, False, 2, "", "Grad-CAM")
    assert table.verdict == ("Grad-CAM is ahead of CAM (0.10 ± 0.00); no difference found from far (0.35 ± 0.45).")
    page, figures = write_report(tmp_path, {"s": Section("S", [table])}, {})
    text = page.read_text()
    assert "difference from Grad-CAM" in text and "-0.10 ± 0.00" in text and table.verdict in text
    assert json.loads(figures.read_text())["sections"]["s"]["tables"][0]["verdict"] == table.verdict
    quick = write_report(tmp_path, {"s": Section("S", [table], notes=["Left out: x", "So it is."])}, {"quick": True})[0]
    assert table.verdict not in quick.read_text() and "Left out: x" in quick.read_text()
    assert "So it is." not in quick.read_text() and "less Grad-CAM" in text_table(table)
    assert paired(gradcam, {"by_item": {"5": [1.0]}}) is None


def test_windows_of_occlusion_are_ranked_by_each_method(lab, sample_folder):
    preprocessing = Preprocessing((128, 128), (0.5,) * 3, (0.5,) * 3)
    lab.shared["classifier"] = classification.load(seeded(Tiny, 3), preprocessing=preprocessing)
    small, windows = faithfulness.section(lab).tables
    names = ["Grad-CAM, window 32", "c-MWP, window 32", "Grad-CAM, window 64", "c-MWP, window 64"]
    assert [row.what for row in windows.rows] == names
    # Another size of window is another reference: nothing is compared across sizes.
    assert [row.difference is None for row in windows.rows] == [True, False, True, False]
    assert [row.what for row in small.rows] == list(faithfulness.NAMES.values())
    assert small.rows[-1].what == "occlusion of cells of the map" and small.reference == "Grad-CAM"
    assert all(row.n + row.left_out == windows.rows[0].n + windows.rows[0].left_out for row in windows.rows)
    assert any(row.ours is not None for row in windows.rows)


def test_what_explains_c_mwps_lead_is_measured_and_said(lab):
    table, peaks = grid.grid_tables(lab.on("samples"), "Grid", grid.GRID, 2)
    assert [row.what for row in table.rows][-3:] == [
        "Grad-CAM less its mean",
        "Grad-CAM against the 5 likeliest others",
        "a random map",
    ]
    assert peaks.rows[0].ours == 0.25 and all(row.difference is not None for row in table.rows[2:])

    def cells(lead: float, spread: float) -> dict:
        same = {"share": {"mean": 0.5, "by_item": {"0": [0.5], "1": [0.5], "2": [0.5]}}}
        found = {"0": [0.5 + lead - spread], "1": [0.5 + lead], "2": [0.5 + lead + spread]}
        return {**dict.fromkeys(grid.GRID, same), "cmwp": {"share": {"mean": 0.5 + lead, "by_item": found}}}

    assert "c-MWP keeps 0.700 in the cell, Grad-CAM 0.500, against the paper's order" in grid._why_cmwp(cells(0.2, 0.1))
    assert grid._why_cmwp(cells(0.2, 0.3)) == ""  # as large a lead, but not beyond two standard errors
    assert grid._why_cmwp(cells(0.0, 0.0)) == ""
    assert grid._why_cmwp({**cells(0.2, 0.1), "cam": None}) == ""  # the closed form is that of CAM's kind of head


def test_grad_cam_less_its_mean_and_against_the_likeliest_others(classifier, sample_folder):
    image = classifier.images(sorted(sample_folder.glob("*.png"))[0])
    signed = maps.method_maps(classifier, image, [3, 5], "no_relu")
    centred = maps.method_maps(classifier, image, [3, 5], "gradcam_centred")
    assert torch.equal(centred, (signed - signed.mean((-2, -1), keepdim=True)).clamp(min=0))
    scores = classifier.logits(image)[0]
    others = [index for index in scores.argsort(descending=True).tolist() if index != 3][:5]
    twin = gradcam(classifier.explainable, image, lambda out: out[:, 3] - out[:, others].mean(1))
    found = maps.method_maps(classifier, image, 3, "gradcam_contrast")
    torch.testing.assert_close(found, twin)
    assert not torch.allclose(found, maps.method_maps(classifier, image, 3, "gradcam"))


def test_a_widget_is_made_once_and_stands_in_the_report_as_it_is(tmp_path):
    lab, made = Lab(tmp_path, quick=True), []

    def explained():
        made.append(1)
        return Explanation(("<cat>",), torch.zeros(1, 1), {"gradcam": torch.ones(1, 1, 2, 2)})

    widgets = [lab.widget("w", "to <click>", explained, mark="a") for _ in range(2)]
    assert len(made) == 1 and widgets[0] == widgets[1]
    page, figures = write_report(tmp_path, {"s": Section("S", widgets=widgets[:1])}, {})
    text = page.read_text()
    assert text.count('<section class="saywhy"') == 1 and "to &lt;click&gt;" in text and "<cat>" not in text
    record = json.loads(figures.read_text())["sections"]["s"]
    assert record["widgets"] == [{"file": "cells/w.html", "caption": "to <click>"}]
    lab.widget("w", "to <click>", explained, mark="b")
    assert len(made) == 2


def test_the_readmes_rows_are_those_of_the_report(tmp_path, monkeypatch, capsys):
    gradcam = {"mean": 87.5, "error": 0.8, "n": 9, "by_item": {"0": [80.0], "1": [95.0]}}
    reject = {"mean": 78.5, "error": 0.4, "n": 9, "by_item": {"0": [70.0], "1": [87.0]}}
    known = row_of("Grad-CAM", gradcam, "70.58 %")
    less = against(row_of("reject everything", reject), paired(reject, gradcam))
    shown = Table("4.3, pointing game with reject option", "COCO val2014", "accuracy (%)", [known, less], False, 1)
    other = Table("4.3, pointing game, all", "COCO val2014", "accuracy (%)", [row_of("Grad-CAM", gradcam)], False, 1)
    write_report(tmp_path, {"pointing": Section("4.3", [other, shown]), "unknown": Section("X", [shown])}, {})
    monkeypatch.setattr("sys.argv", ["rows", str(tmp_path / "results.json")])
    rows.main()
    first, second = capsys.readouterr().out.splitlines()[2:]
    assert first == (
        "| 4.3, pointing game with reject option; COCO val2014 | Grad-CAM | 70.58 % | 87.5 ± 0.8 % |  | 9 |"
    )
    assert second.startswith("|  | reject everything |  | 78.5 ± 0.4 % | -9.0 ± ") and second.endswith(" | 9 |")
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(UserError, match="is no report; give the results.json"):
        rows.main()

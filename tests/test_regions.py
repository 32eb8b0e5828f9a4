"""Captions of regions: Visual Genome's and DenseCap's files, and figure 10b's protocol: a region's caption alone."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from captioning.captioner import Captioner
from captioning.network import LstmNetwork
from common.errors import UserError
from common.metrics.grounding import inside_outside
from data.readers.regions import read_densecap, read_visual_genome
from data.records import DescribedImage, Region
from scripts.experiments import figure10
from scripts.experiments.lab import Lab
from tests.captioners import small


def photograph(path, size=(40, 20), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def region(phrase, x, y, width, height):
    return {"phrase": phrase, "x": x, "y": y, "width": width, "height": height, "region_id": 7, "image_id": 1}


@pytest.fixture
def genome(tmp_path):
    """Boxes in pixels of 80 x 40 photographs, two of which are at hand, one of them at half its size."""
    entries = [
        {"id": 1, "regions": [region("the dog", 0, 0, 40, 20), region("a red ball", 40, 10, 60, 30)]},
        {"id": 2, "regions": [region("cat sits", 8, 4, 8, 4)]},
        {"id": 3, "regions": []},
    ]
    (tmp_path / "region_descriptions.json").write_text(json.dumps(entries))
    sizes = [{"image_id": n, "width": 80, "height": 40, "url": ""} for n in (1, 3)]
    (tmp_path / "image_data.json").write_text(json.dumps(sizes))
    photograph(tmp_path / "VG_100K" / "1.jpg")
    photograph(tmp_path / "VG_100K_2" / "2.jpg", (80, 40), 1)
    return tmp_path


@pytest.fixture
def densecap(tmp_path):
    """Boxes in pixels of the photograph scaled to 720: here a fourth of that."""
    entry = {
        "img_name": "a.jpg",
        "boxes": [[0, 0, 360, 180], [360, 180, 360, 180]],
        "captions": ["the dog", "a red ball"],
        "scores": [-1.0, 2.5],
    }
    record = {"results": [entry, {"img_name": "gone.jpg", "boxes": [], "captions": [], "scores": []}], "opt": {}}
    (tmp_path / "results.json").write_text(json.dumps(record))
    photograph(tmp_path / "a.jpg", (180, 90))
    return tmp_path


@pytest.fixture(scope="module")
def captioner():
    import torch

    return Captioner(LstmNetwork(small(dtype=torch.float32)))


def test_visual_genomes_regions_are_shares_of_the_size_it_names(genome):
    found = {image.path.name: image.regions for image in read_visual_genome(genome).items}
    first, second = found["1.jpg"]
    assert (first.text, first.boxes) == ("the dog", ((0, 0, 0.5, 0.5),))
    assert second.boxes == ((0.5, 0.25, 1, 1),)  # cut to the photograph
    assert found["2.jpg"][0].boxes == ((0.1, 0.1, 0.2, 0.2),)  # its size is the file's own
    assert len(read_visual_genome(genome, 1).items) == 1


def test_densecaps_regions_are_ranked_and_in_pixels_of_720(densecap):
    reading = read_densecap(densecap)
    (image,) = reading.items
    assert [region.text for region in image.regions] == ["a red ball", "the dog"]
    assert image.regions[1].boxes == ((0, 0, 0.5, 0.5),) and len(reading.problems) == 1
    record = json.loads((densecap / "results.json").read_text())
    record["opt"]["image_size"] = 1440
    (densecap / "results.json").write_text(json.dumps(record))
    assert read_densecap(densecap / "results.json").items[0].regions[1].boxes == ((0, 0, 0.25, 0.25),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["results"][0].update(boxes=[[0, 0, 1, 1]]), "has 1 boxes, 2 captions and 2 scores"),
        (lambda r: r["results"][0].update(boxes=[[0, 0], [1, 1]]), "is not x, y, width, height"),
        (lambda r: r["results"][0].update(captions=["", " "]), "empty caption"),
        (lambda r: r.pop("results"), "no list 'results'"),
    ],
)
def test_what_is_no_output_of_densecap_is_said(densecap, change, message):
    record = json.loads((densecap / "results.json").read_text())
    change(record)
    (densecap / "results.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=message):
        read_densecap(densecap)


def test_visual_genome_without_photographs_is_said(genome, tmp_path):
    (genome / "VG_100K" / "1.jpg").unlink()
    (genome / "VG_100K_2" / "2.jpg").unlink()
    with pytest.raises(UserError, match="no photograph of region_descriptions.json .* VG_100K/1.jpg"):
        read_visual_genome(genome)


def test_a_regions_caption_is_explained_as_a_caption_of_its_own(captioner, densecap):
    items = list(figure10.as_captions(captioner.network, "densecap", read_densecap(densecap).items))
    found = figure10.measure(captioner, items)
    (image,) = read_densecap(densecap).items
    for method in ("gradcam", "guided_gradcam"):
        twin = []
        for region in image.regions:
            maps = captioner.explain(image.path, region.text, methods=method, score="log_probability").maps[method][
                :1, 0
            ]
            maps = maps.abs().sum(1) if maps.dim() == 4 else maps
            twin.append(float(inside_outside(maps, [region.boxes])))
        known = [value for value in twin if math.isfinite(value)]
        assert found[method]["n"] == len(known)
        assert found[method]["mean"] == pytest.approx(np.mean(known), rel=1e-4)


def test_five_regions_of_an_image_and_none_without_a_known_word(captioner, tmp_path):
    box = ((0.0, 0.0, 0.5, 0.5),)
    many = [Region(f"a dog {'runs ' * n}", box) for n in range(9)] + [Region("zebra", box)]
    (ranked,) = figure10.as_captions(captioner.network, "densecap", [DescribedImage(tmp_path, tuple(many))])
    assert [case.phrases[0].word for case in ranked[1]] == [region.text for region in many[:5]]
    (drawn,) = figure10.as_captions(captioner.network, "visualgenome", [DescribedImage(tmp_path, tuple(many))])
    texts = [case.phrases[0].word for case in drawn[1]]
    assert texts != [region.text for region in many[:5]] and 4 <= len(texts) <= 5 and "zebra" not in texts


def test_boxes_of_another_region_are_other_boxes():
    left, right = ((0.0, 0.0, 0.5, 1.0),), ((0.5, 0.0, 1.0, 1.0),)

    def case(boxes):
        return figure10.grounding.Case(0, None, (), (figure10.grounding.Span(0, 1, "", "", boxes),))

    ((_, cases),) = figure10.moved([("a.jpg", [case(left), case(left), case(right)])])
    assert [c.phrases[0].boxes for c in cases] == [right, right, left]
    ((_, cases),) = figure10.moved([("a.jpg", [case(left), case(left)])])
    assert [c.phrases[0].boxes for c in cases] == [(), ()]


def test_the_reports_table_names_densecap_and_is_no_substitute(captioner, densecap, genome, tmp_path):
    lab = Lab(tmp_path / "report", {"densecap": densecap, "visualgenome": genome}, shared={"captioner": captioner})
    section = figure10.section(lab)
    titles = [table.heading for table in section.tables]
    assert titles == [
        "Figure 10b, phrases as captions; region captions by DenseCap",
        "Figure 10b, phrases as captions; substitute: Visual Genome's region captions",
    ]
    rows = {row.what: row for row in section.tables[0].rows}
    assert rows["Grad-CAM"].published == "3.27 ± 0.18" and rows["Grad-CAM"].n + rows["Grad-CAM"].left_out == 2
    with pytest.raises(UserError, match="data 'coco' is of no known kind; give densecap:PATH"):
        figure10.described("coco", densecap, "dev", 1)

"""Figure 11 in the report: which photographs and words are taken, what they are asked of, and their picture."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import captioning
from captioning import grounding
from data.records import Box, CaptionedImage, Instance
from scripts.experiments import figure11, word_maps
from scripts.experiments.grounded import classes_truth, read_grounded
from scripts.experiments.lab import Lab
from tests.test_caption_cli import _square_is_a_class, checkpoint, flickr8k  # noqa: F401


@pytest.fixture(scope="module")
def captioner(checkpoint):  # noqa: F811
    return captioning.load(checkpoint)


@pytest.fixture
def lab(captioner, flickr8k, tmp_path):  # noqa: F811
    return Lab(
        tmp_path / "report", {"flickr8k": Path(flickr8k.removeprefix("flickr8k:"))}, shared={"captioner": captioner}
    )


def test_photographs_are_drawn_by_chance_and_the_same_each_time(flickr8k):  # noqa: F811
    folder = figure11.flickr8k_folder(flickr8k)
    first, drawn, again = (read_grounded(folder, "dev", 2, seed)[0] for seed in (None, 0, 0))
    assert [image.name for image in first] == sorted(image.name for image in first) and drawn == again
    orders = {tuple(image.name for image in read_grounded(folder, "dev", 3, seed)[0]) for seed in range(9)}
    assert len(orders) > 1


def test_words_are_compared_with_the_published_score_photograph_by_photograph(lab):
    section = figure11.section(lab)
    people, *_, own = section.tables
    assert people.title == "Figure 11, words of people's captions" and "model's own" in own.title
    assert people.heading.endswith("substitute: Flickr30k Entities, 3 photographs") and "30.0%" in people.elsewhere
    rows = {row.what: row for row in people.rows}
    assert list(rows) == list(figure11.LABELS.values()) and not any(row.published for row in people.rows)
    assert people.reference == "Grad-CAM of the word's log-probability" and rows[people.reference].n >= 3
    # A twin: the words' records, subtracted one by one.
    records = figure11.measure(lab.facade("captioner"), figure11._truth(lab, "flickr8k"))["human"]
    centre = np.mean([record.pointing["centre"] - record.pointing["gradcam"] for record in records])
    assert rows["centre of the image"].difference == pytest.approx(centre)
    logit = np.mean([record.pointing["gradcam of the logit"] for record in records])
    assert rows["Grad-CAM of the word's logit"].ours == pytest.approx(logit)
    maps, *_ = section.pictures
    assert Image.open(maps.path).width > 900
    cell = json.loads((lab.out / "cells" / "figure11-flickr8k.json").read_text())["result"]
    assert cell["images"] == 3 and set(cell["parts"]) == {"human", "generated"}


def test_what_has_an_outline_is_asked_of_its_mask(captioner, tmp_path):
    """A square ring: its box holds the middle, its mask doesn't."""
    ring = np.ones((40, 40), bool)
    ring[10:30, 10:30] = False
    counts = [0, *np.diff(np.flatnonzero(np.diff(ring.flatten(order="F"), prepend=0, append=0))).tolist()]
    counts.append(1600 - sum(counts))
    shape = {"size": [40, 40], "counts": counts}
    found = {}
    for name, segmentation in (("masks", shape), ("boxes", None)):
        known = [Instance("square", Box(0, 0, 1, 1), segmentation=segmentation, size=(40, 40))]
        photograph = CaptionedImage("a.jpg", tmp_path / "a.jpg", ("a red square",), "coco:1")
        truth = classes_truth(captioner.network, [(photograph, known)])
        assert truth.protocol == f"COCO classes, {name}"
        (case,) = truth.human(0, 0)
        found[name] = case.heads[0].boxes
    centre, corner = torch.zeros(2, 4, 4).unbind()
    centre[1:3, 1:3] = corner[0, 0] = 1
    maps = torch.stack([centre, corner])
    assert grounding.metrics.pointing(maps, [found["masks"]] * 2, (40, 40)).tolist() == [0, 1]
    assert grounding.metrics.pointing(maps, [found["boxes"]] * 2, (40, 40)).tolist() == [1, 1]


def test_a_picture_is_marked_with_an_outline_and_a_cross():
    grey = Image.new("RGB", (80, 60), (90, 90, 90))
    found = np.asarray(word_maps.pointed(grey, [Box(0.5, 0, 1, 1)], [0.25, 0.5]))
    white = (found == 255).all(-1)
    assert white[:, 40:42].all() and white[:2, 40:].all() and not white[:, 43:77][3:57].any()
    assert white[30, 20] and not white[30, 5]
    assert not (np.asarray(word_maps.pointed(grey, [], [float("nan")] * 2)) != 90).any()

"""What maps of answers are compared with: occlusion of pixels and of cells of the map, against twins done by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from common.methods.occlusion import OcclusionOptions
from data.records import Question
from tests.test_vqa_explain import QUESTION, answerer, photo  # noqa: F401
from vqa.grounding import MAPS, MEASURED, occlusion_correlation, reference_correlations, references_of

WINDOW = OcclusionOptions(window=10, stride=7)


@pytest.fixture
def question(photo, tmp_path):  # noqa: F811
    photo.save(tmp_path / "a.png")
    return Question("1", QUESTION, tmp_path / "a.png", "coco:1")


def test_maps_are_ranked_where_the_windows_lie_and_cells_by_cells(answerer, question):  # noqa: F811
    encoded = answerer.encode(question.image)
    found = reference_correlations(answerer, question, encoded, {"cells": None, "pixels": WINDOW})
    assert set(found) == {"cells", "pixels"} and set(found["pixels"]) == {*MAPS, "cells"}
    answer = answerer.answer(encoded, QUESTION, top=1).text
    told = answerer.explain(encoded, QUESTION, answer, methods="gradcam,occlusion", occlusion_options=WINDOW)
    sized = torch.nn.functional.interpolate(told.heatmaps[:, 0][None], (32, 32), mode="bilinear")[0, 0]
    starts = (0, 7, 14, 21)
    under = [float(sized[y : y + 10, x : x + 10].mean()) for y in starts for x in starts]
    expected = spearmanr(under, told.occlusion[0, 0].flatten().numpy()).statistic
    assert math.isclose(found["pixels"]["gradcam"], expected, abs_tol=1e-4)
    # A cell's drop by hand: the score without it, from the head alone.
    network = answerer.network
    request = network.request([answerer.read(QUESTION)], [[answer]])
    model, drops = network.explainable(None), []
    for place in np.ndindex(*encoded.features.shape[-2:]):
        less = encoded.features.clone()
        less[..., place[0], place[1]] = 0
        outputs = [model.forward_from(A, encoded.pixels, request.query) for A in (encoded.features, less)]
        whole, without = (float(request.targets[0](output)) for output in outputs)
        drops.append(whole - without)
    expected = spearmanr(told.heatmaps[0, 0].flatten().numpy(), drops).statistic
    assert math.isclose(found["cells"]["gradcam"], expected, abs_tol=1e-4)
    assert found["cells"]["cells"] == pytest.approx(1)


def test_a_map_that_is_zero_counts_as_nothing_and_is_not_left_out(answerer, question, monkeypatch):  # noqa: F811
    once = occlusion_correlation(answerer, [question, question], {"pixels": WINDOW})["pixels"]
    assert once["gradcam"].n == 2 and set(once) == {*MAPS, "cells"}
    from vqa import grounding

    monkeypatch.setattr(grounding, "over_windows", lambda maps, *where: torch.zeros(1, 4, 4))
    none = occlusion_correlation(answerer, [question], {"pixels": WINDOW})["pixels"]
    assert [(s.mean, s.n) for s in none.values()] == [(0.0, 1)] * 6


def test_references_are_the_windows_that_fit_and_the_cells():
    found = references_of(100)
    assert list(found) == [
        "cells of the map", "32 pixels, grey", "32 pixels, blurred", "64 pixels, grey", "64 pixels, blurred",
        "96 pixels, grey", "96 pixels, blurred",
    ]  # fmt: skip
    assert set(MEASURED) <= set(references_of(260)) and set(MEASURED) & set(found) == set(MEASURED[:2])
    assert found["cells of the map"] is None and found["96 pixels, blurred"] == OcclusionOptions(96, 16, "blur")

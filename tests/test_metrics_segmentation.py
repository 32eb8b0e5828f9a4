"""Seeds from maps and their overlap with the truth."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from common.errors import UserError
from common.metrics.segmentation import UNDECIDED, confusion, mean_overlap, overlap_difference, overlaps, seeds


def test_seeds_of_a_literal_map():
    values = torch.tensor([[10.0, 3.0], [1.5, 0.0]])
    assert seeds({4: values}, (2, 2)).tolist() == [[4, 4], [0, 0]]
    assert seeds({4: values}, (2, 2), background=0.1).tolist() == [[4, 4], [UNDECIDED, 0]]


def test_where_classes_meet_the_smaller_wins():
    wide, narrow = torch.ones(2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert seeds({1: narrow, 2: wide}, (2, 2)).tolist() == [[1, 2], [2, 2]]
    assert seeds({2: wide, 1: narrow}, (2, 2)).tolist() == [[1, 2], [2, 2]]


def test_a_map_of_zeros_seeds_nothing():
    assert seeds({1: torch.zeros(2, 2)}, (4, 4)).sum() == 0


def test_overlaps_equal_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    given, truth = (torch.randint(0, 4, (8, 9), generator=generator) for _ in range(2))
    found = overlaps(confusion(given, truth, 3))
    expected = jaccard_score(truth.flatten().numpy(), given.flatten().numpy(), average=None)
    assert np.abs(found.numpy() - expected).max() < 1e-12


def test_undecided_truth_is_left_out_and_an_undecided_label_misses():
    given = torch.tensor([[1, UNDECIDED], [1, 0]])
    truth = torch.tensor([[1, 1], [UNDECIDED, 0]])
    found = overlaps(confusion(given, truth, 2)).tolist()
    assert found[:2] == [1.0, 0.5] and math.isnan(found[2])


def test_counts_add_up_over_images():
    a, b = torch.tensor([[0, 1]]), torch.tensor([[1, 1]])
    counts = confusion(a, b, 1) + confusion(b, b, 1)
    assert overlaps(counts).tolist() == [0.0, 0.75]


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="differ in size"):
        confusion(torch.zeros(2, 2), torch.zeros(2, 3), 1)
    with pytest.raises(UserError, match="above 1"):
        confusion(torch.full((1, 1), 2), torch.zeros(1, 1), 1)
    with pytest.raises(UserError, match="class 0"):
        seeds({0: torch.ones(1, 1)}, (1, 1))


def test_the_mean_overlap_is_over_the_true_classes_and_its_error_is_the_bootstraps():
    generator = torch.Generator().manual_seed(1)
    truth = torch.randint(0, 3, (30, 8, 9), generator=generator)  # class 3 is only ever given
    given = torch.where(torch.rand(30, 8, 9, generator=generator) < 0.7, truth, torch.full_like(truth, 3))
    counts = torch.stack([confusion(g, t, 3) for g, t in zip(given, truth, strict=True)])
    found = mean_overlap(counts, resamples=400)
    shares = jaccard_score(truth.flatten(), given.flatten(), average=None)
    assert found.mean == pytest.approx(shares[:3].mean(), abs=1e-12) and found.n == 30
    # A twin that draws images by another generator, and counts their pixels anew.
    rng, means = np.random.default_rng(0), []
    for _ in range(400):
        rows = rng.integers(0, 30, 30)
        t, g = truth[rows].numpy(), given[rows].numpy()
        means.append(np.mean([((t == c) & (g == c)).sum() / ((t == c) | (g == c)).sum() for c in range(3)]))
    assert found.error == pytest.approx(np.std(means), rel=0.15)
    assert math.isnan(mean_overlap(counts[:1]).error)
    with pytest.raises(UserError, match="one image or more"):
        mean_overlap(counts[:0])


def test_two_labellings_of_the_same_images_are_compared_image_by_image():
    """One labelling is the other but for a few pixels: the difference is surer than either mean."""
    generator = torch.Generator().manual_seed(2)
    truth = torch.randint(0, 3, (30, 8, 9), generator=generator)
    noise = torch.rand(30, 1, 1, generator=generator) * torch.rand(30, 8, 9, generator=generator)
    one = torch.where(noise < 0.2, truth, (truth + 1) % 3)
    other = torch.where(noise < 0.21, truth, (truth + 1) % 3)
    a, b = (torch.stack([confusion(g, t, 2) for g, t in zip(these, truth, strict=True)]) for these in (one, other))
    found = overlap_difference(b, a)
    assert found.mean == pytest.approx(mean_overlap(b).mean - mean_overlap(a).mean) and found.n == 30
    assert 0 < found.error < 0.5 * mean_overlap(a).error and found.mean > 0
    assert overlap_difference(a, a).mean == overlap_difference(a, a).error == 0
    with pytest.raises(UserError, match="same images"):
        overlap_difference(a, b[1:])

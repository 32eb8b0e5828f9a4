"""Boxes from maps, the error of ILSVRC, grid and pointing games, against slow twins and literals."""

import math
from collections import deque

import numpy as np
import pytest
import torch
from skimage import measure

from common.errors import UserError
from common.metrics import localisation


def test_box_of_a_literal_map_is_that_of_its_largest_segment():
    values = torch.zeros(1, 8, 8)
    values[0, 0, 0] = 10.0  # the maximum, a segment of one pixel
    values[0, 2:5, 3:7] = 2.0  # 20 % of the maximum: the largest segment
    values[0, 6:8, 0:2] = 1.4  # 14 %: below
    box = localisation.segment_boxes(values, (8, 8))
    assert box.tolist() == [[3 / 8, 2 / 8, 7 / 8, 5 / 8]]


def flood_box(values: np.ndarray, share: float) -> list[float]:
    """A twin that floods from each pixel."""
    H, W = values.shape
    on, seen, best = values >= share * values.max(), set(), []
    for start in zip(*np.nonzero(on), strict=True):
        if start in seen:
            continue
        seen.add(start)
        segment, queue = [], deque([start])
        while queue:
            y, x = queue.popleft()
            segment.append((y, x))
            for near in ((y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                if 0 <= near[0] < H and 0 <= near[1] < W and on[near] and near not in seen:
                    seen.add(near)
                    queue.append(near)
        if len(segment) > len(best):
            best = segment
    ys, xs = zip(*best, strict=True)
    return [min(xs) / W, min(ys) / H, (max(xs) + 1) / W, (max(ys) + 1) / H]


def test_boxes_equal_those_of_a_flood_fill_and_of_scikit_image():
    maps = torch.rand(6, 16, 20, generator=torch.Generator().manual_seed(0)) ** 4
    found = localisation.segment_boxes(maps, (16, 20), 0.4)
    for values, box in zip(maps.numpy(), found.tolist(), strict=True):
        assert box == flood_box(values, 0.4)
        regions = measure.regionprops(measure.label(values >= 0.4 * values.max(), connectivity=2))
        top, left, bottom, right = max(regions, key=lambda region: region.area).bbox
        assert box == [left / 20, top / 16, right / 20, bottom / 16]


def test_a_map_without_a_positive_value_has_no_box():
    assert torch.isnan(localisation.segment_boxes(torch.zeros(1, 4, 4), (4, 4))).all()
    assert torch.isnan(localisation.segment_boxes(-torch.ones(1, 4, 4), (4, 4))).all()


def test_overlap_of_boxes_is_intersection_over_union():
    found = localisation.box_overlap([[0, 0, 0.5, 0.5]], [[0.25, 0, 0.75, 0.5], [0.5, 0.5, 1, 1], [0, 0, 0.5, 0.5]])
    assert found[0].tolist() == pytest.approx([1 / 3, 0, 1])
    assert math.isnan(localisation.box_overlap([[math.nan] * 4], [[0, 0, 1, 1]])[0, 0])


def test_errors_count_class_and_box():
    good, bad = [0, 0, 0.5, 0.5], [0.6, 0.6, 1, 1]
    predicted = torch.tensor([[7, 8], [8, 7], [7, 8], [1, 2]])
    boxes = torch.tensor([[good, good], [good, good], [bad, good], [good, good]])
    errors = localisation.localisation_errors(predicted, boxes, [7, 7, 7, 7], [[good]] * 4)
    assert errors.tolist() == [[0, 0], [1, 0], [1, 1], [1, 1]]


def test_errors_of_an_image_without_boxes_or_with_an_empty_map():
    boxes = torch.full((1, 1, 4), math.nan)
    assert localisation.localisation_errors(torch.tensor([[3]]), boxes, [3], [[[0, 0, 1, 1]]]).item() == 1
    assert localisation.localisation_errors(torch.tensor([[3]]), boxes, [3], [[]]).item() == 1


def test_cell_share_is_the_part_of_the_positive_map_in_the_cell():
    values = torch.tensor([[[3.0, 1.0], [-5.0, 4.0]]])
    shares = [localisation.cell_share(values, [cell], 2, (2, 2)).item() for cell in range(4)]
    assert shares == pytest.approx([3 / 8, 1 / 8, 0, 4 / 8])
    assert localisation.cell_hit(values, [3], 2, (2, 2)).item() == 1
    assert localisation.cell_hit(values, [0], 2, (2, 2)).item() == 0
    assert math.isnan(localisation.cell_share(-values.abs(), [0], 2, (2, 2)).item())


def test_a_uniform_map_has_the_share_of_chance():
    assert localisation.cell_share(torch.ones(1, 3, 3), [4], 3, (90, 90)).item() == pytest.approx(1 / 9, abs=1e-6)


def test_a_cell_outside_the_grid_is_refused():
    with pytest.raises(UserError, match="cell 4 is not in a grid of 2 by 2"):
        localisation.cell_share(torch.ones(1, 2, 2), [4], 2)


def test_mosaic_puts_photographs_row_by_row():
    images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 2, 2)
    assert localisation.mosaic(images)[0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    with pytest.raises(UserError, match="3 images do not fill"):
        localisation.mosaic(images[:3])


def test_pointing_tolerates_the_given_distance_and_no_more():
    values = torch.zeros(1, 30, 30)
    values[0, 10, 10] = 1
    for distance, hit in ((15, 1.0), (16, 0.0)):
        region = torch.zeros(1, 30, 30, dtype=torch.bool)
        region[0, 10, 10 + distance] = True
        assert localisation.pointing_hits(values, region).item() == hit
    assert math.isnan(localisation.pointing_hits(values, torch.zeros(1, 30, 30, dtype=torch.bool)).item())
    assert localisation.pointing_hits(values * 0, torch.ones(1, 30, 30, dtype=torch.bool)).item() == 0


def slow_pointing(values: np.ndarray, region: np.ndarray, tolerance: float) -> float:
    """A twin on a map of the region's size: every pixel's distance to the peak, one by one."""
    H, W = region.shape
    peak = max(((y, x) for y in range(H) for x in range(W)), key=lambda at: values[at])
    distances = [math.hypot(y - peak[0], x - peak[1]) for y in range(H) for x in range(W) if bool(region[y, x])]
    return math.nan if not distances else float(min(distances) <= tolerance)


def test_pointing_equals_a_slow_twin():
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(40, 21, 34, generator=generator)
    regions = torch.rand(40, 21, 34, generator=generator) > torch.linspace(0.9, 1.0, 40)[:, None, None]
    found = localisation.pointing_hits(maps, regions, 4.0).tolist()
    expected = [
        slow_pointing(values, region, 4.0)
        for values, region in zip(maps.double().numpy(), regions.numpy(), strict=True)
    ]
    assert {0.0, 1.0} <= set(found) and math.isnan(found[-1])
    assert found[:-1] == expected[:-1] and math.isnan(expected[-1])


def test_tolerance_is_in_pixels_of_the_image_not_of_the_map():
    values = torch.zeros(1, 7, 7)
    values[0, 3, 3] = 1
    for size, hit in ((70, 1.0), (700, 0.0)):  # the peak is at the centre; the region's edge 3/70 of it away
        region = torch.zeros(1, size, size, dtype=torch.bool)
        region[0, :, size * 38 // 70 :] = True
        assert localisation.pointing_hits(values, region).item() == hit


def test_hard_classes_are_small_and_not_alone():
    assert localisation.hard_to_point(torch.tensor([0.1, 0.25, 0.7])).tolist() == [True, False, False]
    assert localisation.hard_to_point(torch.tensor([0.1])).tolist() == [False]
    assert localisation.hard_to_point(torch.zeros(0)).tolist() == []


def test_the_mean_over_classes_weighs_classes_not_images():
    values = torch.tensor([1.0, 1.0, 1.0, 0.0, math.nan])
    found = localisation.class_summary(values, ["dog", "dog", "dog", "cat", "cat"])
    assert (found.mean, found.n, found.left_out) == (0.5, 4, 1)
    empty = localisation.class_summary(torch.tensor([math.nan]), ["dog"])
    assert math.isnan(empty.mean) and (empty.n, empty.left_out) == (0, 1)


def test_the_mean_over_classes_equals_a_slow_twin():
    generator = torch.Generator().manual_seed(2)
    values, classes = torch.rand(50, generator=generator).double(), [n % 7 for n in range(50)]
    means, parts = [], []
    for label in range(7):
        group = [v for v, known in zip(values.tolist(), classes, strict=True) if known == label]
        mean = sum(group) / len(group)
        means.append(mean)
        parts.append(sum((v - mean) ** 2 for v in group) / (len(group) - 1) / len(group))
    found = localisation.class_summary(values, classes)
    assert found.mean == pytest.approx(sum(means) / 7, abs=1e-12)
    assert found.error == pytest.approx(math.sqrt(sum(parts)) / 7, abs=1e-12)
    assert found.median == sorted(means)[3]
    # A class seen once is taken to vary as the others do.
    once = localisation.class_summary(torch.tensor([0.0, 1.0, 1.0]), ["a", "a", "b"])
    assert once.error == pytest.approx(math.sqrt(0.5 / 2 + 0.5) / 2)


def test_rejecting_is_right_for_what_is_not_there():
    hits = torch.tensor([1.0, 0.0, 1.0, math.nan, math.nan])
    strengths = torch.tensor([5.0, 5.0, 1.0, 1.0, 5.0])
    present = torch.tensor([True, True, True, False, False])
    assert localisation.hits_with_reject(hits, strengths, present, 2.0).tolist() == [1, 0, 0, 1, 0]
    best = localisation.best_threshold(hits, strengths, present)
    counts = [localisation.hits_with_reject(hits, strengths, present, t).sum() for t in (-1.0, 2.0, 9.0)]
    assert localisation.hits_with_reject(hits, strengths, present, best).sum() == max(counts)


def test_pixel_strength_is_the_largest_magnitude_of_the_channels():
    assert localisation.pixel_strength(torch.tensor([1.0, -3.0, 2.0])[:, None, None]).item() == 3
    with pytest.raises(UserError, match="give gradients of images"):
        localisation.pixel_strength(torch.zeros(2, 5, 5))

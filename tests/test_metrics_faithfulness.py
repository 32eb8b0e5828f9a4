"""Rank correlation, insertion and deletion, against twins that do it slowly."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import auc

from common.errors import UserError
from common.metrics import faithfulness


def ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks, by counting."""
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


def test_rank_correlation_equals_pearsons_of_counted_ranks():
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(3, 4, 4, generator=generator).mul(6).round()  # with ties
    b = torch.rand(3, 4, 4, generator=generator).mul(6).round()
    for x, y, found in zip(a, b, faithfulness.rank_correlation(a, b).tolist(), strict=True):
        expected = np.corrcoef(ranks(x.flatten().numpy()), ranks(y.flatten().numpy()))[0, 1]
        assert found == pytest.approx(expected, abs=1e-12)


def test_rank_correlation_sees_order_alone_and_not_constants():
    a = torch.arange(9.0).reshape(1, 3, 3)
    assert faithfulness.rank_correlation(a, a.exp()).item() == pytest.approx(1)
    assert faithfulness.rank_correlation(a, -a).item() == pytest.approx(-1)
    assert math.isnan(faithfulness.rank_correlation(a, torch.ones(1, 3, 3)).item())
    assert faithfulness.rank_correlation(torch.zeros(1, 3, 3), a).item() == 0  # it ranks nothing


def test_maps_are_averaged_under_the_windows_where_they_lie():
    maps = torch.rand(2, 10, 11, generator=torch.Generator().manual_seed(5))
    found = faithfulness.over_windows(maps, (10, 11), 4, 3)
    expected = [[[m[y : y + 4, x : x + 4].mean() for x in (0, 3, 6)] for y in (0, 3, 6)] for m in maps]
    assert torch.allclose(found, torch.tensor(expected))
    # A bump in the last columns, which no window reaches, is not stretched into them.
    corner = torch.zeros(1, 10, 10)
    corner[..., 8:] = 1
    assert faithfulness.over_windows(corner, (10, 10), 4, 4).abs().max() == 0
    assert faithfulness.on_grid(corner, (2, 2)).max() > 0


def test_finer_maps_are_averaged_to_the_references_grid():
    fine = torch.tensor([[[1.0, 3.0], [5.0, 7.0]]]).repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert faithfulness.on_grid(fine, (2, 2)).tolist() == [[[1, 3], [5, 7]]]


def score(images, rows):
    """A model that adds up its pixels, each with a weight of its own, and squares."""
    weights = torch.linspace(0.1, 1, images[0].numel()).reshape(images[0].shape).to(images)
    return ((images * weights).flatten(1).sum(1) + rows) ** 2


def slow_deletion(image, row, values, baseline, steps):
    order = sorted(range(values.numel()), key=lambda i: (-float(values.flatten()[i]), i))
    curve = []
    for step in range(steps + 1):
        now = image.clone()
        for i in order[: round(step / steps * values.numel())]:
            now[:, i // values.shape[1], i % values.shape[1]] = baseline[:, i // values.shape[1], i % values.shape[1]]
        curve.append(float(score(now[None], torch.tensor([row]))))
    return curve


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_deletion_and_insertion_equal_one_pixel_after_the_other(batch):
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(2, 3, 4, 5, generator=generator)
    maps = torch.rand(2, 4, 5, generator=generator)
    baseline = faithfulness.grey(images, 0.3)
    deleted = faithfulness.deletion(score, images, maps, baseline, steps=5, batch=batch)
    inserted = faithfulness.insertion(score, images, maps, baseline, steps=5, batch=batch)
    for b in range(2):
        assert deleted[b].tolist() == pytest.approx(slow_deletion(images[b], b, maps[b], baseline[b], 5), rel=1e-5)
        assert inserted[b].tolist() == pytest.approx(slow_deletion(baseline[b], b, maps[b], images[b], 5), rel=1e-5)


def test_area_equals_scikit_learns():
    curve = torch.rand(11, generator=torch.Generator().manual_seed(3))
    assert faithfulness.area(curve).item() == pytest.approx(auc(np.linspace(0, 1, 11), curve.numpy()), rel=1e-6)
    assert faithfulness.area(torch.ones(2, 5)).tolist() == [1, 1]


def test_blur_equals_scipys_gaussian():
    images = torch.rand(1, 3, 24, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = faithfulness.blurred(images, 2.0)[0].numpy()
    expected = np.stack([ndimage.gaussian_filter(c, 2.0, mode="nearest", truncate=3.0) for c in images[0].numpy()])
    assert np.abs(found - expected).max() < 1e-12
    flat = torch.full((1, 3, 9, 9), 0.7)
    assert torch.allclose(faithfulness.blurred(flat), flat)


def test_what_does_not_fit_is_refused():
    images = torch.zeros(1, 3, 4, 4)
    with pytest.raises(UserError, match="0 steps"):
        faithfulness.deletion(score, images, torch.zeros(1, 2, 2), images, steps=0)
    with pytest.raises(UserError, match="do not go together"):
        faithfulness.insertion(score, images, torch.zeros(2, 2, 2), images)
    with pytest.raises(UserError, match="give \\(T, h, w\\) for both"):
        faithfulness.rank_correlation(torch.zeros(1, 2, 2), torch.zeros(2, 2, 2))
    with pytest.raises(UserError, match="sigma is 0"):
        faithfulness.blurred(images, 0)

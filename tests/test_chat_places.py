"""Where the tokens of chat models lie: a square painted into a token's box changes that token's features most."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from common.chat.loading import load
from common.chat.views import Layout, View, tiled
from tests.chats import MAKERS, saved

SIZES = {"square": (112, 112), "wide": (160, 90), "tall": (70, 150)}


@pytest.fixture(scope="module", params=sorted(MAKERS))
def model(request, tmp_path_factory):
    if request.param == "smolvlm":
        pytest.importorskip("num2words")
    folder = saved(request.param, tmp_path_factory.mktemp(request.param))
    found = load(str(folder))
    with torch.no_grad():  # no token sees another: what changes is where the square is
        for name, parameter in found.module.named_parameters():
            if any(part in name for part in ("out_proj", "attn.proj", "projection_layer", "o_proj")):
                parameter.zero_()
    return found


@pytest.mark.parametrize("size", SIZES)
def test_a_square_in_a_tokens_box_changes_that_token_most(model, size):
    width, height = SIZES[size]
    photo = Image.fromarray(np.full((height, width, 3), 110, dtype=np.uint8))
    plain = model.look(photo)
    layout, before = plain.layout, plain.A[0, :, 0].T
    # A convolution's token sees some of its neighbours' boxes as well.
    margin = 1.0 if model.kind == "fast_vlm" else 1.5
    start, wrong, tried = 0, [], 0
    for view in layout.views:
        own = slice(start, start + view.rows * view.columns)
        for number, (left, top, right, bottom) in enumerate(layout.boxes[own]):
            inside = [min(max(side, 0), 1) for side in (left, top, right, bottom)]
            shown = (inside[2] - inside[0]) * (inside[3] - inside[1])
            if shown < 0.6 * (right - left) * (bottom - top):
                continue  # mostly padding
            wide, high = 0.15 * (inside[2] - inside[0]), 0.15 * (inside[3] - inside[1])
            middle = (inside[0] + wide, inside[1] + high, inside[2] - wide, inside[3] - high)
            corners = [round(side * full) for side, full in zip(middle, (width, height) * 2, strict=True)]
            painted = photo.copy()
            ImageDraw.Draw(painted).rectangle([*corners[:2], corners[2] - 1, corners[3] - 1], fill=(250, 20, 60))
            change = (model.look(painted).A[0, :, 0].T - before)[own].norm(dim=1)
            tried += 1
            others = change.clone()
            others[number] = 0
            if float(change[number]) <= margin * float(others.max()):
                wrong.append((view, number, int(others.argmax()), float(change[number] / others.max())))
        start = own.stop
    assert tried >= 4
    assert not wrong, (layout, wrong)


def test_pixels_beyond_the_last_whole_patch_belong_to_no_token(tmp_path):
    chat = load(str(saved("llava", tmp_path)))
    chat.module.config.vision_config.image_size = 30  # patches of 7: 4 of them, and 2 pixels
    (view,) = chat.look(Image.new("RGB", (60, 60))).layout.views
    assert view.box == pytest.approx((0, 0, 28 / 30, 28 / 30))


def test_all_tokens_of_a_photograph_are_laid_out(model):
    for width, height in ((50, 50), (300, 40), (33, 190), (200, 133)):
        sight = model.look(Image.new("RGB", (width, height), (90, 120, 30)))
        assert len(sight.layout) == len(sight.tokens)
        assert sight.A.shape[-1] == len(sight.layout.boxes) == len(sight.layout.places) > 0


def test_the_sum_of_a_map_is_that_of_its_tokens_within_the_photograph(model):
    sight = model.look(Image.new("RGB", (90, 90)))
    values = torch.rand(2, sight.A.shape[-1], dtype=torch.float64)
    placed = sight.layout.place(values)
    assert placed.shape == (2, *sight.layout.canvas)
    torch.testing.assert_close(placed.sum((1, 2)), values.sum(1))


def test_one_view_of_the_whole_is_its_grid():
    values = torch.arange(6.0)[None]
    assert torch.equal(Layout((View(2, 3),)).place(values)[0], values.view(2, 3))


def test_a_crop_leaves_what_it_does_not_show_at_zero():
    layout = Layout((View(2, 2, (0.25, 0.0, 0.75, 1.0)),))
    assert layout.canvas == (2, 4)
    assert layout.place(torch.ones(1, 4))[0].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0]]


def test_padding_takes_no_part_of_a_tokens_value():
    layout = Layout((View(1, 2, (0.0, -0.5, 1.0, 1.5)),))
    assert layout.place(torch.tensor([[1.0, 3.0]]))[0].tolist() == [[1, 3]]


def test_tiles_lie_row_by_row():
    layout = Layout((*tiled(1, 2, 2),))
    assert layout.canvas == (2, 4)
    assert layout.place(torch.arange(8.0)[None])[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_tokens_that_end_rows_have_no_place():
    view = View(2, 2, before=1, after_row=1)
    assert len(view) == 7 and view.places == [1, 2, 4, 5]

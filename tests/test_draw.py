"""Pictures: maps land where they belong, nothing is cut off, nothing is scaled behind the user's back."""

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from common import draw
from common.draw import (
    Tile,
    attributed_words,
    draw_map,
    gradient_picture,
    heat_overlay,
    panel,
    save_picture,
    shaded_words,
    signed_overlay,
)  # fmt: skip
from common.explanation import Explanation
from common.gradcam import METHODS
from common.panels import explanation_tiles

GREY = Image.new("RGB", (120, 80), (128, 128, 128))


def warmth(picture: Image.Image) -> np.ndarray:
    """Red minus blue of each pixel."""
    pixels = np.asarray(picture, dtype=float)
    return pixels[..., 0] - pixels[..., 2]


def test_an_overlay_is_warmest_where_the_map_is_largest_and_keeps_the_size() -> None:
    heatmap = torch.zeros(4, 6)
    heatmap[3, 1] = 5.0
    picture = heat_overlay(GREY, heatmap)
    assert picture.size == GREY.size
    row, column = np.unravel_index(warmth(picture).argmax(), (80, 120))
    assert abs(row - 70) <= 8 and abs(column - 30) <= 8


def test_an_empty_map_and_a_map_of_one_value_are_drawn_without_complaint() -> None:
    assert warmth(heat_overlay(GREY, torch.zeros(7, 7))).max() <= 10
    assert np.ptp(warmth(heat_overlay(GREY, torch.ones(7, 7)))) == 0


def test_a_signed_overlay_is_red_where_positive_and_blue_where_negative() -> None:
    picture = warmth(signed_overlay(GREY, torch.tensor([[1.0, -1.0]])))
    assert picture[:, 0].min() > 50 and picture[:, -1].max() < -50


def test_a_zero_gradient_is_grey() -> None:
    assert np.asarray(gradient_picture(GREY, torch.zeros(3, 10, 10))).tolist()[0][0] == [127, 127, 127]


def test_every_method_can_be_drawn() -> None:
    for method in METHODS:
        pixels = method in ("guided", "deconv", "gradient", "guided_gradcam", "deconv_gradcam")
        values = torch.randn(3, 9, 9) if pixels else torch.randn(5, 5)
        assert draw_map(method, GREY, values).size == GREY.size


def test_a_panel_wraps_texts_that_are_longer_than_its_tiles() -> None:
    short = panel("title", [Tile(GREY, "a")], width=200)
    long = panel("title", [Tile(GREY, "a word " * 30 + "x" * 200)], width=200)
    assert long.width == short.width and long.height > short.height + 100


def test_panels_have_their_tiles_in_rows() -> None:
    tiles = [Tile(GREY, str(number)) for number in range(5)]
    wide, tall = panel("t", tiles, columns=5, width=150), panel("t", tiles, columns=2, width=150)
    assert wide.width > tall.width and tall.height > wide.height


def test_a_map_without_evidence_says_so() -> None:
    explanation = Explanation(("cat",), torch.ones(1, 1), {"gradcam": torch.zeros(1, 1, 7, 7)})
    tiles, columns = explanation_tiles(Tile(GREY, "Photograph"), explanation, "logit")
    assert tiles[1].note == "logit 1.00; nothing raises this score here" and columns == 2


def test_several_methods_give_each_target_a_row_beside_the_photograph() -> None:
    maps = {method: torch.ones(2, 1, 7, 7) for method in ("gradcam", "hirescam", "layercam")}
    tiles, columns = explanation_tiles(
        Tile(GREY, "Photograph"), Explanation(("cat", "dog"), torch.ones(2, 1), maps), "logit"
    )
    assert columns == 4 and [tile.title for tile in tiles[::columns]] == ["Photograph"] * 2
    assert [tile.title for tile in tiles[5:]] == ["Grad-CAM: dog", "HiResCAM: dog", "LayerCAM: dog"]


def test_words_are_shaded_by_their_weight_and_wrapped() -> None:
    picture = shaded_words(["red", "blue", "none"], [1.0, -1.0, 0.0], width=400)
    first_row = warmth(picture)[4]
    assert first_row.max() > 20 and first_row.min() < -20
    assert shaded_words(["word"] * 40, [0.0] * 40, width=400).height > picture.height


def test_words_above_the_tiles_make_a_panel_no_wider() -> None:
    tiles = [Tile(GREY, "photograph"), Tile(GREY, "cat")]
    words, weights = ["what", "animal", "is", "this", "then"] * 4, [[1.0] * 20, [-1.0] * 20]
    plain = panel("t", tiles)
    with_words = panel("t", tiles, above=lambda width: attributed_words(words, ["cat", "dog"], weights, width))
    assert with_words.width == plain.width and with_words.height > plain.height + 4 * 30


def test_pictures_are_saved_whole(tmp_path) -> None:
    save_picture(GREY, tmp_path / "deep" / "a.png")
    assert Image.open(tmp_path / "deep" / "a.png").size == (120, 80)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["turbo", "RdBu_r", "gray"])
def test_colours_are_those_of_matplotlib(name):
    values = np.concatenate([np.linspace(0, 1, 1001), [-0.1, 1.2]]).reshape(-1, 1)
    expected = np.asarray(matplotlib.colormaps[name](values))[..., :3] * 255
    np.testing.assert_allclose(draw._colours(name, values), expected, atol=1e-3)


def test_a_panel_is_written_quickly_and_hardly_larger(sample_images, tmp_path):
    picture = Image.open(sample_images[0]).convert("RGB")
    draw.save_picture(picture, tmp_path / "quick.png")
    picture.save(tmp_path / "best.png", optimize=True)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "quick.png")), np.asarray(picture))
    quick, best = ((tmp_path / name).stat().st_size for name in ("quick.png", "best.png"))
    assert quick < 1.2 * best
    draw.save_picture(picture, tmp_path / "small.jpg")
    assert Image.open(tmp_path / "small.jpg").format == "JPEG"

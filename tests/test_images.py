"""Reading images of every kind, refusing what is none, and preprocessing."""

import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from common.errors import UserError
from common.images import MAX_SIDE, Preprocessing, image_files, open_image, unique_stems

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(width: int = 32, height: int = 16) -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right."""
    image = Image.new("RGB", (width, height))
    for i, colour in enumerate((RED, GREEN, BLUE, WHITE)):
        left, top = (i % 2) * width // 2, (i // 2) * height // 2
        image.paste(colour, (left, top, left + width // 2, top + height // 2))
    return image


def near(pixel: tuple[int, ...], colour: tuple[int, int, int], tolerance: int = 12) -> bool:
    return max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) <= tolerance


def check_corners(image: Image.Image) -> None:
    w, h = image.size
    for (x, y), colour in zip(((2, 2), (w - 3, 2), (2, h - 3), (w - 3, h - 3)), (RED, GREEN, BLUE, WHITE), strict=True):
        assert near(image.getpixel((x, y)), colour), (x, y, image.getpixel((x, y)))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "gif", "ppm"])
def test_reads_the_usual_formats_as_rgb(tmp_path: Path, suffix: str) -> None:
    corners().save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    image = open_image(tmp_path / f"a.{suffix}")
    assert image.mode == "RGB" and image.size == (32, 16)
    check_corners(image)


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip  # how a camera held that way stores an upright scene


@pytest.mark.parametrize("orientation", sorted(TURNS))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_applies_the_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = corners(64, 32).transpose(TURNS[orientation])
    stored.save(tmp_path / f"a.{suffix}", exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    image = open_image(tmp_path / f"a.{suffix}")
    assert image.size == image.info["original_size"] == (64, 32)
    check_corners(image)


def test_a_large_turned_image_is_reduced_and_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    corners(400, 200).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = open_image(tmp_path / "a.jpg", max_side=100)
    assert image.size == (100, 50) and image.info["original_size"] == (400, 200)
    check_corners(image)


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, kind: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16).repeat(4, 0)
    Image.fromarray(values).save(tmp_path / f"a.{kind}")
    image = open_image(tmp_path / f"a.{kind}")
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]


def test_float_grey_is_scaled_by_its_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "unit.tif")
    Image.fromarray(np.array([[-3.0, 0.0, 3.0]], dtype=np.float32)).save(tmp_path / "any.tif")
    for name in ("unit.tif", "any.tif"):
        assert [open_image(tmp_path / name).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_float_grey_with_nan_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="a.tif.*NaN"):
        open_image(tmp_path / "a.tif")


def test_cmyk_palette_grey_and_one_bit_become_rgb(tmp_path: Path) -> None:
    corners(64, 32).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    corners(64, 32).convert("P").save(tmp_path / "palette.png")
    for name in ("cmyk.jpg", "palette.png"):
        check_corners(open_image(tmp_path / name))
    for mode in ("L", "1", "LA"):
        Image.new(mode, (8, 8), {"L": 255, "1": 1, "LA": (255, 255)}[mode]).save(tmp_path / f"{mode}.png")
        assert open_image(tmp_path / f"{mode}.png").getpixel((3, 3)) == WHITE


def test_transparent_parts_lie_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 255, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.save(tmp_path / "a.png")
    assert [open_image(tmp_path / "a.png").getpixel((x, 0)) for x in (0, 1)] == [BLUE, WHITE]
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 0)
    palette.save(tmp_path / "p.png", transparency=0)
    assert [open_image(tmp_path / "p.png").getpixel((x, 0)) for x in (0, 1)] == [BLUE, WHITE]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_frame_of_an_animation_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert near(open_image(tmp_path / f"a.{suffix}").getpixel((4, 4)), RED)


@pytest.mark.parametrize("mode, suffix", [("RGB", "jpg"), ("P", "png"), ("1", "png"), ("L", "png"), ("RGBA", "png")])
def test_twenty_thousand_pixels_wide_is_reduced(tmp_path: Path, mode: str, suffix: str) -> None:
    image = Image.new("RGB", (20_000, 40), BLUE).convert(mode)
    image.save(tmp_path / f"wide.{suffix}")
    read = open_image(tmp_path / f"wide.{suffix}")
    assert max(read.size) <= MAX_SIDE and min(read.size) >= 8 and read.info["original_size"] == (20_000, 40)
    assert Preprocessing()(read).shape == (1, 3, 224, 224)
    assert open_image(tmp_path / f"wide.{suffix}", max_side=None).size == (20_000, 40)


def test_a_wide_16_bit_image_is_reduced(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 20_000), 65535, dtype=np.uint16)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((1000, 0)) == WHITE


def test_a_huge_legal_jpeg_needs_little_memory(tmp_path: Path) -> None:
    Image.new("L", (20_000, 8_000), 128).save(tmp_path / "huge.jpg")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = open_image(tmp_path / "huge.jpg")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 200  # MB; in full it is 480
    assert image.size[0] <= MAX_SIDE and image.info["original_size"] == (20_000, 8_000)


def test_no_warning_of_pillow_reaches_the_caller(tmp_path: Path) -> None:
    image = Image.new("L", (10_000, 9_500))  # merely large: Pillow warns of it
    image.save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_image(tmp_path / "a.png")


def bad_files(folder: Path) -> dict[str, str]:
    """File name -> what its message must say."""
    corners(200, 100).save(folder / "whole.jpg")
    corners(200, 100).save(folder / "whole.png")
    for kind in ("jpg", "png"):
        data = (folder / f"whole.{kind}").read_bytes()
        (folder / f"truncated.{kind}").write_bytes(data[: len(data) * 2 // 3])
    (folder / "text.jpg").write_text("this is no image")
    (folder / "empty.png").write_bytes(b"")
    (folder / "zero.gif").write_bytes(b"GIF89a\x00\x00\x00\x00\x00\x00\x00;")
    (folder / "folder.png").mkdir()
    header = bytearray((folder / "whole.png").read_bytes())
    header[16:24] = (50_000).to_bytes(4, "big") * 2
    import zlib

    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (folder / "bomb.png").write_bytes(header)
    (folder / "eps.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    os.mkfifo(folder / "pipe.png")
    return {
        "truncated.jpg": "truncated", "truncated.png": "truncated|broken", "text.jpg": "not an image",
        "empty.png": "empty", "zero.gif": "0x0|not an image|broken", "folder.png": "folder",
        "bomb.png": "too many pixels", "missing.png": "no such file", "eps.eps": "convert|JPEG|PNG",
        "pipe.png": "regular file",
    }  # fmt: skip


def test_bad_files_end_in_one_line_that_names_the_file(tmp_path: Path) -> None:
    for name, words in bad_files(tmp_path).items():
        with pytest.raises(UserError, match=words) as caught:
            open_image(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corners().save(tmp_path / "a.png")

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(UserError, match="a.png: permission denied"):
        open_image(tmp_path / "a.png")


def test_nothing_is_written_to_the_terminal(tmp_path: Path) -> None:
    bad_files(tmp_path)
    code = (
        "import sys; from common.images import *\n"
        "for f in sys.argv[1:]:\n    try: open_image(f)\n    except UserError: pass"
    )
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True
    )
    assert done.stdout == done.stderr == ""


def test_squashing_agrees_with_torchvision() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8))
    ours = Preprocessing(size=(32, 48))(image)
    theirs = transforms.Compose([
        transforms.Resize((32, 48)), transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])(image)  # fmt: skip
    torch.testing.assert_close(ours[0], theirs)


def test_cropping_agrees_with_torchvision_closely() -> None:
    y, x = np.mgrid[0:300, 0:400]
    pixels = np.stack([x * 255 / 400, y * 255 / 300, (x + y) * 255 / 700], -1).astype(np.uint8)
    image = Image.fromarray(pixels)
    ours = Preprocessing(crop=0.875, mean=(0, 0, 0), std=(1, 1, 1))(image)[0]
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])(image)
    assert (ours - theirs).abs().max() < 0.015  # the same part of the image, cut before instead of after resizing


def test_region_is_the_whole_image_or_its_centre() -> None:
    assert Preprocessing().region(400, 300) == (0, 0, 400, 300)
    left, top, right, bottom = Preprocessing(crop=0.5).region(400, 300)
    assert (left, top, right, bottom) == (125, 75, 275, 225)


def test_a_batch_is_its_images_one_by_one(tmp_path: Path) -> None:
    corners().save(tmp_path / "a.png")
    images = [corners(64, 32), tmp_path / "a.png", Image.new("L", (5, 9), 7)]
    preprocessing = Preprocessing(size=(20, 24))
    batch = preprocessing(images)
    assert batch.shape == (3, 3, 20, 24) and batch.dtype == torch.float32
    assert all(torch.equal(batch[i : i + 1], preprocessing(image)) for i, image in enumerate(images))


def test_denormalise_inverts_normalise() -> None:
    pixels = torch.rand(2, 3, 4, 5)
    preprocessing = Preprocessing()
    torch.testing.assert_close(preprocessing.denormalise(preprocessing.normalise(pixels)), pixels)


def test_preprocessing_survives_json() -> None:
    import json

    preprocessing = Preprocessing((240, 200), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 0.9)
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize(
    "options", [{"size": (0, 4)}, {"std": (1, 0, 1)}, {"interpolation": "cubic"}, {"crop": 1.5}, {"mean": (0,)}]
)
def test_impossible_preprocessing_is_refused(options: dict) -> None:
    with pytest.raises(UserError):
        Preprocessing(**options)
    with pytest.raises(UserError, match="unknown preprocessing entry 'colour'"):
        Preprocessing.from_dict({"colour": 1})


def test_no_image_and_wrong_types_are_refused() -> None:
    for call in (lambda: image_files([]), lambda: Preprocessing()([]), lambda: Preprocessing()([3])):
        with pytest.raises(UserError):
            call()


def test_same_stems_get_names_of_their_own() -> None:
    assert unique_stems(["a/cat.jpg", "b/cat.jpg", "cat.png"]) == ["cat", "cat-2", "cat-3"]
    assert unique_stems(["cat.jpg", "x/cat.jpg", "cat-2.jpg"]) == ["cat", "cat-3", "cat-2"]
    assert unique_stems(["Cat.jpg", "cat.jpg"]) == ["Cat", "cat-2"]


@given(st.lists(st.sampled_from(["a.jpg", "b/a.jpg", "a-2.png", "A.gif", "a-3.jpg", "c.jpg"]), max_size=8))
def test_stems_are_always_unique(paths: list[str]) -> None:
    names = unique_stems(paths)
    assert len({name.casefold() for name in names}) == len(paths)

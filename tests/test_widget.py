"""The HTML of an explanation: numbers that can be read back, texts that stay text, a photograph that comes along."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import classification
from common.errors import UserError
from common.explanation import Explanation
from common.gradcam import explain
from common.images import Photo, Preprocessing
from common.request import encode
from common.widget.fragment import running_words
from common.widget.values import BUDGET, encoded, shares
from tests.nets import Plain, seeded
from tests.test_gradcam import images_of

HOSTILE = """"><script>alert(1)</script><b onclick='x'>&amp; 'quoted' \u202eabc שלום 🙂"""


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and the text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text, self._inside = "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        self.text += "" if self._inside in ("style", "script") else data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def words(self) -> list[dict[str, str]]:
        return [button for button in self.all("button") if "data-name" in button]


def made(names, height=3, width=4, methods=("gradcam",), **more) -> Explanation:
    generator = torch.Generator().manual_seed(0)
    maps = {m: torch.rand(len(names), 1, height, width, generator=generator) for m in methods}
    return Explanation(tuple(names), torch.arange(len(names), dtype=torch.float32)[:, None], maps, **more)


def read_back(text: str) -> tuple[np.ndarray, float]:
    height, width, peak, share, data = text.split(" ")
    values = np.frombuffer(base64.b64decode(data), "<i2").reshape(int(height), int(width))
    return values / 32767 * float(peak), float(share)


def test_the_maps_of_a_page_are_those_of_the_explanation() -> None:
    explanation = made(["cat", "dog"], methods=("gradcam", "occlusion"))
    for row, word in enumerate(Parsed(explanation.html()).words()):
        for method, text in zip(explanation.maps, word["data-maps"].split("|"), strict=True):
            values = explanation.maps[method][row, 0].numpy()
            found, share = read_back(text)
            np.testing.assert_allclose(found, values, atol=1e-4)
            means = explanation.maps[method][:, 0].mean((1, 2))
            assert share == pytest.approx(float(means[row] / means.max()), rel=1e-2)


def test_tiny_huge_and_empty_maps_keep_their_values() -> None:
    maps = torch.stack([torch.full((2, 2), 1e-30), torch.full((2, 2), -3e30), torch.zeros(2, 2)])
    found = [read_back(row[0])[0] for row in encoded({"occlusion": maps}, [[0, 1, 2]])]
    np.testing.assert_allclose(np.stack(found), maps.numpy(), rtol=1e-4)


def test_values_that_are_not_finite_are_left_out() -> None:
    maps = torch.tensor([[[float("nan"), 1.0], [float("inf"), 0.5]]])
    np.testing.assert_allclose(read_back(encoded({"cam": maps}, [[0]])[0][0])[0], [[0, 1], [0, 0.5]], atol=1e-4)


def test_shares_are_of_the_strongest_of_a_line() -> None:
    maps = torch.stack([torch.full((2, 2), value) for value in (1.0, -4.0, 10.0)])
    assert shares(maps, [[0, 1], [2]]) == [0.25, 1.0, 1.0]
    assert shares(torch.zeros(1, 2, 2), [[0]]) == [0.0]


def test_a_text_and_its_words_are_one_line_and_what_follows_is_another() -> None:
    names = ["a dog, here", "a", "dog,", "here", "a dog", "a dog rather than a cat"]
    assert running_words(names) == 3 and running_words(["cat", "dog"]) == 0 and running_words(["dog"]) == 0
    lines = [word["data-line"] for word in Parsed(made(names).html()).words()]
    assert lines == ["text", "text", "text", "whole", "rest", "rest"]


def test_the_strongest_word_is_chosen_and_the_faint_ones_are_known_without_the_script() -> None:
    maps = torch.stack([torch.full((1, 2, 2), value) for value in (9.0, 0.08, 4.0)])
    page = Parsed(Explanation(("a dog", "a", "dog"), torch.zeros(3, 1), {"gradcam": maps}).html())
    words = {word["data-name"]: word for word in page.words()}
    assert [words[name]["aria-checked"] for name in ("a", "dog", "a dog")] == ["false", "true", "false"]
    assert words["a"]["data-level"] == "0" and words["dog"]["data-level"] == "4"
    assert "2 %" in page.text and "100 %" in page.text


def test_what_comes_from_the_picture_decides_where_it_is_known() -> None:
    visual = torch.tensor([[2.0], [-0.3], [2.5]])
    page = Parsed(made(["a dog", "a", "dog"], visual=visual).html())
    words = {word["data-name"]: word for word in page.words()}
    assert float(words["a"]["data-strength"]) == 0 and float(words["dog"]["data-strength"]) == 1
    assert "-0.3" in page.text and "+2.5" in page.text and "nats" in page.text


def test_texts_stay_text(tmp_path) -> None:
    photo = Image.new("RGB", (8, 8))
    photo.info["name"] = HOSTILE
    explanation = made([HOSTILE, "dog"], words=(HOSTILE,), word_gradients=torch.ones(2, 1)).with_photo(photo)
    explanation.save(tmp_path / "x.html")
    page = Parsed((tmp_path / "x.html").read_text(encoding="utf-8"))
    assert len(page.all("script")) == 1 and not page.all("b")
    assert page.words()[0]["data-name"] == HOSTILE
    assert page.all("img")[0]["alt"] == f"Photograph {HOSTILE}"
    assert page.text.count(HOSTILE) == 3  # title, question, button
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    made(["\udcff"]).save(tmp_path / "y.html")  # of a file's name that is not UTF-8


def test_a_page_may_load_nothing_and_run_only_its_own_script(tmp_path) -> None:
    made(["cat"]).save(tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    policy = next(m["content"] for m in Parsed(text).all("meta") if "Security" in m.get("http-equiv", ""))
    assert "default-src 'none'" in policy and "unsafe" not in policy
    outside = re.sub(r'src="data:[^"]*"', "", text)
    assert not re.findall(r"https?:|//[a-z]|@import|url\(", re.sub(r"(?m)^\s*//.*$", "", outside))


def test_everything_but_the_photograph_is_under_60_kb() -> None:
    names = ["a b c d e f g h i j k l", *"abcdefghijkl", "a phrase", "another"]
    generator = torch.Generator().manual_seed(0)
    heat = {m: torch.rand(15, 1, 28, 28, generator=generator) for m in ("gradcam", "cam", "occlusion", "layercam")}
    pixels = {m: torch.randn(15, 1, 3, 64, 64, generator=generator) for m in ("guided", "deconv", "gradient")}
    text = Explanation(tuple(names), torch.zeros(15, 1), {**heat, **pixels}).html()
    photo = max(re.findall(r'src="(data:[^"]+)"', text), key=len)
    assert len(text.encode()) - len(photo) < 60_000
    assert BUDGET < 60_000


def test_small_maps_are_sent_as_they_are_and_large_ones_averaged() -> None:
    large = torch.rand(20, 64, 64)
    found = [read_back(row[0])[0] for row in encoded({"gradcam": large}, [list(range(20))])]
    side = found[0].shape[0]
    assert side < 64
    expected = torch.nn.functional.adaptive_avg_pool2d(large, side).numpy()
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-3)


def test_gradients_go_as_pictures() -> None:
    guided = torch.zeros(1, 1, 3, 12, 12)
    guided[..., 3, 4] = 2.0
    text = Explanation(("cat",), torch.zeros(1, 1), {"guided": guided}).html()
    share, url = Parsed(text).words()[0]["data-maps"].split(" ")
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    pixels = np.asarray(picture.convert("L"), dtype=float)
    assert picture.format == "WEBP" and np.unravel_index(pixels.argmax(), pixels.shape) == (3, 4)
    assert float(share) == 1.0


def test_a_facade_hands_the_photograph_over_and_the_file_does_not_hold_it(sample_images, tmp_path, monkeypatch) -> None:
    cat = next(path for path in sample_images if path.stem == "cat")
    classifier = classification.load(random_weights=True)
    monkeypatch.chdir(cat.parent)
    found = classifier.explain("cat.jpg", targets=[3])
    monkeypatch.chdir(tmp_path)
    assert found.photo.name == "cat.jpg" and found.photo.seen().size == Image.open(cat).size
    assert 'alt="Photograph cat.jpg"' in found._repr_html_()
    found.save("x.npz")
    loaded = Explanation.load("x.npz")
    assert loaded.photo is None and "No photograph" in loaded.html()
    assert "Photograph cat.jpg" in loaded.with_photo(cat).html()
    assert (tmp_path / "x.npz").stat().st_size < 20_000


def test_each_of_several_images_has_its_own_photograph_and_a_tensor_has_none() -> None:
    pictures = [Image.new("RGB", (9 + n, 7), (n, 0, 0)) for n in range(3)]
    network = classification.load(random_weights=True).network
    both = encode(network, pictures)
    assert [photo.seen().width for photo in both.photos] == [9, 10, 11]
    assert [photo.seen().width for photo in both[[2, 0]].photos] == [11, 9]
    assert [photo.seen().width for photo in both[1:].photos] == [10, 11] and both[1].photos[0].seen().width == 10
    assert encode(network, both.pixels).photos == ()


def test_of_a_cropped_photograph_the_part_that_was_seen_is_shown() -> None:
    photo = Photo(Image.new("RGB", (200, 100)), Preprocessing(size=(50, 50), crop=0.5))
    assert photo.seen().size == (50, 50)
    explanation = made(["cat"], provenance={"preprocessing": Preprocessing((50, 50), crop=0.5).to_dict()})
    assert explanation.with_photo(Image.new("RGB", (200, 100))).photo.seen().size == (50, 50)


def test_several_images_or_no_map_cannot_be_shown(tmp_path) -> None:
    several = explain(seeded(Plain), images_of(3), [0, 3])
    with pytest.raises(UserError, match=r"3 images; take one of them, such as `.image\(0\)`"):
        several.save(tmp_path / "x.html")
    assert several._repr_html_() is None and several.image(1)._repr_html_() is not None
    with pytest.raises(UserError, match="nothing to show .* importance"):
        explain(seeded(Plain), images_of(1), [0], methods="importance").html()


def test_a_photograph_that_is_gone_is_told_and_a_notebook_shows_text(tmp_path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    explanation = made(["cat"]).with_photo(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match="a.png: no such file"):
        explanation.save(tmp_path / "x.html")
    assert explanation._repr_html_() is None and not (tmp_path / "x.html").exists()

"""What of each word comes from the picture, against a decoder written out word by word, and how it is shown."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from captioning.captioner import Captioner
from captioning.network import LstmNetwork
from common.draw import Tile, draw_map, strengths
from common.errors import UserError
from common.explanation import Explanation
from common.panels import drawn_strengths, explanation_tiles
from scripts.commands import caption as command
from tests.captioners import small

GREY = Image.new("RGB", (60, 40), (128, 128, 128))


class WithMean(LstmNetwork):
    """Without an image it reads the mean map of two photographs of noise."""

    def __init__(self, model):
        super().__init__(model)
        with torch.no_grad():
            pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(5)).double()
            self.mean = model.features(pixels).mean(0, keepdim=True)

    def without_image(self, query):
        return self.module.head(self.mean.expand(query.shape[1], -1, -1, -1), query)


@pytest.fixture(scope="module")
def captioner():
    return Captioner(WithMean(small()))


@pytest.fixture(scope="module")
def photos():
    pixels = np.random.default_rng(0).integers(0, 255, (2, 40, 30, 3), dtype=np.uint8)
    return [Image.fromarray(each) for each in pixels]


def slow_log_probs(model, features, tokens):
    """log p of each token given the ones before it, one softmax a step."""
    state, found = model.start(features), []
    before = torch.tensor([1])
    for token in tokens:
        state = model.decoder.advance(state, model.decoder.read(before))
        logits = model.decoder.logits(state.h, state.evidence)[0].detach().numpy()
        found.append(logits[token] - math.log(np.exp(logits - logits.max()).sum()) - logits.max())
        before = torch.tensor([token])
    return np.array(found)


def test_a_words_share_is_its_log_probability_less_that_without_the_image(captioner, photos):
    network = captioner.network
    seen = captioner.encode(photos)
    text = network.read("the dog runs")
    for row, caption in enumerate(captioner.score(seen, "the dog runs")):
        given, without = (
            slow_log_probs(network.module, features, text.tokens)
            for features in (seen.features[row : row + 1], network.mean)
        )
        np.testing.assert_allclose(caption.visual, given - without, atol=1e-9)
        assert max(map(abs, caption.visual)) > 0.01


def test_the_decoder_is_read_without_the_image_once_for_an_explanation(photos):
    network = WithMean(small())
    asked, without = [], network.without_image
    network.without_image = lambda query: asked.append(query) or without(query)
    Captioner(network).explain(photos)
    assert len(asked) == 1


@pytest.mark.parametrize("score", ["log_probability", "logit"])
def test_every_target_of_an_explanation_has_its_share_whatever_is_explained(captioner, photos, score):
    written = captioner.caption(photos, alternatives=1)
    asked = {"phrases": ["a red dog", "a cat"], "contrast": "the ball", "score": score}
    for found, caption in zip(captioner.explain(photos, **asked), written, strict=True):
        count = len(caption.words)
        assert found.visual.shape == found.scores.shape and len(caption.alternatives[0].visual)
        np.testing.assert_allclose(found.visual[1 : 1 + count, 0], caption.visual, atol=1e-9)
        np.testing.assert_allclose(found.visual[0, 0], sum(caption.visual), atol=1e-9)
    (phrase,) = [n for n, name in enumerate(found.names) if name == "a cat (not in the caption)"]
    alone = captioner.score(photos, "a cat")[1]
    np.testing.assert_allclose(found.visual[phrase, 0], sum(alone.visual), atol=1e-9)


class Unable(LstmNetwork):
    def without_image(self, query):
        return None


def test_a_network_that_cannot_say_leaves_it_out(photos):
    plain = Captioner(Unable(small()))
    assert plain.caption(photos[0]).visual == () and plain.explain(photos[0]).visual is None
    assert command.word_table(plain.caption(photos[0])) == []


def test_it_is_saved_loaded_and_selected(captioner, photos, tmp_path):
    made = captioner.explain(photos[0])
    made.save(tmp_path / "a.npz")
    found = Explanation.load(tmp_path / "a.npz")
    torch.testing.assert_close(found.visual, made.visual.float())
    assert torch.equal(made.select([1, 0]).visual, made.visual[[1, 0]])
    several = Explanation(("a",), torch.zeros(1, 2), {}, visual=torch.tensor([[1.0, 2.0]]))
    assert several.image(1).visual.tolist() == [[2.0]]


def test_maps_are_drawn_as_strong_as_their_words_are_visual():
    assert strengths([4.0, 2.0, 0.0, -1.0]) == [1.0, 0.5, 0.0, 0.0]
    assert strengths([0.25, 0.1]) == [0.25, 0.1]  # the picture says little of either
    assert strengths([9.0, 1.0, 2.0], among=[1.0, 2.0]) == [1.0, 0.5, 1.0]
    heat, signed, pixels = torch.eye(4), torch.eye(4) - 0.5, torch.randn(3, 8, 8)
    for method, values in (("gradcam", heat), ("summed", signed), ("guided", pixels)):
        full, half, none = (
            np.asarray(draw_map(method, GREY, values, strength), dtype=float) for strength in (1.0, 0.5, 0.0)
        )
        assert np.abs(none - 128).max() <= 1
        assert np.abs(full - 128).mean() > 1.5 * np.abs(half - 128).mean() > 2


def test_a_scale_of_its_own_is_a_switch_and_where_nothing_is_known_the_only_one():
    known = Explanation(("dog", "of"), torch.zeros(2, 1), {"gradcam": torch.ones(2, 1, 4, 4)})
    assert drawn_strengths(known, "visual") == drawn_strengths(known, "own") == [1.0, 1.0]
    known = Explanation(known.names, known.scores, known.maps, visual=torch.tensor([[3.0], [-0.5]]))
    assert drawn_strengths(known, "visual") == [1.0, 0.0] and drawn_strengths(known, "own") == [1.0, 1.0]
    with pytest.raises(UserError, match="no scale 'common'; choose from visual, own"):
        drawn_strengths(known, "common")
    by, own = (explanation_tiles(Tile(GREY, ""), known, "log p", scale=scale)[0] for scale in ("visual", "own"))
    assert by[1].note == "log p 0.00; picture +3.00" and by[1].picture.tobytes() == own[1].picture.tobytes()
    assert by[2].picture.tobytes() == GREY.tobytes() != own[2].picture.tobytes()


def test_the_command_prints_records_and_draws_it(captioner, photos, tmp_path, capsys, monkeypatch):
    import captioning
    from scripts.saywhy import main

    monkeypatch.setattr(captioning, "load", lambda *_, **__: captioner)
    photos[0].save(tmp_path / "a.png")
    arguments = ["caption", str(tmp_path / "a.png"), "--caption", "a dog runs", "--phrase", "the ball"]
    sizes = {}
    for scale in ("visual", "own"):
        assert main([*arguments, "--out", str(tmp_path / scale), "--scale", scale]) == 0
        assert "from the picture" in capsys.readouterr().out
        record = json.loads((tmp_path / scale / "a.caption.json").read_text())
        assert len(record["visual"]) == 3 and all("visual" in target for target in record["targets"])
        np.testing.assert_allclose([t["visual"] for t in record["targets"][1:4]], record["visual"], atol=1e-6)
        sizes[scale] = Image.open(tmp_path / scale / "a.caption.png").size
    assert sizes["visual"][1] > sizes["own"][1]  # a legend says what faint means


def test_a_table_of_words_is_broken_into_lines_of_a_width(captioner, photos):
    caption = captioner.score(photos[0], "the dog sits the cat runs a red ball the dog sits the cat runs a red ball")
    lines = command.word_table(caption, 80)
    assert len(lines) > 3 and len(lines) % 3 == 0 and max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines[::3]).split()) == caption.text

"""`Captioner`: captions, phrases, contrasts and batches, with a small random model."""

import numpy as np
import pytest
import torch
from PIL import Image

from captioning.captioner import Captioner
from captioning.network import LstmNetwork
from captioning.request import find
from common import formulas
from common.errors import UserError
from common.explanation import Explanation
from tests.captioners import small


@pytest.fixture(scope="module")
def captioner():
    return Captioner(LstmNetwork(small(dtype=torch.float32)))


@pytest.fixture(scope="module")
def photos():
    pixels = np.random.default_rng(0).integers(0, 255, (3, 40, 30, 3), dtype=np.uint8)
    return [Image.fromarray(each) for each in pixels]


def test_targets_are_the_caption_its_words_the_phrases_then_the_contrasts(captioner, photos):
    found = captioner.explain(photos[0], "A dog runs.", ["the cat", "dog runs"], "a red ball", end=True)
    assert found.names == (
        "a dog runs", "a", "dog", "runs", "the cat (not in the caption)", "dog runs",
        "the cat (not in the caption) rather than a red ball", "dog runs rather than a red ball",
        "end of the caption",
    )  # fmt: skip
    assert found.heatmaps.shape == (9, 1, 8, 8)
    scores = found.scores[:, 0]
    torch.testing.assert_close(scores[0], scores[1:4].sum())
    torch.testing.assert_close(scores[5], scores[2:4].sum())


def test_a_phrase_that_is_not_in_the_caption_is_explained_as_a_caption_of_its_own(captioner, photos):
    found = captioner.explain(photos[0], "a dog runs", "the cat")
    own = captioner.explain(photos[0], "the cat")
    torch.testing.assert_close(found.scores[4], own.scores[0])
    torch.testing.assert_close(found.heatmaps[4], own.heatmaps[0], rtol=1e-4, atol=1e-7)


def test_a_contrast_takes_the_phrases_place_behind_the_same_words(captioner, photos):
    found = captioner.explain(photos[0], "the dog sits", phrases="dog", contrast="red cat")
    other = captioner.explain(photos[0], "the red cat")
    difference = found.scores[2] - other.scores[2:4].sum(0)
    torch.testing.assert_close(found.scores[-1], difference)


def test_words_that_both_captions_begin_with_cancel_in_a_contrast(captioner, photos):
    found = captioner.explain(photos[0], "a dog runs", contrast="a cat sits")
    other = captioner.explain(photos[0], "a cat sits")
    torch.testing.assert_close(found.scores[-1], found.scores[2:4].sum(0) - other.scores[2:4].sum(0))
    same = captioner.explain(photos[0], "a dog runs", contrast="a dog runs")
    assert same.scores[-1].item() == 0 and not same.heatmaps[-1].any()


def test_one_pass_of_the_trunk_and_one_of_the_decoder_for_everything(captioner, photos, monkeypatch):
    passes = {"trunk": 0, "decoder": 0}
    module = captioner.network.module

    def counted(name, call):
        def run(*args, **kwargs):
            passes[name] += 1
            return call(*args, **kwargs)

        return run

    monkeypatch.setattr(module, "features", counted("trunk", module.features))
    monkeypatch.setattr(module, "head", counted("decoder", module.head))
    encoded = captioner.encode(photos)
    assert not encoded.features.requires_grad
    captioner.explain(encoded, captioner.caption(encoded), ["the cat"], "a dog")
    assert passes == {"trunk": 1, "decoder": 1}


def test_a_batch_explains_each_image_as_it_is_explained_alone(captioner, photos):
    texts = ["a dog runs", "the cat", "a red ball sits"]
    together = captioner.explain(photos, texts, phrases=["a dog"], contrast=["the ball"])
    for photo, text, found in zip(photos, texts, together, strict=True):
        alone = captioner.explain(photo, text, phrases=["a dog"], contrast=["the ball"])
        assert found.names == alone.names and found.provenance == alone.provenance
        torch.testing.assert_close(found.scores, alone.scores)
        torch.testing.assert_close(found.heatmaps, alone.heatmaps, rtol=1e-3, atol=1e-6)


def test_the_models_own_caption_is_explained_with_the_probabilities_of_decoding(captioner, photos):
    captions = captioner.caption(photos, beam=2, alternatives=1, max_length=4)
    found = captioner.explain(photos, captions, score="log_probability")
    for caption, explanation in zip(captions, found, strict=True):
        assert explanation.names[0] == caption.text
        np.testing.assert_allclose(explanation.scores[1:, 0], caption.log_probabilities, rtol=1e-4, atol=1e-5)
        assert len(caption.alternatives) <= 1


def test_one_image_gives_one_result_and_a_list_gives_a_list(captioner, photos):
    assert isinstance(captioner.explain(photos[0]), Explanation)
    assert len(captioner.explain(photos[:1])) == 1 and isinstance(captioner.explain(photos[:1]), list)
    assert [c.text for c in captioner.caption(photos)] == [captioner.caption(photo).text for photo in photos]
    for several in (iter(photos), tuple(photos), {number: photo for number, photo in enumerate(photos)}.values()):
        assert [c.text for c in captioner.caption(several)] == [c.text for c in captioner.caption(photos)]
    with pytest.raises(UserError, match="NumPy array"):
        captioner.caption(np.zeros((3, 40, 30, 3), dtype=np.uint8))
    pixels = captioner.network.preprocessing(photos)
    assert [c.text for c in captioner.caption(pixels)] == [c.text for c in captioner.caption(photos)]


def test_a_named_layer_is_explained_at_its_own_resolution(captioner, photos):
    seam = captioner.explain(photos[0], "a dog")
    assert seam.provenance["layer"] == "trunk.network.last"
    first = captioner.explain(photos[0], "a dog", layer="trunk.network.first")
    assert first.heatmaps.shape[-2:] == (16, 16)
    torch.testing.assert_close(first.scores, seam.scores)


def test_every_method_draws_on_the_caption(captioner, photos):
    found = captioner.explain(photos[0], "a dog", methods=("gradcam", "guided", "guided_gradcam", "counterfactual"))
    assert found.guided_gradcam.shape == (3, 1, 3, 32, 32)
    assert found.guided.any()


def test_the_npz_has_the_captions_map_first_and_the_words_in_order(captioner, photos, tmp_path):
    found = captioner.explain(photos[0], "a dog runs", ["a dog"])
    found.save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as saved:
        assert saved["heatmaps"].shape == (5, 8, 8)
        np.testing.assert_array_equal(saved["heatmaps"], found.heatmaps[:, 0].numpy())


def test_unknown_words_are_named_and_kept(captioner, photos):
    with pytest.warns(UserWarning, match="'zebra'"):
        found = captioner.explain(photos[0], "a zebra runs")
    assert found.names == ("a zebra runs", "a", "zebra", "runs")


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("", "no word"),
        (" ... ", "no word"),
        ("dog " * 2000, "2000 words"),
        ("\U0001f600 \u65e5\u672c", "none of the words"),
    ],
)
def test_a_caption_that_cannot_be_explained_is_an_error(captioner, photos, caption, said):
    with pytest.raises(UserError, match=said):
        captioner.explain(photos[0], caption)


def test_what_does_not_fit_together_is_an_error(captioner, photos):
    with pytest.raises(UserError, match="2 contrasts for 3 phrases"):
        captioner.explain(photos[0], "a dog", phrases=["a", "dog", "cat"], contrast=["cat", "ball"])
    with pytest.raises(UserError, match=r"2 captions for 1 image"):
        captioner.explain(photos[0], ["a dog", "a cat"])
    with pytest.raises(UserError, match="a beam of 0"):
        captioner.caption(photos[0], beam=0)
    with pytest.raises(UserError, match="tensor"):
        captioner.caption(torch.rand(3, 8, 8))


def test_the_model_is_left_as_it_was(captioner, photos):
    module = captioner.network.module
    module.train()
    torch.manual_seed(5)
    before, state = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    captioner.explain(photos[0], "a dog")
    captioner.caption(photos[0])
    assert module.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    module.eval()


def test_a_phrase_is_found_whatever_its_case_and_punctuation():
    assert find(["Brown", "dog"], ["a", "brown", "dog."]) == 1
    assert find(["dog", "brown"], ["a", "brown", "dog"]) is None
    assert find(["a", "b", "c"], ["a"]) is None


def test_given_captions_are_scored_as_they_are_explained(captioner, photos):
    captions = captioner.score(photos, ["a dog runs", "the cat", "red ball"])
    for caption, found in zip(captions, captioner.explain(photos, captions, score="log_probability"), strict=True):
        np.testing.assert_allclose(found.scores[1:, 0], caption.log_probabilities, rtol=1e-5)
        assert caption.total < sum(caption.log_probabilities)


def test_logits_are_explained_and_log_probabilities_on_request(captioner, photos):
    plain, logit = captioner.explain(photos[0], "a dog", score="log_probability"), captioner.explain(photos[0], "a dog")
    assert plain.names == logit.names and logit.provenance["score"] == "logit"
    torch.testing.assert_close(logit.scores[0], logit.scores[1:].sum(0))
    assert not torch.allclose(plain.heatmaps, logit.heatmaps)


@pytest.mark.parametrize(("images", "texts"), [(1, 1), (1, 3), (2, 1), (2, 2)])
def test_the_short_way_to_importance_gives_the_mean_gradient_of_the_map(captioner, photos, images, texts):
    split = captioner.network.explainable(None)
    A = captioner.encode(photos[:images]).features
    query = torch.tensor([[[5, 6, 2], [4, 5, 2]], [[6, 6, 2], [5, 4, 2]], [[4, 4, 2], [7, 5, 2]]])[:texts, :images]
    leaf, output = split.split(torch.zeros(images, 3, 32, 32), query, A)
    read = {
        "log-probabilities": output.log_probs.sum(0).T,
        "logits": output.logits.sum(0).T,
        "both": (output.logits + output.log_probs.square()).sum(0).T,
        "words that are not said": output.distributions[0, :, 0, 3:6].T,
        "both and these": output.logits[:, :, :1].sum(0).T + output.distributions[0, :, 1, 3:6].T,
    }
    for how, scores in read.items():
        expected = formulas.importance(scores, leaf)
        assert expected.abs().max() > 1e-6, how
        torch.testing.assert_close(split.importance(scores, leaf, output), expected, rtol=1e-4, atol=1e-8)

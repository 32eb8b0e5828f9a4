"""Targets of a caption, against one full pass for each word and against each other."""

import numpy as np
import pytest
import torch

from captioning.targets import CaptionLogLikelihood, EndLogLikelihood
from common import gradcam
from common.errors import UserError
from common.explainable import HookedModel
from common.formulas import gradients
from common.targets import target_name
from common.text import Centred, OtherWordLogLikelihood, TextLogLikelihood, scored
from data.words.vocabulary import END
from tests.captioners import small

IMAGES = torch.rand(2, 3, 32, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TOKENS = torch.tensor([[4, 6, 8, END], [5, 7, END, 0]])  # three words, and two


@pytest.fixture(scope="module")
def model():
    return small()


def _slow_score(model, image, tokens, place):
    """log p(tokens[place] | tokens before) by running the decoder word by word on one image."""
    state = model.start(model.features(image[None]))
    word = torch.tensor([1])
    for number, token in enumerate(tokens):
        log_probs, state = model.step(state, word)
        if number == place:
            return log_probs[0, token]
        word = torch.tensor([int(token)])
    raise AssertionError(place)


def test_scores_are_sums_of_the_words_without_the_end(model):
    output = model(IMAGES, TOKENS)
    each = [[_slow_score(model, IMAGES[b], TOKENS[b], i).item() for i in range(n)] for b, n in ((0, 4), (1, 3))]
    np.testing.assert_allclose(CaptionLogLikelihood()(output).detach(), [sum(each[0][:3]), sum(each[1][:2])])
    np.testing.assert_allclose(EndLogLikelihood()(output).detach(), [each[0][3], each[1][2]])
    np.testing.assert_allclose(TextLogLikelihood([1])(output).detach(), [each[0][1], each[1][1]])
    np.testing.assert_allclose(TextLogLikelihood([3])(output).detach(), [each[0][3], 0.0])  # the second is shorter
    np.testing.assert_allclose(TextLogLikelihood([0, 1])(output).detach(), [sum(each[0][:2]), sum(each[1][:2])])
    places = torch.tensor([[False, True, True, False], [True, False, False, False]])
    np.testing.assert_allclose(TextLogLikelihood(places)(output).detach(), [sum(each[0][1:3]), each[1][0]])


def test_another_word_in_the_same_place_has_that_words_probability(model):
    output = model(IMAGES, TOKENS)
    target = OtherWordLogLikelihood(torch.tensor([1, 0]), torch.tensor([9, 4]))
    wanted = [_slow_score(model, IMAGES[0], [4, 9], 1), _slow_score(model, IMAGES[1], [4], 0)]
    np.testing.assert_allclose(target(output).detach(), [w.item() for w in wanted])


def test_the_captions_gradient_is_the_sum_of_its_words(model):
    targets = [CaptionLogLikelihood(), *(TextLogLikelihood([i]) for i in range(3))]
    A, output = HookedModel(model, "trunk.network.last").split(IMAGES, TOKENS)
    slopes = gradients(torch.stack([target(output) for target in targets]), A)
    np.testing.assert_allclose(slopes[0, 0], slopes[1:, 0].sum(0), rtol=1e-9, atol=1e-13)
    # the second caption has two words: its third token is the end, which the caption leaves out
    np.testing.assert_allclose(slopes[0, 1], slopes[1:3, 1].sum(0), rtol=1e-9, atol=1e-13)


def test_word_maps_from_one_pass_are_those_of_one_pass_for_each_word(model):
    maps = gradcam.gradcam(
        model, IMAGES, [TextLogLikelihood([i]) for i in range(2)], layer="trunk.network.last", query=TOKENS
    )
    kept = []

    def keep(module, inputs, output):
        output.retain_grad()
        kept.append(output)

    handle = model.trunk.network.last.register_forward_hook(keep)
    for b in range(2):
        for place in range(2):
            score = _slow_score(model, IMAGES[b], TOKENS[b], place)
            score.backward()
            A, gradient = kept[-1].detach()[0].numpy(), kept[-1].grad[0].numpy()
            heat = sum(gradient[k].mean() * A[k] for k in range(len(A)))
            np.testing.assert_allclose(maps[place, b], np.maximum(heat, 0), rtol=1e-8, atol=1e-14)
    handle.remove()
    model.zero_grad()


def test_several_sequences_of_an_image_score_as_they_do_alone(model):
    query = torch.stack([TOKENS, torch.tensor([[6, 4, END, 0], [8, 8, 8, END]])])
    together = model.head(model.features(IMAGES), query)
    for number, tokens in enumerate(query):
        alone = model(IMAGES, tokens)
        torch.testing.assert_close(together.log_probs[number], alone.log_probs)
        torch.testing.assert_close(together.distributions[number], alone.distributions)
    one = model.head(model.features(IMAGES[1:]), query[:, 1:])
    torch.testing.assert_close(one.log_probs[:, 0], together.log_probs[:, 1])


def test_what_does_not_fit_is_an_error(model):
    output = model(IMAGES, TOKENS)
    with pytest.raises(UserError, match="4 tokens"):
        TextLogLikelihood([4])(output)
    with pytest.raises(UserError, match="at least one word"):
        TextLogLikelihood([])(output)
    with pytest.raises(UserError, match="do not fit"):
        TextLogLikelihood(torch.ones(2, 3, dtype=torch.bool))(output)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_maps_on_cuda_agree_with_the_cpu_and_cudnn_stays_as_it_was():
    model = small(dtype=torch.float32)
    flags = (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)
    targets = [CaptionLogLikelihood(), TextLogLikelihood([0])]
    here = gradcam.gradcam(model, IMAGES.float(), targets, layer="trunk.network.last", query=TOKENS)
    there = gradcam.gradcam(
        model.cuda(), IMAGES.float().cuda(), targets, layer="trunk.network.last", query=TOKENS.cuda()
    )
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-5)
    assert not model.training
    assert flags == (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)


def test_a_centred_target_reads_logits_and_not_what_other_words_do(model):
    features = model.features(IMAGES[:1])
    summary = model.trunk.summary(features)
    logits = model.decoder.logits(model.hidden(summary, TOKENS[:1]), model.decoder.evidence(summary))[:, 0]
    wanted = sum(float(logits[i, int(TOKENS[0, i])] - logits[i].mean()) for i in range(3))
    assert Centred(CaptionLogLikelihood())(model(IMAGES[:1], TOKENS[:1])).item() == pytest.approx(wanted)
    assert target_name(Centred(TextLogLikelihood([0], "dog"))) == "dog"
    assert scored([CaptionLogLikelihood()], "log_probability") == [CaptionLogLikelihood()]
    with pytest.raises(UserError, match=r"'softmax'.*log_probability, logit"):
        scored([], "softmax")

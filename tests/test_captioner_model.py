import copy
import math

import captioners
import pytest
import torch
from torch import nn

from captioning.model import CaptionModel
from common.errors import UserError
from common.text import padded
from data.words.vocabulary import END, PAD, START
from tests.captioners import small

TOKENS = torch.tensor([[4, 6, 8, END], [5, 7, END, PAD]])


@pytest.fixture
def model():
    return captioners.small()


@pytest.fixture
def maps():
    return torch.rand(2, 6, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _twin(model, maps, tokens):
    """Log-probabilities (B,L,V) by PyTorch's own LSTM and loops, in float64."""
    model = copy.deepcopy(model).requires_grad_(False)
    decoder = model.decoder
    lstm = nn.LSTM(decoder.cell.input_size, decoder.cell.hidden_size, batch_first=True).double()
    lstm.load_state_dict({f"{name}_l0": value for name, value in decoder.cell.state_dict().items()})
    words = decoder.evidence_words.tolist()
    rows = []
    for image, row in zip(maps, tokens.tolist(), strict=True):
        weights = decoder.evidence.weight[:, :, 0, 0]
        pooled = []
        for e in range(len(words)):
            places = [float(weights[e] @ image[:, i, j] + decoder.evidence.bias[e]) for i in range(4) for j in range(4)]
            pooled.append(math.log(sum(math.exp(p) for p in places) / 16))
        evidence = torch.tensor(pooled, dtype=torch.float64)
        mean = image.flatten(1).mean(1)
        inputs = [decoder.image(mean) + decoder.evidence_in(1 / (1 + (-evidence).exp()))]
        inputs += [decoder.embedding.weight[t] for t in [START, *row[:-1]]]
        hidden = lstm(torch.stack(inputs)[None])[0][0][1:]
        each = []
        for h in hidden:
            logits = decoder.embedding.weight @ h + decoder.bias
            gate = 1 / (1 + (-decoder.gate(h)).exp())
            for e, word in enumerate(words):
                logits = logits + nn.functional.one_hot(torch.tensor(word), len(logits)) * gate * evidence[e]
            each.append(logits - logits.exp().sum().log())
        rows.append(torch.stack(each))
    return torch.stack(rows)


def test_the_head_agrees_with_a_twin_made_of_pytorchs_lstm(model, maps):
    output = model.head(maps, TOKENS)
    expected = _twin(model, maps, TOKENS)
    torch.testing.assert_close(output.distributions, expected)
    chosen = expected.gather(-1, TOKENS[..., None])[..., 0]
    torch.testing.assert_close(output.log_probs, torch.where(TOKENS == PAD, 0.0, chosen))
    assert output.mask.tolist() == [[True] * 4, [True] * 3 + [False]]


def test_stepping_gives_what_teacher_forcing_gives(model, maps):
    output = model.head(maps, TOKENS)
    state, words = model.start(maps), torch.full((2,), START)
    for place in range(4):
        log_probs, state = model.step(state, words)
        torch.testing.assert_close(log_probs, output.distributions[:, place])
        words = TOKENS[:, place]


def test_images_are_seen_through_the_feature_map_alone(model):
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    maps = model.features(images)
    assert maps.shape == (2, 6, 4, 4) and bool((maps >= 0).all())
    torch.testing.assert_close(model(images, TOKENS).log_probs, model.head(maps, TOKENS).log_probs)
    assert not model.trunk.last._forward_hooks


def test_a_word_depends_on_the_words_before_it_and_not_on_those_after(model, maps):
    changed = TOKENS.clone()
    changed[:, 2] = 9
    before, after = model.head(maps, TOKENS).distributions, model.head(maps, changed).distributions
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_padding_changes_nothing(model, maps):
    alone = model.head(maps[1:], TOKENS[1:, :3])
    torch.testing.assert_close(alone.log_probs, model.head(maps, TOKENS).log_probs[1:, :3])


def test_one_map_serves_several_captions(model, maps):
    together = model.head(maps[:1], TOKENS)
    for row in range(2):
        torch.testing.assert_close(together.log_probs[row], model.head(maps[:1], TOKENS[row : row + 1]).log_probs[0])


def test_gradients_of_all_words_come_from_one_batched_backward_pass_in_eval_mode(model, maps):
    leaf = maps.requires_grad_()
    scores = model.head(leaf, TOKENS).log_probs.sum(0)
    batched = torch.autograd.grad(
        scores, leaf, torch.eye(4, dtype=torch.float64), is_grads_batched=True, retain_graph=True
    )[0]
    for place in range(4):
        one = torch.autograd.grad(scores[place], leaf, retain_graph=True)[0]
        torch.testing.assert_close(batched[place], one)
    assert float(batched.abs().amax((1, 2, 3, 4)).min()) > 0


def test_gradients_are_those_of_finite_differences(model, maps):
    maps = maps[:1].requires_grad_()
    assert torch.autograd.gradcheck(lambda a: model.head(a, TOKENS[:1]).log_probs, (maps,))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_backward_pass_works_in_eval_mode_on_cuda(model, maps):
    model = model.float().cuda().eval()
    leaf = maps.float().cuda().requires_grad_()
    (gradient,) = torch.autograd.grad(model.head(leaf, TOKENS.cuda()).log_probs.sum(), leaf)
    assert float(gradient.abs().sum()) > 0


def test_dropout_acts_in_training_only(model, maps):
    assert torch.equal(model.head(maps, TOKENS).log_probs, model.head(maps, TOKENS).log_probs)
    model.train()
    assert not torch.equal(model.head(maps, TOKENS).log_probs, model.head(maps, TOKENS).log_probs)


def test_tokens_that_do_not_fit_are_refused(model, maps):
    with pytest.raises(UserError, match="outside the vocabulary of 12 words"):
        model.head(maps, torch.tensor([[4, 99]]))
    with pytest.raises(UserError, match="at least one word"):
        model.head(maps, torch.zeros(2, 0, dtype=torch.long))
    with pytest.raises(UserError, match="lacks the evidence word 'bird'"):
        CaptionModel(captioners.Trunk(), model.vocabulary, 6, ["dog", "bird"], 8)


def test_token_lists_are_padded_to_the_longest():
    assert padded([[4, 5, END], [6, END]]).tolist() == [[4, 5, END], [6, END, PAD]]


@pytest.mark.parametrize("name", ["bias", "gate.weight", "gate.bias", "evidence.weight", "embedding.weight"])
def test_log_probabilities_have_the_gradient_of_every_parameter_in_evaluation_mode_too(name):
    model = small().eval()
    parameter = model.decoder.get_parameter(name).requires_grad_()
    images = torch.rand(1, 3, 32, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[4, 6, 8, 2]])

    def score():
        return model(images, tokens).log_probs.sum()

    (slope,) = torch.autograd.grad(score(), parameter)
    place = int(slope.abs().argmax())
    with torch.no_grad():
        values = []
        for step in (1e-6, -1e-6):
            parameter.view(-1)[place] += step
            values.append(score())
            parameter.view(-1)[place] -= step
    assert float(slope.view(-1)[place]) == pytest.approx(float(values[0] - values[1]) / 2e-6, rel=1e-4)
    assert float(slope.abs().max()) > 1e-6


def test_the_gradient_can_be_taken_twice():
    model = small().eval()
    A = model.features(torch.rand(1, 3, 32, 24, dtype=torch.float64)).detach().requires_grad_()
    tokens = torch.tensor([[4, 6, 2]])
    part = A[:, :, :2, :2].detach().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda a: model.head(a, tokens).log_probs.sum(), part)

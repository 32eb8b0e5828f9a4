import copy
import math

import captioners
import pytest
import torch
from torch import nn

from captioning.model import words_of
from captioning.network import LstmNetwork, LstmSplit
from common import formulas
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
    evidence_layer, counter = model.trunk.evidence.classifier, model.trunk.evidence.counter
    spoken = {2: "cat", 3: "dog", 4: "ball"}
    rows = []
    for image, row in zip(maps, tokens.tolist(), strict=True):
        positions = [image[:, i, j] for i in range(4) for j in range(4)]
        evidence, counts = [], []
        for e in range(5):
            places = [float(evidence_layer.weight[e, :, 0, 0] @ at + evidence_layer.bias[e]) for at in positions]
            evidence.append(math.log(sum(math.exp(p) for p in places) / 16))
        for c in range(2):
            places = [float(counter.weight[c, :, 0, 0] @ at + counter.bias[c]) for at in positions]
            counts.append(sum(math.log(1 + math.exp(p)) for p in places))
        seen = [1 / (1 + math.exp(-e)) for e in evidence] + [math.log(1 + c) for c in counts]
        inputs = [decoder.image(torch.tensor(seen, dtype=torch.float64))]
        inputs += [decoder.embedding.weight[t] for t in [START, *row[:-1]]]
        hidden = lstm(torch.stack(inputs)[None])[0][0][1:]
        each = []
        for h in hidden:
            logits = decoder.embedding.weight @ h + decoder.bias
            gate = 1 / (1 + (-decoder.gate(h)).exp())
            for e, word in spoken.items():
                number = torch.tensor(model.vocabulary.index[word])
                logits = logits + nn.functional.one_hot(number, len(logits)) * gate * evidence[e]
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
    assert not model.trunk.network.last._forward_hooks


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


def test_a_concept_is_said_where_it_is_one_word_that_the_vocabulary_has(model):
    """Of a class and a caption word of one name the caption word is; a class of two words, or an unknown one, isn't."""
    number = model.vocabulary.index
    assert words_of(["dog", "hot dog", "cat", "dog", "bird"], model.vocabulary) == {3: number["dog"], 2: number["cat"]}
    assert model.decoder.shown_words.tolist() == [number[word] for word in ("dog", "cat", "ball")]


def test_the_decoder_reads_nothing_but_the_summary(model, maps):
    summary = model.trunk.summary(maps)
    told = model.told(summary, TOKENS)
    torch.testing.assert_close(told.distributions, model.head(maps, TOKENS).distributions)
    assert told.summary is summary and summary.shape == (2, 5 + 2)
    anything = model.told(model.trunk.evidence.typical[None], TOKENS)  # one summary, two captions
    assert anything.log_probs.shape == (2, 4)


def test_without_an_image_the_decoder_reads_what_photographs_have_in_common(model):
    model.trunk.evidence.typical.copy_(torch.arange(7.0))
    found = LstmNetwork(model).without_image(TOKENS[None])
    torch.testing.assert_close(
        found.log_probs[0, 1], model.told(torch.arange(7.0)[None].double(), TOKENS[1:]).log_probs[0]
    )


def test_importance_by_way_of_the_summary_is_the_mean_gradient_of_the_map(model, maps):
    A, output = LstmSplit(model, "trunk.network.last").split(torch.zeros(0), TOKENS, maps)
    scores = output.log_probs.T
    found = LstmSplit(model, "trunk.network.last").importance(scores, A, output)
    torch.testing.assert_close(found, formulas.importance(scores, A))


@pytest.mark.parametrize("part", ["likely", "counts"])
def test_evidence_and_counts_both_change_what_is_said(model, maps, part):
    summary = model.trunk.summary(maps)
    place = 1 if part == "likely" else 5  # 'hot dog', which has no word of its own: seen at the start alone
    other = summary.clone()
    other[:, place] += 1.0
    before, after = model.told(summary, TOKENS).distributions, model.told(other, TOKENS).distributions
    assert float((before - after).abs().max()) > 1e-3


def test_token_lists_are_padded_to_the_longest():
    assert padded([[4, 5, END], [6, END]]).tolist() == [[4, 5, END], [6, END, PAD]]


@pytest.mark.parametrize("name", ["bias", "gate.weight", "gate.bias", "image.weight", "embedding.weight"])
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

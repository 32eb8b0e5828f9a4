"""A question read once: the states, those without each word, and the words' gradients, against autograd."""

import pytest
import torch

from vqa.model import QuestionEncoder
from vqa.reading import Reader


@pytest.fixture
def encoder():
    torch.manual_seed(2)
    return QuestionEncoder(12, embedding=5, hidden=6).eval().double()


@pytest.mark.parametrize("tokens", [[4], [5, 7], [4, 9, 9, 6, 11, 5, 4]])
def test_the_question_is_read_as_the_encoder_reads_it_and_without_each_word(encoder, tokens):
    reading = Reader(encoder).read(torch.tensor(tokens))
    torch.testing.assert_close(reading.whole, encoder(torch.tensor([tokens])), rtol=1e-9, atol=1e-12)
    assert reading.shorter.shape == (len(tokens), 4 * 6 + 5)
    for place in range(len(tokens)):
        shorter = torch.tensor([tokens[:place] + tokens[place + 1 :]])
        expected = encoder(shorter)[0] if len(tokens) > 1 else torch.zeros(29, dtype=torch.float64)
        torch.testing.assert_close(reading.shorter[place], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tokens", [[4], [4, 9, 9, 6, 11, 5, 4]])
def test_the_gradients_are_those_of_autograd(encoder, tokens):
    L = len(tokens)
    reader = Reader(encoder)
    slopes = torch.randn(3, 4 * 6 + 5, dtype=torch.float64)
    found = reader.words_gradients(reader.read(torch.tensor(tokens)), slopes)
    embedded = encoder.embedding(torch.tensor([tokens])).detach().requires_grad_()
    encoded = encoder.encode(embedded, torch.ones(1, L, dtype=torch.bool))
    for row in range(3):
        (slope,) = torch.autograd.grad(encoded @ slopes[row], embedded, retain_graph=True)
        torch.testing.assert_close(found[row], (slope * embedded)[0].sum(-1), rtol=1e-9, atol=1e-12)
    assert found.abs().max() > 1e-3


def test_single_precision_takes_the_packed_weights_and_gives_the_same(encoder):
    tokens, slopes = torch.tensor([4, 9, 9, 6, 11, 5, 4]), torch.randn(3, 4 * 6 + 5)
    exact = Reader(encoder)
    expected = exact.read(tokens)
    gradients = exact.words_gradients(expected, slopes.double())
    packed = Reader(encoder.float())
    found = packed.read(tokens)
    torch.testing.assert_close(found.encoded.double(), expected.encoded, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        packed.words_gradients(found, slopes).double(), gradients, rtol=1e-5, atol=1e-5
    )

"""Explaining answers: maps and question attribution against slow twins, targets, contrasts, a user's mistakes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common import formulas
from common.errors import UserError
from common.explanation import Explanation
from common.images import Preprocessing
from common.networks.evidence import Evidence
from common.networks.trunk import SeeingTrunk
from data.words.vocabulary import SPECIAL, Vocabulary
from vqa.answerer import Answerer
from vqa.model import VqaModel
from vqa.network import LstmNetwork
from vqa.request import AnswerError, find_answer

WORDS = ["what", "color", "is", "the", "dog", "hat"]
ANSWERS = ["yes", "no", "red", "blue", "red and yellow"]
QUESTION = "what color is the hat"


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.body = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 6, 3, stride=2)

    def forward_features(self, images):
        return self.body(self.first(images).relu()).relu()


@pytest.fixture
def answerer():
    torch.manual_seed(2)
    half = (0.5, 0.5, 0.5)
    trunk = SeeingTrunk(Network(), Evidence(6, ["dog", "red"], counted=1), Preprocessing((32, 32), half, half))
    model = VqaModel(trunk, Vocabulary([*SPECIAL, *WORDS]), ANSWERS, embedding=5, hidden=4, joint=7)
    for weights in (*model.trunk.evidence.parameters(), *model.reader.parameters(), model.question.embedding.weight):
        nn.init.normal_(weights)
    nn.init.normal_(model.classifier.weight)
    return Answerer(LstmNetwork(model.eval().requires_grad_(False)))


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))


def test_the_best_answers_come_first_with_probabilities_of_a_softmax(answerer, photo):
    answer = answerer.answer(photo, QUESTION, top=5)
    scores = answerer.network.module(answerer.encode(photo).pixels, torch.tensor([[4, 5, 6, 7, 9]]))[0]
    assert answer.text == ANSWERS[int(scores.argmax())]
    assert [a.score for a in (answer, *answer.runners_up)] == pytest.approx(
        scores.sort(descending=True).values.tolist(), rel=1e-4, abs=1e-5
    )
    assert sum(a.probability for a in (answer, *answer.runners_up)) == pytest.approx(1)


def test_several_images_and_questions_are_paired(answerer, photo):
    assert len(answerer.answer([photo, photo], [QUESTION, "is the dog"])) == 2
    assert len(answerer.answer(photo, [QUESTION, "is the dog", "the hat"])) == 3
    with pytest.raises(UserError, match="2 questions for 3 images"):
        answerer.answer([photo] * 3, [QUESTION] * 2)


def test_maps_are_those_of_a_twin_with_one_backward_pass_for_each_answer(answerer, photo):
    found = answerer.explain(photo, QUESTION, answers=["red", "blue", "no"], contrast="blue")
    assert found.names == ("red", "blue", "no", "red rather than blue", "no rather than blue")
    pixels = answerer.encode(photo).pixels.double()
    model = answerer.network.module.double()
    A = model.features(pixels).detach().requires_grad_()
    scores = model.head(A, torch.tensor([[4, 5, 6, 7, 9]]))[0]
    for row, score in enumerate((scores[2], scores[3], scores[1], scores[2] - scores[3], scores[1] - scores[3])):
        (slope,) = torch.autograd.grad(score, A, retain_graph=True)
        expected = np.zeros(A.shape[-2:])
        for k in range(6):
            expected += slope[0, k].mean().item() * A[0, k].detach().numpy()
        np.testing.assert_allclose(found.heatmaps[row, 0].numpy(), expected.clip(min=0), rtol=1e-3, atol=1e-6)
        assert found.scores[row, 0].item() == pytest.approx(score.item(), rel=1e-4)


def test_the_short_way_to_importance_gives_the_mean_gradient_of_the_map(answerer, photo):
    network, pixels = answerer.network, answerer.encode(photo).pixels.double()
    network.module.double()
    features = network.encode(pixels)
    split = network.explainable(None)
    leaf, output = split.split(pixels, torch.tensor([[4, 5, 6, 7, 9]]), features)
    scores = output.logits[0, :3, None]
    found = split.importance(scores, leaf, output)
    torch.testing.assert_close(found, formulas.importance(scores, leaf), rtol=1e-9, atol=1e-12)
    assert found.abs().max() > 1e-6


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.classifier.weight.data.mul_(-2),
        lambda model: model.question.lstm.weight_hh_l0.data.mul_(-2),
        lambda model: model.query.weight.data.mul_(3),
        lambda model: model.reader.gates.bias.data.add_(2),
        lambda model: model.image.project.weight.data.mul_(3),
    ],
)
def test_nothing_is_kept_of_weights_that_changed(answerer, photo, change):
    encoded, question = answerer.encode(photo), answerer.read(QUESTION)
    first = answerer.explain(encoded, question, "red")
    change(answerer.network.module)
    second = answerer.explain(encoded, question, "red")
    assert not torch.allclose(first.scores, second.scores)
    model = answerer.network.module
    torch.testing.assert_close(
        second.scores[0, 0], model(encoded.pixels, torch.tensor([[4, 5, 6, 7, 9]]))[0, 2], rtol=1e-5, atol=1e-6
    )


def test_four_threads_get_the_answers_of_their_own_images_and_questions(answerer):
    noise = np.random.default_rng(3).integers(0, 255, (4, 40, 30, 3), dtype=np.uint8)
    asked = list(zip(map(Image.fromarray, noise), [QUESTION, "is the dog", "the hat", "what is"], strict=True))

    def explained(pair):
        return answerer.answer(*pair).score, answerer.explain(*pair, "red")

    alone = [explained(pair) for pair in asked]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(explained, asked * 25))
    for number, (score, found) in enumerate(together):
        assert score == pytest.approx(alone[number % 4][0], rel=1e-5)
        torch.testing.assert_close(found.heatmaps, alone[number % 4][1].heatmaps)
        torch.testing.assert_close(found.word_drops, alone[number % 4][1].word_drops)


def test_a_batch_is_explained_as_its_images_and_questions_one_by_one(answerer, photo):
    noise = np.random.default_rng(3).integers(0, 255, (2, 40, 30, 3), dtype=np.uint8)
    images, questions = [photo, *map(Image.fromarray, noise)], [QUESTION, "is the dog", "hat"]
    batch = answerer.explain(images, iter(questions), contrast="no")
    assert [found.names[0] for found in batch] == [a.text for a in answerer.answer(images, questions)]
    for image, question, found in zip(images, questions, batch, strict=True):
        alone = answerer.explain(image, question, contrast="no")
        assert found.names == alone.names and found.words == alone.words
        assert found.provenance["question"] == question
        for values in ("scores", "heatmaps", "word_gradients", "word_drops"):
            torch.testing.assert_close(getattr(found, values), getattr(alone, values), rtol=1e-4, atol=1e-6)


def test_word_gradients_are_those_of_the_twin_and_words_left_out_are_run_again(answerer, photo):
    found = answerer.explain(photo, QUESTION, answers=["red"], contrast="blue")
    assert found.word_gradients.shape == found.word_drops.shape == (2, 5)
    pixels = answerer.encode(photo).pixels.double()
    model = answerer.network.module.double()
    A = model.features(pixels)
    tokens = [4, 5, 6, 7, 9]
    embedded = model.question.vectors(torch.tensor([tokens])).requires_grad_()
    asked = model.question.encode(embedded, torch.ones(1, 5, dtype=torch.bool))
    scores = model.answer_scores(model.trunk.summary(A), asked)[0]
    for row, score in enumerate((scores[2], scores[2] - scores[3])):
        (slope,) = torch.autograd.grad(score, embedded, retain_graph=True)
        np.testing.assert_allclose(
            found.word_gradients[row].numpy(), (slope * embedded)[0].sum(-1).detach().numpy(), rtol=1e-3, atol=1e-5
        )
    for place in range(5):
        shorter = model.head(A, torch.tensor([tokens[:place] + tokens[place + 1 :]]))[0]
        drop = scores[2] - shorter[2]
        assert found.word_drops[0, place].item() == pytest.approx(drop.item(), abs=1e-4)


def test_a_question_of_one_word_can_be_explained(answerer, photo):
    found = answerer.explain(photo, "hat")
    assert found.word_drops.shape == (1, 1)
    model = answerer.network.module
    nothing = model.answer_scores(model.trunk.summary(answerer.encode(photo).features), torch.zeros(1, 4 * 4 + 5 + 2))
    index = ANSWERS.index(found.names[0])
    assert float(found.word_drops) == pytest.approx(float(found.scores - nothing[0, index]), abs=1e-5)


def test_answers_left_out_are_the_models_own(answerer, photo):
    assert answerer.explain(photo, QUESTION).names == (answerer.answer(photo, QUESTION).text,)


def test_a_contrast_with_one_answer_is_taken_against_each(answerer, photo):
    found = answerer.explain(photo, QUESTION, answers=["red", "no"], contrast="blue")
    assert found.names[2:] == ("red rather than blue", "no rather than blue")
    torch.testing.assert_close(found.scores[2], found.scores[0] - answerer.explain(photo, QUESTION, "blue").scores[0])
    with pytest.raises(UserError, match="3 contrasts for 2 answers"):
        answerer.explain(photo, QUESTION, answers=["red", "no"], contrast=["blue"] * 3)


def test_other_layers_and_all_methods_can_be_asked_for(answerer, photo):
    methods = ("gradcam", "counterfactual", "guided", "guided_gradcam", "deconv", "gradient", "occlusion")
    found = answerer.explain(photo, QUESTION, "red", methods=methods)
    assert set(found.maps) == set(methods) and found.guided.shape == (1, 1, 3, 32, 32)
    early = answerer.explain(photo, QUESTION, "red", layer="trunk.network.first")
    assert early.heatmaps.shape == (1, 1, 15, 15) and early.provenance["layer"] == "trunk.network.first"


def test_the_map_follows_the_question_and_the_answer(answerer, photo):
    encoded = answerer.encode(photo)
    own = answerer.explain(encoded, QUESTION, "red").heatmaps
    assert not torch.allclose(own, answerer.explain(encoded, "the dog is", "red").heatmaps)
    assert not torch.allclose(own, answerer.explain(encoded, QUESTION, "blue").heatmaps)


def test_the_trunk_runs_once_for_an_answer_its_maps_and_its_words(answerer, photo):
    runs = []
    answerer.network.module.trunk.network.body.register_forward_hook(lambda *_: runs.append(1))
    encoded, question = answerer.encode(photo), answerer.read(QUESTION)
    answerer.answer(encoded, question)
    answerer.explain(encoded, question, answers=ANSWERS)
    assert len(runs) == 1


def test_explaining_leaves_the_model_as_it_was(answerer, photo):
    module = answerer.network.module
    module.train()
    module.classifier.weight.requires_grad_(True)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random_state = torch.random.get_rng_state()
    answerer.explain(photo, QUESTION, answers=["red"])
    assert module.training and module.classifier.weight.requires_grad and module.classifier.weight.grad is None
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_an_explanation_is_saved_with_its_question_attribution(answerer, photo, tmp_path):
    found = answerer.explain(photo, QUESTION, answers=["red", "blue"])
    found.save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as saved:
        assert saved["heatmaps"].shape == (2, *found.heatmaps.shape[-2:])
        np.testing.assert_allclose(saved["word_gradients"], found.word_gradients.numpy())
        assert saved["word_drops"].shape == (2, 5)
    loaded = Explanation.load(tmp_path / "x.npz")
    assert loaded.words == found.words and loaded.provenance["question"] == QUESTION
    for values in ("heatmaps", "scores", "word_gradients", "word_drops"):
        torch.testing.assert_close(getattr(loaded, values), getattr(found, values))
    assert loaded.select([1]).names == ("blue",) and loaded.select([1]).word_drops.shape == (1, 5)


def test_an_answer_the_model_lacks_is_an_error_with_the_nearest_ones(answerer, photo):
    with pytest.raises(AnswerError, match="nearest:.*blue"):
        answerer.explain(photo, QUESTION, answers=["blu"])
    with pytest.raises(AnswerError, match="none is near it; among them: "):
        answerer.explain(photo, QUESTION, "hippopotamus")


@pytest.mark.parametrize("written, number", [("RED", 2), ("the red", 2), ("yellow and red", 4), (" no. ", 1)])
def test_answers_are_found_in_other_spellings(written, number):
    assert find_answer(written, {answer: i for i, answer in enumerate(ANSWERS)}) == number


@pytest.mark.parametrize("answer", ["", "  ", None, 3])
def test_answers_that_are_not_text_are_refused(answerer, photo, answer):
    with pytest.raises(UserError):
        answerer.explain(photo, QUESTION, answers=[answer])


def test_words_outside_the_vocabulary_are_named_in_a_warning(answerer, photo):
    with pytest.warns(UserWarning, match="'zebra'"):
        answerer.answer(photo, "what color is the zebra")


def test_questions_that_cannot_be_read_are_refused(answerer, photo):
    for question in ("", "??", "hat " * 10_000):
        with pytest.raises(UserError):
            answerer.explain(photo, question)

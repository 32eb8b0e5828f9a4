"""ViLT and BLIP of `transformers`: tiny random models, saved, loaded and explained, against slow hook-based twins."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import vqa
from common.errors import UserError

SIDE, PATCH = 32, 8
CORPUS = ["what color is the dog", "is there a cat on the mat", "how many dogs are there", "yes no red blue two"] * 3


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=70, special_tokens=["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[DEC]"])
    )
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        bos_token="[DEC]",
    )


def _vilt(words):
    labels = {0: "yes", 1: "no", 2: "red", 3: "blue", 4: "2"}
    return transformers.ViltForQuestionAnswering(
        transformers.ViltConfig(
            vocab_size=words,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=SIDE,
            patch_size=PATCH,
            max_position_embeddings=20,
            id2label=labels,
            label2id={v: k for k, v in labels.items()},
        )
    )


def _blip(words):
    text = dict(
        vocab_size=words,
        hidden_size=16,
        encoder_hidden_size=16,
        intermediate_size=24,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=20,
        bos_token_id=4,
        sep_token_id=2,
        eos_token_id=2,
        pad_token_id=0,
    )
    vision = dict(
        hidden_size=16,
        intermediate_size=24,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
    )
    return transformers.BlipForQuestionAnswering(
        transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    )


@pytest.fixture(scope="module", params=["vilt", "blip"])
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    tokenizer = _tokenizer()
    model = {"vilt": _vilt, "blip": _blip}[request.param](len(tokenizer)).eval()
    with torch.no_grad():  # the usual initial weights are so small that the image hardly matters
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8))


def test_the_best_answer_comes_first_and_probabilities_are_probabilities(folder, photo):
    answer = vqa.load(f"hf:{folder}").answer(photo, "what color is the dog", top=3)
    scores = [answer.score, *(other.score for other in answer.runners_up)]
    assert answer.text and scores == sorted(scores, reverse=True)
    assert all(0 <= one.probability <= 1 for one in (answer, *answer.runners_up))


def test_vilt_scores_are_the_librarys_own_though_its_patches_are_shuffled(folder, photo):
    answerer = vqa.load(f"hf:{folder}")
    if answerer.network.loader != "ViltForQuestionAnswering":
        pytest.skip("BLIP doesn't shuffle")
    question, encoded = answerer.read("what color is the dog"), answerer.encode(photo)
    mask = torch.ones(1, SIDE, SIDE, dtype=torch.long)
    with torch.no_grad():
        own = answerer.network.module(
            input_ids=torch.tensor([question.tokens]), pixel_values=encoded.pixels, pixel_mask=mask
        ).logits[0]
    found = answerer.network._forward(encoded.pixels, torch.tensor([question.tokens]))[0]
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-5)


def test_blip_scores_are_the_losses_of_the_library(folder, photo):
    answerer = vqa.load(f"hf:{folder}")
    if answerer.network.loader != "BlipForQuestionAnswering":
        pytest.skip("ViLT classifies")
    question, encoded = answerer.read("what color is the dog"), answerer.encode(photo)
    request = answerer.network.request([question], [["red", "yes no"]])
    output = answerer.network._forward(encoded.pixels, request.query)
    module = answerer.network.module
    image = module.vision_model(pixel_values=encoded.pixels)[0]
    hidden = module.text_encoder(input_ids=torch.tensor([question.tokens]), encoder_hidden_states=image)[0]
    for answer, target in zip(("red", "yes no"), request.targets, strict=True):
        ids, score = answerer.network.tokenizer(answer, add_special_tokens=False)["input_ids"], target(output)
        row = torch.tensor([[4, *ids, 2]])
        logits = module.text_decoder(input_ids=row, encoder_hidden_states=hidden).logits[0].log_softmax(-1).detach()
        by_hand = sum(float(logits[place, token]) for place, token in enumerate(row[0, 1:].tolist()))
        assert float(score) == pytest.approx(by_hand, abs=1e-4)


def test_maps_are_those_of_a_slow_twin_with_a_hook_for_each_answer(folder, photo):
    answerer = vqa.load(f"hf:{folder}")
    names = ["red", "blue", "yes"]
    explanation = answerer.explain(photo, "what color is the dog", answers=names)
    network, module = answerer.network, answerer.network.module.double()
    question, pixels = answerer.read("what color is the dog"), answerer.encode(photo).pixels.double()
    request, patches = network.request([question], [names]), (SIDE // PATCH) ** 2
    for number, target in enumerate(request.targets):
        kept = []
        handle = module.get_submodule(network.layer).register_forward_hook(
            lambda m, i, o, kept=kept: kept.append(o[0] if isinstance(o, tuple) else o)
        )
        score = target(network._forward(pixels, request.query))[0]
        handle.remove()
        (gradient,) = torch.autograd.grad(score, kept[0])
        expected = np.zeros((SIDE // PATCH, SIDE // PATCH))
        tokens, slopes = kept[0][0, -patches:].detach().numpy(), gradient[0, -patches:].numpy()
        for k in range(tokens.shape[1]):
            expected += slopes[:, k].mean() * tokens[:, k].reshape(expected.shape)
        np.testing.assert_allclose(
            explanation.heatmaps[number, 0].double().numpy(), expected.clip(min=0), rtol=2e-3, atol=1e-6
        )
        assert expected.max() > 0 or number
    network.module.float()


def test_question_attribution_adds_up_as_a_difference_of_passes(folder, photo):
    answerer = vqa.load(f"hf:{folder}")
    explanation = answerer.explain(photo, "what color is the dog", answers=["red", "blue"])
    assert explanation.words == ("what", "color", "is", "the", "dog")
    assert explanation.word_gradients.shape == explanation.word_drops.shape == (2, 5)
    network, encoded = answerer.network, answerer.encode(photo)
    request = network.request([answerer.read("what color is the")], [["red", "blue"]])
    with torch.no_grad():
        shorter = network._forward(encoded.pixels, request.query)
    without_dog = torch.stack([target(shorter)[0] for target in request.targets])
    torch.testing.assert_close(
        explanation.word_drops[:, 4], explanation.scores[:, 0] - without_dog, rtol=1e-4, atol=1e-5
    )


def test_a_batch_of_images_and_questions_of_unlike_length_is_explained_as_one_by_one(folder, photo):
    answerer = vqa.load(f"hf:{folder}")
    images, questions = [photo, photo.rotate(180)], ["what color is the dog", "is there"]
    batch = answerer.explain(images, questions, answers=["red", "yes"], contrast="blue")
    for image, question, found in zip(images, questions, batch, strict=True):
        alone = answerer.explain(image, question, answers=["red", "yes"], contrast="blue")
        assert found.names == alone.names == ("red", "yes", "red rather than blue", "yes rather than blue")
        for values in ("scores", "heatmaps", "word_gradients", "word_drops"):
            torch.testing.assert_close(getattr(found, values), getattr(alone, values), rtol=1e-3, atol=1e-4)


def test_words_the_tokenizer_lacks_are_named_in_a_warning(folder, photo):
    with pytest.warns(UserWarning, match="zebra"):
        vqa.load(f"hf:{folder}").answer(photo, "what color is the zebra€")


def test_a_model_of_another_kind_is_refused_with_the_kinds_that_work(tmp_path):
    transformers.ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="vilt, blip"):
        vqa.load(f"hf:{tmp_path}")


def test_questions_that_are_empty_or_too_long_are_refused(folder, photo):
    answerer = vqa.load(f"hf:{folder}")
    for question in ("", "  ?", "dog " * 10_000):
        with pytest.raises(UserError):
            answerer.answer(photo, question)


def test_the_baselines_of_a_set_need_no_figures_of_the_model(folder, tmp_path, capsys):
    from scripts import saywhy

    arguments = ["--data", "easyvqa", "--model", f"hf:{folder}", "--limit", "2", "--baselines", "--json"]
    assert saywhy.main(["evaluate", "vqa", *arguments, "--out", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)["sets"]["easyvqa"]
    assert "commonest" in found and "without_image" not in found

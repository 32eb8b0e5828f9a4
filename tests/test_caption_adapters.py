"""Captioners of `transformers`: tiny random models, saved, loaded and explained, against one pass for
each word.
"""

import time

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from captioning import adapters
from common.errors import UserError

CORPUS = ["a dog runs on the green grass", "a cat sits on a mat", "two dogs play in the snow", "the frisbee"] * 3
SIDE, PATCH = 32, 8


def _tokenizer(start: str, end: str, byte_level: bool = True):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    special = ["<pad>", start, end, "<unk>"]
    if byte_level:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer, core.decoder = (pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())
        core.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=290, special_tokens=special,
                                 initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
    else:
        core = Tokenizer(models.WordPiece(unk_token="<unk>"))
        core.pre_tokenizer, core.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece(cleanup=False)
        core.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=60, special_tokens=special))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token=start, eos_token=end, unk_token="<unk>"
    )


def _vision(kind, **more):
    return kind(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                image_size=SIDE, patch_size=PATCH, **more)  # fmt: skip


def _encoder_decoder(tokenizer):
    text = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=len(tokenizer), n_positions=40,
                                   bos_token_id=1, eos_token_id=2, pad_token_id=0)  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(_vision(transformers.ViTConfig), text)
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    return transformers.VisionEncoderDecoderModel(config)


def _swin_decoder(tokenizer):
    text = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=len(tokenizer), n_positions=40,
                                   bos_token_id=1, eos_token_id=2, pad_token_id=0)  # fmt: skip
    vision = transformers.SwinConfig(image_size=SIDE, patch_size=4, embed_dim=8, 
                                     depths=[1, 1], num_heads=[2, 2],
                                     window_size=4)  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    return transformers.VisionEncoderDecoderModel(config)


def _blip(tokenizer):
    text = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                encoder_hidden_size=16,
                vocab_size=len(tokenizer), max_position_embeddings=40, projection_dim=16, bos_token_id=1,
                eos_token_id=2, sep_token_id=2, pad_token_id=0)  # fmt: skip
    vision = _vision(transformers.BlipVisionConfig, projection_dim=16).to_dict()
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    return transformers.BlipForConditionalGeneration(config)


def _git(tokenizer):
    vision = _vision(transformers.GitVisionConfig).to_dict()
    config = transformers.GitConfig(vision_config=vision, vocab_size=len(tokenizer), hidden_size=16,
                                    num_hidden_layers=2,
                                    num_attention_heads=2, intermediate_size=24, max_position_embeddings=40,
                                    bos_token_id=1, eos_token_id=2, pad_token_id=0)  # fmt: skip
    return transformers.GitForCausalLM(config)


MODELS = {"vit-gpt2": _encoder_decoder, "swin-gpt2": _swin_decoder, "blip": _blip, "git": _git}


@pytest.fixture(scope="module", params=list(MODELS))
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    tokenizer = _tokenizer("<s>", "</s>", byte_level=request.param.endswith("gpt2"))
    model = MODELS[request.param](tokenizer).eval()
    with torch.no_grad():  # the usual initial weights are so small that the image hardly matters
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def photos():
    pixels = np.random.default_rng(0).integers(0, 255, (2, 48, 40, 3), dtype=np.uint8)
    return [Image.fromarray(each) for each in pixels]


def test_captions_words_spell_the_text_and_their_probabilities_sum(folder, photos):
    captioner = adapters.load(f"hf:{folder}")
    captions = captioner.caption(photos, beam=3, alternatives=2, max_length=6)
    assert len(captions) == 2
    for caption in captions:
        assert len(caption.alternatives) == 2 and caption.total >= caption.alternatives[0].total
        assert len(caption.words) == len(caption.log_probabilities) == len(caption.read.spans)
        assert all(value < 0 for value in caption.log_probabilities)
        assert caption.total <= sum(caption.log_probabilities) + 1e-4


def _twin(captioner, image, words_ids, span):
    """One word's Grad-CAM the slow way: a pass with a hook for this word alone, float64, sums in Python."""
    network = captioner.network
    model = network.module.double()
    kept = []
    block = dict(model.named_modules())[network.layer]

    def keep(module, inputs, output):
        tokens = output[0] if isinstance(output, tuple) else output
        tokens.retain_grad()
        kept.append(tokens)

    handle = block.register_forward_hook(keep)
    ids = torch.tensor([[network.start, *words_ids]])
    pixels = network.preprocessing(image).double().requires_grad_()
    if "Git" in type(model).__name__:
        logits = model(input_ids=ids, pixel_values=pixels).logits[:, -ids.shape[1] :]
    elif "Blip" in type(model).__name__:
        logits = model(pixel_values=pixels, input_ids=ids).logits
    else:
        logits = model(pixel_values=pixels, decoder_input_ids=ids).logits
    handle.remove()
    score = sum(logits[0, place].log_softmax(-1)[words_ids[place]] for place in range(*span))
    score.backward()
    tokens, gradient = kept[-1].detach()[0], kept[-1].grad[0]
    h, w = 4, 4
    prefix = len(tokens) - h * w
    heat = np.zeros((h, w))
    for k in range(tokens.shape[1]):
        weight = float(gradient[prefix:, k].mean())
        heat += weight * tokens[prefix:, k].numpy().reshape(h, w)
    model.zero_grad()
    model.float()
    return float(score.detach()), np.maximum(heat, 0)


def test_every_words_map_is_that_of_a_pass_of_its_own(folder, photos):
    captioner = adapters.load(str(folder))
    found = captioner.explain(photos, ["a dog runs on the grass", "a cat sits"], score="log_probability")
    assert [e.names[0] for e in found] == ["a dog runs on the grass", "a cat sits"]
    for explanation, image in zip(found, photos, strict=True):
        text = captioner.network.read(explanation.names[0])
        assert explanation.names[1:] == text.words
        for number, span in enumerate(text.spans, 1):
            score, heat = _twin(captioner, image, text.tokens, span)
            np.testing.assert_allclose(explanation.scores[number, 0], score, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(explanation.heatmaps[number, 0], heat, rtol=2e-2, atol=1e-3 * heat.max() + 1e-7)


def test_contrast_and_phrases_work_as_with_the_projects_own_captioner(folder, photos):
    captioner = adapters.load(str(folder))
    found = captioner.explain(photos[0], "a dog runs", phrases=["A dog", "the frisbee"], contrast="a cat")
    assert found.names[4:6] == ("A dog", "the frisbee (not in the caption)")
    assert found.names[6].endswith("rather than a cat")
    assert found.scores[4].item() == pytest.approx(found.scores[1:3].sum().item(), abs=1e-4)
    assert found.heatmaps.isfinite().all()


def test_a_model_is_left_as_it_was(folder, photos):
    captioner = adapters.load(str(folder))
    module = captioner.network.module
    before = {name: value.clone() for name, value in module.state_dict().items()}
    hooks = [len(m._forward_hooks) for m in module.modules()]
    captioner.explain(photos[0], "a dog runs")
    assert hooks == [len(m._forward_hooks) for m in module.modules()]
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_word_the_tokenizer_lacks_is_named_as_the_user_wrote_it(folder, photos):
    captioner = adapters.load(str(folder))
    if "gpt2" in folder.name:
        assert not captioner.network.read("a dog \U0001f600").unknown  # bytes are tokens: nothing is unknown
        return
    with pytest.warns(UserWarning, match="'\U0001f600'"):
        found = captioner.explain(photos[0], "a dog \U0001f600")
    assert found.names == ("a dog \U0001f600", "a", "dog", "\U0001f600")


def test_a_word_of_several_tokens_is_one_word(folder):
    network = adapters.load(str(folder)).network
    text = network.read("a zyx dog")
    assert len(text.words) == 3
    assert text.spans[0][0] == 0 and text.spans[-1][1] == len(text.tokens)
    assert all(a[1] == b[0] for a, b in zip(text.spans, text.spans[1:], strict=False))


def test_a_model_that_cannot_be_had_is_an_error_within_seconds(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    start = time.time()
    with pytest.raises(UserError, match="no such folder"):
        adapters.load("hf:nobody/no-such-captioner")
    with pytest.raises(UserError, match="neither a folder|no such folder"):
        adapters.load("hf:./no/such/folder")
    assert time.time() - start < 10


def test_a_folder_of_another_kind_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        adapters.load(f"hf:{tmp_path}")
    transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="bert.*vision-encoder-decoder"):
        adapters.load(f"hf:{tmp_path}")


def test_captions_that_are_too_long_for_the_model_are_an_error(folder, photos):
    captioner = adapters.load(str(folder))
    with pytest.raises(UserError, match="reads at most"):
        captioner.explain(photos[0], "a dog runs on the grass " * 10)
    with pytest.raises(UserError, match="8000 characters"):
        captioner.explain(photos[0], "dog " * 2000)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["vit", "beit", "swin", "swinv2", "donut-swin"])
def test_encoders_in_half_precision_are_read_and_explained(kind, half, photos, tmp_path):
    torch.manual_seed(0)
    tokenizer = _tokenizer("<s>", "</s>")
    text = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=len(tokenizer), n_positions=40,
                                   bos_token_id=1, eos_token_id=2, pad_token_id=0)  # fmt: skip
    options = {"image_size": SIDE, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2],
               "window_size": 4}  # fmt: skip
    if "swin" not in kind:
        options = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
                   "image_size": SIDE, "patch_size": PATCH}  # fmt: skip
    vision = transformers.AutoConfig.for_model(kind, **options)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    transformers.VisionEncoderDecoderModel(config).to(half).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path)
    captioner = adapters.load(f"hf:{tmp_path}")
    assert next(captioner.network.module.parameters()).dtype == half
    assert captioner.caption(photos[0], max_length=4).words
    explanation = captioner.explain(photos[0], "a dog")
    assert explanation.heatmaps.dtype == torch.float32 and bool(explanation.heatmaps.isfinite().all())
    assert bool((explanation.heatmaps > 0).any())

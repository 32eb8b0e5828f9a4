"""Chat models of `transformers` at the seam of their image features: tiny random ones of every family."""

import numpy as np
import pytest
import torch
from PIL import Image

import captioning
import vqa
from common.chat.loading import load
from common.chat.prompt import Prompts
from common.errors import UserError
from tests.chats import MAKERS, saved

QUESTION = "what is the red dog?"


@pytest.fixture(scope="module", params=sorted(MAKERS))
def folder(request, tmp_path_factory):
    if request.param == "smolvlm":
        pytest.importorskip("num2words")
    return saved(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def model(folder):
    return load(str(folder))


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))


def _plain(model, photo, question, reply):
    """The model's own pass over image, question and reply: (inputs, where the reply begins)."""
    inputs = model.prompts.inputs(photo, question)
    inputs.pop("labels", None)
    start = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], torch.tensor([reply])], 1)
    inputs["attention_mask"] = torch.ones_like(ids)
    if (name := model.family.types) is not None:
        kinds = torch.full((1, len(reply)), model.family.reply_type)
        inputs[name] = torch.cat([inputs[name], kinds], 1)
    inputs["input_ids"] = ids
    return inputs, start


def _centred(logits):
    """Each token's logit less the mean of all: what a word's score is, in answers as in captions."""
    return logits - logits.mean(-1, keepdim=True)


def test_the_prompt_is_the_processors_own(model, photo):
    sight = model.look(photo)
    for question in (QUESTION, "a?", "Größe 🙂 of   it?"):
        own = model.prompts.inputs(photo, " ".join(question.split()))["input_ids"][0].tolist()
        assert list(sight.splice(model.prompts.read(question).tokens)) == own


@pytest.mark.parametrize("begin", ["", "<s>"])
def test_the_prompt_is_that_of_apply_chat_template(model, photo, monkeypatch, begin):
    if model.family.plain or model.family.asks:
        pytest.skip("it has no chat template")
    monkeypatch.setattr(model.processor, "chat_template", begin + model.processor.chat_template)
    prompts = Prompts(model.processor, model.family, "it")
    said = [{"role": "user", "content": [{"type": "image", "image": photo}, {"type": "text", "text": QUESTION}]}]
    own = model.processor.apply_chat_template(
        said, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )["input_ids"][0].tolist()
    found = prompts.splice(prompts.inputs(photo))(prompts.read(QUESTION).tokens)
    assert list(found) == own and own[0] == prompts.tokenizer(begin or "<", add_special_tokens=False)["input_ids"][0]


def test_logits_through_the_seam_are_those_of_the_plain_pass_bit_for_bit(model, photo):
    reply = list(model.prompts.reply("a red dog").tokens)
    inputs, start = _plain(model, photo, QUESTION, reply)
    keep = torch.arange(start - 1, start + len(reply) - 1)[None]
    with torch.no_grad():
        own = model.module(**inputs, logits_to_keep=keep, use_cache=False).logits
        sight = model.look(photo)
        found = model.logits(sight, sight.tokens, [model.prompts.read(QUESTION).tokens], torch.tensor([reply]))
        again = model.logits(
            sight, sight.with_map(sight.A), [model.prompts.read(QUESTION).tokens], torch.tensor([reply])
        )
    assert torch.equal(found, own) and torch.equal(again, own)
    blind = model.prompts.inputs(photo.rotate(180), QUESTION)
    assert not torch.equal(
        own, model.module(**{**inputs, "pixel_values": blind["pixel_values"]}, logits_to_keep=keep).logits
    )


def test_the_reply_is_what_the_model_generates_by_itself(model, photo):
    inputs = model.prompts.inputs(photo, QUESTION)
    inputs.pop("labels", None)
    options = dict(max_new_tokens=6, do_sample=False, pad_token_id=model.pad, suppress_tokens=[model.image_token])
    made = model.module.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    own = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    sight, asked = model.look(photo), model.prompts.read(QUESTION).tokens
    found = model.replies(sight, asked, length=6)[0]
    assert list(found.tokens) == [token for token in own if token not in model.ends]
    with torch.no_grad():  # what is explained is what was decoded step by step, with a cache
        explained = model.logits(sight, sight.tokens, [asked], torch.tensor([found.tokens]))[0]
    steps = torch.cat(made.logits)[: len(found.tokens)]
    torch.testing.assert_close(explained, steps, rtol=1e-3, atol=1e-4)


def test_rows_of_unlike_length_are_each_as_if_alone(model, photo):
    sight = model.look(photo)
    prompts = [model.prompts.read(each).tokens for each in (QUESTION, "what?", "is the cat a red dog?")]
    replies = [model.prompts.reply(each).tokens for each in ("a dog", "cat", "the red red dog")]
    together = torch.full((3, max(map(len, replies))), -1)
    for row, reply in enumerate(replies):
        together[row, : len(reply)] = torch.tensor(reply)
    with torch.no_grad():
        found = model.logits(sight, sight.tokens, prompts, together)
        for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            alone = model.logits(sight, sight.tokens, [prompt], torch.tensor([reply]))[0]
            torch.testing.assert_close(found[row, : len(reply)], alone, rtol=1e-4, atol=1e-5)


def test_maps_are_those_of_a_slow_twin_with_hooks_in_float64(folder, photo):
    answerer = vqa.load(f"hf:{folder}")
    model = answerer.network.model
    model.module.double()
    found = answerer.explain(photo, QUESTION, answers="a red dog", methods="gradcam,hirescam,layercam")
    assert found.names == ("a red dog", "a", "red", "dog")
    reply = model.prompts.reply("a red dog")
    inputs, start = _plain(model, photo, QUESTION, list(reply.tokens))
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    kept = []
    encoder = model.module.base_model.get_image_features

    def keep(*args, **kwargs):
        output = encoder(*args, **kwargs)
        parts = [output.pooler_output, *(getattr(output, "deepstack_features", None) or [])]
        single = [isinstance(part, torch.Tensor) for part in parts]
        tables = [[part] if one else list(part) for part, one in zip(parts, single, strict=True)]
        tables = [[each.detach().requires_grad_() for each in table] for table in tables]
        kept.extend(table for table in tables)
        output.pooler_output = tables[0][0] if single[0] else tables[0]
        if len(tables) > 1:
            output.deepstack_features = tables[1:]
        return output

    def keep_states(module, given, output):
        output.last_hidden_state = output.last_hidden_state.detach().requires_grad_()
        kept.append([output.last_hidden_state])

    if model.family.encoder is None:
        model.module.base_model.get_image_features = keep
    else:
        handle = model.module.base_model.get_submodule(model.family.encoder).register_forward_hook(keep_states)
    try:
        with torch.enable_grad():
            logits = _centred(model.module(**inputs, use_cache=False).logits[0])
    finally:
        if model.family.encoder is None:
            del model.module.base_model.get_image_features
        else:
            handle.remove()
    layout = model.look(photo).layout
    spans = [(0, len(reply.tokens)), *reply.spans]
    for number, (first, last) in enumerate(spans):
        score = sum(logits[start + place - 1, reply.tokens[place]] for place in range(first, last))
        leaves = [leaf for table in kept for leaf in table]
        slopes = iter(torch.autograd.grad(score, leaves, retain_graph=True))
        gradient = torch.cat([torch.cat([next(slopes).flatten(0, -2) for _ in table]) for table in kept], 1)
        tokens = torch.cat([torch.cat([leaf.detach().flatten(0, -2) for leaf in table]) for table in kept], 1)
        places = list(layout.places)
        gradient, tokens = gradient[places], tokens[places]
        assert float(found.scores[number, 0]) == pytest.approx(score.item(), abs=1e-9)
        maps = {
            "gradcam": (gradient.mean(0) * tokens).sum(1),
            "hirescam": (gradient * tokens).sum(1),
            "layercam": (gradient.clamp(min=0) * tokens).sum(1),
        }
        for method, values in maps.items():
            expected = layout.place(values.clamp(min=0)[None])[0]
            torch.testing.assert_close(found.maps[method][number, 0].double(), expected, rtol=1e-6, atol=1e-9)
        assert float(gradient.abs().max()) > 0


def test_behind_a_block_maps_are_those_of_a_hook_on_it_in_float64(folder, photo):
    answerer = vqa.load(f"hf:{folder}", layer="llm.0")
    model = answerer.network.model
    if model.family.encoder is not None:
        with pytest.raises(UserError, match="learned queries"):
            answerer.explain(photo, QUESTION, answers="a dog")
        return
    model.module.double()
    found = answerer.explain(photo, QUESTION, answers="a dog", methods="hirescam")
    reply, layout = model.prompts.reply("a dog").tokens, model.look(photo).layout
    inputs, start = _plain(model, photo, QUESTION, list(reply))
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    kept = []

    def keep(module, given, output):
        states = output if isinstance(output, torch.Tensor) else output[0]
        kept.append(states.detach().requires_grad_())
        return kept[0] if isinstance(output, torch.Tensor) else (kept[0], *output[1:])

    ends = ("language_model.layers.0", "text_model.layers.0")
    (first,) = [part for name, part in model.module.named_modules() if name.endswith(ends) and "vision" not in name]
    handle = first.register_forward_hook(keep)
    with torch.enable_grad():
        logits = _centred(model.module(**inputs, use_cache=False).logits[0])
    handle.remove()
    score = sum(logits[start + place - 1, token] for place, token in enumerate(reply))
    (gradient,) = torch.autograd.grad(score, kept[0])
    places = (inputs["input_ids"][0] == model.image_token).nonzero()[:, 0][list(layout.places)]
    values = (gradient * kept[0]).detach()[0, places].sum(1)
    expected = layout.place(values.clamp(min=0)[None])[0]
    assert float(found.scores[0, 0]) == pytest.approx(score.item(), abs=1e-9)
    torch.testing.assert_close(found.maps["hirescam"][0, 0].double(), expected, rtol=1e-6, atol=1e-9)
    assert gradient.abs().max() > 0 and found.provenance["layer"].startswith("llm.0")


def test_a_batch_of_unlike_photographs_is_explained_as_one_by_one(folder, photo):
    photos, questions = [photo, photo.resize((40, 80)).rotate(90)], [QUESTION, "what is the cat?"]
    answerer = vqa.load(f"hf:{folder}")
    for reply, least in ((None, 1), ("a red dog", 4)):
        together = answerer.explain(photos, questions, reply)
        for image, question, found in zip(photos, questions, together, strict=True):
            alone = answerer.explain(image, question, reply)
            assert found.names == alone.names and len(found.names) >= least
            for values in ("scores", "heatmaps", "word_gradients", "word_drops"):
                torch.testing.assert_close(getattr(found, values), getattr(alone, values))
    captioner = captioning.load(f"hf:{folder}")
    batch = captioner.explain(photos, "a red dog", phrases="a cat", contrast="the cat")
    for image, found in zip(photos, batch, strict=True):
        alone = captioner.explain(image, "a red dog", phrases="a cat", contrast="the cat")
        assert found.names == alone.names
        torch.testing.assert_close(found.scores, alone.scores)
        torch.testing.assert_close(found.heatmaps, alone.heatmaps)
        torch.testing.assert_close(found.visual, alone.visual)


def test_what_a_word_of_the_question_adds_is_a_difference_of_passes(folder, photo):
    answerer = vqa.load(f"hf:{folder}")
    found = answerer.explain(photo, QUESTION, answers=["a dog", "cat"], contrast="the")
    assert found.words == tuple(QUESTION.split())
    assert found.names == ("a dog", "cat", "a dog rather than the", "cat rather than the")
    model, sight = answerer.network.model, answerer.network.model.look(photo)
    shorter = [*model.prompts.read(QUESTION).tokens]
    first, last = model.prompts.read(QUESTION).spans[3]
    del shorter[first:last]
    reply = model.prompts.reply("a dog").tokens
    with torch.no_grad():
        logits = _centred(model.logits(sight, sight.tokens, [shorter], torch.tensor([reply]))[0])
    without = sum(float(logits[place, token]) for place, token in enumerate(reply))
    assert float(found.word_drops[0, 3]) == pytest.approx(float(found.scores[0, 0]) - without, abs=1e-4)
    assert float(found.word_gradients.abs().sum()) > 0


def test_what_words_add_to_first_order_is_that_of_a_hook_in_float64(folder, photo):
    answerer = vqa.load(f"hf:{folder}")
    model = answerer.network.model
    model.module.double()
    found = answerer.explain(photo, QUESTION, answers="a dog", methods="hirescam")
    reply, asked = model.prompts.reply("a dog").tokens, model.prompts.read(QUESTION)
    inputs, start = _plain(model, photo, QUESTION, list(reply))
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    kept = []

    def keep(module, given, output):
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()

    handle = model.module.get_input_embeddings().register_forward_hook(keep)
    with torch.enable_grad():
        logits = _centred(model.module(**inputs, use_cache=False).logits[0])
    handle.remove()
    (gradient,) = torch.autograd.grad(sum(logits[start + i - 1, token] for i, token in enumerate(reply)), kept[0])
    added = (gradient * kept[0].detach()).sum(-1)[0]
    behind = start - len(asked.tokens)  # so much longer is the row with the image's tokens
    expected = [float(added[behind + first : behind + last].sum()) for first, last in asked.spans]
    assert found.word_gradients[0].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_half_precision_gives_nearly_the_same(folder, photo):
    whole = vqa.load(f"hf:{folder}").explain(photo, QUESTION, answers="a dog", methods="hirescam")
    for dtype in ("float16", "bfloat16"):
        answerer = vqa.load(f"hf:{folder}", dtype=dtype)
        assert answerer.network.model.dtype == getattr(torch, dtype)
        half = answerer.explain(photo, QUESTION, answers="a dog", methods="hirescam")
        torch.testing.assert_close(half.scores, whole.scores, rtol=0.1, atol=0.1)
        assert half.maps["hirescam"].isfinite().all()


def test_an_explanation_says_how_the_tokens_lie(folder, photo, tmp_path):
    found = captioning.load(f"hf:{folder}").explain(photo, "a dog")
    views = found.provenance["chat"]["views"]
    assert sum(view["rows"] * view["columns"] for view in views) >= 4
    assert "photograph" in found.provenance["layer"]
    found.save(tmp_path / "found.npz")
    assert type(found).load(tmp_path / "found.npz").provenance["chat"]["views"] == views


def test_methods_of_pixels_are_refused_with_those_that_work(folder, photo):
    with pytest.raises(UserError, match="hirescam"):
        captioning.load(f"hf:{folder}").explain(photo, "a dog", methods="occlusion")

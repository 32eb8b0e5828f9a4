"""What chat models can't do is said in one line, with the way out; and replies of every shape."""

import json
import shutil

import pytest
import torch
import transformers as hf
from PIL import Image

import captioning
import vqa
from common.chat import loading
from common.chat.families import FAMILIES, REFUSED, check_covered
from common.chat.prompt import Prompts
from common.errors import UserError
from common.text import spelled
from scripts import saywhy
from tests.chats import MAKERS, saved, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved("llava", tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def chat(folder):
    return loading.load(str(folder))


@pytest.fixture(scope="module")
def photo():
    return Image.effect_noise((50, 40), 90).convert("RGB")


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_every_family_listed_has_a_tested_model():
    assert set(MAKERS) == set(FAMILIES)


def _refused(capsys, *arguments):
    assert saywhy.main([*map(str, arguments)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    return line


@pytest.mark.parametrize("task", ["vqa", "caption"])
def test_models_of_other_kinds_are_refused_with_those_that_work(task, tmp_path, capsys):
    asked = [task, "data/samples/cat.jpg", *(["what?"] if task == "vqa" else []), "--out", tmp_path, "--model"]
    hf.LlamaConfig().save_pretrained(tmp_path)
    assert "'llama' model: it doesn't write about images" in _refused(capsys, *asked, f"hf:{tmp_path}")
    hf.AriaConfig().save_pretrained(tmp_path)
    line = _refused(capsys, *asked, f"hf:{tmp_path}")
    assert "no test says where its image tokens lie" in line and "blip" in line and "qwen3_vl" in line
    assert "no such folder" in _refused(capsys, *asked, "hf:./nowhere")
    assert "no config.json" in _refused(capsys, *asked, f"hf:{tmp_path.parent}")


@pytest.mark.parametrize("kind", ["InstructBlip", "Florence2", "Mllama", "Pix2Struct", "Kosmos2", "Lxmert"])
def test_models_that_are_known_and_not_covered_say_why(kind, tmp_path, capsys):
    getattr(hf, f"{kind}Config")().save_pretrained(tmp_path)
    line = _refused(capsys, "vqa", "data/samples/cat.jpg", "what?", "--out", tmp_path, "--model", f"hf:{tmp_path}")
    config = json.loads((tmp_path / "config.json").read_text())
    assert REFUSED[config["model_type"]] in line and "qwen3_vl" in line


def test_a_blip_2_on_t5_is_refused():
    config = hf.Blip2Config(text_config={"model_type": "t5"})
    with pytest.raises(UserError, match="OPT"):
        check_covered("blip-2", config, "it")


def test_options_of_chat_models_are_refused_for_others():
    with pytest.raises(UserError, match="dtype is for chat models"):
        captioning.load(dtype="float16")
    with pytest.raises(UserError, match="device-map is for chat models"):
        vqa.load(device_map="auto")


def test_a_dtype_that_is_none_is_refused(folder):
    with pytest.raises(UserError, match="bfloat16"):
        vqa.load(f"hf:{folder}", dtype="int4")


def test_a_model_without_a_chat_template_is_refused(copy):
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="chat_template.jinja"):
        vqa.load(f"hf:{copy}")


def test_a_template_that_fails_is_one_line(copy):
    (copy / "chat_template.jinja").write_text("{{ raise_exception('no images here') }}")
    with pytest.raises(UserError, match="no images here"):
        captioning.load(f"hf:{copy}")


def test_pickled_weights_are_refused(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled"):
        vqa.load(f"hf:{copy}")


def test_code_of_a_models_own_is_not_run(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "own.py").write_text("raise SystemExit('ran')")
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own"}}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError):
        vqa.load(f"hf:{copy}")


def test_too_little_memory_is_said_before_anything_is_read(folder, monkeypatch):
    monkeypatch.setattr(loading, "_free", lambda *_: (1000, "cpu"))
    monkeypatch.setattr(loading.ChatModel, "__init__", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(UserError, match="GiB are free on cpu"):
        vqa.load(f"hf:{folder}")


def test_a_library_that_is_too_old_is_one_line(folder, monkeypatch):
    monkeypatch.setattr(loading, "LIBRARY", (99, 1))
    with pytest.raises(UserError, match=f"transformers 99.1 or later, and this is {hf.__version__}"):
        vqa.load(f"hf:{folder}")


def test_a_models_size_is_that_of_its_weights_as_they_are_held(folder):
    place = loading.hub.located(str(folder))
    stored = hf.AutoModelForImageTextToText.from_pretrained(folder).state_dict().values()
    whole = sum(each.numel() * each.element_size() for each in stored)
    assert sum(loading._sizes(place, "auto")) == whole
    assert sum(loading._sizes(place, "bfloat16")) == whole // 2


def test_a_prompt_beyond_the_context_is_refused(chat, photo, monkeypatch):
    monkeypatch.setattr(chat, "longest", 60)
    sight = chat.look(photo)
    with pytest.raises(UserError, match="reads 60; ask a shorter question"):
        chat.replies(sight, chat.prompts.read("what " * 20).tokens)
    with pytest.raises(UserError, match="reads 60"):
        chat.logits(sight, sight.tokens, [chat.prompts.read("what " * 20).tokens], torch.zeros(1, 30, dtype=torch.long))


def test_tensors_of_images_are_refused(folder):
    with pytest.raises(UserError, match="give files or PIL images"):
        vqa.load(f"hf:{folder}").answer(torch.rand(2, 3, 8, 8), "what?")


def test_layers_other_than_the_seam_are_refused(folder, photo):
    with pytest.raises(UserError, match="image tokens"):
        vqa.load(f"hf:{folder}", layer="llm.3").explain(photo, "what?", answers="a dog")


def test_settings_that_give_another_number_of_tokens_are_refused(chat, photo, monkeypatch):
    monkeypatch.setattr(chat.module.config.vision_config, "patch_size", 4)
    with pytest.raises(UserError, match="made 16 tokens"):
        chat.look(photo)


def test_empty_questions_replies_and_prompts_are_refused(folder, photo):
    answerer = vqa.load(f"hf:{folder}")
    for answer in ("", "  "):
        with pytest.raises(UserError, match="empty"):
            answerer.explain(photo, "what?", answers=[answer])
    with pytest.raises(UserError):
        answerer.answer(photo, " ")
    with pytest.raises(UserError, match="prompt is empty"):
        captioning.load(f"hf:{folder}", prompt=" ")
    with pytest.raises(UserError, match="at most 100"):
        answerer.explain(photo, "what?", answers="dog " * 101)


def test_a_model_that_says_nothing_is_one_line(chat, photo, monkeypatch):
    monkeypatch.setattr(
        chat.module, "generate", lambda input_ids, **_: torch.cat([input_ids, torch.tensor([[chat.end]])], 1)
    )
    with pytest.raises(UserError, match="wrote an empty reply"):
        chat.replies(chat.look(photo), chat.prompts.read("what?").tokens)


def test_the_images_token_in_a_reply_is_refused(folder, photo):
    with pytest.raises(UserError, match="image's token"):
        vqa.load(f"hf:{folder}").explain(photo, "what?", answers="a <image> dog")


def _query(answerer, answer):
    return torch.tensor([answerer.read("what?").tokens]), torch.tensor([[answer.read.tokens]])


def test_a_reply_of_one_word_is_explained_once(folder, photo):
    found = vqa.load(f"hf:{folder}").explain(photo, "what?", answers="dog")
    assert found.names == ("dog",) and len(found.scores) == len(found.heatmaps) == len(found.word_gradients) == 1


def test_replies_are_cut_at_so_many_tokens_and_explained(folder, photo):
    answerer = vqa.load(f"hf:{folder}", max_tokens=3)
    answer = answerer.answer(photo, "what?")
    assert len(answer.read.tokens) == 3
    found = answerer.explain(photo, "what?")
    words = answer.read.words
    assert found.names == ((answer.text, *words) if len(words) > 1 else (answer.text,))
    output = answerer.network.head(answerer.encode(photo).features, _query(answerer, answer))
    assert float(found.scores[0, 0]) == pytest.approx(float(output.logits.sum()), abs=1e-3)
    assert answer.score == pytest.approx(float(output.log_probs.sum()), abs=1e-4)
    assert len(captioning.load(f"hf:{folder}").caption(photo, max_length=2).read.tokens) == 2


def test_letters_of_several_tokens_belong_to_their_word(chat):
    text = chat.prompts.reply("naïve 🙂 dog")
    assert text.words == ("naïve", "🙂", "dog")
    lengths = [stop - start for start, stop in text.spans]
    assert lengths[0] >= 5 and lengths[1] >= 4 and text.spans[-1][1] == len(text.tokens)
    assert [start for start, _ in text.spans][1:] == [stop for _, stop in text.spans][:-1]


def test_special_tokens_inside_a_reply_are_read_and_are_no_words():
    decode = {1: " a", 2: "", 3: " dog"}
    text = spelled([1, 2, 3], lambda tokens: "".join(decode[token] for token in tokens), special={2})
    assert text.words == ("a", "dog") and text.tokens == (1, 2, 3) and text.spans == ((0, 1), (2, 3))


SPACED = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: <image>\n{{ m['content'][1]['text'] }} ASSISTANT:"
    "{% else %} {{ m['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
)


def test_a_space_before_the_reply_is_the_templates(chat, monkeypatch):
    plain = chat.prompts.reply("dog").tokens
    monkeypatch.setattr(chat.processor, "chat_template", SPACED)
    spaced = Prompts(chat.processor, chat.family, "it").reply("dog").tokens
    assert list(spaced) == chat.processor.tokenizer(" dog")["input_ids"] and plain != spaced


def test_a_model_spread_over_devices_gives_the_same(folder, photo):
    pytest.importorskip("accelerate")
    one = vqa.load(f"hf:{folder}").explain(photo, "what?", answers="a dog")
    spread = vqa.load(f"hf:{folder}", device_map="auto").explain(photo, "what?", answers="a dog")
    torch.testing.assert_close(one.heatmaps, spread.heatmaps.cpu())


def test_the_commands_write_records_pictures_and_pages(folder, tmp_path, capsys):
    asked = [
        "--model",
        f"hf:{folder}",
        "--out",
        str(tmp_path),
        "--methods",
        "hirescam,token-occlusion",
        "--html",
        "--json",
    ]
    photo = "data/samples/cat.jpg"
    assert saywhy.main(["vqa", photo, "what is the dog?", "--reply", "a red dog", *asked]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [target["name"] for target in said["targets"]] == ["a red dog", "a", "red", "dog"] and said["written"]
    assert saywhy.main(["caption", photo, "--caption", "a dog", "--phrase", "a cat", "--prompt", "what?", *asked]) == 0
    assert json.loads(capsys.readouterr().out)["caption"] == "a dog"
    assert len(list(tmp_path.iterdir())) == 8


def test_a_batch_of_photographs_becomes_rows(folder, tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    photos = ["data/samples/cat.jpg", "data/samples/duck.jpg"]
    asked = ["--model", f"hf:{folder}", "--workers", "1", "--methods", "hirescam", "--quiet"]
    assert saywhy.main(["batch", "caption", *photos, *asked, "--out", str(tmp_path / "c")]) == 0
    question = ["--question", "what is it?"]
    assert saywhy.main(["batch", "vqa", *photos, *asked, *question, "--out", str(tmp_path / "v")]) == 0
    capsys.readouterr()
    for out in ("c", "v"):
        found = [row for file in (tmp_path / out).rglob("*.parquet") for row in parquet.read_table(file).to_pylist()]
        rows = [row for row in found if "maps" in row]
        assert len(rows) == 2 and all(row["maps"]["hirescam"]["shape"][0] == len(row["names"]) for row in rows), rows


def test_the_families_are_listed(capsys):
    assert saywhy.main(["models", "--family", "chat", "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["family"] for each in listed] == list(FAMILIES) and all(each["tokens"] for each in listed)


def test_token_occlusion_at_the_seam_is_a_difference_of_passes(folder, photo):
    answerer, square = vqa.load(f"hf:{folder}"), photo.resize((60, 60))  # all of it is seen, as 4 x 4 tokens
    found = answerer.explain(square, "what?", answers="a dog", methods="token-occlusion").maps["token_occlusion"]
    chat = answerer.network.model
    sight, reply = chat.look(square), chat.prompts.reply("a dog").tokens
    asked = [chat.prompts.read("what?").tokens], torch.tensor([reply])
    assert found.shape == (3, 1, 4, 4)
    for place in (0, 6, 15):
        features = sight.tokens.clone()
        features[place] = sight.tokens.mean(0)
        with torch.no_grad():
            logits = [chat.logits(sight, each, *asked)[0] for each in (sight.tokens, features)]
            pair = [each - each.mean(-1, keepdim=True) for each in logits]
        whole, without = (sum(float(one[i, token]) for i, token in enumerate(reply)) for one in pair)
        assert float(found[0, 0, place // 4, place % 4]) == pytest.approx(whole - without, abs=1e-4)


def test_the_tokenizer_of_the_tests_is_of_bytes():
    assert len(tokenizer()("🙂")["input_ids"]) == 4

"""Folders of `transformers` models that were edited, or put together of two models; and texts without end for them."""

import json
import math
import shutil
import time
import warnings

import pytest
import torch
import transformers
from PIL import Image

import captioning
import classification
import vqa
from common.errors import UserError
from common.images import Preprocessing
from common.networks import hub
from tests import chats
from tests import test_caption_adapters as captioners
from tests import test_transformers_classifiers as classifiers
from tests import test_vqa_adapters as answerers

NUMBERS = [None, True, "x", "", [], {}, [[]], -1, 0, 1e300, 10**400, 60_000, math.nan, math.inf]
ENTRIES = {
    "size": [*NUMBERS, *({"height": value, "width": 32} for value in NUMBERS), {"shortest_edge": 60_000}, {"x": 5}],
    "crop_size": [*NUMBERS, *({"height": 32, "width": value} for value in NUMBERS)],
    "image_mean": [*NUMBERS, [math.nan] * 3, [0.5] * 4, ["a"] * 3, [[0.5]] * 3, [1e300] * 3, [None] * 3],
    "image_std": [*NUMBERS, [0.0] * 3, [-1.0] * 3, [math.nan] * 3, [1e-300] * 3, ["a"] * 3],
    "rescale_factor": NUMBERS,
    "resample": [*NUMBERS, 99, -3],
    "do_resize": NUMBERS,
    "do_normalize": NUMBERS,
    "do_center_crop": NUMBERS,
    "image_processor_type": [None, 5, "Nothing", "../../x", [], "__import__"],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders with a classifier, a captioner and two VQA models, tiny and random."""
    root = tmp_path_factory.mktemp("hostile")
    classifiers.saved(root / "classifier", "vit")
    torch.manual_seed(0)
    words = captioners._tokenizer("<s>", "</s>")
    made = {"captioner": (captioners._encoder_decoder, words)}
    made |= {
        kind: (build, answerers._tokenizer()) for kind, build in (("vilt", answerers._vilt), ("blip", answerers._blip))
    }
    for name, (build, tokenizer) in made.items():
        build(tokenizer if name == "captioner" else len(tokenizer)).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def photo():
    return Image.new("RGB", (40, 30), (200, 100, 0))


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_of_a_processor_is_followed_or_refused_by_its_files_name(entry, places):
    file = places / "classifier" / "preprocessor_config.json"
    config, whole = transformers.AutoConfig.from_pretrained(places / "classifier"), file.read_text()
    try:
        for value in ENTRIES[entry]:
            file.write_text(json.dumps({**json.loads(whole), "do_center_crop": entry == "crop_size", entry: value}))
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    found = hub._saved_preprocessing(hub.located(str(places / "classifier")), config)
                    assert isinstance(found, Preprocessing)
                except UserError as problem:
                    assert "\n" not in str(problem) and str(places) in str(problem), value
    finally:
        file.write_text(whole)


@pytest.mark.parametrize("content", ["", "{", "[]", "5", "null", "[" * 100_000, "\x00"])
def test_a_processor_that_is_none_is_not_taken_for_a_missing_one(content, places, tmp_path):
    shutil.copytree(places / "classifier", tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text(content)
    with warnings.catch_warnings(), pytest.raises(UserError):
        warnings.simplefilter("error")
        classification.load(f"hf:{tmp_path / 'model'}")


def grown(folder, target, names):
    """A copy of a folder whose tokenizer writes what is in its corpus with tokens that the model doesn't know."""
    shutil.copytree(folder, target)
    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    tokenizer.add_tokens(names)
    tokenizer.save_pretrained(target)
    return f"hf:{target}"


def test_a_tokenizer_of_another_model_is_named(places, photo, tmp_path):
    captioner = captioning.load(grown(places / "captioner", tmp_path / "captioner", ["frisbee"]))
    captioner.explain(photo, "a dog")
    with pytest.raises(UserError, match=r"writes token \d+, and the model knows \d+: files of two models"):
        captioner.explain(photo, "a frisbee")
    for kind in ("vilt", "blip"):
        answerer = vqa.load(grown(places / kind, tmp_path / kind, ["frisbee"]))
        with pytest.raises(UserError, match="files of two models"):
            answerer.explain(photo, "is there a frisbee", "yes")
    with pytest.raises(UserError, match="files of two models"):
        answerer.explain(photo, "is there a cat", "frisbee")


@pytest.mark.parametrize("text", ["x" * 100_000, "dog " * 5000, "x" * 2001, "\u65e5" * 20_000, "a\u0301" * 50_000])
def test_texts_without_end_are_refused_at_once(text, places, photo):
    captioner = captioning.load(f"hf:{places / 'captioner'}")
    models = {kind: vqa.load(f"hf:{places / kind}") for kind in ("vilt", "blip")}
    began = time.process_time()
    with pytest.raises(UserError):
        captioner.explain(photo, text)
    with pytest.raises(UserError):
        captioner.explain(photo, "a dog", phrases=[text])
    for answerer in models.values():
        with pytest.raises(UserError):
            answerer.explain(photo, text * 10, "yes")
    with pytest.raises(UserError):
        models["blip"].explain(photo, "is there a cat", text)
    with pytest.raises(UserError):
        models["vilt"].explain(photo, "is there a cat", text)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("file", "entry", "value"),
    [
        *(("generation_config.json", "eos_token_id", value) for value in ([[]], "x", -1, 10**9, 10**400, [5, None])),
        ("processor_config.json", "processor_class", "Nothing"),
    ],
)
def test_a_chat_models_folder_that_was_edited_is_told_in_a_line(file, entry, value, tmp_path):
    chats.saved("llava", tmp_path)
    record = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps({**record, entry: value}))
    with pytest.raises(UserError) as raised:
        captioning.load(f"hf:{tmp_path}")
    assert "\n" not in str(raised.value)


def test_a_chat_models_prompt_with_tokens_it_does_not_know_is_told_in_a_line(tmp_path, photo):
    chats.saved("llava", tmp_path / "own")
    answerer = vqa.load(grown(tmp_path / "own", tmp_path / "grown", [f"zeppelin{number}" for number in range(500)]))
    with pytest.raises(UserError, match="its tokenizer writes token .* files of two models"):
        answerer.answer(photo, "a zeppelin499 ?")
    with pytest.raises(UserError, match="files of two models"):
        answerer.explain(photo, "a zeppelin499 ?", answers="dog")

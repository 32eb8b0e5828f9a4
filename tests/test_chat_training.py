"""Training the small chat model: packed rows are plain passes, what is held stays out, plain transformers loads it."""

import copy
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from PIL import Image

import vqa
from captioning.chat import PROMPT
from common.errors import UserError
from common.networks.trunk import SeeingTrunk, load_trunk
from common.training.store import FeatureStore
from common.training.summaries import FILE, Summaries
from common.training.trunks import load_seeing_trunk, save_seeing_trunk
from data.words.coco_classes import CLASSES
from scripts.chat.build import build, put_trunk
from scripts.chat.corpus import Corpus, Said, drawn
from scripts.chat.maps import image_tokens, read_folds, token_store
from scripts.chat.packed import Packer, states
from scripts.chat.settings import Settings
from scripts.chat.train import train_chat
from tests import coco_copy, flickr

TINY = Settings(
    width=32,
    blocks=2,
    heads=2,
    vocabulary=330,
    batch=4,
    texts=3,
    text_epochs=1,
    image_epochs=2,
    average=0.5,
    blind=0.34,
)
SAID = [Said("What is this?", "a dog on the grass"), Said("is it red?", "no"), Said(PROMPT, "two dogs")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trunk's run, on a small network of timm with random weights."""
    folder = tmp_path_factory.mktemp("trunk")
    torch.manual_seed(0)
    network = load_trunk("timm:test_efficientnet", random_weights=True)
    words = [*CLASSES, "red", "green", "square"]
    trunk = SeeingTrunk.of(network, words, len(CLASSES))
    trunk.network.train()(torch.rand(16, 3, 160, 160) * 4 - 2)  # means and spreads of its batch norms
    save_seeing_trunk(folder / "trunk", trunk.eval(), {"network": "timm:test_efficientnet"})
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    coco, photos = coco_copy.make(folder / "coco"), flickr.make(folder / "flickr8k")
    return [f"flickr8k:{photos}", f"coco:{coco}", f"boxes:{coco}"]


@pytest.fixture(scope="module")
def made(folder):
    torch.manual_seed(1)
    model, processor = build(load_seeing_trunk(folder), [f"{each.prompt} {each.reply}" for each in SAID] * 9, TINY)
    with torch.no_grad():  # so that words and image matter
        for parameter in [*model.model.language_model.parameters(), *model.model.multi_modal_projector.parameters()]:
            parameter.mul_(1 if parameter.dim() == 1 else 6)
    return model, processor


@pytest.mark.parametrize("image", [True, False])
def test_packed_rows_are_plain_passes_of_the_template(made, image):
    model, processor = made
    photo = Image.effect_noise((90, 60), 80).convert("RGB")
    packer = Packer(processor.tokenizer, model.config.image_seq_length)
    pixels = processor.image_processor([photo], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        tokens = model.model.vision_tower(pixels).last_hidden_state.flatten(2).transpose(1, 2)
        pack = packer.pack([[packer.ids(said) for said in SAID], [packer.ids(SAID[1])]], image)
        found = F.linear(states(model, pack, tokens.expand(2, -1, -1) if image else None), model.lm_head.weight)
        expected = torch.cat([_plain(model, processor, photo if image else None, said) for said in (*SAID, SAID[1])])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert pack.told.tolist() == [token for said in (*SAID, SAID[1]) for token in packer.ids(said)[1]]


def _plain(model, processor, photo, said):
    """The model's own logits of what follows at each token of a reply and at its end."""
    content = [*([{"type": "image"}] if photo else []), {"type": "text", "text": said.prompt}]
    reply = {"role": "assistant", "content": [{"type": "text", "text": said.reply}]}
    whole = processor.apply_chat_template([{"role": "user", "content": content}, reply])
    inputs = processor(images=[photo] if photo else None, text=[whole], return_tensors="pt")
    asked = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    start = processor(images=[photo] if photo else None, text=[asked], return_tensors="pt")["input_ids"].shape[1]
    return model(**inputs).logits[0, start - 1 : -1]


def test_nothing_held_is_trained_on(data):
    corpus = Corpus.read(data, alike=1)
    held = {"coco:0", *(f"coco:{number}" for number in range(12, 16))}  # captioned, and the validation split
    assert not held & corpus.files.keys() and {q.image_id for q in corpus.val} <= held
    assert not {subject.image_id for subject in corpus.dev} & corpus.files.keys() and len(corpus.dev) == 4
    assert sum(key.startswith("flickr8k") for key in corpus.files) == 12 and len(corpus.others) == 12


def test_photographs_without_captions_borrow_them_of_the_same_classes(data):
    texts = Corpus.read(data, alike=1).texts["coco:1"]  # a cat
    assert Said(PROMPT, "a cat on a street", derived=True) in texts
    assert {said.prompt for said in texts} > {PROMPT}
    assert all(said.derived for said in Corpus.read(data, alike=0).texts["coco:1"] if said.prompt != PROMPT)
    assert not any(said.prompt == PROMPT for said in Corpus.read(data, alike=0).texts["coco:1"])


def test_what_people_said_comes_before_derived_questions():
    import random

    texts = [Said("a?", "1", True), Said("b?", "2"), Said("c?", "3", True), Said(PROMPT, "4", True)]
    for seed in range(9):
        assert {said.reply for said in drawn(texts, 2, random.Random(seed))} == {"2", "4"}


def test_a_trained_model_is_one_of_plain_transformers(data, folder, tmp_path):
    path = train_chat(data, tmp_path / "run", TINY, trunk=folder)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["stage"] for record in log] == ["texts", "images", "images"]
    assert log[2]["loss"] < log[0]["loss"] and 0 <= log[2]["val_boxes"] <= 1 and log[2]["val_captions_loss"] > 0
    model = hf.AutoModelForImageTextToText.from_pretrained(path)
    assert type(model).__module__.startswith("transformers.")
    trunk, photo = load_seeing_trunk(folder), next((tmp_path.parent).rglob("COCO_*.jpg"), None)
    photo = photo or next(iter(Corpus.read(data).files.values()))
    tower = model.model.vision_tower
    pixels = trunk.preprocessing(photo)
    torch.testing.assert_close(tower(pixels).last_hidden_state, trunk.features(pixels))
    found = vqa.load(f"hf:{path}").explain(photo, "is there a dog?", answers="yes", methods="hirescam")
    assert found.maps["hirescam"].shape == (1, 1, 5, 5) and found.provenance["chat"]["family"] == "fast_vlm"
    before = (path / "model.safetensors").read_bytes()
    assert train_chat(data, tmp_path / "run", TINY, trunk=folder) == path  # a finished run is not trained again
    assert (path / "model.safetensors").read_bytes() == before
    with pytest.raises(UserError, match="texts = 3, not 4"):
        train_chat(data, tmp_path / "run", replace(TINY, texts=4), trunk=folder)


def test_photographs_that_the_trunk_was_trained_on_are_seen_by_one_that_was_not(data, folder, made, tmp_path):
    run, trunk = tmp_path / "trunk", load_seeing_trunk(folder)
    run.mkdir()
    for name in ("trunk.json", "trunk.safetensors"):
        (run / name).write_bytes((folder / name).read_bytes())
    other = copy.deepcopy(trunk)
    with torch.no_grad():
        other.network.conv_stem.weight.mul_(-1)
    (run / "fold-1").mkdir()
    torch.save({"module": other.state_dict()}, run / "fold-1" / "state.pt")
    files = dict(list(Corpus.read(data).files.items())[:3])
    seen, new, _ = files
    with FeatureStore.open(run / FILE, [seen], (2, trunk.evidence.size), trunk.fingerprint) as store:
        store.fill(lambda names: torch.zeros(len(names), 2, trunk.evidence.size).numpy())
    model, processor = copy.deepcopy(made[0]), made[1]
    store = token_store(model, processor, Summaries.open(run, tmp_path), files, read_folds(run, trunk))
    found = {image_id: store.read(store.rows([image_id]))[0] for image_id in files}
    for image_id, by in ((seen, other), (new, trunk)):
        put_trunk(model, by)
        assert (found[image_id] == image_tokens(model, processor, [files[image_id]])[0]).mean() > 0.95
    put_trunk(model, trunk)
    assert (found[seen] != image_tokens(model, processor, [files[seen]])[0]).mean() > 0.3


def test_a_trunk_that_is_no_network_of_timms_is_refused(tmp_path):
    trunk = SeeingTrunk.of(load_trunk("small_cnn"), ["red"], 0)
    with pytest.raises(UserError, match="timm"):
        build(trunk, ["a dog"], TINY)

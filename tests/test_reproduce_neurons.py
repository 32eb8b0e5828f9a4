"""Figure 9 for all three tasks on tiny models, and names of neurons from published files."""

import pytest
import torch

from captioning.captioner import Captioner
from captioning.network import LstmNetwork
from common.checks.dissection import NeuronName
from common.errors import UserError
from common.images import Preprocessing
from scripts.experiments import figure9, figure10
from scripts.experiments.scenes import scenes
from tests.captioners import small
from tests.test_reproduce import classifier, flickr_folder, lab, parsed, sample_folder  # noqa: F401
from tests.test_vqa_explain import answerer  # noqa: F401

HALF = (0.5, 0.5, 0.5)


@pytest.fixture
def speaking(lab, answerer):  # noqa: F811
    """The lab with a tiny captioner and a tiny VQA model."""
    network = LstmNetwork(small(dtype=torch.float32, preprocessing=Preprocessing((32, 32), HALF, HALF)))
    lab.shared["captioner"], lab.shared["VQA model"] = Captioner(network), answerer
    return lab.on("flickr8k")


def test_all_three_tasks_are_explained_in_words(speaking):
    section = figure9.section(speaking)
    titles = [table.title for table in section.tables]
    assert [title.split("'s")[0].rpartition(" ")[2] for title in titles] == ["classifier", "captioner", "model"]
    assert all(table.rows[0].n > 0 and table.substitute for table in section.tables)
    captions = [picture.caption for picture in section.pictures]
    for context in ("Classifier, the class: ", "Captioner, the caption: ", "VQA model, the answer to "):
        assert any(caption.startswith(context) for caption in captions), context
    assert not section.notes


def test_a_model_that_is_missing_is_named_and_the_others_are_done(speaking, monkeypatch):
    def missing(**options):
        raise UserError("no checkpoint")

    del speaking.shared["captioner"]
    monkeypatch.setattr("captioning.load", missing)
    section = figure9.section(speaking)
    assert (
        section.notes == ["Left out: no captioner (no checkpoint); train one with `saywhy train captioner`"]
        and len(section.tables) == 2
    )


def test_importance_of_a_word_is_the_mean_gradient_of_its_logit(speaking):
    scene = scenes(speaking, "dev", 1)[0][0]
    model = speaking.shared["captioner"]
    seen = model.encode(scene.path)
    caption = model.caption(seen)
    whole, *word = figure9.decisions("captioner", model, scene.path, set(caption.words))
    assert whole.said == caption.text and word[0].said == caption.words[0]
    # The logit of the first word changes with each unit's mean as its importance says (a central
    # difference; the head reads the map through its mean).
    A, step = seen.features, 1e-2
    units = range(A.shape[1])
    shifted = torch.cat(
        [A + sign * step * torch.eye(len(units))[k][None, :, None, None] for k in units for sign in (1, -1)]
    )
    query = torch.tensor([[[*caption.read.tokens]]]).expand(1, len(shifted), -1)
    with torch.no_grad():
        scores = model.network.head(shifted, query).logits[0, :, 0]
    slopes = torch.tensor([(scores[2 * k] - scores[2 * k + 1]) / (2 * step) for k in units])
    positions = A.shape[-1] * A.shape[-2]
    torch.testing.assert_close(word[0].alpha * positions, slopes, atol=2e-3, rtol=2e-2)


def test_published_names_are_used_instead_of_dissection(speaking, tmp_path):
    file = tmp_path / "tally.csv"
    file.write_text("unit,category,label,score\n1,object,dog,0.3\n3,object,cat,0.2\n4,object,sky,0.01\n")
    speaking.neuron_names = file
    names, table = figure9.named(speaking, "classifier", 8)
    assert names == {0: NeuronName(0, "dog", 0.3, "object"), 2: NeuronName(2, "cat", 0.2, "object")}
    assert table.rows[0].ours == 2 and table.data == "names from tally.csv"
    assert not (speaking.out / "cells" / "units-classifier.json").exists()


def test_names_of_a_larger_layer_are_refused(speaking, tmp_path):
    file = tmp_path / "names.csv"
    file.write_text("layer,unit,description,similarity\nlayer4,0,dog,0.3\nlayer4,99,cat,0.2\nlayer3,0,sky,0.2\n")
    speaking.neuron_names, speaking.neuron_layer = file, "layer4"
    with pytest.raises(UserError, match="unit 99 has a name, but the layer has units 0 to 11"):
        figure9.section(speaking)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "columns a, b"), ("layer,unit,description,similarity\nx,0,d,1\ny,0,d,1\n", "name one of them")],
)
def test_names_that_cannot_be_read_stop_the_command_at_once(text, message, tmp_path):
    (tmp_path / "names.csv").write_text(text)
    args = parsed("--out", str(tmp_path / "report"), "--neuron-names", str(tmp_path / "names.csv"))
    with pytest.raises(UserError, match=message):
        args.run(args)
    assert not (tmp_path / "report" / "cells").exists()


def test_boxes_of_another_phrase_are_those_of_the_next_one(speaking):
    from common.metrics.grounding import inside_outside, summary
    from data.readers import entities, flickr8k

    folder, model = speaking.need("flickr8k"), speaking.shared["captioner"]
    items = figure10.moved(figure10.in_context(model.network, folder, "dev", 4))
    found = figure10.measure(model, items, ("gradcam",))["gradcam"]
    ratios = []
    for image in flickr8k.read(folder, "dev")[:4]:
        (caption,) = entities.read(folder / "flickr30k_entities", image.name)
        first, second = caption.phrases
        texts = [" ".join(phrase.words) for phrase in (first, second)]
        said = " ".join(caption.tokens)
        maps = model.explain(image.path, said, phrases=texts, score="log_probability").heatmaps[-2:, 0]
        ratios += inside_outside(maps, [second.boxes, first.boxes]).tolist()
    expected = summary(ratios)
    assert found["n"] == expected.n and found["n"] + found["left_out"] == 8
    assert found["mean"] == pytest.approx(expected.mean, rel=1e-4)

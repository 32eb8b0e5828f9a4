"""Figure 9 for all three tasks on tiny models, and names of neurons from published files."""

import pytest
import torch

from captioning.captioner import Captioner
from captioning.network import LstmNetwork
from common.checks.dissection import NeuronName
from common.errors import UserError
from common.images import Preprocessing
from scripts.experiments import figure9, figure10
from scripts.experiments.concepts import seen_photographs
from scripts.experiments.scenes import scenes
from tests.captioners import small
from tests.test_reproduce import classifier, flickr_folder, lab, parsed, sample_folder  # noqa: F401
from tests.test_reproduce_layouts import coco_folder, scene, voc_folder  # noqa: F401
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
    *units, held = section.tables
    titles = [table.title for table in units]
    assert [title.split("'s")[0].rpartition(" ")[2] for title in titles] == ["classifier", "captioner", "model"]
    assert all(table.rows[0].n > 0 and table.substitute for table in units)
    assert len(held.rows) == 3 and all(0 <= row.ours <= 1 for row in held.rows)
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
        and len(section.tables) == 3
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


def test_a_decision_is_put_in_words_only_where_named_units_hold_a_third_of_the_importance():
    names = {0: NeuronName(0, "dog", 0.3), 2: NeuronName(2, "grass", 0.2)}
    told = {
        alpha: figure9.told(figure9.Decision("the class", "beagle", torch.tensor(alpha), torch.zeros(3, 1, 1)), names)
        for alpha in ((0.3, 0.3, -0.1), (0.1, 0.8, 0.1))
    }
    first, second = told.values()
    assert first == "'beagle' because of dog; grass speaks against it (units with a name hold 57% of the importance)"
    assert second == "'beagle' cannot be said in these names: units with a name hold 20% of the importance"


def test_units_are_named_by_vocs_masks_and_cocos_boxes_as_well(speaking, voc_folder, coco_folder):  # noqa: F811
    """A dog that is a red square: its mask is where it is, and a unit takes the best of its names."""
    speaking.data |= {"voc": voc_folder, "coco": coco_folder}
    for kind, broken in (("voc", 0), ("coco", 0)):
        seen, left_out = seen_photographs(speaking, kind, 6)
        _, places = scene(int(seen[1].path.stem.rpartition("_")[2]))
        assert set(seen[1].masks()) == set(places) and left_out == broken
        x0, y0, x1, y1 = (round(v * 56 / 120) for v in places["dog"])
        mask = seen[1].masks()["dog"]
        assert mask[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].all() and not mask[y1 + 2 :].any()
    names, table = figure9.named(speaking, "classifier", 6)
    assert [row.what.partition(", ")[0] for row in table.rows[::2]] == ["named units"] * 4
    assert table.rows[6].ours == len(names) / 12 >= max(row.ours for row in table.rows[:6:2])
    best = figure9.best_names([NeuronName(1, "dog", 0.2), NeuronName(1, "cat", 0.4), NeuronName(1, "sky", 0.3)])
    assert best == {1: NeuronName(1, "cat", 0.4)}

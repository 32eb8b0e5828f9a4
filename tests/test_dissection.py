"""Names for neurons: thresholds, overlaps, sentences and the published CSV files."""

import numpy as np
import pytest
import torch

from common.checks import dissection
from common.errors import UserError
from common.formulas import upsample

NETDISSECT = """\
unit,category,label,score,object-label,object-truth,object-activation,object-intersect,object-iou
1,part,body,0.042096571,bottle,940208,1565862,87077,0.03599721
2,texture,freckled,0.127612946,bottle,940208,2342838,96884,0.030407744
4,object,pool table,0.081743375,pool table,435101,2524577,223652,0.081743375
10,scene,greenhouse-indoor-s,0.074728607,boat,1245134,2712598,98747,0.025588853
11,scene,game_room-s,0.074728607,boat,1245134,2712598,98747,0.025588853
"""
CLIP_DISSECT = """\
layer,unit,description,similarity
conv1,0,red,0.25616455
conv1,1,snorkeling,0.25076294
layer4,0,dog,0.5
"""


def test_thresholds_are_the_quantiles_of_sorted_values():
    activations = torch.rand(5, 3, 4, 10, generator=torch.Generator().manual_seed(0))
    found = dissection.firing_thresholds(activations, 0.02)
    for unit in range(3):
        values = sorted(activations[:, unit].flatten().tolist(), reverse=True)
        assert found[unit].item() == values[3]  # 4 of 200 positions
        assert (activations[:, unit] >= found[unit]).sum() == 4
    assert torch.equal(dissection.firing_thresholds(activations, 1e-9), activations.amax((0, 2, 3)))


def test_overlaps_equal_counting_pixel_by_pixel():
    generator = torch.Generator().manual_seed(1)
    activations = torch.rand(3, 2, 3, 3, generator=generator)
    masks = [
        {"dog": torch.rand(6, 6, generator=generator) > 0.5, "sky": torch.rand(6, 6, generator=generator) > 0.7},
        {"dog": torch.rand(6, 6, generator=generator) > 0.5},
        {},
    ]
    thresholds = dissection.firing_thresholds(activations, 0.2)
    counts = dissection.Overlaps(thresholds)
    for image, concepts in zip(activations, masks, strict=True):
        counts.add(image, concepts, (6, 6))
    found = counts.overlaps()
    for unit in range(2):
        for place, concept in enumerate(counts.concepts):
            both = either = 0
            for image, concepts in zip(activations, masks, strict=True):
                fires = upsample(image[None], (6, 6))[0, unit] >= thresholds[unit]
                mask = concepts.get(concept, torch.zeros(6, 6, dtype=torch.bool))
                both += int((fires & mask).sum())
                either += int((fires | mask).sum())
            assert found[unit, place].item() == pytest.approx(both / either)


def test_a_silent_unit_overlaps_nothing():
    counts = dissection.Overlaps(torch.zeros(1))
    counts.add(torch.zeros(1, 2, 2), {"dog": torch.ones(4, 4, dtype=torch.bool)}, (4, 4))
    assert counts.overlaps().tolist() == [[0.0]]
    assert dissection.Overlaps(torch.zeros(2)).overlaps().shape == (2, 0)


def test_a_unit_is_named_by_its_best_concept_if_that_is_good_enough():
    overlaps = torch.tensor([[0.04, 0.2], [0.06, 0.0], [0.01, 0.049]])
    names = dissection.name_units(overlaps, ["dog", "sky"])
    assert {unit: name.concept for unit, name in names.items()} == {0: "sky", 1: "dog"}
    assert dissection.name_units(torch.zeros(2, 0), []) == {}


def named(*words):
    return {unit: dissection.NeuronName(unit, word, 0.1) for unit, word in enumerate(words) if word}


def test_the_sentence_names_top_and_bottom_units_once():
    names = named("bed", "lamp", "bed", "sky", "grass", None, "car")
    alpha = torch.tensor([3.0, 2.0, 1.0, -2.0, -1.0, 99.0, 0.0])
    found = dissection.reasons(alpha, names)
    assert [name.unit for name, _ in found.for_it] == [0, 1, 2]
    assert [name.unit for name, _ in found.against_it] == [3, 4]
    assert found.share == pytest.approx(9 / 108) and dissection.reasons(alpha, {}).share == 0
    assert found.sentence("bedroom") == "'bedroom' because of bed and lamp; sky and grass speak against it"
    assert dissection.reasons(alpha, names, 1).sentence("x") == "'x' because of bed; sky speaks against it"
    assert dissection.reasons(-alpha.abs(), named("bed")).sentence("x") == "'x' although bed speaks against it"
    assert "none of the important neurons" in dissection.reasons(alpha, {}).sentence("x")


def test_top_units_are_those_of_a_sort():
    alpha = torch.randn(40, generator=torch.Generator().manual_seed(2))
    names = named(*[f"w{i}" for i in range(40)])
    order = np.argsort(alpha.numpy())
    found = dissection.reasons(alpha, names)
    assert [name.unit for name, _ in found.for_it] == order[::-1][:5].tolist()
    assert [name.unit for name, _ in found.against_it] == order[:5].tolist()


def test_netdissects_csv_counts_from_one_and_marks_scenes(tmp_path):
    path = tmp_path / "layer4-result.csv"
    path.write_text(NETDISSECT)
    names = dissection.read_names(path)
    assert sorted(names) == [1, 3, 9, 10]  # unit 1 is below 0.05
    assert names[3] == dissection.NeuronName(3, "pool table", 0.081743375, "object")
    assert names[9].concept == "greenhouse-indoor" and names[10].concept == "game room"
    assert 0 in dissection.read_names(path, least=0.04)


def test_clip_dissects_csv_counts_from_zero_by_layer(tmp_path):
    path = tmp_path / "descriptions.csv"
    path.write_text(CLIP_DISSECT)
    names = dissection.read_names(path, layer="conv1")
    assert names[1] == dissection.NeuronName(1, "snorkeling", 0.25076294)
    assert dissection.read_names(path, layer="layer4", least=0.6) == {}
    with pytest.raises(UserError, match="conv1, layer4"):
        dissection.read_names(path)
    with pytest.raises(UserError, match="'fc'"):
        dissection.read_names(path, layer="fc")


def test_broken_files_are_named_with_their_line(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("unit,category,label,score\n1,object,dog,0.1\ntwo,object,cat,0.2\n")
    with pytest.raises(UserError, match=r"names\.csv:3: unit and score are \['two', '0\.2'\]"):
        dissection.read_names(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="columns a, b; expected unit"):
        dissection.read_names(path)
    with pytest.raises(UserError, match="cannot read neuron names"):
        dissection.read_names(tmp_path / "absent.csv")


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="give \\(N, K, h, w\\)"):
        dissection.firing_thresholds(torch.zeros(3, 2))
    with pytest.raises(UserError, match="between 0 and 1, not 2"):
        dissection.firing_thresholds(torch.zeros(1, 1, 2, 2), 2)
    with pytest.raises(UserError, match="unit 1 has a name"):
        dissection.reasons(torch.zeros(1), named("a", "b"))

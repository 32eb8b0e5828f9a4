"""An explanation saves and loads, gives up single images, and files are never half-written."""

import json
import os

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.explanation import Explanation
from common.files import atomic_path, write_json
from common.gradcam import explain
from tests.nets import Plain, seeded
from tests.test_gradcam import images_of


@pytest.mark.parametrize("batch", [1, 3])
def test_saving_and_loading_gives_the_same_explanation(tmp_path, batch) -> None:
    made = explain(seeded(Plain), images_of(batch), [0, 3], methods=("gradcam", "guided"))
    made.save(tmp_path / "e.npz")
    found = Explanation.load(tmp_path / "e.npz")
    assert found.names == made.names == ("0", "3")
    assert torch.equal(found.scores, made.scores)
    assert torch.equal(found.heatmaps, made.heatmaps) and torch.equal(found.guided, made.guided)
    assert found.provenance["layer"] == "features"
    assert found.provenance["versions"]["torch"] == torch.__version__.split("+")[0]


def test_arrays_are_float32_and_a_single_image_has_no_batch_axis() -> None:
    made = explain(seeded(Plain), images_of(1), [0, 3], methods=("gradcam", "guided"))
    assert {name: (array.shape, array.dtype.name) for name, array in made.arrays().items()} == {
        "heatmaps": ((2, 6, 6), "float32"),
        "guided": ((2, 3, 12, 12), "float32"),
    }


def test_an_image_of_a_batch_is_its_own_explanation() -> None:
    network, images = seeded(Plain), images_of(3)
    one = explain(network, images, [1]).image(-1)
    assert torch.allclose(one.heatmaps, explain(network, images[2:], [1]).heatmaps, atol=1e-6)
    with pytest.raises(IndexError, match="image 3 of an explanation of 1"):
        one.image(3)


def test_a_method_that_was_not_asked_for_is_named_with_those_that_were() -> None:
    with pytest.raises(AttributeError, match="no 'guided'; it has gradcam"):
        _ = explain(seeded(Plain), images_of(), [1]).guided


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04broken"])
def test_a_file_that_is_no_explanation_is_refused(tmp_path, content) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UserError, match="not a saved explanation"):
        Explanation.load(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", heatmaps=np.zeros(3))
    with pytest.raises(UserError, match="not a saved explanation"):
        Explanation.load(tmp_path / "y.npz")


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    write_json(tmp_path / "a.json", {"kept": 1})
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads((tmp_path / "a.json").read_text()) == {"kept": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write '.*a.json'.*choose another folder"):
        write_json(tmp_path / "file" / "a.json", {})


def test_written_files_have_the_permissions_of_any_other_file(tmp_path) -> None:
    write_json(tmp_path / "a.json", {})
    (tmp_path / "b").write_text("")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b").stat().st_mode

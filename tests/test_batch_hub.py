"""Photographs of data sets that `datasets` loads: made here, read without a network."""

import numpy as np
import pytest
from PIL import Image

datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'saywhy[hf]'")
pytest.importorskip("pyarrow")

from common.errors import UserError  # noqa: E402
from scripts.batch import hub, store  # noqa: E402
from scripts.batch.inputs import items, sources  # noqa: E402
from tests.test_batch import done  # noqa: E402


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """A cache of the test's own, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "SPAN", 4)
    hub._loaded.cache_clear()
    datasets.disable_progress_bars()


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def table(count=6, **columns):
    features = {"image": datasets.Image(), **{name: datasets.Value("string") for name in columns}}
    given = {"image": [picture(number) for number in range(count)], **columns}
    return datasets.Dataset.from_dict(given, datasets.Features(features))


def found(address):
    return [(source, item) for source in sources([address]) for item in items(source)]


def test_a_saved_data_set_is_read_span_by_span(tmp_path):
    table(question=[f"what is {number}?" for number in range(6)]).save_to_disk(tmp_path / "saved")
    address = f"hf:{tmp_path}/saved"
    read = found(address)
    assert [source.part for source, _ in read] == [0] * 4 + [1] * 2
    assert [item.key for _, item in read] == [f"{address}/{number}" for number in range(6)]
    assert [item.question for _, item in read] == [f"what is {number}?" for number in range(6)]
    for number, (_, item) in enumerate(read):
        (tmp_path / "x.png").write_bytes(item.read())
        assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), np.asarray(picture(number)))


def test_splits_are_named_and_sliced(tmp_path):
    datasets.DatasetDict({"train": table(6), "test": table(2)}).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"has the splits train, test; name one, such as hf:.*:train"):
        found(f"hf:{tmp_path}/saved")
    assert len(found(f"hf:{tmp_path}/saved:test")) == 2
    for split in ("train", "test"):
        (tmp_path / "hub").mkdir(exist_ok=True)
        table(5).to_parquet(tmp_path / "hub" / f"{split}.parquet")
    assert len(found(f"hf:{tmp_path}/hub:train[:60%]")) == 3


def test_a_folder_of_photographs_by_class_is_read_with_their_names(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        picture(len(name)).save(tmp_path / "in" / name / f"{name}.png")
    read = found(f"hf:{tmp_path}/in")
    assert [item.key.rpartition("/")[2] for _, item in read] == ["cat.png", "dog.png"]
    assert read[1][1].read() == (tmp_path / "in" / "dog" / "dog.png").read_bytes()


def test_answers_as_vqa_has_them(tmp_path):
    answers = [[{"answer": "cat", "id": 1}, {"answer": "cat", "id": 2}, {"answer": "dog", "id": 3}]]
    made = datasets.Dataset.from_dict({"image": [b"bytes"], "question": ["what?"], "answers": answers})
    made.save_to_disk(tmp_path / "saved")
    ((_, item),) = found(f"hf:{tmp_path}/saved")
    assert (item.question, item.answers, item.read()) == ("what?", ("cat", "dog"), b"bytes")


def test_a_batch_over_a_data_set_is_refused_when_that_has_changed(tmp_path):
    table(6).save_to_disk(tmp_path / "saved")
    given = f"hf:{tmp_path}/saved"
    assert done(tmp_path / "out", given).errors == 0
    assert len({row["key"] for row, _ in store.rows(str(tmp_path / "out"))}) == 6
    assert done(tmp_path / "out", given).errors == 0  # nothing is left to do
    table(7).save_to_disk(tmp_path / "saved")
    hub._loaded.cache_clear()
    with pytest.raises(UserError, match="input has changed"):
        done(tmp_path / "out", given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (None, "cannot be loaded"),
        (lambda: datasets.Dataset.from_dict({"text": ["a"]}), "has no column of images: text"),
    ],
    ids=["not there", "no images"],
)
def test_what_is_no_data_set_of_images_is_one_line(tmp_path, make, message):
    if make:
        make().save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=message) as caught:
        found(f"hf:{tmp_path}/saved")
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 400

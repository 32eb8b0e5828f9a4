"""The bundled photographs: small, described, and shown right."""

from pathlib import Path

import pytest

import classification
from common.images import open_image

EXPECTED = {"cat": "Egyptian cat", "espresso": "espresso", "drums_and_guitar": "electric guitar"}


@pytest.fixture(scope="module")
def classifier() -> classification.Classifier:
    return classification.load()


def test_each_photograph_is_small_and_in_the_readme(sample_images: list[Path]) -> None:
    readme = (sample_images[0].parent / "README.md").read_text()
    assert len(sample_images) >= 5
    for path in sample_images:
        assert path.stat().st_size < 150_000 and min(open_image(path).size) >= 300
        assert f"| `{path.name}` |" in readme


@pytest.mark.parametrize("stem", list(EXPECTED))
def test_the_default_model_knows_what_they_show(
    classifier: classification.Classifier, sample_images: list[Path], stem: str
) -> None:
    path = next(path for path in sample_images if path.stem == stem)
    assert classifier.predict(path, top=1)[0].label == EXPECTED[stem]


def test_the_predictions_in_the_readme_are_the_models(
    classifier: classification.Classifier, sample_images: list[Path]
) -> None:
    readme = (sample_images[0].parent / "README.md").read_text()
    for path in sample_images:
        first = classifier.predict(path, top=1)[0]
        row = next(line for line in readme.splitlines() if line.startswith(f"| `{path.name}` | {first.label} "))
        written = row.split("|")[2].removeprefix(f" {first.label} ").split(",")[0]
        assert abs(float(written) - first.probability) < 0.05


def test_two_classes_are_found_where_each_is(classifier: classification.Classifier, sample_images: list[Path]) -> None:
    """The drums are the left half of the photograph, the guitar stands right of the middle."""
    path = next(path for path in sample_images if path.stem == "drums_and_guitar")
    drum, guitar = classifier.explain(path, targets=["drum", "electric guitar"]).heatmaps[:, 0]
    assert float(drum[:, :4].sum() / drum.sum()) > 0.65 and int(drum.argmax()) % 7 < 4
    assert float(guitar[:, 3:].sum() / guitar.sum()) > 0.75 and int(guitar.argmax()) % 7 >= 4

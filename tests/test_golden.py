"""What the shipped models say of the bundled photographs, and why: as recorded, to 1e-5.

A change of code must not change this. A new training does: record it anew with `python -m tests.test_golden`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import captioning
import classification
import vqa
from scripts.experiments.drawing import SAMPLES

GOLDEN = Path(__file__).with_name("golden.npz")
QUESTION = "what is in the picture?"


def said() -> dict[str, Any]:
    """Texts as JSON, arrays as they are, by task and photograph."""
    found: dict[str, Any] = {}
    models = captioning.load(), vqa.load(), classification.load()
    captioner, answerer, classifier = models
    texts = {}
    for path in sorted(SAMPLES.glob("*.jpg")):
        caption, answer = captioner.caption(path), answerer.answer(path, QUESTION)
        best = classifier.predict(path, top=1)[0].label
        texts[path.stem] = [caption.text, answer.text, best]
        explained = {
            "caption": captioner.explain(path, caption.text, score="log_probability"),
            "vqa": answerer.explain(path, QUESTION, [answer.text, "dog"]),
            "classify": classifier.explain(path, [best, 0]),
        }
        for task, explanation in explained.items():
            for name, values in {**explanation.arrays(), "scores": explanation.scores.numpy()}.items():
                found[f"{path.stem}.{task}.{name}"] = values
    return {**found, "texts": np.array(json.dumps(texts))}


def test_the_models_say_what_they_said_and_for_the_same_reasons() -> None:
    if not GOLDEN.exists():
        pytest.fail(f"{GOLDEN.name} is missing; record it with python -m tests.test_golden")
    now = said()
    with np.load(GOLDEN) as recorded:
        assert json.loads(str(now.pop("texts"))) == json.loads(str(recorded["texts"]))
        assert now.keys() == set(recorded.files) - {"texts"}
        for name, values in now.items():
            tolerance = 1e-5 * max(1.0, float(np.abs(recorded[name]).max()))
            np.testing.assert_allclose(values, recorded[name], rtol=0, atol=tolerance, err_msg=name)


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **said())

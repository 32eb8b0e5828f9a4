"""Fixtures that several tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, and none called slow because the machine is busy.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_datasets() -> Path:
    """The folder with the data sets; the tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("SAYWHY_DATA", ROOT.parent / "shared" / "datasets"))
    if not folder.is_dir():
        pytest.skip(f"no data sets at {folder}; set SAYWHY_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def sample_images() -> list[Path]:
    """The bundled photographs."""
    return sorted((ROOT / "data" / "samples").glob("*.jpg"))


@pytest.fixture(scope="session")
def jspsych() -> Path:
    """A `node_modules` with jsPsych, by SAYWHY_JSPSYCH or in the project's folder; tests are skipped without it."""
    from scripts.study.pages import INSTALL, PINNED

    folder = Path(os.environ.get("SAYWHY_JSPSYCH", ROOT / "node_modules"))
    if not all((folder / name).is_dir() for name, _, _ in PINNED):
        pytest.skip(f"no jsPsych: npm install --no-save {INSTALL}, or set SAYWHY_JSPSYCH to a node_modules")
    return folder


@pytest.fixture(scope="session")
def demo_models():
    """The shipped models, as the demo has them."""
    from scripts.demo.answers import load

    return load({})


@pytest.fixture(scope="session")
def demo_server(demo_models):
    """A visitor at the door of the demo's server, one for all tests; they are skipped where Gradio is missing."""
    pytest.importorskip("gradio", reason="pip install 'saywhy[demo]' brings the demo's server")
    from scripts.demo.limits import Limits
    from tests.demo_visitor import Watched, served

    watched = Watched(demo_models.classifier, demo_models.captioner, demo_models.answerer)
    with served(watched, Limits(waiting=10)) as visitor:
        yield visitor

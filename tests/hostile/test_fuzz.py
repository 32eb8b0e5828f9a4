"""Made-up checkpoints, annotations, arguments and photographs: a result or one line, whatever hypothesis thinks of.

The same few cases in every test run; `make fuzz MINUTES=30` looks for new ones as long as one likes.
"""

import copy
import io
import json
import os
import unicodedata

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from common.errors import UserError
from common.images import Preprocessing, as_image
from common.printed import printable
from data.readers import questions_file
from scripts.saywhy import main
from tests.hostile.test_checkpoints import LOADERS, whole  # noqa: F401 - a fixture

LOOKING = "SAYWHY_FUZZ" in os.environ
FUZZ = settings(
    max_examples=400 if LOOKING else 25,
    derandomize=not LOOKING,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def places(value, path=()):
    """The paths to all parts of a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def put(value, path, new):
    """A copy of the value with what lies at the path replaced."""
    if not path:
        return new
    changed = copy.deepcopy(value)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return changed


@FUZZ
@given(data=st.data(), kind=st.sampled_from(list(LOADERS)), new=JSON)
def test_a_changed_configuration_loads_or_is_refused(whole, tmp_path, data, kind, new):  # noqa: F811
    config = json.loads((whole / f"{kind}.json").read_text())
    path = data.draw(st.sampled_from(list(places(config))))
    for file in whole.iterdir():
        target = tmp_path / file.name
        if not target.exists():
            target.symlink_to(file)
    target = tmp_path / f"{kind}.json"
    target.unlink()
    target.write_text(json.dumps(put(config, path, new)))
    try:
        LOADERS[kind](tmp_path)
    except UserError as problem:
        assert "\n" not in str(problem).strip()
    finally:
        target.unlink()
        target.symlink_to(whole / f"{kind}.json")


def _picture(form):
    stream = io.BytesIO()
    Image.new("RGB", (24, 16), (200, 100, 0)).save(stream, form)
    return stream.getvalue()


PICTURES = {form: _picture(form) for form in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")}


@FUZZ
@given(
    form=st.sampled_from(list(PICTURES)), changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=12),
    end=st.none() | st.integers(0, 4000), more=st.binary(max_size=40),
)  # fmt: skip
def test_a_damaged_photograph_is_read_or_refused(tmp_path, form, changes, end, more):
    content = bytearray(PICTURES[form])
    for place, value in changes:
        content[place % len(content)] = value
    file = tmp_path / "photo.img"
    file.write_bytes(bytes(content[:end]) + more)
    try:
        pixels = Preprocessing((32, 32))(as_image(file))
        assert pixels.shape == (1, 3, 32, 32)
    except UserError as problem:
        assert "photo.img" in str(problem)


QUESTIONS = [{"image": "a.jpg", "question": "what is it?", "answers": ["a dog", "dog"]}]


@FUZZ
@given(data=st.data(), new=JSON)
def test_a_changed_list_of_questions_is_read_or_refused(tmp_path, data, new):
    path = data.draw(st.sampled_from(list(places(QUESTIONS))))
    file = tmp_path / "questions.json"
    file.write_text(json.dumps(put(QUESTIONS, path, new)))
    try:
        questions_file.read_questions_file(file)
    except UserError as problem:
        assert "questions.json" in str(problem)


WORDS = st.sampled_from(
    ["classify", "caption", "vqa", "batch", "show", "models", "train", "evaluate", "score", "study", "serve", "build",
     "--methods", "--layer", "--beam", "--limit", "--data", "--phrase", "--target", "--device", "--model", "--json",
     "--score", "--window", "--version", "--family", "chat", "coco:", "flickr8k:gone", "captioner", "trunk", "-1", "0"]
) | st.text(max_size=12).filter(lambda text: "\x00" not in text)  # fmt: skip


@FUZZ
@given(arguments=st.lists(WORDS, max_size=6))
def test_any_arguments_end_in_a_status(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as left:
        status = left.code or 0
    said = capsys.readouterr()
    assert status in (0, 2), said.err
    assert "Traceback" not in said.err and "\x1b" not in said.out + said.err


@FUZZ
@given(st.text())
def test_what_is_printed_is_printable(text):
    shown = printable(text)
    shown.encode("utf-8")
    left = {unicodedata.category(character) for character in shown if character not in "\n\t\u200c\u200d"}
    assert not left & {"Cc", "Cf", "Cs", "Zl", "Zp"}

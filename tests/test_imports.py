"""Imports go one way: scripts -> captioning | vqa | classification -> common; `data` knows files, not models."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TASKS = {"captioning", "vqa", "classification"}
ALLOWED = {
    "common": set(),
    "data": {"common"},
    **{task: {"common", "data"} for task in TASKS},
    "scripts": {"common", "data", *TASKS},
}


def imported(source: str) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found


def test_imports_are_found_at_the_top_and_inside_functions():
    source = "import vqa.model as m\ndef f():\n    from captioning.train import Settings\nfrom . import x"
    assert imported(source) == {"vqa", "captioning"}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_is_below_it(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        wrong = imported(file.read_text(encoding="utf-8")) & ALLOWED.keys() - ALLOWED[package] - {package}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


def test_data_knows_no_models():
    for file in sorted((ROOT / "data").rglob("*.py")):
        assert not imported(file.read_text(encoding="utf-8")) & {"torch", "timm", "transformers"}, file

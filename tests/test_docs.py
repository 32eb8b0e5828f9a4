"""What the pages say is so: their Python runs, their links lead somewhere, the tree is the tree."""

import doctest
import importlib
import re
import subprocess
from pathlib import Path

import pytest

from common.gradcam import METHODS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for part in ("data", "docs", "scripts") for page in (ROOT / part).rglob("*.md"))]
)
EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("captioning", "classification", "common", "data", "scripts", "vqa")
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]
CARDS = ["captioner", "trunk", "vgg_head", "vqa"]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def python_of(page: str) -> str:
    """The Python blocks of a page as one program; line numbers are the page's own."""
    kept, inside = [], False
    for line in text_of(page).splitlines():
        fence = line.startswith("```")
        inside = line == "```python" if fence else inside
        kept.append(line if inside and not fence else "")
    return "\n".join(kept)


@pytest.mark.parametrize("page", ["README.md", "docs/own_model.md"])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)  # what a block writes is not left in the project
    exec(compile(python_of(page), page, "exec"), {"__name__": page})


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_of_a_module_run(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert doctest.testmod(importlib.import_module(module)).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_every_method_is_in_the_readme() -> None:
    cells = re.findall(r"^\| (`[a-z].*?) \|", text_of("README.md"), re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`([a-z-]+)`", cell)]
    assert sorted(named) == sorted(method.replace("_", "-") for method in METHODS)


def tracked() -> list[Path]:
    try:
        found = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the files of a repository are needed")
    return [Path(line) for line in found.stdout.splitlines()]


def named_in_tree() -> set[Path]:
    """The files and folders of the README's tree; a file of `captioning/, vqa/` is in one of them or in both."""
    (tree,) = [block for block in text_of("README.md").split("```") if block.startswith("\ncommon/ ")]
    found, folders = set(), [""]
    for line in tree.strip().splitlines():
        names = re.findall(r"[\w/]+(?:\.py|/)(?=[ ,;)]|$)", line)
        if not line.startswith(" "):
            folders = [name for name in names if name.endswith("/")]
            found |= {Path(folder) for folder in folders}
            names = [name for name in names if name not in folders]
        here = {Path(folder, name) for name in names for folder in folders}
        present = {path for path in here if (ROOT / path).exists()}
        assert {path.name for path in present} == {Path(name).name for name in names}, line
        found |= present
    return found


def test_the_tree_is_the_tree() -> None:
    """Every folder, and every module that lies in one of the packages themselves."""
    files = [path for path in tracked() if len(path.parts) > 1 and path.parts[0] not in (".ci", "docs", "tests")]
    folders = {Path(*path.parts[:depth]) for path in files for depth in (1, 2) if len(path.parts) > depth}
    modules = {path for path in files if len(path.parts) == 2 and path.suffix == ".py" and path.stem != "__init__"}
    assert named_in_tree() - {Path("tests")} == folders | modules


@pytest.mark.parametrize("card", CARDS)
def test_a_model_card_says_what_the_hub_asks(card: str) -> None:
    """The front matter is read by the hub's own reader, and its figures stand in the text."""
    cards = pytest.importorskip("huggingface_hub.repocard")
    read = cards.ModelCard(text_of(f"data/checkpoints/{card}.md"))
    data = read.data
    assert data.license == "apache-2.0" and data.language == "en" and data.pipeline_tag
    assert data.tags and data.datasets and data.metrics
    figures = [str(result.metric_value) for result in data.eval_results]
    assert figures and not [figure for figure in figures if figure not in read.text]

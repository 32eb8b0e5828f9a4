"""What the pages say is so: their Python runs, their links lead somewhere, the tree is the tree."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "docs/own_model.md", "scripts/benchmark/README.md", "scripts/experiments/README.md"]


def blocks(page: str) -> str:
    """The Python blocks of a page as one program; line numbers are the page's own."""
    lines, inside = [], False
    for line in (ROOT / page).read_text().splitlines():
        fence = line.startswith("```")
        lines.append(line if inside and not fence else "")
        inside = (line == "```python") if fence and not inside else inside and not fence
    return "\n".join(lines)


@pytest.mark.parametrize("page", ["docs/own_model.md"])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)  # what a block writes is not left in the project
    exec(compile(blocks(page), page, "exec"), {"__name__": page})

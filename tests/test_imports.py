"""Imports go one way: scripts -> captioning | vqa | classification -> data | common, and in no circle.

`data` knows files, not models. Inside a package, too, no arrow runs back: neither from module to module nor
from folder to folder, at the top of a file or inside a function.
"""

import ast
from collections.abc import Iterator
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
WITHOUT_MODULES = {"data.checkpoints", "data.samples"}  # folders of other files
DATA = ["data.words", "data.records", "data.readers", "data.derived"]  # each may import those before it


def imported(source: str) -> set[str]:
    """The names a file imports, anywhere in it: `a.b` for `import a.b`; `a.b`, `a.b.c` for `from a.b import c`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def packages(source: str) -> set[str]:
    return {name.partition(".")[0] for name in imported(source)}


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name; a folder's `__init__.py` by the folder's."""
    found = {}
    for package in ALLOWED:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def arrows() -> dict[str, set[str]]:
    """Module -> the modules that it imports. `from a import b` is of `a.b` alone where that is a module."""
    known = modules()
    found = {}
    for name, file in known.items():
        names = imported(file.read_text(encoding="utf-8")) & known.keys()
        deeper = {other.rpartition(".")[0] for other in names}
        found[name] = {other for other in names if other not in deeper} - {name}
    return found


def room(module: str) -> str:
    """What a module is drawn as: a file of a package's own, or the folder in it that holds the module."""
    return ".".join(module.split(".")[:2])


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The names along one circle, the first again at the end; empty where there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> Iterator[list[str]]:
        if name in path:
            yield [*path[path.index(name) :], name]
        elif name not in done:
            for other in sorted(graph.get(name, ())):
                yield from walk(other, [*path, name])
            done.add(name)

    return next((found for name in sorted(graph) for found in walk(name, [])), [])


def test_imports_are_found_at_the_top_and_inside_functions():
    source = "import vqa.model as m\ndef f():\n    from captioning.train import Settings\nfrom . import x"
    assert packages(source) == {"vqa", "captioning"}
    assert imported(source) == {"vqa.model", "captioning.train", "captioning.train.Settings"}


def test_a_circle_is_found():
    assert circle({"a": {"b", "c"}, "b": {"d"}, "c": {"b"}, "d": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"d", "b"}}) == ["b", "c", "b"]
    assert circle({"a": {"a"}}) == ["a", "a"]


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_is_below_it(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        wrong = packages(file.read_text(encoding="utf-8")) & ALLOWED.keys() - ALLOWED[package] - {package}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


def test_no_module_imports_itself_by_way_of_others():
    assert not circle(arrows())


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_no_folder_of_a_package_imports_itself_by_way_of_others(package):
    graph: dict[str, set[str]] = {}
    for module, others in arrows().items():
        if module.startswith(f"{package}."):
            graph.setdefault(room(module), set()).update({room(other) for other in others} - {room(module)})
    assert not circle(graph), {a: sorted(b) for a, b in graph.items()}


def test_data_goes_from_words_to_records_to_readers_to_what_is_derived():
    for module, others in arrows().items():
        if room(module) in DATA:
            above = {other for other in others if room(other) in DATA[DATA.index(room(module)) + 1 :]}
            assert not above, f"{module} imports {above}"


def test_data_knows_no_models():
    for file in sorted((ROOT / "data").rglob("*.py")):
        assert not packages(file.read_text(encoding="utf-8")) & {"torch", "timm", "transformers"}, file


def test_every_folder_of_modules_is_installed():
    tomllib = pytest.importorskip("tomllib", reason="reads pyproject.toml; from Python 3.11 on")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    files = [file.relative_to(ROOT) for package in ALLOWED for file in (ROOT / package).rglob("*.py")]
    apart = {"scripts.demo.space"}  # a Space's own files, which lie beside an installed saywhy
    assert {".".join(file.parts[:-1]) for file in files} - apart == set(listed) - WITHOUT_MODULES
    assert len(set(listed)) == len(listed)

"""A study's static pages: our own HTML, CSS and script, and jsPsych by a pinned address or from `node_modules`.

None of jsPsych's code (MIT) is in this project. By default pages load it from unpkg, which serves the files of npm's
packages; the browser refuses any other bytes, by their hashes.
"""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from common.errors import UserError
from common.files import write_text

CDN = "https://unpkg.com"
FILE = "dist/index.browser.min.js"
# Package, version, SHA-384 of its FILE.
PINNED = (
    ("jspsych", "8.3.0", "PPMNzYQfqrWFhrOxhpwxXmKK+LDH//fBCLsvA/JIRHOfiuOcZ2j8wJhqo87V4R4B"),
    ("@jspsych/plugin-html-button-response", "2.1.0",
     "tPGtXEC8xEbInWvarnxvJ3fyzeXwRDS0QjGUts+TGQ9I8OCxiqsv9lxTS3mEN6um"),
    ("@jspsych/plugin-preload", "2.1.0", "BiUYHx4tdTYToceth936qf4Wkf+Ho2VZti/5bB5/nDiPRuTaZ37hrxkLsANkHGdp"),
)  # fmt: skip
INSTALL = " ".join(f"{name}@{version}" for name, version, _ in PINNED)
COPIES = "jspsych"  # folder of the copies in `public`
TEXTS = ("consent", "instructions", "debriefing")
_ASSETS = ("study.css", "session.js", "study.js")


@dataclass(frozen=True)
class PageOptions:
    """Where jsPsych comes from (None: the pinned addresses), and where people are sent at the end."""

    jspsych: Path | None = None
    completion: str = ""


def page_options(jspsych: str | None, completion: str | None) -> PageOptions:
    """The options that a user gave. Raises `UserError` for a folder without jsPsych 8 and for an odd link."""
    if completion and not re.fullmatch(r"https://\S+", completion):
        raise UserError(f"--completion is '{completion}'; give a whole link, such as Prolific's https://...cc=CODE")
    if jspsych is not None:
        for name, _, _ in PINNED:
            _check_package(Path(jspsych), name)
    return PageOptions(None if jspsych is None else Path(jspsych), completion or "")


def write_pages(public: Path, kind: str, title: str, options: PageOptions) -> None:
    """Write `index.html`, our style and scripts, the texts to edit, and with `options.jspsych` copies of jsPsych."""
    for name in _ASSETS:
        write_text(public / name, asset(name))
    for name in TEXTS:
        write_text(public / "texts" / f"{name}.txt", asset(f"texts/{name}.{kind}.txt", f"texts/{name}.txt"))
    scripts = _pinned() if options.jspsych is None else _copied(public, options.jspsych)
    places = "'self'" if options.jspsych else f"'self' {CDN}"
    page = Template(asset("index.html")).substitute(title=html.escape(title), scripts=scripts, places=places)
    write_text(public / "index.html", page)


def asset(*names: str) -> str:
    """The first of our own files that there is."""
    folder = resources.files("scripts.study") / "page"
    return next(file for file in (folder.joinpath(name) for name in names) if file.is_file()).read_text("utf-8")


def _pinned() -> str:
    tag = f'<script src="{CDN}/%s@%s/{FILE}" integrity="sha384-%s" crossorigin="anonymous" defer></script>'
    return "\n".join(tag % package for package in PINNED)


def _copied(public: Path, modules: Path) -> str:
    """Copy jsPsych's files; returns the tags that load them."""
    (public / COPIES).mkdir(parents=True, exist_ok=True)
    names = [f"{name.rpartition('/')[2]}.js" for name, _, _ in PINNED]
    for (package, _, _), name in zip(PINNED, names, strict=True):
        shutil.copyfile(modules / package / FILE, public / COPIES / name)
    return "\n".join(f'<script src="{COPIES}/{name}" defer></script>' for name in names)


def _check_package(modules: Path, name: str) -> None:
    """Raises `UserError` where a package is absent, or jsPsych's version is another than 8."""
    about = modules / name / "package.json"
    if not (modules / name / FILE).is_file() or not about.is_file():
        raise UserError(f"no {name} in '{modules}'; run `npm install {INSTALL}` and give its node_modules")
    version = str(json.loads(about.read_text(encoding="utf-8")).get("version", ""))
    if name == "jspsych" and not version.startswith("8."):
        raise UserError(f"'{modules / name}' is version {version}; the pages are written for jsPsych 8")

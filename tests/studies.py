"""Studies made up for tests: pictures of one colour, whose key says what no name or picture does."""

import http.client
import json
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from scripts.study.build import STIMULI, write_material
from scripts.study.kinds import trust
from scripts.study.material import Asked, Cell, Material, Pictures, Shown
from scripts.study.pages import PageOptions
from scripts.study.plan import PUBLIC, Study
from scripts.study.serve import Server

METHODS = ("guided", "guided_gradcam")
NETWORK = {"name": "a network", "weights": "0123456789abcdef", "layer": "last", "about": "made up"}


def made_up(
    folder: Path, kind: str = "discriminate", photographs: int = 8, methods=METHODS, options: PageOptions | None = None
) -> Study:
    """A study in a folder: of 'cat' and 'dog' on each photograph, or of two networks that both say 'cat'."""
    pictures = Pictures(folder / PUBLIC / STIMULI, 0)
    asked = Asked(Path("photos"), methods, ("a", "b"), folder / "networks", photographs)
    shown = [Shown(f"photo{n}.jpg", tuple(_cells(kind, methods, pictures, n))) for n in range(photographs + 2)]
    practice = [Shown(each.name, each.cells[:1]) for each in shown[photographs:]]
    material = Material(shown[:photographs], practice, [NETWORK], "photographs made up")
    return write_material(kind, asked, material, pictures, options or PageOptions())


def _cells(kind: str, methods, pictures: Pictures, number: int) -> list[Cell]:
    colours = [(40 * n + 10, 20 * number + 10, 128) for n in range(2 * len(methods))]
    names = [pictures.add(Image.new("RGB", (240, 180), colour)) for colour in colours]
    if kind == "trust":
        said, sides = "Both robots said, rightly: cat", (("A", 1), ("B", -1))
        return [
            Cell(method, tuple(names[2 * n : 2 * n + 2][::step]), trust.SCALE, {"target": "cat", "strong": side}, said,
                 f"Most would say {side}.")
            for n, method in enumerate(methods) for side, step in sides
        ]  # fmt: skip
    pair = ("cat", "dog")
    return [
        Cell(method, (names[2 * n + right],), pair, {"target": pair[right], "right": right}, feedback=pair[right])
        for n, method in enumerate(methods)
        for right in (0, 1)
    ]


def body_of(study: Study, session: str, answers: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    """What a page sends."""
    about = {"study": study.id, "participant": f"person {session}", "session": session, "list": 0, **more}
    return about if answers is None else {**about, "answers": answers}


def answer_to(study: Study, number: int, trial: str, response: int | None = None, ms: int = 2000) -> dict[str, Any]:
    """One answer; by default the right one."""
    right = study.key[trial].get("right", 4)
    count = 4 if "check" in study.key[trial] else study.plan["options"]
    given = right if response is None else response
    return {"number": number, "trial": trial, "response": given, "ms": ms, "order": list(range(count))}


def session_of(study: Study, number: int = 0, **how: Any) -> list[dict[str, Any]]:
    """A whole session's answers to one list, attention checks at the end."""
    trials = [*study.lists[number], *study.plan["checks"]]
    return [
        answer_to(study, n, trial, **({} if "check" in study.key[trial] else how)) for n, trial in enumerate(trials)
    ]


def results_of(study: Study, sessions: dict[str, list[dict[str, Any]]], **more: Any) -> list[str]:
    """Lines of a results file."""
    return [
        json.dumps({**body_of(study, session, **more), **each})
        for session, answers in sessions.items()
        for each in answers
    ]


@contextmanager
def served(study: Study):
    """The study's server on a free port of this machine."""
    server = Server(study, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def asked(port: int, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, Any, dict]:
    """(status, what was replied, headers) of one request; the path goes out as it is given."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, {"Content-Type": kind} if data is not None else {})
    reply = connection.getresponse()
    content, headers = reply.read(), dict(reply.getheaders())
    connection.close()
    said = headers.get("Content-Type", "").startswith("application/json") and content
    return reply.status, json.loads(content) if said else content, headers

"""A visitor of the demo who speaks plain HTTP, and a server to visit."""

import json
import socket
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scripts.demo.answers import Models
from scripts.demo.limits import Limits


class Watched(Models):
    """Models that note how many visitors they serve at once."""

    now = most = 0

    def encoded(self, model: Any, photo: Any) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return super().encoded(model, photo)
        finally:
            self.now -= 1


@contextmanager
def served(models: Models, limits: Limits) -> Iterator["Visitor"]:
    """A server on a free port; given is a visitor at its door."""
    from scripts.demo.server import serving

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving(models, port=port, limits=limits) as address:
        yield Visitor(address.rstrip("/"), models)


class Visitor:
    """Asks the server as the page in a browser does, or worse."""

    def __init__(self, address: str, models: Any) -> None:
        self.address, self.models = address, models

    def request(self, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
        """(status, body) of a request; POST where there is a body."""
        with self.raw(path, body, kind) as answer:
            return answer.status, answer.read()

    def raw(self, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        """The answer as it comes, with its headers."""
        asked = urllib.request.Request(self.address + path, body, {"content-type": kind} if body is not None else {})
        try:
            return urllib.request.urlopen(asked, timeout=60)
        except urllib.error.HTTPError as problem:
            return problem

    def upload(self, data: bytes, name: str = "photo.jpg") -> tuple[int, Any]:
        """(status, the path of the upload or what was said)."""
        edge = uuid.uuid4().hex
        head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + data + f"\r\n--{edge}--\r\n".encode()
        status, answer = self.request("/gradio_api/upload", body, f"multipart/form-data; boundary={edge}")
        return status, json.loads(answer)[0] if status == 200 else answer.decode()

    def function(self, task: str) -> int:
        """The number by which the page calls what is behind a tab's button."""
        config = json.loads(self.request("/config")[1])
        go = next(each["id"] for each in config["components"] if each["props"].get("elem_id") == f"sd-go-{task}")
        return next(
            each["id"] for each in config["dependencies"] if [go, "click"] in each["targets"] and each["backend_fn"]
        )

    def ask(self, function: int, photo: Any, *fields: Any) -> tuple[int, str]:
        """(status, what is shown): waits in line as the page does."""
        session = uuid.uuid4().hex
        if isinstance(photo, str):
            photo = {"path": photo, "meta": {"_type": "gradio.FileData"}}
        call = {"data": [photo, *fields], "fn_index": function, "session_hash": session}
        status, answer = self.request("/gradio_api/queue/join", json.dumps(call).encode())
        if status != 200:
            return status, answer.decode()
        return 200, self._answer(session)

    def _answer(self, session: str) -> str:
        """The last thing shown to a session."""
        shown: Any = ""
        with urllib.request.urlopen(
            f"{self.address}/gradio_api/queue/data?session_hash={session}", timeout=60
        ) as lines:
            for line in lines:
                message = json.loads(line.removeprefix(b"data:")) if line.startswith(b"data:") else {}
                output = message.get("output") or {}
                data = output.get("data") or [None]
                shown = data[0] if isinstance(data[0], str) else output.get("error") or shown
                if message.get("msg") == "process_completed":
                    return str(shown)
        return str(shown)

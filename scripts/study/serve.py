"""A small server for a study, for a lab or a classroom: its public files, and a place to send answers to.

Only the files that lie in `public` are served, never key, plan or results. A body is bounded, a slow visitor is
dropped, and nothing of a visitor (address, browser) is kept.
"""

from __future__ import annotations

import contextlib
import json
import mimetypes
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from common.errors import UserError
from scripts.study.plan import DESIGN, PUBLIC, Study, trial_options
from scripts.study.receiver import Receiver, Refused

MOST_BYTES = 64 * 1024  # of a request's body
SLOWEST = 30  # seconds that a request may take to arrive
_TYPES = {".js": "text/javascript", ".json": "application/json", ".txt": "text/plain", ".html": "text/html"}


class Server(ThreadingHTTPServer):
    """A study's server. `Server(study, host, port)`, `serve_forever()`; `server_port` says the port."""

    daemon_threads = True
    request_queue_size = 128  # a whole class that begins at once

    def __init__(self, study: Study, host: str, port: int) -> None:
        self.files = public_files(study)
        self.receiver = Receiver(study, trial_options(study))
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as problem:
            self.receiver.close()
            reason = getattr(problem, "strerror", None) or problem
            raise UserError(f"cannot serve at {host}:{port}: {reason}; choose another --port or --host") from problem

    def server_close(self) -> None:
        super().server_close()
        self.receiver.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A visitor who has left is no error."""


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of public files, POST of answers."""

    server: Server
    server_version, sys_version = "saywhy", ""
    protocol_version = "HTTP/1.1"
    timeout = SLOWEST

    def do_GET(self) -> None:
        """A public file."""
        name = unquote(urlsplit(self.path).path).removeprefix("/") or "index.html"
        path = self.server.files.get(name)
        try:
            data = None if path is None else path.read_bytes()
        except OSError:
            data = None
        if path is None or data is None:
            self._reply(HTTPStatus.NOT_FOUND, b"not here\n", "text/plain")
            return
        kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self._reply(HTTPStatus.OK, data, kind, "public, max-age=86400" if path.suffix == ".jpg" else "no-store")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Answers; what is confirmed lies on the disk."""
        self.close_connection = True  # what is left of a refused body is not read as a request
        if urlsplit(self.path).path != "/answers":
            self._reply(HTTPStatus.NOT_FOUND, b"not here\n", "text/plain")
            return
        if self.headers.get_content_type() != "application/json":
            return self._say(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"error": "answers are application/json"})
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return self._say(HTTPStatus.LENGTH_REQUIRED, {"error": "no Content-Length"})
        if int(length) > MOST_BYTES:
            self.rfile.read(min(int(length), 16 * MOST_BYTES))  # so that the visitor hears the reply
            return self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"at most {MOST_BYTES} bytes"})
        try:
            self._say(HTTPStatus.OK, self.server.receiver.receive(json.loads(self.rfile.read(int(length)))))
        except (Refused, ValueError, RecursionError) as problem:
            self._say(HTTPStatus.BAD_REQUEST, {"error": str(problem)})
        except OSError as problem:
            self._say(HTTPStatus.INSUFFICIENT_STORAGE, {"error": f"the answer could not be kept: {problem.strerror}"})

    def _say(self, status: HTTPStatus, what: dict[str, Any]) -> None:
        self._reply(status, json.dumps(what).encode(), "application/json")

    def _reply(self, status: HTTPStatus, data: bytes, kind: str, keep: str = "no-store") -> None:
        text = kind.startswith("text/") or kind == "application/json"
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if text else kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", keep)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Connection", "close" if self.close_connection else "keep-alive")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing of a visitor is written down."""


def address(server: Server, host: str) -> str:
    """Where people open the study; of a server for the whole room, this computer's own address in it."""
    if host in ("0.0.0.0", "::", ""):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.connect(("192.0.2.1", 9))  # nothing is sent: it only says which way things would go
            host = probe.getsockname()[0]
    return f"http://{host}:{server.server_port}/"


def unedited(study: Study) -> list[str]:
    """The texts in which the researcher's own words are still missing."""
    files = sorted((study.folder / PUBLIC / "texts").glob("*.txt"))
    return [file.name for file in files if "RESEARCHER:" in file.read_text(encoding="utf-8", errors="replace")]


def public_files(study: Study) -> dict[str, Path]:
    """The public files by their addresses; links that lead out of the folder are none.

    Raises `UserError` where the pages are missing.
    """
    public = study.folder / PUBLIC
    root = public.resolve()
    inside = [file for file in sorted(public.rglob("*")) if file.is_file() and file.resolve().is_relative_to(root)]
    files = {file.relative_to(public).as_posix(): file for file in inside if not file.name.startswith(".")}
    for name in ("index.html", DESIGN):
        if name not in files:
            raise UserError(f"'{public / name}' is missing; build the study again in another folder")
    return files

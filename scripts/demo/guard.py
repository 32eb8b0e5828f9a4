"""Before Gradio sees a request: only what this page needs is answered, and no request is larger than it may be.

Gradio serves much that a public page does not need (its API's documentation, a proxy, files by URL, run history). Here
an address that is not named does not exist, files are served from the folder of uploads alone, what a visitor sends
names no file or address outside it, and browsers are told to load nothing from elsewhere.
"""

import json
import posixpath
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from scripts.demo.limits import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_PAGES = {"/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt"}
_FOLDERS = ("/assets/", "/static/", "/svelte/")
_API = "/gradio_api/"
_CALLS = {"queue/join", "queue/data", "run/predict", "cancel", "reset", "startup-events", "upload", "upload_progress",
          "theme.css", "app_id", "login_check", "token", "user"}  # fmt: skip
_JSON = 100_000  # bytes of a call's body; photographs are uploaded, and named in it
_FULL = "Too many people are asking just now. Please wait a minute and press Explain again."
# Gradio's page needs scripts and styles of its own, inline; nothing comes from or goes to another host.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "frame-src 'self' blob: data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
_UPLOADS = "sandbox; default-src 'none'"  # an SVG or a page that was uploaded runs nothing


class Guard:
    """ASGI middleware around Gradio's application; `folder` holds the uploads."""

    def __init__(self, app: Any, folder: str, limits: Limits) -> None:
        self.app, self.folder, self.limits = app, Path(folder).resolve(), limits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no other protocol is needed
        path = scope["path"]
        if not self._known(path):
            return await _refused(send, 404, "Not found.")
        call = path.removeprefix(_API)
        if scope["method"] == "POST":
            most = self.limits.upload + 10_000 if call == "upload" else _JSON
            body = await _body(receive, most)
            if body is None:
                return await _refused(send, 413, f"More than {most // 1000} kB.")
            if call == "upload" and _stored(self.folder) > self.limits.stored:  # who is cut off reads no answer
                return await _refused(send, 503, _FULL)
            if call != "upload" and not self._own(body):
                return await _refused(send, 400, "Only what was uploaded here can be named.")
            receive = _again(body, receive)
        policy = _UPLOADS if call.startswith("file=") else POLICY
        await self.app(scope, receive, _answering(send, policy, full=call == "queue/join"))

    def _known(self, path: str) -> bool:
        if path in _PAGES or path.startswith(_FOLDERS) and ".." not in path:
            return True
        call = path.removeprefix(_API)
        if call == path:
            return False
        if call.startswith("file="):
            return self._inside(call.removeprefix("file="))
        return call.rstrip("/") in _CALLS or call.startswith("heartbeat/")

    def _inside(self, file: str) -> bool:
        """Whether a path lies in the folder of uploads, however it is written."""
        if "\0" in file or not posixpath.isabs(file) or ".." in unquote(file).split("/"):
            return False
        return Path(file).resolve().is_relative_to(self.folder)

    def _own(self, body: bytes) -> bool:
        """Whether a call's body is JSON that names no file but uploads."""
        try:
            found = json.loads(body) if body else {}
        except (ValueError, RecursionError):
            return False
        return self._names_own(found)

    def _names_own(self, found: Any) -> bool:
        if isinstance(found, list):
            return all(map(self._names_own, found))
        if not isinstance(found, dict):
            return True
        path = found.get("path")
        own = path is None or isinstance(path, str) and self._inside(path)
        return own and all(map(self._names_own, found.values()))


def _stored(folder: Path) -> int:
    """Bytes of all uploads."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size
        except OSError:
            continue  # deleted in between
    return total


async def _body(receive: Receive, most: int) -> bytes | None:
    """The body of a request; None for one of more bytes than allowed, of which no more is read."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, for whoever reads it next; then what else comes."""
    given = False

    async def read() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read


def _answering(send: Send, policy: str, full: bool) -> Send:
    """Answers with our headers; where the line is `full`, told in words for people."""
    refused = False

    async def answer(message: Message) -> None:
        nonlocal refused
        if message["type"] == "http.response.start":
            refused = full and message["status"] == 503
            if refused:
                return await _refused(send, 503, _FULL)
            message["headers"] = [*message.get("headers", []), *_headers(policy)]
        if not refused:
            await send(message)

    return answer


def _headers(policy: str = POLICY) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]


async def _refused(send: Send, status: int, line: str) -> None:
    body = json.dumps({"detail": line}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *_headers()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

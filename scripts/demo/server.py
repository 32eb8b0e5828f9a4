"""A port, and the page on it, until it is stopped."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

from common.errors import UserError
from scripts.demo.answers import Models
from scripts.demo.limits import Limits

# Gradio reads these when it is imported, or when it launches: nothing is told to anyone, and nothing is loaded.
_QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1",
    "GRADIO_SSR_MODE": "False", "GRADIO_MCP_SERVER": "False", "GRADIO_WATCH_DIRS": "",
}  # fmt: skip


def need_gradio() -> None:
    """Raises `UserError` where Gradio is missing."""
    os.environ.update(_QUIET)
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(f"the demo needs Gradio ({error}): pip install 'saywhy[demo]'") from error


def check_port(host: str, port: int) -> None:
    """Raises `UserError` for a port that can't be had."""
    if not 0 < port < 65536:
        raise UserError(f"port {port} does not exist; give one from 1 to 65535 with --port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot serve on {host}, port {port} ({reason}); give another --port or --host") from error


@contextmanager
def serving(
    models: Models, host: str = "127.0.0.1", port: int = 7860, share: bool = False, limits: Limits | None = None
) -> Iterator[str]:
    """The page, served while the context lasts; its address is given. Uploads are deleted at the end.

    `share` asks Gradio's service for a public address; without it nothing leaves this machine.
    """
    limits = limits or Limits()
    need_gradio()
    check_port(host, port)
    with tempfile.TemporaryDirectory(prefix="saywhy-demo-") as folder, _uploads(folder):
        from scripts.demo.page import built

        page = built(models, limits)
        try:
            yield _launched(page, host, port, share, limits, folder)
        finally:
            page.close(verbose=False)


def _launched(page: Any, host: str, port: int, share: bool, limits: Limits, folder: str) -> str:
    """Start the server in a thread of its own; returns its address."""
    from starlette.middleware import Middleware

    from scripts.demo.guard import Guard
    from scripts.demo.page import theme

    assets = resources.files("scripts.demo.assets")
    _, local, public = page.launch(
        server_name=host, server_port=port, share=share, prevent_thread_lock=True, quiet=True, show_error=False,
        footer_links=[], run_history=False, max_file_size=limits.upload, allowed_paths=[folder], strict_cors=True,
        enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False, theme=theme(),
        css=assets.joinpath("demo.css").read_text(), head=f"<script>{assets.joinpath('head.js').read_text()}</script>",
        app_kwargs={"middleware": [Middleware(Guard, folder=folder, limits=limits)]},
    )  # fmt: skip
    return public or local


@contextmanager
def _uploads(folder: str) -> Iterator[None]:
    """Uploads go to a folder of ours, which goes with the server."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before

"""The demo's server: what hostile or many visitors get."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.demo.limits import Limits
from tests.demo_visitor import Visitor, Watched, served
from tests.test_demo import CAT, HUGE, REFUSED, SVG

ASKED = ("", "", ["gradcam"], "what animal is this?")
SECRET = "saywhy-secret"


@pytest.fixture(scope="module")
def visitor(demo_server) -> Visitor:
    return demo_server


@pytest.fixture(scope="module")
def models(visitor) -> Watched:
    return visitor.models


@pytest.fixture(scope="module")
def photo(visitor) -> str:
    return visitor.upload(CAT)[1]


@pytest.fixture(scope="module")
def vqa(visitor) -> int:
    return visitor.function("vqa")


def test_a_photograph_is_uploaded_asked_about_and_can_be_seen_again(visitor, photo, vqa) -> None:
    status, shown = visitor.ask(vqa, photo, *ASKED)
    assert status == 200 and '<p class="sd-said">cat</p>' in shown and "<iframe" in shown
    assert visitor.request(f"/gradio_api/file={photo}") == (200, CAT)


@pytest.mark.parametrize("kind", REFUSED)
def test_hostile_uploads_are_told_of_in_one_line(visitor, vqa, kind) -> None:
    data, reason = REFUSED[kind]
    status, photo = visitor.upload(data, "x.jpg")
    if status != 200:
        assert (kind, status) == ("large", 413) and "10010 kB" in photo
        return
    status, shown = visitor.ask(vqa, photo, *ASKED)
    assert status == 200 and "sd-sorry" in shown and reason in shown
    assert "Traceback" not in shown and "/tmp" not in shown and photo not in shown


def test_an_uploaded_svg_or_page_runs_nothing(visitor) -> None:
    for name, data in [("x.svg", SVG), ("x.html", b"<script>alert(1)</script>")]:
        path = visitor.upload(data, name)[1]
        answer = visitor.raw(f"/gradio_api/file={path}")
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def paths(folder: Path) -> list[str]:
    return [
        "/etc/passwd", "../../../../../../etc/passwd", "..%2f..%2f..%2f..%2fetc/passwd", "%2fetc%2fpasswd",
        "//etc/passwd", "/proc/self/environ", f"{folder}/../../etc/passwd", f"{folder}/..%2f..%2fetc%2fpasswd",
        str(Path(__file__).resolve()), "http://127.0.0.1:1/x", "https://example.org/x", "file:///etc/passwd",
        "x%00.jpg",
    ]  # fmt: skip


def test_no_file_of_the_server_can_be_read(visitor, photo) -> None:
    folder = Path(photo).parents[1]
    for path in paths(folder):
        for door in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/", "/svelte/",
                     "/gradio_api/proxy=", "/proxy=", "/gradio_api/stream/"):  # fmt: skip
            status, answer = visitor.request(door + path)
            assert status in (400, 403, 404, 405), door + path
            assert b"root:" not in answer and SECRET.encode() not in answer
    link = folder / "link.jpg"
    link.symlink_to("/etc/passwd")
    assert visitor.request(f"/gradio_api/file={link}")[0] == 404


def test_no_call_can_name_a_file_or_an_address(visitor, photo, vqa) -> None:
    for path in [*paths(Path(photo).parents[1]), ["/etc/passwd"], 7, "data:text/plain,x"]:
        named = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for call in ([named, *ASKED], [photo_of(photo), "", "", ["gradcam"], named], [[{"a": named}], *ASKED]):
            body = {"data": call, "fn_index": vqa, "session_hash": "s"}
            for door in ("/gradio_api/queue/join", "/gradio_api/run/predict"):
                status, answer = visitor.request(door, json.dumps(body).encode())
                assert status == 400 and b"root:" not in answer


def photo_of(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_an_address_given_beside_an_upload_is_not_asked(visitor, photo, vqa) -> None:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        other.settimeout(0.5)
        url = f"http://127.0.0.1:{other.getsockname()[1]}/x.jpg"
        status, shown = visitor.ask(vqa, {**photo_of(photo), "url": url, "orig_name": "../../x"}, *ASKED)
        assert status == 200 and "sd-said" in shown
        with pytest.raises(TimeoutError):
            other.accept()


def test_what_a_page_does_not_need_is_not_there(visitor) -> None:
    for path in ("info", "openapi.json", "runs", "run-history/connect", "call/x", "api/predict", "run/answer",
                 "component_server", "process_recording", "vibe-edit", "dev/reload", "deep_link", "mcp/"):  # fmt: skip
        for body in (None, b"{}"):
            assert visitor.request(f"/gradio_api/{path}", body)[0] == 404
    for path in ("/monitoring", "/docs", "/redoc", "/openapi.json", "/login", "/pwa_icon", "/.env", "/gradio_api"):
        assert visitor.request(path)[0] == 404


def test_the_line_cannot_be_jumped(visitor, photo, vqa) -> None:
    body = {"data": [photo_of(photo), *ASKED], "fn_index": vqa, "session_hash": "s"}
    status, answer = visitor.request("/gradio_api/run/predict", json.dumps(body).encode())
    assert status >= 400 and b"sd-said" not in answer and b"Traceback" not in answer


@pytest.mark.parametrize(
    "fields",
    [
        ("x" * 1100, "", ["gradcam"], "what?"),
        ("", "", ["integrated_gradients"], "what?"),
        ("", "", "gradcam", "what?"),
        ("", "", [{}], "what?"),
        ({}, [], None, 5),
        ("", "", ["gradcam"], "x" * 201),
        ("", "", ["gradcam"], ""),
    ],
)
def test_texts_of_any_kind_are_answered_in_one_line(visitor, photo, vqa, fields) -> None:
    status, shown = visitor.ask(vqa, photo, *fields)
    assert status == 200 and "sd-sorry" in shown and "Traceback" not in shown


def test_a_call_may_not_be_large_or_no_json(visitor, photo, vqa) -> None:
    assert visitor.ask(vqa, photo, "", "", ["gradcam"], "x" * 200_000)[0] == 413
    assert visitor.request("/gradio_api/queue/join", b"{" + b"[" * 90_000)[0] == 400
    assert visitor.request("/gradio_api/queue/join", b"\xff")[0] == 400


def test_nothing_chosen_is_said(visitor, vqa) -> None:
    assert "choose a photograph" in visitor.ask(vqa, None, *ASKED)[1].lower()


def test_a_defect_of_ours_is_noted_here_and_not_shown(visitor, photo, vqa, monkeypatch, capfd) -> None:
    def broken(*_):
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr(Watched, "encoded", broken)
    shown = visitor.ask(vqa, photo, *ASKED)[1]
    assert "Something went wrong" in shown and SECRET not in shown and "ZeroDivision" not in shown
    assert SECRET in capfd.readouterr().err


def test_fifty_at_once_are_answered_or_told_to_wait_and_never_two_at_a_time(visitor, photo, vqa, models) -> None:
    models.most = 0
    with ThreadPoolExecutor(50) as crowd:
        found = list(crowd.map(lambda _: visitor.ask(vqa, photo, *ASKED), range(50)))
    answered = [shown for status, shown in found if status == 200]
    waiting = [shown for status, shown in found if status == 503]
    assert len(answered) + len(waiting) == 50 and len(answered) >= 11
    assert all("sd-said" in shown for shown in answered)
    assert all("Please wait a minute" in shown for shown in waiting)
    assert models.most == 1 and visitor.ask(vqa, photo, *ASKED)[0] == 200


def test_what_the_server_stores_is_bounded_and_goes_with_it(models) -> None:
    with served(models, Limits(stored=3_000_000)) as other:
        folder = Path(other.upload(CAT)[1]).parents[1]
        statuses = [other.upload(bytes([number]) * 1_000_000)[0] for number in range(5)]
        assert statuses[0] == 200 and statuses[-1] == 503 and folder.is_dir()
    assert not folder.exists()


def test_huge_pictures_cost_no_memory() -> None:
    """The header alone is read: a bomb of 900 million pixels is refused in less than it takes to look at it."""
    import tracemalloc

    from common.errors import UserError
    from scripts.demo.limits import photograph

    tracemalloc.start()
    with pytest.raises(UserError):
        photograph(HUGE, Limits())
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_the_page_asks_no_other_host(visitor) -> None:
    answer = visitor.raw("/")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    text = answer.read().decode()
    for tag in ("script", "link", "img", "iframe"):
        for piece in text.split(f"<{tag}")[1:]:
            head = piece.split(">")[0]
            assert "http://" not in head.replace(visitor.address, "") and "https://" not in head, head
    theme = visitor.request("/theme.css")[1].decode()
    assert "url(http" not in theme and "@import" not in theme and "system-ui" in theme
    config = json.loads(visitor.request("/config")[1])
    assert not config["analytics_enabled"] and not config["show_error"] and not config["footer_links"]

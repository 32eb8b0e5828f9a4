"""The receiver: only what is public is served, and no answer that was confirmed is ever lost or counted twice."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import UserError
from scripts.saywhy import main
from scripts.study.answers import read_results
from scripts.study.plan import trial_options
from scripts.study.receiver import Receiver
from scripts.study.serve import MOST_BYTES, Server, address, unedited
from tests.studies import answer_to, asked, body_of, made_up, served, session_of

ROOT = Path(__file__).parent.parent


@pytest.fixture
def study(tmp_path):
    return made_up(tmp_path / "study")


def lines_of(study) -> list[dict]:
    return [json.loads(line) for line in (study.folder / "results" / "answers.jsonl").read_text().splitlines()]


def test_pages_and_pictures_are_served_and_nothing_else(study) -> None:
    (study.folder / "public" / "secret.txt").symlink_to(study.folder / "key.json")
    picture = next((study.folder / "public" / "stimuli").iterdir())
    with served(study) as server:
        port = server.server_port
        kinds = {"/": "text/html", "/study.js": "text/javascript", "/design.json?x=1": "application/json"}
        for path, kind in {**kinds, "/texts/consent.txt": "text/plain", "/study.css": "text/css"}.items():
            status, _, headers = asked(port, "GET", path)
            assert status == 200 and headers["Content-Type"].startswith(kind), path
            assert headers["X-Content-Type-Options"] == "nosniff"
        status, data, headers = asked(port, "GET", f"/stimuli/{picture.name}")
        assert (status, data, headers["Content-Type"]) == (200, picture.read_bytes(), "image/jpeg")
        status, data, headers = asked(port, "HEAD", f"/stimuli/{picture.name}")
        assert (status, data) == (200, b"") and int(headers["Content-Length"]) == picture.stat().st_size
        hidden = [
            "/key.json", "/plan.json", "/results/answers.jsonl", "/../key.json", "/..%2fkey.json", "/%2e%2e/plan.json",
            "/stimuli/../../key.json", "/stimuli/", "//key.json", "/secret.txt", "/stimuli/..\\..\\key.json",
            str(study.folder / "key.json"), "/texts", "/answers", "/index.html%00",
        ]  # fmt: skip
        for path in hidden:
            status, data, _ = asked(port, "GET", path)
            assert status == 404 and b"photograph" not in data, path
        for method in ("PUT", "DELETE", "OPTIONS"):
            assert asked(port, method, "/answers")[0] == 501


def test_texts_can_be_edited_while_it_is_served(study) -> None:
    with served(study) as server:
        (study.folder / "public" / "texts" / "consent.txt").write_text("# Ours")
        assert asked(server.server_port, "GET", "/texts/consent.txt")[1] == b"# Ours"


def test_an_answer_is_kept_as_it_came_and_nothing_of_the_visitor_besides(study) -> None:
    answer = answer_to(study, 0, study.lists[0][0])
    with served(study) as server:
        body = body_of(study, "one", [{**answer, "browser": "secret"}])
        assert asked(server.server_port, "POST", "/answers", {**body, "address": "secret"})[:2] == (
            200, {"kept": 1, "known": 0}
        )  # fmt: skip
    assert lines_of(study) == [{**body_of(study, "one"), **answer}]


def test_lists_are_given_out_evenly_and_a_session_keeps_its_own(study) -> None:
    with served(study) as server:

        def begin(session: int) -> int:
            body = body_of(study, f"s{session}", list=None, begin=True)
            return asked(server.server_port, "POST", "/answers", body)[1]["list"]

        with ThreadPoolExecutor(8) as pool:
            lists = list(pool.map(begin, range(40)))
        assert Counter(lists) == dict.fromkeys(range(4), 10)
        assert [begin(n) for n in range(40)] == lists
    with served(study) as server:
        assert begin(7) == lists[7] and len(lines_of(study)) == 40


def test_a_class_that_answers_at_once_and_sends_everything_twice_is_kept_once(study) -> None:
    sessions = {f"s{n}": session_of(study, n % 4) for n in range(24)}
    work = [(name, answer) for name, answers in sessions.items() for answer in answers for _ in range(2)]
    with served(study) as server, ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda each: send(server.server_port, study, *each), work))
    assert all(status == 200 for status, *_ in found)
    assert sum(said["kept"] for _, said, _ in found) == 24 * 10 == len(lines_of(study))
    results = read_results(study)
    assert len(results.answers) == 240 and not results.remarks


def send(port: int, study, session: str, answer: dict):
    return asked(port, "POST", "/answers", body_of(study, session, [answer]))


def test_after_kill_9_all_that_was_confirmed_is_there_and_it_goes_on(study) -> None:
    answers, confirmed = session_of(study), []
    command = [sys.executable, "-m", "scripts.saywhy", "study", "serve", str(study.folder), "--port", "0"]

    def start():
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        return process, int(process.stdout.readline().rpartition(":")[2].split("/")[0])

    process, port = start()
    for answer in answers[:6]:
        assert send(port, study, "one", answer)[0] == 200
        confirmed.append(answer["number"])
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    # What a crash in the middle of a line leaves.
    with (study.folder / "results" / "answers.jsonl").open("ab") as file:
        file.write(b'{"study": "cut o')
    with served(study) as server:
        assert [send(server.server_port, study, "one", a)[1]["kept"] for a in answers] == [0] * 6 + [1] * 4
    results = read_results(study)
    assert [answer.number for answer in results.answers] == list(range(10))
    assert results.remarks == ["1 broken lines of answers.jsonl left out"]


def test_ctrl_c_ends_it_and_frees_the_study(study) -> None:
    command = [sys.executable, "-m", "scripts.saywhy", "study", "serve", str(study.folder), "--port", "0"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background has it ignored
    )  # fmt: skip
    assert "http://127.0.0.1:" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=15)
    assert process.returncode == 130 and "Traceback" not in error
    Receiver(study, trial_options(study)).close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"study": "another"}, "another study"),
        ({"session": ""}, "'participant' and 'session'"),
        ({"participant": "x" * 65}, "'participant' and 'session'"),
        ({"participant": ["x"]}, "'participant' and 'session'"),
        ({"participant": "\ud800"}, "surrogates"),
        ({"list": 4}, "no such list"),
        ({"answers": []}, "'answers' is no list"),
        ({"answers": "x"}, "'answers' is no list"),
        ({"answers": [1]}, "no such trial"),
        ({"answers": [{"trial": ["x"]}]}, "no such trial"),
    ],
)
def test_what_is_no_answer_is_refused_and_leaves_no_line(study, change, said) -> None:
    body = {**body_of(study, "one", [answer_to(study, 0, study.lists[0][0])]), **change}
    with served(study) as server:
        status, found, _ = asked(server.server_port, "POST", "/answers", body)
    assert status == 400 and said in found["error"] and not lines_of(study)


@pytest.mark.parametrize(
    "change", [{"response": 2}, {"response": True}, {"response": -1}, {"ms": 1.5}, {"number": None}, {"order": [0, 0]}]
)
def test_an_answer_that_the_trial_does_not_have_is_refused(study, change) -> None:
    with served(study) as server:
        answer = {**answer_to(study, 0, study.lists[0][0]), **change}
        assert send(server.server_port, study, "one", answer)[0] == 400
    assert not lines_of(study)


def test_bodies_are_bounded_and_json(study) -> None:
    with served(study) as server:
        port = server.server_port
        assert asked(port, "POST", "/answers", b"x" * (MOST_BYTES + 1))[0] == 413
        assert asked(port, "POST", "/answers", b"{")[0] == 400
        assert asked(port, "POST", "/answers", b"[" * 20_000)[0] == 400
        assert asked(port, "POST", "/answers", b"{}", kind="text/plain")[0] == 415
        assert asked(port, "POST", "/elsewhere", b"{}")[0] == 404
        with socket.create_connection(("127.0.0.1", port), 10) as plain:
            plain.sendall(b"POST /answers HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\r\n{}")
            assert plain.recv(100).startswith(b"HTTP/1.1 411")
    assert not lines_of(study)


def test_a_full_disk_confirms_nothing_and_leaves_no_half_line(study, monkeypatch) -> None:
    answers = session_of(study)
    receiver = Receiver(study, trial_options(study))
    receiver.receive(body_of(study, "one", answers[:1]))

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            receiver.receive(body_of(study, "one", answers[1:2]))
    assert [line["number"] for line in lines_of(study)] == [0]
    assert receiver.receive(body_of(study, "one", answers)) == {"kept": 9, "known": 1}
    receiver.close()
    assert [line["number"] for line in lines_of(study)] == list(range(10))


def test_texts_that_nobody_has_edited_are_named(study) -> None:
    assert unedited(study) == ["consent.txt", "debriefing.txt"]
    (study.folder / "public" / "texts" / "consent.txt").write_text("# Ours")
    assert unedited(study) == ["debriefing.txt"]


def test_the_address_is_one_that_others_can_open(study) -> None:
    with served(study) as server:
        assert address(server, "lab.example") == f"http://lab.example:{server.server_port}/"
        assert re.fullmatch(r"http://\d+\.\d+\.\d+\.\d+:\d+/", address(server, "0.0.0.0"))


def test_a_port_in_use_and_a_study_that_is_served_already_are_one_line(study, tmp_path, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["study", "serve", str(study.folder), "--port", str(port)]) == 2
        assert f"cannot serve at 127.0.0.1:{port}" in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert main(["study", "serve", str(study.folder), "--host", "no.such.host.invalid"]) == 2
    assert capsys.readouterr().err.count("cannot serve at") == 1
    with served(study), pytest.raises(UserError, match="being served already"):
        Server(study, "127.0.0.1", 0)


def test_pages_that_are_missing_or_of_another_study_are_one_line(study, tmp_path) -> None:
    other = made_up(tmp_path / "other", "trust")
    (other.folder / "public" / "design.json").write_text((study.folder / "public" / "design.json").read_text())
    with pytest.raises(UserError, match="another study than the plan|not as it was built"):
        Server(other, "127.0.0.1", 0)
    (study.folder / "public" / "index.html").unlink()
    with pytest.raises(UserError, match="is missing; build the study again"):
        Server(study, "127.0.0.1", 0)


def test_a_visitor_who_leaves_in_the_middle_disturbs_nobody(study, capsys) -> None:
    with served(study) as server:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.server_port), 10) as plain:
                plain.sendall(
                    b"POST /answers HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"
                )
        time.sleep(0.1)
        assert send(server.server_port, study, "one", answer_to(study, 0, study.lists[0][0]))[0] == 200
    assert "Traceback" not in capsys.readouterr().err

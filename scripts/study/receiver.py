"""What a study's server keeps of what it is sent: lines of one file, each synced before it is confirmed.

A line is one answer, or that somebody began with a list:
`{"study", "participant", "session", "list", "number", "trial", "response", "ms", "order"}`, `{..., "begin": true}`.
"""

from __future__ import annotations

import errno
import json
import os
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from common.errors import UserError
from scripts.study.plan import ANSWERS, RESULTS, Study

MOST_ANSWERS = 200  # of one request
_LONGEST = 64  # letters of a participant's or session's name


class Refused(ValueError):
    """A request that is no answer to this study."""


class Receiver:
    """Appends answers to `results/answers.jsonl`, each once, and gives out lists evenly. Safe for threads.

    Only one receiver at a time holds a study's file; a second one raises `UserError`.
    """

    def __init__(self, study: Study, options: dict[str, int]) -> None:
        """`options`: how many answers each trial has, attention checks included."""
        self.study, self.options = study, options
        self.lock = threading.Lock()
        self.known: set[tuple[str, int]] = set()  # (session, number)
        self.lists: dict[str, int] = {}  # by session
        self.path = study.folder / RESULTS / ANSWERS
        self.file = _locked(self.path)
        self._remember()

    def close(self) -> None:
        self.file.close()

    def receive(self, body: Any) -> dict[str, Any]:
        """Keep what was sent; the reply is made once it is on the disk. Raises `Refused` for what is no answer."""
        about = self._about(body)
        if body.get("begin") is True:
            return {"list": self._begin(about)}
        answers = body.get("answers")
        if not isinstance(answers, list) or not 0 < len(answers) <= MOST_ANSWERS:
            raise Refused(f"'answers' is no list of 1 to {MOST_ANSWERS}")
        checked = [self._answer(each) for each in answers]
        with self.lock:
            new = {each["number"]: each for each in checked if (about["session"], each["number"]) not in self.known}
            self._write([{**about, **each} for each in new.values()])
            self.known |= {(about["session"], number) for number in new}
        return {"kept": len(new), "known": len(checked) - len(new)}

    def _begin(self, about: dict[str, Any]) -> int:
        """The list of a session: its own if it has one, else one of those that were given out least."""
        with self.lock:
            session = about["session"]
            if session not in self.lists:
                given = Counter(self.lists.values())
                lists = range(len(self.study.lists))
                least = min(given[each] for each in lists)
                number = random.choice([each for each in lists if given[each] == least])
                self._write([{**about, "list": number, "begin": True}])
                self.lists[session] = number
            return self.lists[session]

    def _write(self, records: list[dict[str, Any]]) -> None:
        """Append lines and sync them; what could not be written whole (a full disk) is taken back."""
        if not records:
            return
        data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
        before = os.fstat(self.file.fileno()).st_size
        try:
            if self.file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self.file.fileno())
        except OSError:
            os.ftruncate(self.file.fileno(), before)
            raise

    def _about(self, body: Any) -> dict[str, Any]:
        """Which study, person, session and list. Raises `Refused`."""
        if not isinstance(body, dict):
            raise Refused("not a JSON object")
        if body.get("study") != self.study.id:
            raise Refused("another study is served here; reload the page")
        names = {name: body.get(name) for name in ("participant", "session")}
        if not all(isinstance(each, str) and 0 < len(each) <= _LONGEST for each in names.values()):
            raise Refused(f"'participant' and 'session' are texts of at most {_LONGEST} letters")
        number = body.get("list")
        if number is not None and not _whole(number, len(self.study.lists)):
            raise Refused("no such list")
        return {"study": self.study.id, **names, "list": number}

    def _answer(self, given: Any) -> dict[str, Any]:
        """One answer with the fields that are kept. Raises `Refused`."""
        if not isinstance(given, dict) or str(given.get("trial")) not in self.options:
            raise Refused("no such trial")
        count = self.options[str(given["trial"])]
        order = given.get("order")
        numbers = ((given.get("response"), count), (given.get("number"), 10_000), (given.get("ms"), 2**40))
        placed = isinstance(order, list) and sorted(order, key=repr) == [*range(count)]
        if not (placed and all(_whole(value, below) for value, below in numbers)):
            raise Refused("'response', 'number', 'ms' or 'order' is amiss")
        return {name: given[name] for name in ("number", "trial", "response", "ms", "order")}

    def _remember(self) -> None:
        """What the file holds from before; a line that a crash cut off is closed, so that none is glued to it."""
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            self.file.write(b"\n")
        for line in data.split(b"\n"):
            try:
                record = json.loads(line)
                session = record["session"]
                if record.get("begin"):
                    self.lists[session] = record["list"]
                else:
                    self.known.add((session, record["number"]))
            except (ValueError, TypeError, KeyError):
                continue  # told by the analysis


def _whole(value: Any, below: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below


def _locked(path: Path) -> Any:
    """The file, opened to append, held by this process alone where the system can say so."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab", buffering=0)
    except OSError as problem:
        raise UserError(f"cannot write '{path}': {problem.strerror}; answers would be lost") from problem
    try:
        import fcntl
    except ImportError:  # Windows
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        file.close()
        raise UserError(f"'{path.parent.parent}' is being served already; stop that server first") from problem
    return file

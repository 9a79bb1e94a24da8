"""The tenant's log: operations, verdicts, who asked. One line an event, chained by hash, signed.

Each line holds the hash of the line before it, so nothing can be taken out, put in or changed
without a break; each is signed, so it cannot be re-chained without the key. What a chain alone does
not show is an end cut off: compare `head` with one noted elsewhere (every verdict may carry it).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from migrate.errors import VerificationFailed
from migrate.redaction import redact
from migrate.signing import Signer, check

FILE = "log.jsonl"
BEGINNING = "0" * 64
CHUNK = 65536


@dataclass(frozen=True)
class Chain:
    """A log that was checked from its beginning: how many lines, and the hash of the last."""

    lines: int
    head: str


class Log:
    """The log in a tenant's state folder. Appends of several processes do not mix."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._signer = Signer(folder)

    def append(self, event: Mapping[str, Any]) -> str:
        """Add an event (JSON values only; secrets are masked by name); returns its hash.

        On disk when this returns. A line that a kill cut off was never acknowledged and is dropped.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked() as file:
            last = _last_line(file)
            number, before = (last["number"] + 1, last["hash"]) if last else (1, BEGINNING)
            body = {"number": number, "at": _now(), "event": redact(dict(event)), "before": before}
            digest = _hash(body)
            line = {**body, "hash": digest, **self._signer.sign(digest.encode())}
            file.write(json.dumps(line, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return digest

    def events(self) -> Iterator[dict[str, Any]]:
        """The lines as they stand, unchecked, the oldest first."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            yield from (json.loads(line) for line in file if line.endswith(b"\n"))

    def verify_chain(self, head: str | None = None) -> Chain:
        """Check every line's hash, link and signature; with `head`, that the log still contains that line.

        Raises VerificationFailed naming the first line that is wrong.
        """
        before, number, seen = BEGINNING, 0, head is None
        public_key = self._signer.public_key()
        for number, line in enumerate(self._checked_lines(), 1):
            body = {name: line.get(name) for name in ("number", "at", "event", "before")}
            fits = body["before"] == before and body["number"] == number and line.get("hash") == _hash(body)
            if not fits or not check(public_key, str(line["hash"]).encode(), str(line.get("signature", ""))):
                raise _broken(number)
            before = line["hash"]
            seen = seen or before == head
        if not seen:
            raise VerificationFailed(
                f"the log of {number} lines does not hold {str(head)[:12]}…: its end was cut off", code="log-cut"
            )
        return Chain(number, before)

    def _checked_lines(self) -> Iterator[dict[str, Any]]:
        number = 0
        try:
            for number, line in enumerate(self.events(), 1):  # noqa: B007 - read after a failure
                yield line
        except ValueError as error:
            raise _broken(number + 1) from error

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        with self._path.open("a+b") as file:
            self._path.chmod(0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file


def _last_line(file: IO[bytes]) -> dict[str, Any] | None:
    """The last whole line; what a kill left after it is cut off."""
    size = file.seek(0, os.SEEK_END)
    tail, start = b"", size
    while start > 0 and tail.count(b"\n") < 2:
        start = max(0, start - CHUNK)
        file.seek(start)
        tail = file.read(size - start)
    whole, found, torn = tail.rpartition(b"\n")
    if torn:
        file.truncate(size - len(torn))
    return json.loads(whole.rpartition(b"\n")[2]) if found else None


def _broken(number: int) -> VerificationFailed:
    return VerificationFailed(
        f"line {number} of the log is not what was written: changed, moved, added or removed",
        hint="keep the file as it is; what comes after that line proves nothing",
        code="log-broken",
    )


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

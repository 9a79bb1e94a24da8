"""What the Azure half knows, as JSON documents: read from memory, written through to SQLite."""

from __future__ import annotations

import copy
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Document = dict[str, Any]


class Store:
    """Documents by (kind, key). Keys are compared without case, as Azure compares resource ids.

    One lock for all of it: a call holds it while it checks and changes, so that two calls never interleave.
    """

    def __init__(self, file: Path) -> None:
        self.lock = threading.RLock()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._database = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing, a dead machine may
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS documents (kind TEXT, key TEXT, document TEXT, PRIMARY KEY (kind, key))"
        )
        self._kinds: dict[str, dict[str, Document]] = {}
        for kind, key, text in self._database.execute("SELECT kind, key, document FROM documents"):
            self._kinds.setdefault(kind, {})[key] = json.loads(text)
        file.chmod(0o600)

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self.lock:
            yield

    def get(self, kind: str, key: str) -> Document | None:
        """A copy: changing it changes nothing until it is put."""
        with self.lock:
            found = self._kinds.get(kind, {}).get(key.lower())
            return copy.deepcopy(found) if found is not None else None

    def put(self, kind: str, key: str, document: Document) -> None:
        with self.lock:
            text = json.dumps(document)
            self._database.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", (kind, key.lower(), text))
            self._kinds.setdefault(kind, {})[key.lower()] = json.loads(text)

    def delete(self, kind: str, key: str) -> Document | None:
        with self.lock:
            self._database.execute("DELETE FROM documents WHERE kind = ? AND key = ?", (kind, key.lower()))
            return self._kinds.get(kind, {}).pop(key.lower(), None)

    def all(self, kind: str, prefix: str = "") -> list[tuple[str, Document]]:
        """(key, copy) of each document whose key begins with `prefix`, in the order of keys."""
        with self.lock:
            return [
                (key, copy.deepcopy(document))
                for key, document in sorted(self._kinds.get(kind, {}).items())
                if key.startswith(prefix.lower())
            ]

    def close(self) -> None:
        with self.lock:
            self._database.close()

"""Where keys outlive the process: one SQLite file, owned by one process."""

import json
import sqlite3
from pathlib import Path

from sandbox.aws.kms.model import Alias, ImportToken, Key, Material, MaterialState, Origin

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (id TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS materials (
    key_id TEXT NOT NULL, position INTEGER NOT NULL, document TEXT NOT NULL, secret BLOB,
    PRIMARY KEY (key_id, position)
);
CREATE TABLE IF NOT EXISTS aliases (arn TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS import_tokens (token BLOB PRIMARY KEY, document TEXT NOT NULL, private_key BLOB NOT NULL);
"""


class Store:
    """Writes through, one transaction a call; reads only at the start (`load_*`).

    Every commit is synced (`synchronous=FULL`): acknowledged material must survive a power cut,
    and management calls are rare enough to afford it. The exclusive lock refuses a second process,
    whose picture of the keys would silently differ.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, check_same_thread=False, timeout=1.0)
        path.chmod(0o600)
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA secure_delete=ON")
        self._db.executescript(_SCHEMA)

    def load_keys(self) -> list[Key]:
        materials: dict[str, list[Material]] = {}
        for key_id, document, secret in self._db.execute(
            "SELECT key_id, document, secret FROM materials ORDER BY key_id, position"
        ):
            materials.setdefault(key_id, []).append(_material(json.loads(document), secret))
        return [
            _key(json.loads(document), tuple(materials.get(key_id, ())))
            for key_id, document in self._db.execute("SELECT id, document FROM keys")
        ]

    def load_aliases(self) -> list[Alias]:
        return [Alias(**json.loads(document)) for (document,) in self._db.execute("SELECT document FROM aliases")]

    def load_tokens(self) -> list[ImportToken]:
        rows = self._db.execute("SELECT token, document, private_key FROM import_tokens")
        return [ImportToken(token=token, private_key=pem, **json.loads(document)) for token, document, pem in rows]

    def put_key(self, key: Key) -> None:
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?)", (key.id, _key_document(key)))
            self._db.execute("DELETE FROM materials WHERE key_id = ?", (key.id,))
            self._db.executemany(
                "INSERT INTO materials VALUES (?, ?, ?, ?)",
                [(key.id, i, _material_document(m), m.secret) for i, m in enumerate(key.materials)],
            )

    def delete_key(self, key_id: str, alias_arns: list[str], tokens: list[bytes]) -> None:
        with self._db:
            self._db.execute("DELETE FROM keys WHERE id = ?", (key_id,))
            self._db.execute("DELETE FROM materials WHERE key_id = ?", (key_id,))
            self._db.executemany("DELETE FROM aliases WHERE arn = ?", [(arn,) for arn in alias_arns])
            self._db.executemany("DELETE FROM import_tokens WHERE token = ?", [(token,) for token in tokens])

    def put_alias(self, alias: Alias) -> None:
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO aliases VALUES (?, ?)", (alias.arn, json.dumps(vars(alias))))

    def delete_alias(self, arn: str) -> None:
        with self._db:
            self._db.execute("DELETE FROM aliases WHERE arn = ?", (arn,))

    def put_token(self, token: ImportToken) -> None:
        document = {name: value for name, value in vars(token).items() if name not in ("token", "private_key")}
        with self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO import_tokens VALUES (?, ?, ?)",
                (token.token, json.dumps(document), token.private_key),
            )

    def delete_token(self, token: bytes) -> None:
        with self._db:
            self._db.execute("DELETE FROM import_tokens WHERE token = ?", (token,))

    def shred(self) -> None:
        """Empty the write-ahead log: the main file's freed pages are zeroed already, the log's are not."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self.shred()
        self._db.close()


_KEY_FIELDS = (
    "id",
    "account",
    "region",
    "origin",
    "policy_text",
    "created_at",
    "description",
    "is_disabled",
    "deletion_date",
    "tags",
    "rotation_period_days",
    "next_rotation",
    "on_demand_started",
    "on_demand_count",
)
_MATERIAL_FIELDS = ("id", "state", "description", "valid_to", "rotated_at", "rotation_type")


def _key_document(key: Key) -> str:
    return json.dumps({name: getattr(key, name) for name in _KEY_FIELDS})


def _key(document: dict, materials: tuple[Material, ...]) -> Key:
    tags = tuple((tag, value) for tag, value in document.pop("tags"))
    return Key(origin=Origin(document.pop("origin")), tags=tags, materials=materials, **document)


def _material_document(material: Material) -> str:
    return json.dumps({name: getattr(material, name) for name in _MATERIAL_FIELDS})


def _material(document: dict, secret: bytes | None) -> Material:
    return Material(state=MaterialState(document.pop("state")), secret=secret, **document)

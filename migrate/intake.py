"""Reading what is to be archived: NDJSON, CSV, attachments, a folder or a zip of them.

`survey` reads everything once and refuses the whole if one record is broken; `items` reads it again
and gives one thing at a time. Both are flat in memory, however large the files.

In a folder or zip that holds record files at its top, or a folder `attachments/`, these are the
records and the attachments. Any other folder or zip is attachments throughout.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import shutil
import sqlite3
import tempfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

import orjson

from migrate.errors import RefusedInput

LINES = (".ndjson", ".jsonl")
RECORD_FILES = (*LINES, ".csv")
ATTACHMENTS = "attachments/"
KEY_LIMIT_BYTES = 1024
ID_LIMIT_BYTES = 512
"""Percent-encoded it still has to fit into S3's 2 KB of user metadata."""
LINE_LIMIT_BYTES = 64 * 1024 * 1024
ATTACHMENT_LIMIT_BYTES = 5 * 1024**3
"""What one PUT takes (S3 API)."""
PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class Ids:
    """Which columns name a record: by type, or for every type that has them all.

    Without either a column `id` does, and without one the hash of the record's content: then equal
    rows are one record, and a changed row is another one.
    """

    by_type: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    default: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """`where` is file:line, for messages."""

    type: str
    id: str
    data: Mapping[str, Any]
    where: str

    @property
    def key(self) -> str:
        return f"records/{self.type}/{self.id}.json"


@dataclass(frozen=True)
class Attachment:
    """`open` gives its bytes anew at each call; `size` is their number."""

    path: str
    size: int
    open: Callable[[], IO[bytes]]

    @property
    def key(self) -> str:
        return ATTACHMENTS + self.path


@dataclass(frozen=True)
class Survey:
    """What an input holds. `records` counts each record once, also where a row repeats."""

    records: int
    attachments: int
    bytes: int
    by_type: Mapping[str, int]
    fingerprint: str


@dataclass(frozen=True)
class _Member:
    """A file, or an entry of a zip; `stamp` changes when the content does."""

    name: str
    size: int
    stamp: str
    open: Callable[[], IO[bytes]]


class _Broken(Exception):
    """A record or a file that cannot be taken: where, and why."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")


def survey(path: Path, ids: Ids, *, prefix_bytes: int = 0) -> Survey:
    """Read the whole input. Raises RefusedInput that names what is broken by file and line; nothing is loaded then."""
    problems: list[str] = []
    members = _members(path)
    counts: Counter[str] = Counter()
    attachments = size = 0
    with _Seen() as seen:
        for member in members:
            try:
                for item in _items_of(member, members, ids, problems):
                    _check_key(item, prefix_bytes)
                    if isinstance(item, Attachment):
                        attachments, size = attachments + 1, size + item.size
                    elif seen.add(item, problems):
                        counts[item.type] += 1
            except _Broken as broken:
                problems.append(str(broken))
    if ids.default and not problems and not _is_used(ids.default, members):
        problems.append(f"no file has the column {', '.join(ids.default)}")
    if problems:
        raise _refusal(path, problems)
    if not counts and not attachments:
        raise RefusedInput(f"{path} holds nothing to archive", hint="name NDJSON or CSV files, or a folder")
    size += sum(member.size for member in members if _is_record_file(member, members))
    return Survey(counts.total(), attachments, size, dict(sorted(counts.items())), _fingerprint(members))


def items(path: Path, ids: Ids, surveyed: Survey) -> Iterator[Record | Attachment]:
    """The records and attachments, one at a time. Raises RefusedInput if the input changed since the survey."""
    members = _members(path)
    if _fingerprint(members) != surveyed.fingerprint:
        raise RefusedInput(f"{path} changed while it was read", hint="run it again when nothing writes there any more")
    problems: list[str] = []
    for member in members:
        yield from _items_of(member, members, ids, problems)
    if problems:
        raise _refusal(path, problems)


def _refusal(path: Path, problems: list[str]) -> RefusedInput:
    shown = "\n  ".join(problems[:PROBLEMS_SHOWN])
    more = f"\n  and {len(problems) - PROBLEMS_SHOWN} more" if len(problems) > PROBLEMS_SHOWN else ""
    return RefusedInput(
        f"{path} cannot be archived as it is; nothing was loaded:\n  {shown}{more}",
        hint="mend these and run it again",
        code="broken-records",
    )


# files ----------------------------------------------------------------------------------------


def _members(path: Path) -> list[_Member]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_symlink() or not file.is_dir())
        return [member for file in files for member in _expanded(file, file.relative_to(path).as_posix())]
    if path.is_file():
        return _expanded(path, path.name)
    raise RefusedInput(f"{path} does not exist", hint="name NDJSON or CSV files, or a folder")


def _expanded(file: Path, name: str) -> list[_Member]:
    """The file itself, or the entries of a zip that lies at the top (below `attachments/` a zip is an attachment)."""
    if file.is_symlink() or not file.is_file():
        raise RefusedInput(f"{file} is not a plain file", hint="links, pipes and devices are not archived")
    if file.suffix.lower() == ".zip" and "/" not in name:
        return _zipped(file)
    stat = file.stat()
    return [_Member(name, stat.st_size, f"{stat.st_size} {stat.st_mtime_ns}", partial(file.open, "rb"))]


def _zipped(file: Path) -> list[_Member]:
    try:
        entries = sorted(zipfile.ZipFile(file).infolist(), key=lambda entry: entry.filename)
    except zipfile.BadZipFile as error:
        raise RefusedInput(f"{file} is not a zip file: {error}") from error

    return [
        _Member(entry.filename, entry.file_size, f"{entry.file_size} {entry.CRC}", partial(_unzipped, file, entry))
        for entry in entries
        if not entry.is_dir()
    ]


def _unzipped(file: Path, entry: zipfile.ZipInfo) -> IO[bytes]:
    """The entry as a file on disk: an upload reads it twice, to hash and to send, and a zip only reads forward."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    with zipfile.ZipFile(file) as archive, archive.open(entry) as packed:
        shutil.copyfileobj(packed, copy)
    copy.seek(0)
    return copy


def _fingerprint(members: list[_Member]) -> str:
    whole = hashlib.sha256()
    for member in members:
        whole.update(f"{member.name}\0{member.stamp}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def _is_mixed(members: list[_Member]) -> bool:
    return any(_is_at_top(member) or member.name.startswith(ATTACHMENTS) for member in members)


def _is_at_top(member: _Member) -> bool:
    return "/" not in member.name and member.name.lower().endswith(RECORD_FILES)


def _is_record_file(member: _Member, members: list[_Member]) -> bool:
    return _is_mixed(members) and _is_at_top(member)


def _items_of(member: _Member, members: list[_Member], ids: Ids, problems: list[str]) -> Iterator[Record | Attachment]:
    if _is_record_file(member, members):
        yield from _records(member, ids, problems)
        return
    name = member.name
    if _is_mixed(members):
        if not name.startswith(ATTACHMENTS):
            raise _Broken(name, f"neither a record file ({', '.join(RECORD_FILES)}) nor below {ATTACHMENTS}")
        name = name.removeprefix(ATTACHMENTS)
    if member.size > ATTACHMENT_LIMIT_BYTES:
        raise _Broken(name, "larger than the 5 GB that an attachment may have")
    yield Attachment(name, member.size, member.open)


# records --------------------------------------------------------------------------------------


def _records(member: _Member, ids: Ids, problems: list[str]) -> Iterator[Record]:
    """The records of one file. A broken record goes to `problems`, the others go on."""
    type_ = _type(member.name)
    rows = _lines(member) if member.name.lower().endswith(LINES) else _csv(member)
    columns: tuple[str, ...] | None = None
    for line, found in rows:
        where = f"{member.name}:{line}"
        try:
            data = found()
            if columns is None:
                columns = _id_columns(type_, data, ids)
            yield Record(type_, _id(data, columns, where), data, where)
        except _Broken as broken:
            problems.append(str(broken))
        except ValueError as error:
            problems.append(f"{where}: {error}")


def _type(name: str) -> str:
    type_ = PurePosixPath(name).name.split(".")[0].lower().replace(" ", "-")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", type_):
        raise _Broken(name, "the file name has to name the record type: letters, digits, dashes")
    return type_


_Rows = Iterator[tuple[int, Callable[[], dict[str, Any]]]]
"""(line, what reads the record there): reading may raise, and then only this record is broken."""


def _lines(member: _Member) -> _Rows:
    with member.open() as file:
        number = 0
        while line := file.readline(LINE_LIMIT_BYTES + 1):
            number += 1
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if len(line) > LINE_LIMIT_BYTES:
                raise _Broken(f"{member.name}:{number}", f"longer than {LINE_LIMIT_BYTES} bytes")
            if text.strip():
                yield number, lambda text=text: _object(text)


def _object(text: bytes) -> dict[str, Any]:
    found = orjson.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"a record has to be a JSON object, this is {type(found).__name__}")  # noqa: TRY004 - input
    return found


def _csv(member: _Member) -> _Rows:
    """The rows of a CSV file with a header; values stay text, as they are written."""
    with member.open() as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header: list[str] | None = None
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                break
            except (csv.Error, UnicodeDecodeError) as error:
                raise _Broken(f"{member.name}:{line}", str(error)) from error
            if header is None:
                header = _header(row, member.name)
            elif row:
                yield line, lambda row=row, header=header: _row(row, header)
        if header is None:
            raise _Broken(member.name, "empty, not even a header")


def _header(row: list[str], name: str) -> list[str]:
    if not all(column.strip() for column in row) or len(set(row)) != len(row):
        raise _Broken(f"{name}:1", "the header has an empty column or the same column twice")
    return row


def _row(row: list[str], header: list[str]) -> dict[str, Any]:
    if len(row) != len(header):
        raise ValueError(f"{len(row)} values, but the header has {len(header)} columns")
    return dict(zip(header, row, strict=True))


def _id_columns(type_: str, first: Mapping[str, Any], ids: Ids) -> tuple[str, ...]:
    """The columns that name the records of a file, decided by its first record; none means the content's hash."""
    if type_ in ids.by_type:
        return ids.by_type[type_]
    if ids.default and all(column in first for column in ids.default):
        return ids.default
    return ("id",) if "id" in first else ()


def _id(data: Mapping[str, Any], columns: tuple[str, ...], where: str) -> str:
    if not columns:
        return hashlib.sha256(orjson.dumps(data, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
    parts = []
    for column in columns:
        value = data.get(column)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise _Broken(where, f"the column {column}, which names the record, holds {value!r}")
        parts.append(str(value))
    if len(parts) == 1:
        return parts[0]
    return "~".join(part.replace("%", "%25").replace("~", "%7E") for part in parts)


def _check_key(item: Record | Attachment, prefix_bytes: int) -> None:
    """Raise unless S3 takes the key and every reader gets it back unchanged."""
    where = item.where if isinstance(item, Record) else item.path
    try:
        encoded = item.key.encode()
    except UnicodeEncodeError as error:
        raise _Broken(repr(where), "the name is not Unicode") from error
    if len(encoded) + prefix_bytes > KEY_LIMIT_BYTES:
        raise _Broken(where, f"the key would have {len(encoded) + prefix_bytes} bytes, S3 takes {KEY_LIMIT_BYTES}")
    if isinstance(item, Record) and len(item.id.encode()) > ID_LIMIT_BYTES:
        raise _Broken(where, f"the id has more than {ID_LIMIT_BYTES} bytes")
    if any(part in ("", ".", "..") for part in item.key.split("/")):
        raise _Broken(where, f"the key {item.key!r} has an empty part, or one of only dots")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in item.key):
        raise _Broken(where, f"the key {item.key!r} has a control character")


def _is_used(columns: tuple[str, ...], members: list[_Member]) -> bool:
    for member in members:
        if _is_record_file(member, members):
            rows = _lines(member) if member.name.lower().endswith(LINES) else _csv(member)
            first = next(rows, None)
            if first is not None and all(column in first[1]() for column in columns):
                return True
    return False


class _Seen:
    """Which ids came already, on disk: an input may hold more than fits into memory."""

    def __enter__(self) -> Self:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("CREATE TABLE seen (key TEXT PRIMARY KEY, content BLOB, place TEXT) WITHOUT ROWID")
        self._db.execute("BEGIN")
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, record: Record, problems: list[str]) -> bool:
        """True for a new record; the same record again is let through, another one under its id is a problem."""
        content = hashlib.sha256(orjson.dumps(record.data, option=orjson.OPT_SORT_KEYS)).digest()[:16]
        added = self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (record.key, content, record.where))
        if added.rowcount:
            return True
        first, place = self._db.execute("SELECT content, place FROM seen WHERE key = ?", (record.key,)).fetchone()
        if first != content:
            problems.append(f"{record.where}: the id {record.id!r} is also at {place}, with other content")
        return False

"""A backup of everything that the vendor's side knows, and its restore into an empty home.

Records, logs, verdicts, manifests, journals, stack files and, where it lies in the home, Pulumi's state.
No customer's data and no key of theirs: those are in the clouds. The vendor's signing keys are in it,
encrypted, because without them no old verdict could be checked and none be added.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sql
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import BaseModel, ConfigDict, ValidationError

from migrate import dump
from migrate.errors import RefusedInput, VerificationFailed
from migrate.files import PRIVATE_FOLDER, private_folder, write_private
from migrate.fleet import holding
from migrate.log import FILE as LOG_FILE
from migrate.log import Log
from migrate.records import Records
from migrate.signing import PRIVATE_KEY_FILE, PUBLIC_KEY_FILE, Signer, check, fingerprint
from migrate.stack import PROJECT, Project
from migrate.verdict import Verdicts
from stacks.record import connect

LISTING, SIGNATURE, RECORDS = "listing.json", "listing.signature.json", "records.json"
STATES = Path("pulumi") / ".pulumi"
UNFINISHED = "restoring"
"""Stands in a home while a restore is under way: the SHA-256 of its listing."""
PROOFS = ("tenants", "stamps")
"""Folders of the home with a folder for each: logs, verdicts, manifests, journals, signing keys."""
LEFT_OUT = ("runner.lock", "ImportToken*", "*-wal", "*-shm", "*-journal", ".*")
"""Locks, import tokens (a new request gives a new one) and what belongs to an open SQLite file."""

Data = dict[str, Any]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Entry(_Frozen):
    bytes: int
    sha256: str


class Listed(_Frozen):
    """A tenant as the listing knows it: its generation, and how many lines its log had with which hash at the end."""

    generation: int
    lines: int
    head: str


class Listing(_Frozen):
    """What is in a backup. `state`: whether Pulumi's state is in it, or lies elsewhere."""

    format: Literal[1]
    made_at: datetime
    state: Literal["here", "elsewhere"]
    tenants: dict[str, Listed]
    files: dict[str, Entry]


@dataclass(frozen=True)
class Checked:
    """A backup whose files are what was signed; `signed_by` is the key's fingerprint."""

    folder: Path
    listing: Listing
    signed_by: str
    digest: str


# making ---------------------------------------------------------------------------------------


def make(project: Project, folder: Path) -> Data:
    """Writes a backup into `folder`, which must not be there yet. Raises RefusedInput, VerificationFailed.

    Every tenant's lease is held meanwhile, so that record, journal and state are of one moment; a tenant
    that is worked on is refused by name.
    """
    if folder.exists():
        raise RefusedInput(f"{folder} is there already", hint="name a new folder", code="backup-exists")
    passphrase, records = _passphrase(), Records(connect(project.home))
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        with ExitStack() as held:
            for tenant in records.tenants():
                held.enter_context(holding(records, tenant.name, of_a_sealed=True))
            private_folder(draft)
            tenants = {tenant.name: _tenant(project, tenant.name, tenant.generation) for tenant in records.tenants()}
            _copy_all(project, draft, passphrase)
        files = {
            path.relative_to(draft).as_posix(): Entry(bytes=path.stat().st_size, sha256=_sha256(path))
            for path in _files(draft)
        }
        state = "here" if _holds_state(project) else "elsewhere"
        listing = Listing(format=1, made_at=datetime.now(UTC), state=state, tenants=tenants, files=files)
        signer, content = Signer(project.home), listing.model_dump_json(indent=1).encode()
        write_private(draft / LISTING, content)
        signature = {**signer.sign(content), "public_key": signer.public_key().hex()}
        write_private(draft / SIGNATURE, json.dumps(signature, indent=1).encode())
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return _told(Checked(folder, listing, fingerprint(signer.public_key()), hashlib.sha256(content).hexdigest()))


def _tenant(project: Project, name: str, generation: int) -> Listed:
    """Checks the tenant's log on the way: a broken one must not become the one that is kept."""
    folder = project.home / "tenants" / name
    if not (folder / LOG_FILE).exists():
        return Listed(generation=generation, lines=0, head="")
    try:
        chain = Log(folder).verify_chain()
    except VerificationFailed as broken:
        raise VerificationFailed(
            f"tenant {name}: {broken.message}; no backup was made", hint=broken.hint, code=broken.code
        ) from broken
    return Listed(generation=generation, lines=chain.lines, head=chain.head)


def _copy_all(project: Project, draft: Path, passphrase: bytes) -> None:
    Signer(project.home).public_key()  # the first backup makes the key, which is then in it
    engine = connect(project.home)
    write_private(draft / RECORDS, json.dumps(dump.dumped(engine), indent=1).encode())
    for source, target in _sources(project):
        _copy(source, draft / target, passphrase)


def _sources(project: Project) -> Iterator[tuple[Path, Path]]:
    """Every file that is kept, and its name in the backup."""
    for name in (PRIVATE_KEY_FILE, PUBLIC_KEY_FILE):
        if (project.home / name).exists():
            yield project.home / name, Path(name)
    for path in sorted(project.root.glob("Pulumi.*.yaml")):
        if path.name.startswith(("Pulumi.stamp-", "Pulumi.tenant-")):
            yield path, Path("stacks") / path.name
    for folder in PROOFS:
        for path in _files(project.home / folder):
            if not any(path.match(pattern) for pattern in LEFT_OUT):
                yield path, path.relative_to(project.home)
    if _holds_state(project):
        stacks = project.home / STATES / "stacks" / PROJECT
        states = [path for path in sorted(stacks.glob("*.json*")) if not path.name.endswith((".bak", ".attrs"))]
        meta = project.home / STATES / "meta.yaml"
        for path in (*states, *([meta] if meta.exists() else [])):
            yield path, path.relative_to(project.home)


def _copy(source: Path, target: Path, passphrase: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
    if source.suffix == ".sqlite":
        target.touch(0o600)
        with closing(sqlite3.connect(source)) as database, closing(sqlite3.connect(target)) as copy:
            database.backup(copy)
    elif source.name == PRIVATE_KEY_FILE:
        key = load_pem_private_key(source.read_bytes(), password=None)
        encrypted = BestAvailableEncryption(passphrase)
        write_private(target, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encrypted))
    else:
        write_private(target, source.read_bytes())


def _holds_state(project: Project) -> bool:
    """Whether Pulumi's state lies in the home: unless another backend is named."""
    return "PULUMI_BACKEND_URL" not in os.environ and (project.home / STATES).is_dir()


def _passphrase() -> bytes:
    """What the signing keys are encrypted with: a passphrase of the backups' own, else the one of Pulumi's secrets."""
    for variable in ("KEYSHIFT_BACKUP_PASSPHRASE_FILE", "PULUMI_CONFIG_PASSPHRASE_FILE"):
        if path := os.environ.get(variable):
            try:
                found = Path(path).read_bytes().strip()
            except OSError as error:
                raise RefusedInput(f"{variable} names {path}, which cannot be read: {error.strerror}") from error
            if found:
                return found
    if found := os.environ.get("PULUMI_CONFIG_PASSPHRASE", "").encode():
        return found
    raise RefusedInput(
        "a backup holds the vendor's signing keys, and there is no passphrase to encrypt them with",
        hint="set KEYSHIFT_BACKUP_PASSPHRASE_FILE to a file that holds one",
        code="no-passphrase",
    )


# checking -------------------------------------------------------------------------------------


def checked(folder: Path, signed_by: str | None = None) -> Checked:
    """The backup in `folder`, every file of which is what was signed. Raises VerificationFailed naming one that is not.

    `signed_by`: the fingerprint that the key must have; without it, only that all was signed together is known.
    """
    content, signature = _signed(folder)
    public_key = bytes.fromhex(signature["public_key"])
    if not check(public_key, content, signature["signature"]):
        raise _damaged(folder, f"the signature does not fit {LISTING}")
    if signed_by is not None and signed_by != fingerprint(public_key):
        raise VerificationFailed(
            f"the backup in {folder} was signed by {fingerprint(public_key)}, not by {signed_by}; nothing was restored",
            hint="the fingerprint is what keyshift backup printed when the backup was made",
            code="backup-signer",
        )
    try:
        listing = Listing.model_validate_json(content)
    except ValidationError as error:
        raise _damaged(folder, f"{LISTING} is of another version of Keyshift") from error
    present = {path.relative_to(folder).as_posix() for path in _files(folder)} - {LISTING, SIGNATURE}
    for name, entry in listing.files.items():
        path = folder / name
        if name not in present:
            raise _damaged(folder, f"{name} is missing")
        if path.stat().st_size != entry.bytes or _sha256(path) != entry.sha256:
            raise _damaged(folder, f"{name} is not what was signed")
    if foreign := sorted(present - set(listing.files)):
        raise _damaged(folder, f"{foreign[0]} is not in the listing")
    return Checked(folder, listing, fingerprint(public_key), hashlib.sha256(content).hexdigest())


def _signed(folder: Path) -> tuple[bytes, dict[str, str]]:
    try:
        content, signature = (folder / LISTING).read_bytes(), json.loads((folder / SIGNATURE).read_text())
        bytes.fromhex(signature["public_key"])
        return content, {name: str(signature[name]) for name in ("signature", "public_key")}
    except FileNotFoundError as error:
        raise RefusedInput(f"{folder} is no backup: {error.filename} is missing", code="no-backup") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{SIGNATURE} cannot be read") from error


def check_backup(folder: Path, signed_by: str | None) -> Data:
    """What a check of a backup tells."""
    return _told(checked(folder, signed_by))


# restoring ------------------------------------------------------------------------------------


def restore(project: Project, folder: Path, signed_by: str | None) -> Data:
    """Puts a backup into a home that holds nothing. Raises RefusedInput, VerificationFailed; then nothing was changed.

    Everything is laid out and checked beside the home first; the records come last, because they are what
    makes a tenant. One that was killed is run again. Fences go up: whoever acted before acts no more.
    """
    backup, passphrase = checked(folder, signed_by), _passphrase()
    marker = project.home / UNFINISHED
    engine = connect(project.home)
    if not (marker.exists() and marker.read_text() == backup.digest):
        _refuse_full(project, backup, engine)
    elif dump.tenants_in(engine):
        # It was killed after its last step: what was done since must not be undone.
        marker.unlink()
        return _told_restored(backup, signed_by)
    staged = private_folder(project.home) / ".restore"
    shutil.rmtree(staged, ignore_errors=True)
    try:
        _stage(backup, staged, passphrase)
        tables = json.loads((staged / RECORDS).read_text())
        dump.refuse_foreign(tables)
        write_private(marker, backup.digest.encode())
        _move(staged, project)
        dump.load(engine, tables)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    marker.unlink()
    return _told_restored(backup, signed_by)


def _told_restored(backup: Checked, signed_by: str | None) -> Data:
    return {**_told(backup), "fences_raised_by": dump.FENCES, "compared_with": signed_by}


def _refuse_full(project: Project, backup: Checked, engine: sql.Engine) -> None:
    """Raises RefusedInput naming what is there already."""
    found = [f"the record of tenant {name}" for name in dump.tenants_in(engine)]
    found += [str(path) for path in (project.home / PRIVATE_KEY_FILE, project.home / UNFINISHED) if path.exists()]
    found += [str(path) for folder in PROOFS for path in _files(project.home / folder)]
    if backup.listing.state == "here":
        stacks = project.home / STATES / "stacks"
        found += [str(path) for path in _files(stacks)]
    for name, entry in backup.listing.files.items():
        file = project.root / Path(name).name
        if name.startswith("stacks/") and file.exists() and _sha256(file) != entry.sha256:
            found.append(f"{file}, which differs")
    if found:
        raise RefusedInput(
            f"a backup is restored only where nothing is, and there is {found[0]}"
            f"{f' and {len(found) - 1} more' if found[1:] else ''}; nothing was changed",
            hint="move the home away, and the stack files if they differ, or set KEYSHIFT_PROJECT to a fresh checkout",
            code="home-not-empty",
        )


def _stage(backup: Checked, staged: Path, passphrase: bytes) -> None:
    """A copy of the backup with the keys opened; logs and verdicts are checked once more, with these keys."""
    for name in backup.listing.files:
        target = staged / name
        private_folder(target.parent)
        if target.name == PRIVATE_KEY_FILE:
            write_private(target, _opened(backup.folder / name, passphrase))
        else:
            write_private(target, (backup.folder / name).read_bytes())
    for tenant, listed in backup.listing.tenants.items():
        if listed.lines:
            state = staged / "tenants" / tenant
            Log(state).verify_chain(listed.head)
            Verdicts(state).all()


def _opened(path: Path, passphrase: bytes) -> bytes:
    try:
        key = load_pem_private_key(path.read_bytes(), password=passphrase)
    except ValueError as error:
        raise RefusedInput(
            f"the passphrase does not open {path}; nothing was restored",
            hint="set KEYSHIFT_BACKUP_PASSPHRASE_FILE to the file with the one that the backup was made with",
            code="wrong-passphrase",
        ) from error
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _move(staged: Path, project: Project) -> None:
    for path in _files(staged):
        name = path.relative_to(staged)
        if name.as_posix() == RECORDS:
            continue
        target = project.root / name.name if name.parts[0] == "stacks" else project.home / name
        private_folder(target.parent)
        # Copied, not moved: a restore that is killed here and run again finds its own files, and the same.
        write_private(target, path.read_bytes())


# both -----------------------------------------------------------------------------------------


def _told(backup: Checked) -> Data:
    listing = backup.listing
    return {
        "folder": str(backup.folder),
        "made_at": listing.made_at.isoformat(timespec="seconds"),
        "signed_by": backup.signed_by,
        "state": listing.state,
        "files": len(listing.files),
        "bytes": sum(entry.bytes for entry in listing.files.values()),
        "tenants": {name: one.model_dump() for name, one in listing.tenants.items()},
    }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(folder: Path, what: str) -> VerificationFailed:
    return VerificationFailed(
        f"the backup in {folder} is damaged: {what}; nothing was restored",
        hint="take another backup; keyshift backup check tells whether one is whole",
        code="backup-damaged",
    )

"""A backup is whole, signed and of one moment; a restore brings all of it back, or changes nothing."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import layouts
import pytest
import sqlalchemy as sql

from migrate import backup, dump
from migrate.errors import Conflict, RefusedInput, VerificationFailed
from migrate.log import Log
from migrate.operations import OperationKind
from migrate.records import Records
from migrate.seals import Seals
from migrate.signing import Signer
from migrate.stack import Project
from migrate.verdict import Verdict, VerdictKind, Verdicts
from stacks.record import METADATA, TENANTS, connect

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
STATE = "pulumi/.pulumi/stacks/keyshift/tenant-acme.json"


@pytest.fixture(autouse=True)
def _passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEYSHIFT_DATABASE_URL", "PULUMI_BACKEND_URL", "KEYSHIFT_BACKUP_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE_FILE", raising=False)
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "correct horse battery staple")


def project_in(folder: Path) -> Project:
    folder.mkdir()
    (folder / "Pulumi.yaml").touch()
    return Project(root=folder, home=folder / ".keyshift")


@dataclass
class House:
    """A vendor's side with two tenants, one with an operation under way, one sealed; and its backup."""

    project: Project
    folder: Path

    @property
    def records(self) -> Records:
        return Records(connect(self.project.home))

    def tenant(self, name: str) -> Path:
        return self.project.home / "tenants" / name

    def make(self) -> dict:
        return backup.make(self.project, self.folder)


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(project_in(tmp_path / "old"), tmp_path / "backup")
    held = house.records
    for name in ("acme", "bolt"):
        held.create(layouts.changed(layouts.standard(), tenant=name))
    with held.lease("acme") as fence:
        held.advance(layouts.enable_frozen(), fence)
        operation = held.begin(held.tenant("acme"), OperationKind.ENABLE, "byok")
        held.note(operation.id, fence=fence, state="waiting", message="Größe")
    Seals(connect(house.project.home)).put("bolt", "stolen", "an operator")
    state = house.tenant("acme")
    for number in range(3):
        Log(state).append({"event": "up", "phase": number})
    facts = {"tenant": "acme", "operation": operation.id, "subject": "s2", "passed": True, "counts": {"versions": 3}}
    Verdicts(state).store(
        Verdict(id="acme-storage", kind=VerdictKind.STORAGE, started_at=NOW, finished_at=NOW, **facts)
    )
    for path, content in {
        state / "runner.lock": b"123",
        state / "key-requests" / "arn:key" / "ImportToken-1.bin": b"an import token",
        state / "key-requests" / "k1-uploaded.json": b"{}",
        house.project.home / "passphrase": b"correct horse battery staple",
        house.project.home / STATE: b'{"version": 3, "checkpoint": {}}',
        (house.project.home / STATE).with_suffix(".json.bak"): b"older",
        house.project.root / "Pulumi.tenant-acme.yaml": b"encryptionsalt: v1:abc\n",
        house.project.root / "Pulumi.other.yaml": b"of another program\n",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    manifest = state / "operations" / operation.id / "manifest.sqlite"
    manifest.parent.mkdir(parents=True)
    with closing(sqlite3.connect(manifest)) as database:
        database.execute("CREATE TABLE rows (key TEXT)")
        database.execute("INSERT INTO rows VALUES ('a')")
        database.commit()
    return house


@pytest.fixture
def new(tmp_path: Path) -> Project:
    return project_in(tmp_path / "new")


def rows(home: Path) -> dict[str, list[dict]]:
    """All tables but for what a restore changes on purpose."""
    tables = dump.dumped(connect(home))
    leased = {"lease_owner", "lease_until", "lease_fence"}
    tables["tenants"] = [{name: row[name] for name in row.keys() - leased} for row in tables["tenants"]]
    return {name: held for name, held in tables.items() if held}


def files(project: Project) -> dict[str, bytes]:
    return {path.relative_to(project.root).as_posix(): path.read_bytes() for path in backup._files(project.root)}


# all of it ------------------------------------------------------------------------------------


def test_a_restore_brings_everything_back(house: House, new: Project) -> None:
    made = house.make()
    assert backup.restore(new, house.folder, made["signed_by"])["signed_by"] == made["signed_by"]
    assert rows(new.home) == rows(house.project.home)
    before, after = files(house.project), files(new)
    left_behind = {name for name in before if name not in after}
    tenant = ".keyshift/tenants/acme/"
    assert left_behind == {
        "Pulumi.other.yaml",
        ".keyshift/passphrase",
        f".keyshift/{STATE}.bak",
        f"{tenant}runner.lock",
        f"{tenant}key-requests/arn:key/ImportToken-1.bin",
    }
    same = set(before) - left_behind - {".keyshift/keyshift.db", f"{tenant}operations/acme-enable-1/manifest.sqlite"}
    assert {name for name in same if before[name] != after[name]} == set()
    assert set(after) <= set(before)


def test_logs_and_verdicts_go_on_after_a_restore(house: House, new: Project) -> None:
    house.make()
    backup.restore(new, house.folder, None)
    state = new.home / "tenants" / "acme"
    head = Log(house.tenant("acme")).verify_chain().head
    Log(state).append({"event": "after"})
    assert Log(state).verify_chain(head).lines == 4
    assert [verdict.id for verdict in Verdicts(state).all()] == ["acme-storage"]
    assert Signer(new.home).public_key() == Signer(house.project.home).public_key()


def test_a_stamps_log_and_its_signing_key_are_kept_like_a_tenants(house: House, new: Project) -> None:
    Log(house.project.home / "stamps" / "stamp-aws-eu-west-1-01").append({"event": "vendor-key-archived"})
    house.make()
    backup.restore(new, house.folder, None)
    log = Log(new.home / "stamps" / "stamp-aws-eu-west-1-01")
    log.append({"event": "after"})
    assert log.verify_chain().lines == 2, "signed by the same key before and after"


def test_a_fence_from_before_acts_no_more(house: House, new: Project) -> None:
    house.make()
    held = house.records
    for _ in range(5):  # leases that were given after the backup: a runner may still hold such a number
        with held.lease("acme") as stale:
            pass
    backup.restore(new, house.folder, None)
    restored = Records(connect(new.home))
    with pytest.raises(Conflict, match="this runner stops"):
        restored.advance(layouts.standard(), stale)
    with restored.lease("acme") as fence:
        assert fence > stale + 1000
        assert restored.advance(layouts.enable_frozen(), fence) == 2, "the generation is the one in the stack file"
    assert restored.worker("acme") is None


def test_what_a_database_has_not_written_back_yet_is_in_it(house: House, new: Project) -> None:
    manifest = house.tenant("acme") / "operations" / "acme-enable-1" / "manifest.sqlite"
    with closing(sqlite3.connect(manifest)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("INSERT INTO rows VALUES ('b')")
        database.commit()
        assert manifest.with_name("manifest.sqlite-wal").stat().st_size > 0
        house.make()
    backup.restore(new, house.folder, None)
    with closing(sqlite3.connect(new.home / manifest.relative_to(house.project.home))) as database:
        assert database.execute("SELECT key FROM rows ORDER BY key").fetchall() == [("a",), ("b",)]


def test_a_state_in_another_backend_is_left_there(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", "s3://state")
    assert house.make()["state"] == "elsewhere"
    assert not (house.folder / "pulumi").exists()


def test_no_signing_key_and_no_passphrase_lies_in_it_in_clear(house: House) -> None:
    house.make()
    keys = list(house.folder.rglob("signing-key.pem"))
    assert len(keys) == 2, "the house's and the one tenant's that has signed"
    assert all(b"BEGIN ENCRYPTED PRIVATE KEY" in key.read_bytes() for key in keys)
    assert not any(b"correct horse" in path.read_bytes() for path in backup._files(house.folder))
    assert all(path.stat().st_mode & 0o077 == 0 for path in (house.folder, *backup._files(house.folder)))


# refused --------------------------------------------------------------------------------------


def test_a_tenant_that_is_worked_on_is_refused_by_name_and_nothing_is_left(house: House) -> None:
    with house.records.lease("acme"), pytest.raises(RefusedInput, match="tenant acme is being worked on"):
        house.make()
    assert [path.name for path in house.folder.parent.iterdir()] == ["old"]
    house.make()
    assert house.records.worker("acme") is None


def test_a_broken_log_is_not_kept_as_a_good_one(house: House) -> None:
    log = house.tenant("acme") / "log.jsonl"
    log.write_text(log.read_text().replace('"phase": 1', '"phase": 9'))
    with pytest.raises(VerificationFailed, match="tenant acme: line 2 of the log"):
        house.make()
    assert not house.folder.exists()


def test_an_old_backup_is_not_written_over(house: House) -> None:
    house.make()
    before = (house.folder / "listing.json").read_bytes()
    with pytest.raises(RefusedInput, match="is there already"):
        house.make()
    assert (house.folder / "listing.json").read_bytes() == before


def test_without_a_passphrase_no_backup_is_made(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "")
    with pytest.raises(RefusedInput, match="no passphrase to encrypt") as refused:
        house.make()
    assert "KEYSHIFT_BACKUP_PASSPHRASE_FILE" in refused.value.hint
    assert not house.folder.exists()


def test_a_wrong_passphrase_restores_nothing(house: House, new: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    house.make()
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "wrong")
    with pytest.raises(RefusedInput, match="does not open"):
        backup.restore(new, house.folder, None)
    assert nothing_in(new)


def nothing_in(project: Project) -> bool:
    return not dump.tenants_in(connect(project.home)) and set(files(project)) == {
        "Pulumi.yaml",
        ".keyshift/keyshift.db",
    }


FILES = (
    "records.json",
    "stacks/Pulumi.tenant-acme.yaml",
    STATE,
    "tenants/acme/log.jsonl",
    "tenants/acme/verdicts/acme-storage.json",
    "tenants/acme/operations/acme-enable-1/manifest.sqlite",
    "tenants/acme/signing-key.pem",
)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("damage", "said"), [(flip, "is not what was signed"), (Path.unlink, "is missing")])
def test_a_damaged_file_is_named_and_nothing_is_restored(
    house: House, new: Project, name: str, damage: Callable[[Path], None], said: str
) -> None:
    house.make()
    damage(house.folder / name)
    for use in (lambda: backup.check_backup(house.folder, None), lambda: backup.restore(new, house.folder, None)):
        with pytest.raises(VerificationFailed, match=f"{name} {said}") as failed:
            use()
        assert failed.value.code == "backup-damaged"
    assert not (new.home / "tenants").exists()


def test_a_listing_that_was_changed_to_fit_a_changed_file_is_refused(house: House, new: Project) -> None:
    house.make()
    flip(house.folder / STATE)
    path = house.folder / "listing.json"
    listing = json.loads(path.read_text())
    listing["files"][STATE]["sha256"] = backup._sha256(house.folder / STATE)
    path.write_text(json.dumps(listing))
    with pytest.raises(VerificationFailed, match=r"the signature does not fit listing\.json"):
        backup.restore(new, house.folder, None)
    (house.folder / "listing.signature.json").write_text("{}")
    with pytest.raises(VerificationFailed, match="cannot be read"):
        backup.restore(new, house.folder, None)
    assert not new.home.exists()


def test_a_file_that_was_put_in_is_refused(house: House) -> None:
    house.make()
    (house.folder / "tenants" / "acme" / "more").write_text("more")
    with pytest.raises(VerificationFailed, match="tenants/acme/more is not in the listing"):
        backup.check_backup(house.folder, None)


def test_a_backup_that_somebody_else_signed_is_refused_by_its_fingerprint(house: House, tmp_path: Path) -> None:
    made = house.make()
    flip(house.folder / STATE)
    listing = json.loads((house.folder / "listing.json").read_text())
    listing["files"][STATE]["sha256"] = backup._sha256(house.folder / STATE)
    content, forger = json.dumps(listing).encode(), Signer(tmp_path / "forger")
    (house.folder / "listing.json").write_bytes(content)
    signature = {**forger.sign(content), "public_key": forger.public_key().hex()}
    (house.folder / "listing.signature.json").write_text(json.dumps(signature))
    assert backup.check_backup(house.folder, None)["signed_by"] != made["signed_by"]
    with pytest.raises(VerificationFailed, match=f"not by {made['signed_by']}"):
        backup.check_backup(house.folder, made["signed_by"])


def test_a_folder_that_is_no_backup_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedInput, match="is no backup"):
        backup.check_backup(tmp_path, None)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (".keyshift/tenants/x/log.jsonl", "log.jsonl"),
        (f".keyshift/{STATE}", "tenant-acme.json"),
        ("Pulumi.tenant-acme.yaml", "which differs"),
        (".keyshift/restoring", "restoring"),
        (".keyshift/signing-key.pem", "signing-key.pem"),
    ],
)
def test_a_home_that_holds_something_is_refused_by_what_it_holds(
    house: House, new: Project, place: str, said: str
) -> None:
    house.make()
    (new.root / place).parent.mkdir(parents=True, exist_ok=True)
    (new.root / place).write_text("something")
    before = files(new)
    with pytest.raises(RefusedInput, match=f"only where nothing is.*{said}"):
        backup.restore(new, house.folder, None)
    assert {name: content for name, content in files(new).items() if not name.endswith(".db")} == before


def test_a_record_that_holds_tenants_is_refused(house: House) -> None:
    house.make()
    before = rows(house.project.home)
    with pytest.raises(RefusedInput, match="the record of tenant acme and"):
        backup.restore(house.project, house.folder, None)
    assert rows(house.project.home) == before


def test_records_of_another_version_are_refused(house: House, new: Project) -> None:
    engine = connect(house.project.home)
    with engine.begin() as connection:
        connection.execute(sql.text("CREATE TABLE of_the_future (id INTEGER)"))
    house.make()
    with pytest.raises(RefusedInput, match="the table of_the_future, which this version"):
        backup.restore(new, house.folder, None)
    assert nothing_in(new)


# killed ---------------------------------------------------------------------------------------


def test_a_restore_that_was_killed_is_run_again(
    house: House, new: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.make()
    other = tmp_path / "other"
    backup.make(house.project, other)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(dump, "load", die)
        with pytest.raises(KeyboardInterrupt):
            backup.restore(new, house.folder, None)
    assert not dump.tenants_in(connect(new.home)), "no tenant before all that it needs is there"
    with pytest.raises(RefusedInput, match="only where nothing is"):
        backup.restore(new, other, None)
    backup.restore(new, house.folder, None)
    assert rows(new.home) == rows(house.project.home)


def test_one_that_was_killed_at_its_very_end_undoes_nothing_when_run_again(
    house: House, new: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.make()
    marker = new.home / "restoring"
    unlink = Path.unlink

    def die(path: Path, **more: bool) -> None:
        if path == marker:
            raise KeyboardInterrupt
        unlink(path, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            backup.restore(new, house.folder, None)
    held = Records(connect(new.home))
    with held.lease("acme") as fence:
        held.advance(layouts.enable_served(), fence)
    backup.restore(new, house.folder, None)
    assert held.tenant("acme").layout == layouts.enable_served()
    assert not marker.exists()


def test_a_dump_is_of_one_moment(house: House) -> None:
    engine = connect(house.project.home)
    tried: list[str] = []

    def between(*asked: object) -> None:
        """Another process writes two tables at once, when one is read already and the other not yet."""
        if "FROM tenants" not in str(asked[2]) or tried:
            return
        tried.append("yes")
        with closing(sqlite3.connect(house.project.home / "keyshift.db", timeout=0.1)) as other:
            try:
                other.executescript(
                    "BEGIN; UPDATE operations SET message = 'new'; UPDATE tenants SET customer = 'new'; COMMIT"
                )
            except sqlite3.OperationalError:
                tried.append("had to wait")

    sql.event.listen(engine, "before_cursor_execute", between)
    found = dump.dumped(engine)
    assert tried
    assert {row["message"] for row in found["operations"]} == {"Größe"}
    assert {row["customer"] for row in found["tenants"]} == {"acme-corp"}


def test_every_table_of_this_version_is_in_a_dump(house: House) -> None:
    house.make()
    dump._known()
    METADATA.create_all(connect(house.project.home))
    assert set(dump.dumped(connect(house.project.home))) == set(METADATA.tables)
    with connect(house.project.home).connect() as connection:
        assert connection.execute(sql.select(sql.func.count()).select_from(TENANTS)).scalar_one() == 2
    shutil.rmtree(house.folder)

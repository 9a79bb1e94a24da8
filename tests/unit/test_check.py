"""A verdict is checked against what lives now: later work on top is fine, anything else is a difference."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_s3 import SOURCE, TARGET, a_history, delete, put, two_storages
from hypothesis import given
from hypothesis import strategies as st
from test_fill import INDEX, FakeSearch, refusal

from migrate import check as checking
from migrate.archive import delete_record, write_record
from migrate.check import DIFFERS, HOLDS, SUPERSEDED, UNDER_WAY, check, check_log, proof
from migrate.copy.engine import Transfer, copy_pass
from migrate.copy.manifest import Manifest, Where
from migrate.copy.merkle import MerkleProofs, MerkleRoot, root_of
from migrate.copy.purge import Purge, purge
from migrate.copy.s3 import Side
from migrate.copy.verify import verify_storage, verify_untouched
from migrate.errors import CloudError, RefusedInput, VerificationFailed
from migrate.index.fill import fill
from migrate.index.residue import MANAGED, prove_index_gone, purge_index, snapshots_of
from migrate.log import Log
from migrate.progress import unwatched
from migrate.verdict import Verdict, Verdicts

OPERATION = "acme-enable-1"
NOW = datetime.now(UTC)
RECORD = "records/people/1.json"


class Tenant:
    """A tenant that was moved from s1 to s2 and from e1 to e2, with all its verdicts; stands where Live does."""

    operator = None

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.s3, self.source, self.target = two_storages()
        self.folder, self.elastic = folder, FakeSearch()
        self.cloud = SimpleNamespace(as_operator=lambda place: Side(self.s3, place))
        self.sides = {"s2": self.target}
        self.outputs = {"storages": self.sides, "searches": {"e2": {"index": INDEX}}}
        units = {"storages": [SimpleNamespace(id="s2")], "searches": [SimpleNamespace(id="e2")]}
        self.layout = SimpleNamespace(**units)

    def storage(self, id: str) -> Side:
        return self.sides[id]

    def search(self, id: str) -> FakeSearch:
        assert id == "e2"
        return self.elastic

    def check(self, id: str) -> checking.Check:
        verdict = Verdicts(self.folder).load(id)
        assert verdict is not None
        return check(self, self.folder, verdict, unwatched)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def tenant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tenant:
    made = Tenant(tmp_path, monkeypatch)
    for number in "123":
        write_record(made.source, "people", number, {"n": number})
    write_record(made.source, "people", "1", {"n": "changed"})
    path = tmp_path / "operations" / OPERATION / "manifest.sqlite"
    with Manifest.open(path, SOURCE, TARGET) as manifest:
        transfer = Transfer(made.source, made.target, manifest)
        copy_pass(transfer, unwatched)
        found = verify_storage(transfer, "run", unwatched)
        fill(made.target, manifest, made.elastic, INDEX, unwatched)  # pyright: ignore[reportArgumentType]
        digest, facts = manifest.digest(), {"merkle_root": found.merkle_root}
        verdicts = {
            "storage": verdict("storage", manifest_sha256=digest, **facts),
            "index": verdict("index", manifest_sha256=digest, details={"target": "e2"}),
            "untouched": verdict("untouched", manifest_sha256=digest),
            "purge": verdict("purge", details={"snapshots": "none"}),
        }
        for one in verdicts.values():
            Verdicts(tmp_path).store(one)
        verify_untouched(transfer, unwatched)
        purge(Purge(made.source, Where.SOURCE, manifest, verdicts["storage"]), unwatched)
    return made


def verdict(kind: str, **facts: Any) -> Verdict:
    about = {"id": kind, "kind": kind, "tenant": "acme", "operation": OPERATION, "subject": "s1", "passed": True}
    return Verdict(**about, counts={}, started_at=NOW, finished_at=NOW, **facts)


def test_what_was_moved_still_is_what_was_proven(tenant):
    for id in ("storage", "index", "purge"):
        assert tenant.check(id).result == HOLDS, id
    assert tenant.check("storage").facts["merkle_root"] == Verdicts(tenant.folder).load("storage").merkle_root


def test_what_jobs_did_later_is_counted_and_is_no_difference(tenant):
    write_record(tenant.target, "people", "1", {"n": "again"})
    delete_record(tenant.target, "people", "2")
    write_record(tenant.target, "people", "9", {"n": "new"})
    tenant.elastic.documents["people/1"] = (3, {"content_hash": "later", "deleted": False})
    tenant.elastic.documents["people/2"] = (1, {"deleted": True})
    tenant.elastic.documents["people/9"] = (1, {"content_hash": "x", "deleted": False})
    storage, index = tenant.check("storage"), tenant.check("index")
    assert (storage.result, storage.later) == (HOLDS, {"new versions": 3})
    assert (index.result, index.later) == (HOLDS, {"superseded": 1, "deleted": 1, "new documents": 1})


def versions(tenant: Tenant, key: str = RECORD) -> list[Any]:
    return tenant.s3.versions["dedicated", key]


STORAGE_DIFFERENCES = {
    "a version gone": (lambda t: versions(t).pop(0), "1 versions that it covers are gone"),
    "an object gone": (lambda t: versions(t, "records/people/3.json").clear(), "1 versions that it covers are gone"),
    "other bytes": (lambda t: setattr(versions(t)[0], "checksum", "SHA256:other"), "1 have other contents"),
    "no checksum any more": (lambda t: setattr(versions(t)[0], "checksum", None), "1 have other contents"),
    "another length": (lambda t: setattr(versions(t)[0], "body", b"longer than it was, by far"), "1 have other"),
    "another order": (lambda t: versions(t).reverse(), "2 are in another order"),
}


@pytest.mark.parametrize("difference", STORAGE_DIFFERENCES)
def test_a_version_that_is_gone_or_is_another_is_a_difference(tenant, difference):
    change, said = STORAGE_DIFFERENCES[difference]
    change(tenant)
    found = tenant.check("storage")
    assert found.result == DIFFERS
    assert said in found.because
    assert any("records/people/" in example for example in found.examples), "an operator has to know where to look"


INDEX_DIFFERENCES = {
    "missing": lambda t: t.elastic.documents.pop("people/1"),
    "of an earlier revision": lambda t: t.elastic.documents.update({"people/1": (1, {"content_hash": "x"})}),
    "of other bytes": lambda t: t.elastic.documents.update({"people/1": (2, {"content_hash": "x"})}),
    "hidden for no reason": lambda t: t.elastic.documents.update({"people/1": (2, {"deleted": True})}),
}


@pytest.mark.parametrize("difference", INDEX_DIFFERENCES)
def test_a_document_that_nothing_later_explains_is_a_difference(tenant, difference):
    INDEX_DIFFERENCES[difference](tenant)
    found = tenant.check("index")
    assert (found.result, len(found.examples)) == (DIFFERS, 1)


def test_what_is_written_again_where_a_purge_left_nothing_is_a_difference(tenant):
    put(tenant.s3, "late")
    assert tenant.check("purge").result == DIFFERS
    delete(tenant.s3, "later")
    assert "1 versions, 1 delete markers" in tenant.check("purge").because


def test_a_place_that_serves_again_is_no_residue(tenant):
    put(tenant.s3, "late")
    tenant.sides["s3"] = tenant.source
    tenant.layout.storages.append(SimpleNamespace(id="s3"))
    assert tenant.check("purge").result == SUPERSEDED


def test_a_verdict_about_what_was_dropped_since_is_superseded(tenant):
    tenant.layout.storages.clear()
    tenant.layout.searches.clear()
    assert {tenant.check(id).result for id in ("storage", "index", "untouched")} == {SUPERSEDED}


def test_the_manifest_of_an_unfinished_operation_is_left_to_its_runner(tenant):
    one = Verdicts(tenant.folder).load("storage")
    assert check(tenant, tenant.folder, one, unwatched, under_way=OPERATION).result == UNDER_WAY


def test_a_changed_manifest_is_a_difference(tenant):
    with Manifest.existing(tenant.folder / "operations" / OPERATION / "manifest.sqlite") as manifest:
        manifest.connection.execute("UPDATE versions SET checksum = 'SHA256:forged' WHERE version_id IS NOT NULL")
    found = tenant.check("storage")
    assert (found.result, found.because) == (DIFFERS, "the manifest in the state folder is not the one that was signed")
    with pytest.raises(VerificationFailed, match="does not lead to the root"):
        proof(tenant.folder, Verdicts(tenant.folder).load("storage"), RECORD)


def test_a_manifest_that_is_gone_is_said(tenant):
    (tenant.folder / "operations" / OPERATION / "manifest.sqlite").unlink()
    with pytest.raises(VerificationFailed, match="is gone"):
        tenant.check("storage")


# the log --------------------------------------------------------------------------------------


def log_of(tenant: Tenant, **event: str) -> tuple[Log, list[Verdict]]:
    log, one = Log(tenant.folder), Verdicts(tenant.folder).load("storage")
    log.append({"event": "operation-begun"})
    log.append({"event": "verdict", "verdict": "storage", **event})
    assert one is not None
    return log, [one]


def test_a_verdict_has_to_stand_in_the_log_as_it_is_stored(tenant):
    log, verdicts = log_of(tenant)
    assert check_log(log, verdicts)["lines"] == 2
    with pytest.raises(VerificationFailed, match="knows nothing"):
        check_log(log, [*verdicts, verdict("purge")])
    log.append({"event": "verdict", "verdict": "storage", "sha256": "0" * 64})
    with pytest.raises(VerificationFailed, match="not the one that was logged"):
        check_log(log, verdicts)


def test_a_broken_log_is_found_with_the_verdicts(tenant):
    log, verdicts = log_of(tenant)
    file = tenant.folder / "log.jsonl"
    file.write_bytes(file.read_bytes().replace(b"operation-begun", b"operation-begin"))
    with pytest.raises(VerificationFailed, match="line 1"):
        check_log(log, verdicts)


# one object -----------------------------------------------------------------------------------


def test_every_version_of_an_object_leads_to_the_signed_root(tenant):
    one = Verdicts(tenant.folder).load("storage")
    shown = proof(tenant.folder, one, RECORD)
    assert [row["version"] for row in shown] == [1, 2]
    assert {row["root"] for row in shown} == {one.merkle_root}
    assert [json.loads(row["leaf"])[:2] for row in shown] == [[RECORD, 1], [RECORD, 2]]
    with pytest.raises(RefusedInput, match="covers no object"):
        proof(tenant.folder, one, "records/people/77.json")
    with pytest.raises(RefusedInput, match="no tree"):
        proof(tenant.folder, Verdicts(tenant.folder).load("index"), RECORD)


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=40), st.data())
def test_a_way_leads_from_its_own_leaf_to_the_root_and_from_no_other(leaves, data):
    chosen = data.draw(st.sets(st.sampled_from(range(len(leaves))), min_size=1))
    root, tree = MerkleRoot(), MerkleProofs(chosen)
    for leaf in leaves:
        root.add(leaf)
        tree.add(leaf)
    assert tree.root() == root.hex()
    for place in chosen:
        assert root_of(leaves[place], tree.paths[place]) == root.hex()
        assert root_of(leaves[place] + b"x", tree.paths[place]) != root.hex()


# what a search keeps --------------------------------------------------------------------------


class FakeSnapshots:
    """A deployment's indices and snapshots; `error` is what the snapshot calls are refused with."""

    def __init__(self, repositories: dict[str, dict[str, list[str]]], error: int | None = None) -> None:
        self.repositories, self.error, self.has_index = repositories, error, True
        self.snapshot = self.indices = self

    def exists(self, index: str) -> bool:
        return self.has_index

    def get_repository(self) -> Any:
        if self.error:
            raise refusal(self.error)
        return SimpleNamespace(body={name: {} for name in self.repositories})

    def get(self, repository: str, snapshot: str) -> dict[str, Any]:
        assert snapshot == "_all"
        held = self.repositories[repository]
        return {"snapshots": [{"snapshot": name, "indices": indices} for name, indices in held.items()]}

    def delete(self, *, index: str = "", ignore_unavailable: bool = False, repository: str = "", snapshot: str = ""):
        if index:
            self.has_index = False
        else:
            del self.repositories[repository][snapshot]


def test_a_purged_search_keeps_no_snapshot_of_the_index_and_others_stay():
    search: Any = FakeSnapshots({MANAGED: {"a": [INDEX], "b": [INDEX, "other"], "c": ["other"]}})
    with pytest.raises(VerificationFailed, match="still there, 2 snapshots"):
        prove_index_gone(search, INDEX)
    assert purge_index(search, INDEX) == 2
    assert prove_index_gone(search, INDEX).fact == f"0 snapshots hold it; repositories: {MANAGED}"
    assert search.repositories == {MANAGED: {"c": ["other"]}}


def test_a_snapshot_in_a_repository_made_by_hand_is_not_deleted_but_named():
    search: Any = FakeSnapshots({"ours": {"a": [INDEX]}, MANAGED: {}})
    assert purge_index(search, INDEX) == 0
    with pytest.raises(VerificationFailed, match=r"1 snapshots of it are left: ours/a"):
        prove_index_gone(search, INDEX)


def test_a_deployment_without_snapshots_is_said_to_have_none():
    search: Any = FakeSnapshots({}, error=501)
    assert purge_index(search, INDEX) == 0
    assert prove_index_gone(search, INDEX).fact == "snapshots are not offered by this deployment: 501 (refused)"


def test_not_being_let_look_at_snapshots_is_not_the_same_as_none():
    with pytest.raises(CloudError, match="403"):
        snapshots_of(FakeSnapshots({}, error=403), INDEX)  # pyright: ignore[reportArgumentType]


def test_a_history_with_every_kind_of_version_is_checked_whole(tmp_path, monkeypatch):
    made = Tenant(tmp_path, monkeypatch)
    a_history(made.s3)
    path = tmp_path / "operations" / OPERATION / "manifest.sqlite"
    with Manifest.open(path, SOURCE, TARGET) as manifest:
        transfer = Transfer(made.source, made.target, manifest, multipart_above=2, part_bytes=2)
        copy_pass(transfer, unwatched)
        found = verify_storage(transfer, "run", unwatched)
        digest = manifest.digest()
    Verdicts(tmp_path).store(verdict("storage", manifest_sha256=digest, merkle_root=found.merkle_root))
    assert made.check("storage").result == HOLDS
    made.s3.versions["dedicated", "attachments/gone"].pop()
    assert "1 versions that it covers are gone" in made.check("storage").because

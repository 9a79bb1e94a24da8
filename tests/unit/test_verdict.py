"""A verdict that was changed, forged or taken from elsewhere allows nothing."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime

import pytest

from migrate.errors import RefusedInput, VerificationFailed
from migrate.verdict import Verdict, Verdicts, check_verdict


def verdict(**other: object) -> Verdict:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    facts = {"id": "o-storage", "kind": "storage", "passed": True, "counts": {"versions": 3}, **other}
    return Verdict(
        tenant="acme", operation="o", subject="s1", manifest_sha256="0" * 64, started_at=now, finished_at=now, **facts
    )


def test_a_stored_verdict_comes_back_as_it_was(tmp_path):
    verdicts = Verdicts(tmp_path)
    assert verdicts.load("o-storage") is None
    verdicts.store(verdict())
    assert verdicts.load("o-storage") == verdict()
    assert verdicts.all() == [verdict()]


@pytest.mark.parametrize(
    "change",
    [
        {"passed": False},
        {"subject": "s2"},
        {"counts": {"versions": 4}},
        {"manifest_sha256": "1" * 64},
        {"kind": "purge"},
    ],
)
def test_a_changed_verdict_is_noticed(tmp_path, change):
    path = Verdicts(tmp_path).store(verdict())
    stored = json.loads(path.read_bytes())
    stored["verdict"] |= change
    path.write_text(json.dumps(stored))
    with pytest.raises(VerificationFailed, match="signature"):
        Verdicts(tmp_path).load("o-storage")


def test_a_verdict_signed_by_another_key_is_noticed(tmp_path):
    path = Verdicts(tmp_path / "elsewhere").store(verdict())
    here = Verdicts(tmp_path / "here")
    (tmp_path / "here" / "verdicts").mkdir(parents=True)
    (tmp_path / "here" / "verdicts" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(VerificationFailed, match="another key"):
        here.load("o-storage")


def test_a_verdict_under_another_name_is_noticed(tmp_path):
    path = Verdicts(tmp_path).store(verdict())
    path.rename(path.with_name("p-storage.json"))
    with pytest.raises(VerificationFailed, match="holds the verdict o-storage"):
        Verdicts(tmp_path).load("p-storage")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"verdict": {}, "signature": "x"}'])
def test_a_broken_file_is_no_verdict(content):
    with pytest.raises(VerificationFailed, match="cannot be read"):
        check_verdict(content, b"0" * 32)


def test_a_passed_verdict_is_never_replaced_and_a_failed_one_may_be(tmp_path):
    verdicts = Verdicts(tmp_path)
    verdicts.store(verdict(passed=False))
    verdicts.store(verdict())
    verdicts.store(verdict())
    with pytest.raises(RefusedInput, match="stands already"):
        verdicts.store(verdict(bytes=7))


def test_an_id_cannot_leave_the_folder(tmp_path):
    with pytest.raises(RefusedInput):
        Verdicts(tmp_path).load("../../etc/passwd")


def test_the_signing_key_is_made_once_for_the_owner_only(tmp_path):
    Verdicts(tmp_path).store(verdict())
    private = tmp_path / "signing-key.pem"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    before = private.read_bytes()
    Verdicts(tmp_path).store(verdict(id="another"))
    assert private.read_bytes() == before
    assert (tmp_path / "signing-key.pub.pem").read_text().startswith("-----BEGIN PUBLIC KEY-----")
    assert "PRIVATE" not in (tmp_path / "verdicts" / "o-storage.json").read_text()

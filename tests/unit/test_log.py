"""The log shows every change to it, holds no secret, and survives a kill in the middle of a line."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from migrate.errors import VerificationFailed
from migrate.log import Log


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path)
    for number in range(4):
        log.append({"event": "step", "n": number})
    return log


@pytest.fixture
def lines(log, tmp_path):
    return (tmp_path / "log.jsonl").read_text().splitlines()


def rewrite(tmp_path, lines) -> None:
    (tmp_path / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_a_whole_log_is_whole(log):
    chain = log.verify_chain()
    assert chain.lines == 4
    assert [line["event"]["n"] for line in log.events()] == [0, 1, 2, 3]


def test_an_empty_log_is_whole(tmp_path):
    assert Log(tmp_path).verify_chain().lines == 0


@pytest.mark.parametrize("name", ["number", "at", "event", "before", "hash", "signature"])
def test_a_changed_line_is_named(log, lines, tmp_path, name):
    changed = json.loads(lines[1])
    changed[name] = {"event": "other"} if name == "event" else "0" * 64
    rewrite(tmp_path, [lines[0], json.dumps(changed), *lines[2:]])
    with pytest.raises(VerificationFailed, match="line 2 "):
        log.verify_chain()


CHANGES = {
    "taken out": (lambda lines: [lines[0], *lines[2:]], "line 2 "),
    "swapped": (lambda lines: [lines[0], lines[2], lines[1], lines[3]], "line 2 "),
    "doubled": (lambda lines: [*lines, lines[3]], "line 5 "),
    "the first taken out": (lambda lines: lines[1:], "line 1 "),
    "not JSON": (lambda lines: [*lines, "{"], "line 5 "),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_line_taken_out_moved_or_put_in_is_noticed(log, lines, tmp_path, change):
    alter, said = CHANGES[change]
    rewrite(tmp_path, alter(lines))
    with pytest.raises(VerificationFailed, match=said):
        log.verify_chain()


def test_a_line_chained_anew_without_the_key_is_noticed(log, lines, tmp_path):
    from migrate.log import _hash

    last = json.loads(lines[3])
    body = {name: last[name] for name in ("number", "at", "before")} | {"event": {"event": "forged"}}
    rewrite(tmp_path, [*lines[:3], json.dumps({**last, **body, "hash": _hash(body)})])
    with pytest.raises(VerificationFailed, match="line 4 "):
        log.verify_chain()


def test_a_line_of_another_log_signed_with_the_same_key_is_noticed(log, lines, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "signing-key.pem").write_bytes((tmp_path / "signing-key.pem").read_bytes())
    for number in range(4):
        Log(other).append({"event": "foreign", "n": number})
    foreign = (other / "log.jsonl").read_text().splitlines()
    rewrite(tmp_path, [*lines[:2], *foreign[2:]])
    with pytest.raises(VerificationFailed, match="line 3 "):
        log.verify_chain()


def test_an_end_cut_off_is_noticed_by_a_head_noted_elsewhere(log, lines, tmp_path):
    head = log.verify_chain().head
    log.append({"event": "later"})
    assert log.verify_chain(head).lines == 5
    rewrite(tmp_path, lines[:3])
    log.verify_chain()
    with pytest.raises(VerificationFailed, match="cut off"):
        log.verify_chain(head)


def test_a_line_that_a_kill_cut_off_is_dropped_and_the_log_goes_on(log, lines, tmp_path):
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, lines[0][:40]]))
    log.append({"event": "step", "n": 4})
    assert [line["event"]["n"] for line in log.events()] == [0, 1, 2, 3, 4]
    assert log.verify_chain().lines == 5


def test_secrets_are_masked_before_they_are_written(tmp_path):
    Log(tmp_path).append({"event": "x", "password": "hunter2", "nested": {"api_key": "abcdef"}, "raw": b"bytes"})
    text = (tmp_path / "log.jsonl").read_text()
    assert "hunter2" not in text
    assert "abcdef" not in text


def test_long_lines_and_many_writers_make_one_chain(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: Log(tmp_path).append({"n": n, "text": "x" * (n * 20_000)}), range(16)))
    assert Log(tmp_path).verify_chain().lines == 16

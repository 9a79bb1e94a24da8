"""The search for secrets would find them: in each form, in every place, in what a process shows of itself."""

from __future__ import annotations

import base64
import binascii
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from cloud import Cloud
from haystack import Haystack, Needles, Watch, forms_of

from sandbox.supervisor import Sandbox

SEES_PROCESSES = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are seen in /proc")


def planted(secret: bytes) -> dict[str, bytes]:
    """A secret as it could lie in a file, in the middle of other things."""
    return {
        "raw": b"\x00\x01before" + secret + b"after\xff",
        "hex": b'{"key": "' + binascii.hexlify(secret) + b'"}',
        "HEX": binascii.hexlify(secret).upper(),
        "base64": base64.b64encode(secret),
        "base64 of more, shifted by one": base64.b64encode(b"a" + secret + b"zz"),
        "base64 of more, shifted by two": base64.b64encode(b"ab" + secret + b"z"),
        "base64 for URLs": base64.urlsafe_b64encode(b"{" + secret + b"}"),
        "quoted": quote(secret).encode(),
    }


def test_the_search_finds_each_secret_in_each_form() -> None:
    for name, secret in {
        "a key": os.urandom(32),
        "a text": b"correct horse battery staple",
        "a blob": os.urandom(512),
    }.items():
        needles = Needles({name: forms_of(secret)})
        for form, content in planted(secret).items():
            assert needles.in_(content) == {name}, f"{name} as {form} would not be seen"
        assert needles.in_(b"nothing of it") == set()


@pytest.mark.parametrize(
    "place",
    [
        ".keyshift/pulumi/.pulumi/planted.json",
        ".keyshift/tenants/planted/journal.sqlite",
        ".keyshift/keyshift.db-wal",
        "Pulumi.planted.yaml",
        "../sandbox/logs/planted.log",
        "../pulumi-home/planted",
    ],
)
def test_the_search_looks_into_every_place(tmp_path: Path, place: str) -> None:
    """On a copy of the folders: a plant in the real ones would be seen by the other tests."""
    copy = Cloud(
        tmp_path,
        Sandbox(tmp_path / "sandbox"),
        tmp_path / "project",
        {
            "PULUMI_HOME": str(tmp_path / "pulumi-home"),
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(tmp_path / "passphrase"),
        },
    )
    path = copy.project / place
    (copy.project).mkdir()
    path = Path(os.path.normpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    secret = os.urandom(32)
    if path.suffix == ".sqlite":
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE t (v TEXT)")
            database.execute("INSERT INTO t VALUES (?)", (base64.b64encode(secret).decode(),))
        database.close()
    else:
        path.write_bytes(secret)
    watch = Watch(copy.project, tmp_path / "none")
    assert set(Haystack(copy, watch).holds(Needles({"it": forms_of(secret)}))) == {str(path)}
    shutil.rmtree(tmp_path / "project")


@SEES_PROCESSES
def test_the_watch_sees_arguments_variables_and_temporary_files(tmp_path: Path) -> None:
    secret = os.urandom(32).hex()
    script = "import sys; print('up', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, secret],
        env={**os.environ, "KEYSHIFT_PROJECT": str(tmp_path), "A_SECRET": secret},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    (tmp_path / "plan.json").write_text(secret)
    watch = Watch(tmp_path, tmp_path)
    try:
        assert process.stdout.readline() == "up\n"
        watch.look()
    finally:
        process.communicate("", timeout=60)
    needles = Needles({"it": forms_of(secret.encode())})
    assert needles.in_(b"".join(watch.arguments))
    assert needles.in_(b"".join(watch.environments))
    assert needles.in_(b"".join(watch.files["plan.json"]))

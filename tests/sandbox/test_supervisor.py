"""`python -m sandbox`: the two servers as a whole, started, stopped, found again."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from provider_plugin import boto_client

from sandbox import supervisor
from sandbox.supervisor import Sandbox, SandboxError

pytestmark = pytest.mark.sandbox

SECONDS = 120


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path / "a sandbox")  # with a space: paths go through shells
    yield made
    made.reset()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One that stays up, for tests that only look."""
    made = Sandbox(tmp_path_factory.mktemp("running") / "sandbox")
    made.up()
    yield made
    made.reset()


def command(sandbox: Sandbox, *words: str) -> subprocess.CompletedProcess[str]:
    name, *more = words
    return subprocess.run(
        [sys.executable, "-m", "sandbox", name, "--dir", str(sandbox.folder), *more],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_up_starts_both_and_another_up_changes_nothing(running: Sandbox) -> None:
    before = running.status()
    assert {each.name: each.state for each in before} == {"aws": "up", "elastic": "up"}
    assert not running.up()
    assert running.status() == before


def test_the_environment_is_all_that_a_program_needs(running: Sandbox) -> None:
    environment = running.environment()
    identity = boto_client(environment, "sts").get_caller_identity()
    assert identity["Account"] == "111122223333"
    assert boto_client(environment, "sts", "customer").get_caller_identity()["Account"] == "444455556666"
    assert environment["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"] == "true"


def test_a_shell_that_reads_the_file_gets_the_same_environment(running: Sandbox) -> None:
    script = f". {shlex.quote(str(running.folder / 'env'))} && {shlex.quote(sys.executable)} -c {{}}"
    code = shlex.quote("import json, os; print(json.dumps(dict(os.environ)))")
    own = {"PATH": "/usr/bin:/bin", "AWS_ACCESS_KEY_ID": "a real account's", "AWS_SESSION_TOKEN": "and its token"}
    found = json.loads(
        subprocess.run(
            ["/bin/sh", "-c", script.format(code)], env=own, capture_output=True, text=True, check=True
        ).stdout
    )
    wanted = running.environment()
    assert found["PATH"] == f"{running.folder / 'bin'}:/usr/bin:/bin"
    assert {name: found[name] for name in wanted if name != "PATH"} == {
        name: value for name, value in wanted.items() if name != "PATH"
    }
    assert found["AWS_ACCESS_KEY_ID"] == "", "keys in the environment would go before the sandbox's profile"


def test_what_holds_secrets_is_its_owners_alone(running: Sandbox) -> None:
    for path in (running.folder, running.folder / "env", running.folder / "sandbox.json"):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("package", supervisor.PACKAGES)
def test_the_plugins_start_from_any_folder(running: Sandbox, package: str, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('a module of the program')")
    plugin = subprocess.Popen(
        [running.folder / "bin" / f"pulumi-resource-{package}", "127.0.0.1:1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert int(plugin.stdout.readline()) > 0
    plugin.terminate()
    assert plugin.wait(SECONDS) == 0
    plugin.stdout.close()


def test_status_says_what_runs_where_also_as_json(running: Sandbox) -> None:
    table = command(running, "status")
    assert table.returncode == 0
    assert [line.split()[:2] for line in table.stdout.splitlines()] == [
        ["SERVER", "STATE"],
        ["aws", "up"],
        ["elastic", "up"],
    ]
    servers = json.loads(command(running, "status", "--json").stdout)["servers"]
    assert [server["pid"] for server in servers] == [each.pid for each in running.status()]


def test_state_and_ports_survive_down_and_up_and_not_a_reset(sandbox: Sandbox) -> None:
    sandbox.up()
    ports = [each.port for each in sandbox.status()]
    environment = sandbox.environment()
    key = boto_client(environment, "kms").create_key()["KeyMetadata"]["KeyId"]
    boto_client(environment, "sqs").create_queue(QueueName="kept")
    s3 = boto_client(environment, "s3")
    s3.create_bucket(Bucket="kept-bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="kept-bucket", Key="k", Body=b"kept")

    assert sandbox.down()
    assert {each.state for each in sandbox.status()} == {"down"}
    assert not sandbox.down(), "down when down does nothing"
    sandbox.up()

    assert [each.port for each in sandbox.status()] == ports, "Pulumi's state holds URLs with them"
    assert sandbox.environment() == environment, "the profiles and the API key are the same"
    assert boto_client(environment, "kms").describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"
    assert boto_client(environment, "sqs").get_queue_url(QueueName="kept")["QueueUrl"]
    assert boto_client(environment, "s3").get_object(Bucket="kept-bucket", Key="k")["Body"].read() == b"kept"

    sandbox.reset()
    assert not (sandbox.folder / "sandbox.json").exists()
    assert not (sandbox.folder / "state").exists()


def test_a_server_that_died_is_started_again(sandbox: Sandbox) -> None:
    sandbox.up()
    aws, elastic = sandbox.status()
    os.kill(aws.pid, signal.SIGKILL)
    deadline = time.monotonic() + SECONDS
    while sandbox.status()[0].state != "down":
        assert time.monotonic() < deadline, "a killed process ends"
    assert sandbox.up()
    now = sandbox.status()
    assert now[0].state == "up"
    assert now[0].pid != aws.pid
    assert now[1] == elastic, "the other goes on as it is"


def test_a_pid_that_another_process_has_now_is_not_ours(sandbox: Sandbox) -> None:
    sandbox.up()
    sandbox.down()
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        recorded = json.loads((sandbox.folder / "sandbox.json").read_text())
        for each in recorded.values():
            each.update(pid=stranger.pid, started="1")
        (sandbox.folder / "sandbox.json").write_text(json.dumps(recorded))
        assert {each.state for each in sandbox.status()} == {"down"}
        assert not sandbox.down()
        assert stranger.poll() is None, "somebody else's process was ended"
        assert sandbox.up()
    finally:
        stranger.kill()
        stranger.wait(SECONDS)


def test_a_start_that_fails_shows_the_end_of_the_log_and_leaves_nothing_running(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = dataclasses.replace(supervisor.SERVERS[0], module="sandbox.no_such_module")
    monkeypatch.setattr(supervisor, "SERVERS", (broken, supervisor.SERVERS[1]))
    with pytest.raises(SandboxError, match=r"ended at its start(.|\n)*No module named sandbox\.no_such_module"):
        sandbox.up()
    assert {each.state for each in sandbox.status()} == {"down"}


def test_without_an_emulator_it_says_what_to_run_and_can_be_reset(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYSHIFT_EMULATOR_PYTHON", str(sandbox.folder / "no-python"))
    with pytest.raises(SandboxError, match="make setup"):
        sandbox.up()
    assert {each.state for each in sandbox.status()} == {"down"}
    sandbox.reset()
    assert not list(sandbox.folder.iterdir())


def test_a_port_that_somebody_took_is_named(sandbox: Sandbox) -> None:
    sandbox.up()
    sandbox.down()
    port = sandbox.status()[0].port
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(SandboxError, match=f"port {port}"):
            sandbox.up()


def test_reset_deletes_no_folder_that_is_no_sandbox(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "precious").write_text("x")
    with pytest.raises(SandboxError, match="is no sandbox"):
        Sandbox(tmp_path).reset()
    assert (tmp_path / "state" / "precious").exists()


def test_reset_leaves_what_is_not_the_sandboxs(sandbox: Sandbox) -> None:
    sandbox.up()
    (sandbox.folder / "mine").write_text("x")
    sandbox.reset()
    assert [path.name for path in sandbox.folder.iterdir()] == ["mine"]


def test_there_is_no_environment_of_a_sandbox_that_never_was(tmp_path: Path) -> None:
    done = command(Sandbox(tmp_path / "none"), "env")
    assert done.returncode == 1
    assert "python -m sandbox up" in done.stderr
    assert not (tmp_path / "none").exists(), "to look makes nothing"


def test_run_gives_a_command_the_environment_and_takes_down_what_it_started(sandbox: Sandbox) -> None:
    script = "import os, sys; print(os.environ['AWS_ENDPOINT_URL']); sys.exit(7)"
    done = command(sandbox, "run", "--", sys.executable, "-c", script)
    assert done.returncode == 7, "the command's own exit code"
    port = sandbox.status()[0].port
    assert done.stdout.strip() == f"http://127.0.0.1:{port}"
    assert {each.state for each in sandbox.status()} == {"down"}


def test_run_leaves_up_what_was_up(running: Sandbox) -> None:
    assert command(running, "run", "--", "true").returncode == 0
    assert running.is_up


def test_a_command_that_does_not_exist_is_said(running: Sandbox) -> None:
    done = command(running, "run", "--", "no-such-command")
    assert done.returncode == 1
    assert "no-such-command" in done.stderr

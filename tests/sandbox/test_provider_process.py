"""The plugin as a process: how it starts, what it loads, and when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from provider_plugin import SECONDS, Plugin, started

from sandbox.provider import values
from sandbox.provider.protocol import provider_pb2

pytestmark = pytest.mark.sandbox


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {what}"
        threading.Event().wait(0.05)


def test_a_check_and_a_diff_load_no_client_library() -> None:
    script = """
        import sys
        from sandbox.provider import values
        from sandbox.provider.protocol import provider_pb2
        from sandbox.provider.server import Provider
        urn = "urn:pulumi:dev::toy::aws:s3/bucket:Bucket::b"
        provider = Provider("aws")
        checked = provider.Check(provider_pb2.CheckRequest(urn=urn, news=values.encode({"bucket": "bucket"})), None)
        asked = provider_pb2.DiffRequest(urn=urn, olds=checked.inputs, old_inputs=checked.inputs, news=checked.inputs)
        assert not provider.Diff(asked, None).diffs
        print(sorted({"boto3", "botocore", "httpx", "pulumi", "pulumi_aws"} & sys.modules.keys()))
    """
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    ).stdout
    assert loaded.strip() == "[]", "an up without changes would pay for the start of each"


@pytest.mark.parametrize("package", ["aws", "ec", "elasticstack"])
def test_the_first_line_is_the_port_and_the_handshake_is_honest(package: str) -> None:
    with started(package) as plugin:
        answer = plugin.stub.Handshake(provider_pb2.ProviderHandshakeRequest(engine_address="127.0.0.1:1"))
        assert answer.accept_secrets
        assert not answer.accept_outputs
        assert not answer.accept_resources


def test_an_unknown_package_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox.provider", "gcp"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "aws|azure-native|azuread|ec|elasticstack" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_on_a_signal(number: signal.Signals) -> None:
    with started("ec") as plugin:
        plugin.process.send_signal(number)
        assert plugin.process.wait(SECONDS) == 0


def test_it_ends_when_the_engine_says_so() -> None:
    with started("ec") as plugin:
        plugin.cancel()
        assert plugin.process.wait(SECONDS) == 0


def test_what_the_provider_lacks_is_said_to_be_unimplemented() -> None:
    with started("aws") as plugin:
        for call, request in (
            (plugin.stub.Parameterize, provider_pb2.ParameterizeRequest()),
            (plugin.stub.Construct, provider_pb2.ConstructRequest()),
            (plugin.stub.Call, provider_pb2.CallRequest()),
        ):
            with pytest.raises(grpc.RpcError) as refusal:
                call(request)
            assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_configuration_that_would_have_no_effect_is_refused() -> None:
    with started("aws") as plugin:
        urn = "urn:pulumi:dev::toy::pulumi:providers:aws::default"
        news = values.encode({"region": "eu-west-1", "assumeRoles": "[]", "regoin": "x"})
        answer = plugin.stub.CheckConfig(provider_pb2.CheckRequest(urn=urn, news=news))
        assert {failure.property for failure in answer.failures} == {"assumeRoles", "regoin"}


@contextmanager
def slow_cloud() -> Iterator[tuple[str, threading.Event, threading.Event]]:
    """An STS that answers when it is let; and the events for asked and let."""
    asked, let = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.set()
            let.wait(SECONDS)
            body = (
                b"<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>a</Arn><UserId>u</UserId>"
                b"<Account>111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
            )
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked, let
    finally:
        let.set()
        server.shutdown()
        server.server_close()
        thread.join()


def credentials(url: str) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "eu-west-1",
    }


def identity(plugin: Plugin) -> object:
    return plugin.stub.Invoke(provider_pb2.InvokeRequest(tok="aws:index/getCallerIdentity:getCallerIdentity"))


def test_an_operation_under_way_at_a_cancel_is_finished() -> None:
    with slow_cloud() as (url, asked, let), started("aws", credentials(url)) as plugin:
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(identity, plugin)
            assert asked.wait(SECONDS)
            plugin.cancel()
            assert plugin.process.poll() is None, "half a create would be an orphan"
            let.set()
            assert answer.result(SECONDS)
        assert plugin.process.wait(SECONDS) == 0


def test_it_ends_at_once_when_its_parent_is_gone(tmp_path: Path) -> None:
    """What a dead CLI asked for would be made and recorded nowhere."""
    script = f"""
        import subprocess, sys, time
        child = subprocess.Popen([{sys.executable!r}, "-P", "-m", "sandbox.provider", "aws"], stdout=subprocess.PIPE)
        child.stdout.readline()
        print(child.pid, flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait(SECONDS)
    parent.stdout.close()
    until(lambda: is_gone(pid), "the plugin follows its parent")


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True

"""The Python language host as a real process, spoken to as the engine does."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.struct_pb2 import Struct
from pulumi.runtime.proto import (
    engine_pb2,
    engine_pb2_grpc,
    language_pb2,
    language_pb2_grpc,
    resource_pb2,
    resource_pb2_grpc,
)

HOST = [sys.executable, "-I", "-m", "engine.language_host"]
LIMIT = 20.0
SECRET = "correct horse battery staple"


class Monitor(resource_pb2_grpc.ResourceMonitorServicer):
    """As much of the engine's resource monitor as a program without resources of its own needs."""

    def SupportsFeature(self, request, context):  # noqa: N802 - the protocol's name
        return resource_pb2.SupportsFeatureResponse(hasSupport=False)

    def RegisterResource(self, request, context):  # noqa: N802 - the protocol's name
        return resource_pb2.RegisterResourceResponse(urn=f"urn:pulumi:dev::toy::{request.type}::{request.name}")

    def RegisterResourceOutputs(self, request, context):  # noqa: N802 - the protocol's name
        return Empty()


@dataclass
class Engine(engine_pb2_grpc.EngineServicer):
    """The engine's log, which is where a program's errors go."""

    errors: list[str] = field(default_factory=list)

    def Log(self, request, context):  # noqa: N802 - the protocol's name
        if request.severity == engine_pb2.ERROR:
            self.errors.append(request.message)
        return Empty()

    def SetRootResource(self, request, context):  # noqa: N802 - the protocol's name
        return engine_pb2.SetRootResourceResponse()


@pytest.fixture
def engine() -> Iterator[tuple[Engine, str]]:
    servicer = Engine()
    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    engine_pb2_grpc.add_EngineServicer_to_server(servicer, server)
    resource_pb2_grpc.add_ResourceMonitorServicer_to_server(Monitor(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait()


@contextmanager
def started(command: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process and the port that it prints. Whatever holds its output is ended with it."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            assert process.poll() is not None, "the group can only be gone if its leader is"
        process.communicate()


@contextmanager
def host(address: str = "127.0.0.1:1") -> Iterator[language_pb2_grpc.LanguageRuntimeStub]:
    with started([*HOST, address]) as (_, port), grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield language_pb2_grpc.LanguageRuntimeStub(channel)


def info(folder: Path, **options: str) -> language_pb2.ProgramInfo:
    struct = Struct()
    struct.update(options)
    return language_pb2.ProgramInfo(
        root_directory=str(folder), program_directory=str(folder), entry_point=".", options=struct
    )


def program(folder: Path, text: str) -> Path:
    (folder / "__main__.py").write_text(textwrap.dedent(text))
    return folder


def request(folder: Path, address: str, **config: str) -> language_pb2.RunRequest:
    return language_pb2.RunRequest(
        project="toy",
        stack="dev",
        organization="acme",
        pwd=str(folder),
        monitor_address=address,
        parallel=4,
        dryRun=True,
        config={f"toy:{key}": value for key, value in config.items()},
        configSecretKeys=[f"toy:{key}" for key in config],
        info=info(folder),
    )


def is_closed(stream, limit: float = LIMIT) -> bool:
    """Whether nobody holds the other end of `stream` any more, within `limit` seconds."""
    end = time.monotonic() + limit
    while select.select([stream], [], [], max(0.0, end - time.monotonic()))[0]:
        if not os.read(stream.fileno(), 65536):
            return True
    return False


def test_the_host_says_what_it_is_and_asks_for_no_plugin_ahead_of_time(tmp_path):
    with host() as stub:
        stub.Handshake(language_pb2.LanguageHandshakeRequest(engine_address="127.0.0.1:1"), timeout=LIMIT)
        version = stub.GetPluginInfo(Empty(), timeout=LIMIT).version
        about = stub.About(language_pb2.AboutRequest(info=info(tmp_path)), timeout=LIMIT)
        needed = stub.GetRequiredPackages(language_pb2.GetRequiredPackagesRequest(info=info(tmp_path)), timeout=LIMIT)
        prompts = stub.RuntimeOptionsPrompts(language_pb2.RuntimeOptionsRequest(info=info(tmp_path)), timeout=LIMIT)

    assert version.count(".") >= 2, "the engine refuses a version that is not semantic"
    assert about.executable == sys.executable, "programs run in the environment that the host is installed in"
    assert not needed.packages, "a list of all installed SDKs would make an AWS stack fetch Azure's provider"
    assert not prompts.prompts


def test_the_host_lists_packages_and_leaves_those_out_that_others_brought(tmp_path):
    with host() as stub:
        direct, every = (
            {
                found.name
                for found in stub.GetProgramDependencies(
                    language_pb2.GetProgramDependenciesRequest(info=info(tmp_path), transitiveDependencies=transitive),
                    timeout=LIMIT,
                ).dependencies
            }
            for transitive in (False, True)
        )

    assert {"pulumi", "grpcio", "pulumi-aws"} <= every
    assert "pulumi-aws" in direct
    assert "grpcio" not in direct, "pulumi requires it"


def test_installing_dependencies_points_to_make_setup(tmp_path):
    with host() as stub:
        answers = list(
            stub.InstallDependencies(language_pb2.InstallDependenciesRequest(info=info(tmp_path)), timeout=LIMIT)
        )

    assert b"make setup" in b"".join(answer.stdout for answer in answers)


def test_a_program_gets_its_config_but_no_secret_on_its_command_line_or_in_its_environment(tmp_path, engine):
    _, address = engine
    folder = program(
        tmp_path,
        """
        import json, os, sys, pulumi
        seen = {
            "password": pulumi.Config().require("password"),
            "is_secret": pulumi.runtime.is_config_secret("toy:password"),
            "arguments": sys.orig_argv,
            "environment": dict(os.environ),
            "settings": [
                pulumi.get_project(), pulumi.get_stack(), pulumi.get_organization(), pulumi.runtime.is_dry_run(),
                pulumi.runtime.get_root_directory(), os.getcwd(), sys.path[0],
            ],
        }
        open("seen.json", "w").write(json.dumps(seen))
        """,
    )
    with host(address) as stub:
        response = stub.Run(request(folder, address, password=SECRET), timeout=LIMIT)

    assert response == language_pb2.RunResponse()
    seen = json.loads((folder / "seen.json").read_text())
    assert seen["password"] == SECRET
    assert seen["is_secret"], "else the SDK would not mark outputs made of it as secret"
    assert SECRET not in " ".join(seen["arguments"]), "command lines are readable by every user of the machine"
    assert SECRET not in str(seen["environment"]), "what the program starts would inherit it"
    assert seen["settings"] == ["toy", "dev", "acme", True, *([str(folder)] * 3)]


def test_a_failing_program_is_reported_once_with_a_traceback_that_starts_at_the_program(tmp_path, engine):
    log, address = engine
    folder = program(tmp_path, "import helper\nhelper.fail()\n")
    (folder / "helper.py").write_text("def fail():\n    raise ValueError('no such stamp')\n")
    with host(address) as stub:
        response = stub.Run(request(folder, address), timeout=LIMIT)

    assert response == language_pb2.RunResponse(bail=True), "the engine adds nothing to an error that was shown"
    [message] = log.errors
    assert "ValueError: no such stamp" in message
    assert "run_program" not in message, "the host's own frames tell the reader nothing"
    assert message.index("__main__.py") < message.index("helper.py")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import sys; sys.exit(3)", "program exited with non-zero exit code: 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "program exited with non-zero exit code: -9"),
        ("import pulumi; raise pulumi.RunError('say this')", "program exited with non-zero exit code: 1"),
    ],
)
def test_a_program_that_ends_otherwise_is_reported_by_its_exit_code(tmp_path, engine, text, error):
    _, address = engine
    with host(address) as stub:
        response = stub.Run(request(program(tmp_path, text), address), timeout=LIMIT)

    assert response == language_pb2.RunResponse(error=error)


def test_a_folder_without_a_program_is_named(tmp_path, engine):
    log, address = engine
    with host(address) as stub:
        response = stub.Run(request(tmp_path, address), timeout=LIMIT)

    assert response.bail
    assert str(tmp_path) in log.errors[0]


def test_a_project_of_another_environment_is_refused_before_anything_runs(tmp_path, engine):
    _, address = engine
    run = request(program(tmp_path, "open('ran', 'w')"), address)
    run.info.CopyFrom(info(tmp_path, virtualenv="venv"))
    with host(address) as stub:
        refused = stub.Run(run, timeout=LIMIT)
        run.info.CopyFrom(info(tmp_path, virtualenv=sys.prefix))
        accepted = stub.Run(run, timeout=LIMIT)

    assert "virtualenv venv" in refused.error
    assert accepted == language_pb2.RunResponse()


def test_a_plugin_streams_both_its_outputs_and_ends_with_its_exit_code(tmp_path):
    folder = program(
        tmp_path,
        """
        import os, sys
        print("to stdout", sys.argv[1:], os.environ["GIVEN"])
        print("to stderr", file=sys.stderr)
        sys.exit(5)
        """,
    )
    plugin = language_pb2.RunPluginRequest(
        pwd=str(folder), info=info(folder), args=["127.0.0.1:1"], env=["GIVEN=a=b"], kind="resource"
    )
    with host() as stub:
        answers = list(stub.RunPlugin(plugin, timeout=LIMIT))

    assert b"".join(answer.stdout for answer in answers) == b"to stdout ['127.0.0.1:1'] a=b\n"
    assert b"".join(answer.stderr for answer in answers) == b"to stderr\n"
    assert answers[-1].exitcode == 5, "the engine takes what follows the exit code for lost"


def waiting_program(folder: Path) -> Path:
    return program(folder, "open('started', 'w').close()\nimport threading\nthreading.Event().wait()\n")


@contextmanager
def running(stub: language_pb2_grpc.LanguageRuntimeStub, run: language_pb2.RunRequest) -> Iterator[grpc.Future]:
    """A Run under way: its program has begun."""
    call = stub.Run.future(run, timeout=LIMIT)
    began = Path(run.pwd, "started")
    pause = threading.Event()
    for _ in range(int(LIMIT / 0.05)):
        if began.exists():
            break
        pause.wait(0.05)
    assert began.exists(), "the program did not start"
    yield call
    call.cancel()


def test_host_and_program_end_when_the_engine_dies(tmp_path, engine):
    _, address = engine
    # Stands in for the engine: starts the host as its child, with the same output, and is then killed.
    engine_process = (
        f"import subprocess, sys; subprocess.Popen({[*HOST, address]!r}, stdin=subprocess.DEVNULL); sys.stdin.read()"
    )
    with (
        started([sys.executable, "-c", engine_process]) as (parent, port),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        running(language_pb2_grpc.LanguageRuntimeStub(channel), request(waiting_program(tmp_path), address)),
    ):
        assert not is_closed(parent.stdout, limit=0), "host and program still hold the output"
        parent.kill()
        assert is_closed(parent.stdout), "an orphaned program would go on making what no state records"


def test_the_program_ends_when_its_host_is_killed(tmp_path, engine):
    _, address = engine
    with (
        started([*HOST, address]) as (process, port),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        running(language_pb2_grpc.LanguageRuntimeStub(channel), request(waiting_program(tmp_path), address)),
    ):
        process.kill()
        assert is_closed(process.stdout)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_host_and_its_program(tmp_path, engine, number):
    _, address = engine
    with (
        started([*HOST, address]) as (process, port),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
        running(language_pb2_grpc.LanguageRuntimeStub(channel), request(waiting_program(tmp_path), address)),
    ):
        process.send_signal(number)
        assert process.wait(LIMIT) == 0
        assert is_closed(process.stdout)


def test_cancel_ends_the_program_and_leaves_the_host_to_report_it(tmp_path, engine):
    _, address = engine
    with host(address) as stub, running(stub, request(waiting_program(tmp_path), address)) as call:
        stub.Cancel(Empty(), timeout=LIMIT)
        assert call.result(LIMIT).error == "program exited with non-zero exit code: -15"


def test_the_host_does_without_the_sdk_and_leaves_it_usable():
    script = """
    import sys, engine.language_host
    from engine.proto import language_pb2
    assert "pulumi.runtime.settings" not in sys.modules, "the SDK was loaded"
    import pulumi, pulumi.runtime.proto as proto
    assert pulumi.Output, "a stand-in was left behind"
    assert proto.RunRequest is language_pb2.RunRequest, "two classes for one message"
    """
    subprocess.run([sys.executable, "-I", "-c", textwrap.dedent(script)], check=True, timeout=LIMIT)

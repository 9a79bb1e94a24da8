"""`pulumi-language-python`: the process through which the Pulumi engine runs Python programs.

Pulumi's own host is part of its release archive, not of its Go module, so an engine built from
the module lacks one. This host serves the same `LanguageRuntime` protocol for programs of the one
environment that it is installed in. It starts twice an `up`, so it imports little.

Nothing outlives anything: the host ends with the engine, and what it started ends with the host.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO

import grpc
from google.protobuf.empty_pb2 import Empty

from engine.lifeline import wait_for, watch_parent
from engine.proto import language_pb2, language_pb2_grpc, plugin_pb2

GRACE = 2.0
"""Seconds that a child may take to end after SIGTERM; the engine itself waits 5 for the host."""

ALREADY_REPORTED = 32
"""A program's exit code for "my error has been shown"; `engine.run_program` uses it."""

MESSAGE_LIMIT = 400 * 1024 * 1024
"""Bytes: the limit that the engine and the SDK set."""

THREADS = 64
"""A call lasts as long as its program or policy pack, and each holds a thread."""


class Children:
    """The processes that this host has started and that still run."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def running(
        self,
        command: Sequence[str],
        context: grpc.ServicerContext,
        *,
        cwd: str,
        env: Mapping[str, str],
        piped: bool = False,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A process that ends with the call that it serves. Raises RuntimeError once the host is ending."""
        pipe = subprocess.PIPE if piped else None
        with self._lock:
            if self._closed:
                raise RuntimeError("the language host is ending")
            child = subprocess.Popen(
                command, cwd=cwd or None, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
            )
            self._running.add(child)
        try:
            # The engine hangs up when it gives up waiting, or dies; it may have done so already.
            if not context.add_callback(child.terminate):
                child.terminate()
            yield child
        finally:
            end(child)
            with self._lock:
                self._running.discard(child)

    def terminate(self) -> None:
        """Asks every child to end and returns."""
        for child in self._snapshot():
            child.terminate()

    def end(self) -> None:
        """Ends every child, by SIGKILL those that outlast the grace, and starts no other."""
        with self._lock:
            self._closed = True
        self.terminate()
        for child in self._snapshot():
            end(child)

    def _snapshot(self) -> list[subprocess.Popen[bytes]]:
        with self._lock:
            return list(self._running)


def end(child: subprocess.Popen[bytes]) -> None:
    """Ends one process if it still runs: SIGTERM, and SIGKILL after the grace."""
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):
    """The protocol. Code generation, packing and templates answer UNIMPLEMENTED, which the engine knows."""

    def __init__(self, engine_address: str, children: Children) -> None:
        self._engine_address = engine_address
        self._children = children

    def Handshake(
        self, request: language_pb2.LanguageHandshakeRequest, context: grpc.ServicerContext
    ) -> language_pb2.LanguageHandshakeResponse:
        self._engine_address = request.engine_address
        return language_pb2.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=metadata.version("pulumi"))

    def GetRequiredPackages(
        self, request: language_pb2.GetRequiredPackagesRequest, context: grpc.ServicerContext
    ) -> language_pb2.GetRequiredPackagesResponse:
        """None ahead of time: the engine fetches a provider when a resource first asks for it.

        The environment holds the SDKs of all clouds; a list of them would make an AWS stack wait for Azure's.
        """
        return language_pb2.GetRequiredPackagesResponse()

    def GetRequiredPlugins(
        self, request: language_pb2.GetRequiredPluginsRequest, context: grpc.ServicerContext
    ) -> language_pb2.GetRequiredPluginsResponse:
        return language_pb2.GetRequiredPluginsResponse()

    def Run(self, request: language_pb2.RunRequest, context: grpc.ServicerContext) -> language_pb2.RunResponse:
        refusal = foreign_environment(request.info)
        if refusal:
            return language_pb2.RunResponse(error=refusal)
        config = {
            "PULUMI_CONFIG": json.dumps(dict(request.config)),
            "PULUMI_CONFIG_SECRET_KEYS": json.dumps(list(request.configSecretKeys)),
        }
        command = program_command(request, self._engine_address)
        with self._children.running(command, context, cwd=request.pwd, env={**os.environ, **config}) as child:
            return outcome(child.wait())

    def RunPlugin(
        self, request: language_pb2.RunPluginRequest, context: grpc.ServicerContext
    ) -> Iterator[language_pb2.RunPluginResponse]:
        refusal = foreign_environment(request.info)
        if refusal:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal)
        env = dict(pair.split("=", 1) for pair in request.env if "=" in pair)
        command = plugin_command(request)
        with self._children.running(command, context, cwd=request.pwd, env={**os.environ, **env}, piped=True) as child:
            yield from output(child)
            yield language_pb2.RunPluginResponse(exitcode=child.wait())

    def About(self, request: language_pb2.AboutRequest, context: grpc.ServicerContext) -> language_pb2.AboutResponse:
        return language_pb2.AboutResponse(
            executable=sys.executable, version=sys.version.split()[0], metadata={"host": "keyshift"}
        )

    def GetProgramDependencies(
        self, request: language_pb2.GetProgramDependenciesRequest, context: grpc.ServicerContext
    ) -> language_pb2.GetProgramDependenciesResponse:
        """Every installed distribution; without `transitiveDependencies`, those that no other one requires."""
        installed = {canonical(found.name): found for found in metadata.distributions()}
        names = set(installed)
        if not request.transitiveDependencies:
            names -= {required(line) for found in installed.values() for line in found.requires or ()}
        return language_pb2.GetProgramDependenciesResponse(
            dependencies=[
                language_pb2.DependencyInfo(name=name, version=installed[name].version) for name in sorted(names)
            ]
        )

    def InstallDependencies(
        self, request: language_pb2.InstallDependenciesRequest, context: grpc.ServicerContext
    ) -> Iterator[language_pb2.InstallDependenciesResponse]:
        """Nothing: packages are pinned by hash, and `make setup` alone installs them."""
        yield language_pb2.InstallDependenciesResponse(
            stdout=f"Python packages of {sys.prefix} are installed by `make setup`, from hashes.\n".encode()
        )

    def RuntimeOptionsPrompts(
        self, request: language_pb2.RuntimeOptionsRequest, context: grpc.ServicerContext
    ) -> language_pb2.RuntimeOptionsResponse:
        return language_pb2.RuntimeOptionsResponse()

    def Cancel(self, request: Empty, context: grpc.ServicerContext) -> Empty:
        self._children.terminate()
        return Empty()


def foreign_environment(info: language_pb2.ProgramInfo) -> str:
    """Why a program cannot run here: its project asks for another environment. Empty if it can."""
    named = info.options.fields["virtualenv"].string_value if "virtualenv" in info.options.fields else ""
    if not named or Path(info.root_directory, named).resolve() == Path(sys.prefix).resolve():
        return ""
    return (
        f"the project in {info.root_directory} asks for virtualenv {named}, but this language host runs programs"
        f" of {sys.prefix} only: run `make setup` in that project, or put its own host on PATH"
    )


def program_command(request: language_pb2.RunRequest, engine_address: str) -> list[str]:
    """The command line that runs the program. It holds no config, which may be secret."""
    flags = {
        "project": request.project,
        "stack": request.stack,
        "organization": request.organization,
        "root-directory": request.info.root_directory,
        "monitor": request.monitor_address,
        "engine": engine_address,
        "parallel": str(request.parallel),
    }
    return [
        *python("engine.run_program"),
        *(f"--{name}={value}" for name, value in flags.items()),
        *(["--dry-run"] if request.dryRun else []),
        "--",
        request.info.entry_point or request.program or ".",
        *request.args,
    ]


def plugin_command(request: language_pb2.RunPluginRequest) -> list[str]:
    """The command line of a plugin. A policy pack goes through the SDK, which gives it the stack's config."""
    folder = request.info.program_directory
    if request.kind == "analyzer":
        return [*python("engine.lifeline"), "pulumi.policy", *request.args, folder]
    return [*python("engine.lifeline"), folder, *request.args]


def python(module: str) -> list[str]:
    """Unbuffered, for progress as it happens; safe path, so that no file in the folder shadows a module."""
    return [sys.executable, "-u", "-P", "-m", module]


def outcome(code: int) -> language_pb2.RunResponse:
    if code == 0:
        return language_pb2.RunResponse()
    if code == ALREADY_REPORTED:
        return language_pb2.RunResponse(bail=True)
    return language_pb2.RunResponse(error=f"program exited with non-zero exit code: {code}")


def output(child: subprocess.Popen[bytes]) -> Iterator[language_pb2.RunPluginResponse]:
    """Both streams of a child, as they come, until both are closed."""
    chunks: queue.SimpleQueue[language_pb2.RunPluginResponse | None] = queue.SimpleQueue()

    def forward(stream: IO[bytes], wrap: Callable[[bytes], language_pb2.RunPluginResponse]) -> None:
        with stream:
            while data := os.read(stream.fileno(), 65536):
                chunks.put(wrap(data))
        chunks.put(None)

    streams = (
        (child.stdout, lambda data: language_pb2.RunPluginResponse(stdout=data)),
        (child.stderr, lambda data: language_pb2.RunPluginResponse(stderr=data)),
    )
    for stream, wrap in streams:
        threading.Thread(target=forward, args=(stream, wrap), daemon=True).start()
    for _ in streams:
        yield from iter(chunks.get, None)


def canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def required(line: str) -> str:
    """The distribution that a `Requires-Dist` line names."""
    end_of_name = next(
        (index for index, letter in enumerate(line) if letter not in "-_." and not letter.isalnum()), None
    )
    return canonical(line[:end_of_name])


def main() -> None:
    stopped = threading.Event()
    children = Children()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopped.set())
    watch_parent(stopped.set)

    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    server = grpc.server(
        ThreadPoolExecutor(max_workers=THREADS),
        options=[("grpc.max_receive_message_length", MESSAGE_LIMIT), ("grpc.so_reuseport", 0)],
    )
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(
        LanguageHost(arguments[-1] if arguments else "", children), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)

    wait_for(stopped)
    children.end()
    server.stop(grace=None)
    # A thread may still be in a call of the SDK's or of gRPC's; nothing is left that could answer it.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

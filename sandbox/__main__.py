"""`python -m sandbox`: the local cloud's commands."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sandbox.supervisor import Sandbox, SandboxError


def main() -> int:
    """Exit codes: 0 done (`status`: up), 1 failed (`status`: not up), 2 usage; `run`: the command's own."""
    arguments = _arguments()
    folder = arguments.dir or Path(os.environ.get("KEYSHIFT_SANDBOX_DIR") or ".sandbox")
    try:
        sandbox = Sandbox(folder, azure=True) if arguments.azure else Sandbox(folder)
        return _COMMANDS[arguments.command](sandbox, arguments)
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dir", type=Path, help="the sandbox's folder; else KEYSHIFT_SANDBOX_DIR, else .sandbox")
    common.add_argument(
        "--azure", action="store_true", help="the Azure half too; else only if KEYSHIFT_SANDBOX_AZURE=1 says so"
    )
    common.add_argument("--json", action="store_true", help="say it as JSON")
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="The local cloud for tests and demo.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("up", "start the servers and wait until they answer"),
        ("status", "say what runs where"),
        ("down", "stop the servers; their state stays"),
        ("reset", "stop the servers and delete their state"),
        ("env", 'print the variables that point programs here: eval "$(python -m sandbox env)"'),
        ("run", "run a command with these variables; stop afterwards what had to be started"),
    ):
        command = commands.add_parser(name, parents=[common], help=text, description=text)
        if name == "run":
            command.add_argument("words", nargs="+", metavar="-- command …")
    return parser.parse_args()


def _up(sandbox: Sandbox, arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    was_started = sandbox.up()
    seconds = round(time.monotonic() - began, 2)
    if arguments.json:
        print(json.dumps({"started": was_started, "seconds": seconds, "servers": _described(sandbox)}))
    else:
        print(f"the sandbox is up, started in {seconds} s" if was_started else "the sandbox was up already")
        print(f"environment: {sandbox.folder / 'env'}")
    return 0


def _down(sandbox: Sandbox, arguments: argparse.Namespace) -> int:
    was_stopped = sandbox.down()
    _say(arguments, {"stopped": was_stopped}, "the sandbox is down" if was_stopped else "the sandbox was down already")
    return 0


def _reset(sandbox: Sandbox, arguments: argparse.Namespace) -> int:
    sandbox.reset()
    _say(arguments, {"reset": True}, f"the sandbox's state in {sandbox.folder} is deleted")
    return 0


def _status(sandbox: Sandbox, arguments: argparse.Namespace) -> int:
    servers = _described(sandbox)
    if arguments.json:
        print(json.dumps({"servers": servers}))
    else:
        print(f"{'SERVER':<9}{'STATE':<11}{'PORT':<7}{'PID':<9}LOG")
        for server in servers:
            port, pid = server["port"] or "-", server["pid"] or "-"
            print(f"{server['name']:<9}{server['state']:<11}{port:<7}{pid:<9}{server['log']}")
    return 0 if all(server["state"] == "up" for server in servers) else 1


def _env(sandbox: Sandbox, arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(json.dumps(sandbox.environment()))
    else:
        print(sandbox.exports(), end="")
    return 0


def _run(sandbox: Sandbox, arguments: argparse.Namespace) -> int:
    was_started = sandbox.up()
    try:
        return _ended(subprocess.Popen(arguments.words, env=os.environ | sandbox.environment()))
    except FileNotFoundError as error:
        raise SandboxError(f"there is no command {error.filename}") from error
    finally:
        if was_started:
            sandbox.down()


def _ended(child: subprocess.Popen[bytes]) -> int:
    """The child's exit code as a shell says it. Ctrl-C reaches the child by itself; a SIGTERM is passed on."""
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    code = child.wait()
    return code if code >= 0 else 128 - code


def _described(sandbox: Sandbox) -> list[dict[str, str | int | None]]:
    return [
        {"name": each.name, "state": each.state, "port": each.port, "pid": each.pid, "log": str(each.log)}
        for each in sandbox.status()
    ]


def _say(arguments: argparse.Namespace, document: dict[str, bool], text: str) -> None:
    print(json.dumps(document) if arguments.json else text)


_COMMANDS: dict[str, Callable[[Sandbox, argparse.Namespace], int]] = {
    "up": _up,
    "status": _status,
    "down": _down,
    "reset": _reset,
    "env": _env,
    "run": _run,
}


if __name__ == "__main__":
    sys.exit(main())

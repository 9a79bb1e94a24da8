"""Pulumi by the Automation API, made safe for a runner that may die at any instant.

The CLI runs in a session of its own with its output in files: a runner that is killed leaves a CLI
that ends its update and unlocks by itself, instead of one that dies at its next line of progress.
Every `up` of an operation is a preview into a plan file, the plan judged against the phase, then an
`up` constrained by that plan.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import yaml
from pulumi import automation
from pulumi.automation import CommandError, CommandResult, PulumiCommand
from pulumi.automation.errors import create_command_error

from migrate import policing
from migrate.errors import CloudError, KeyshiftError, RefusedInput
from migrate.redaction import redact_text
from policies.lifecycle import unfit_steps
from stacks.guard import FENCE_VARIABLE, PROPOSED_VARIABLE
from stacks.layout import Layout

PROJECT = "keyshift"
ENGINE_END_SECONDS = 60
"""How long the engine of a dead runner may go on before it is killed."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a previewed plan."""

    op: str
    urn: str

    @property
    def type(self) -> str:
        return self.urn.split("::")[2].split("$")[-1]

    @property
    def name(self) -> str:
        return self.urn.split("::")[-1]


class DetachedCommand(PulumiCommand):
    """`pulumi` in its own session, stdout and stderr to files, so that it outlives its caller."""

    def __init__(self) -> None:
        beside = Path(sys.executable).parent
        # An unactivated environment's own engine comes first, as in `run`.
        super().__init__(root=str(beside.parent) if (beside / "pulumi").exists() else None)

    def run(  # noqa: PLR0913 - the SDK's own, and one more by name
        self,
        args: list[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: Callable[[str], None] | None = None,
        on_error: Callable[[str], None] | None = None,
        *,
        inherited: Sequence[int] = (),
    ) -> CommandResult:
        """Runs `pulumi args`; the callbacks get each line once the command has ended. It gets the files `inherited`.

        Raises CommandError as PulumiCommand.run does.
        """
        # An unactivated environment's own engine and language host come first.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        env = {**os.environ, "PATH": path, **additional_env, "PULUMI_AUTOMATION_API": "true"}
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(
                [self.command, "--non-interactive", *args],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=cwd,
                env=env,
                start_new_session=True,
                pass_fds=inherited,
            )
            code = process.wait()
            texts = []
            for stream, callback in ((out, on_output), (err, on_error)):
                stream.seek(0)
                text = stream.read()
                if callback:
                    for line in text.splitlines():
                        callback(line)
                texts.append(text.rstrip("\n"))
        result = CommandResult(stdout=texts[0], stderr=texts[1], code=code)
        if code != 0:
            raise create_command_error(result)
        return result


@dataclass(frozen=True, kw_only=True)
class Project:
    """Where the Pulumi program, the stack files and the state are."""

    root: Path
    home: Path

    @classmethod
    def find(cls) -> Project:
        """The project of KEYSHIFT_PROJECT, else of the current folder or the nearest one above it."""
        start = Path(os.environ.get("KEYSHIFT_PROJECT", Path.cwd())).resolve()
        for folder in (start, *start.parents):
            if (folder / "Pulumi.yaml").is_file():
                return cls(root=folder, home=folder / ".keyshift")
        raise RefusedInput(
            f"no Pulumi.yaml in {start} or above it", hint="cd to the project, or set KEYSHIFT_PROJECT to its folder"
        )

    def environment(self) -> dict[str, str]:
        """What every CLI call gets beside the caller's environment."""
        self.home.mkdir(parents=True, exist_ok=True)
        backend = os.environ.get("PULUMI_BACKEND_URL")
        if backend is None:
            (self.home / "pulumi").mkdir(exist_ok=True)
            # The files of metadata beside the state are not replaced atomically, as the state itself is:
            # an engine that is killed at such a write leaves a state that nothing can read.
            backend = f"file://{self.home / 'pulumi'}?metadata=skip"
        return {"PULUMI_BACKEND_URL": backend, "PULUMI_SKIP_UPDATE_CHECK": "true"}


def brought_up(project: Project) -> set[str]:
    """The names of the project's stacks that hold something."""
    workspace = automation.LocalWorkspace(
        work_dir=str(project.root), pulumi_command=DetachedCommand(), env_vars=project.environment()
    )
    return {stack.name for stack in workspace.list_stacks() if stack.resource_count}


class Stack:
    """One Pulumi stack: its file, its previews and ups, and the recovery of what a kill left."""

    def __init__(self, project: Project, name: str) -> None:
        self.name = name
        self.project = project
        self._environment = project.environment()
        self._command = DetachedCommand()
        self._stack: automation.Stack | None = None
        self._outputs: dict[str, Any] | None = None
        self._is_undecided = False  # whether the policies could not tell everything at the last preview

    # the stack file ------------------------------------------------------------------------

    @property
    def file(self) -> Path:
        return self.project.root / f"Pulumi.{self.name}.yaml"

    def make(self) -> None:
        """Makes the stack in the backend, empty; one that is there stays as it is."""
        if self._state_file() is None:
            self._select()

    def render(self, layout: Layout, generation: int) -> None:
        """Writes the layout into the stack file, atomically; keeps whatever else stands there."""
        self.make()
        write_atomically(self.file, self._rendered(layout, generation))

    def _rendered(self, layout: Layout, generation: int) -> str:
        """The stack file's text, with this layout in it."""
        settings = self._settings()
        config = {k: v for k, v in (settings.get("config") or {}).items() if not k.startswith("keyshift:")}
        config |= {
            "keyshift:cloud": str(layout.cloud),
            "keyshift:region": layout.region,
            "keyshift:stamp": layout.stamp,
            "keyshift:customer": layout.customer,
            "keyshift:keyMode": str(layout.mode),
            "keyshift:layout": {
                "generation": generation,
                "digest": layout.digest(),
                "layout": json.loads(layout.canonical()),
            },
        }
        settings["config"] = config
        return yaml.safe_dump(settings, sort_keys=True)

    def _settings(self) -> dict[str, Any]:
        """What the stack file holds now. Raises RefusedInput when it is no YAML."""
        try:
            return (yaml.safe_load(self.file.read_text()) if self.file.exists() else None) or {}
        except yaml.YAMLError as error:
            raise RefusedInput(
                f"{self.file.name} is not YAML: {' '.join(str(error).split())}",
                hint=f"move it away, then: keyshift stack render {self.name.removeprefix('tenant-')}",
                code="stack-file",
            ) from error

    # previews and ups -----------------------------------------------------------------------

    def preview(self, *, fence: int | None = None, plan_file: Path | None = None) -> list[Step]:
        """The steps that an `up` would take, `same` left out. Writes the plan when a file is named.

        Raises PolicyViolation, or CloudError with the engine's own words when the preview fails.
        """
        arguments = ["preview", "--json", *(["--save-plan", str(plan_file)] if plan_file else [])]
        with _told("preview", self.name):
            result, found = self._watched(*arguments, fence=fence)
        self._is_undecided = any(one.rule == policing.UNDECIDED for one in found)
        return _steps(result.stdout)

    def examine(self) -> list[policing.Found]:
        """What the policies find in the stack as its file is now. Raises CloudError when it cannot be previewed."""
        if not self.file.exists() and self._state_file() is None:
            raise RefusedInput(f"there is no stack {self.name}", hint="pulumi stack ls")
        with _told("preview", self.name), policing.watching(self.project.root) as watch:
            try:
                self._cli(
                    *("preview", "--json", *watch.arguments),
                    variables=watch.environment,
                    inherited=(watch.descriptor,),
                )
            except CommandError:
                if not watch.violations():
                    raise
            return watch.findings()

    def preview_proposed(self, layout: Layout, generation: int) -> list[Step]:
        """What an `up` of a layout that is not the tenant's would do to the stack as it is now.

        From a stack file of its own: the real one, the state and the record stay as they are. What is
        protected now may be shown as deleted: an earlier phase of the plan frees it first. Raises CloudError.
        """
        with tempfile.TemporaryDirectory(prefix="keyshift-") as folder:
            file = Path(folder) / self.file.name
            file.write_text(self._rendered(layout, generation))
            arguments = ["preview", "--json", "--ignore-protect", "--config-file", str(file)]
            hint = f"mend the cause, or leave the previews out: --no-preview; the plan of {self.name} was not begun"
            with _told("preview", self.name, hint=hint):
                result, _ = self._watched(*arguments, variables={PROPOSED_VARIABLE: "1"})
        return _steps(result.stdout)

    def up(self, *, fence: int | None = None, plan_file: Path | None = None) -> None:
        """`pulumi up`, constrained by the plan when one is named. Raises CloudError when it fails.

        By the command itself: `Stack.up` calls the CLI three times more, for outputs with their secrets and a history.
        With the policies again only where the preview before could not decide something: then each resource is
        judged before it is made, and PolicyViolation is raised.
        """
        self._outputs = None
        arguments = ["up", "--yes", "--skip-preview", "--suppress-outputs", "--color", "never"]
        if plan_file:
            arguments += ["--plan", str(plan_file)]
        with _told("up", self.name):
            if self._is_undecided:
                self._watched(*arguments, fence=fence)
            else:
                self._cli(*arguments, fence=fence)

    def exists(self) -> bool:
        """Whether the backend holds the stack."""
        state = self._state_file()
        if state is not None or urlparse(self._environment["PULUMI_BACKEND_URL"]).scheme == "file":
            return state is not None
        workspace = automation.LocalWorkspace(
            work_dir=str(self.project.root), pulumi_command=self._command, env_vars=self._environment
        )
        return any(stack.name == self.name for stack in workspace.list_stacks())

    def remove(self, *, fence: int) -> bool:
        """Destroys what is left in the stack, then removes it and its file; False if it was gone already.

        What is protected stays protected: the engine refuses, and nothing is removed. Raises CloudError.
        """
        self._outputs = None
        if not self.exists():
            self.file.unlink(missing_ok=True)
            return False
        with _told("destroy", self.name):
            self._cli("destroy", "--yes", "--skip-preview", "--suppress-outputs", "--color", "never", fence=fence)
            self._cli("stack", "rm", "--yes")
        self.file.unlink(missing_ok=True)
        self._stack = None
        return True

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs, a secret one as `[secret]`. Kept until the next `up` of this object."""
        held = self._outputs
        if held is None:
            state = self._state_file()
            held = self._outputs = self._asked_outputs() if state is None else outputs_in(state)
        return held

    def _asked_outputs(self) -> dict[str, Any]:
        with _told("outputs", self.name):
            return json.loads(self._cli("stack", "output", "--json").stdout)

    def _watched(
        self, *arguments: str, fence: int | None = None, variables: Mapping[str, str] | None = None
    ) -> tuple[CommandResult, list[policing.Found]]:
        """With the policy pack. Raises PolicyViolation for what breaks it."""
        with policing.watching(self.project.root) as watch:
            try:
                result = self._cli(
                    *arguments,
                    *watch.arguments,
                    fence=fence,
                    variables={**(variables or {}), **watch.environment},
                    inherited=(watch.descriptor,),
                )
            except CommandError:
                policing.refuse(watch.violations(), self.name)
                raise
            found = watch.findings()
            policing.refuse(found, self.name)
            return result, found

    def _cli(
        self,
        *arguments: str,
        fence: int | None = None,
        variables: Mapping[str, str] | None = None,
        inherited: Sequence[int] = (),
    ) -> CommandResult:
        environment = {**self._environment, **(variables or {})}
        if fence is not None:
            environment[FENCE_VARIABLE] = str(fence)
        words, folder = [*arguments, "--stack", self.name], str(self.project.root)
        return self._command.run(words, folder, environment, inherited=inherited)

    def _state_file(self) -> dict[str, Any] | None:
        """The state as the engine last wrote it, read without starting one. It replaces the file as a whole.

        None where there is no such file: another backend, a compressed state, or a stack that is not made.
        """
        backend = urlparse(self._environment["PULUMI_BACKEND_URL"])
        if backend.scheme != "file":
            return None
        try:
            text = (Path(backend.path) / ".pulumi" / "stacks" / PROJECT / f"{self.name}.json").read_text()
        except FileNotFoundError:
            return None
        return json.loads(text)["checkpoint"].get("latest") or {}

    # recovery -------------------------------------------------------------------------------

    def recover(self) -> list[str]:
        """Brings a stack back that a killed runner, engine or plugin left; says what it did.

        A lock whose engine lives is waited for, then that engine is killed: there is no fencing, and
        a stopped engine that wakes up later would overwrite the state. A lock whose engine is dead is
        taken away. A pending create is cleared; the `up` that follows adopts what exists.
        """
        done: list[str] = []
        for lock in self._locks():
            done += self._end_engine(lock)
        with _told("recovery", self.name):
            if done:
                self._select().cancel()
        deployment = self._state_file()
        if deployment is None:
            with _told("recovery", self.name):
                deployment = self._select().export_stack().deployment or {}
        pending = [op for op in deployment.get("pending_operations") or [] if op.get("type") == "creating"]
        if pending:
            with _told("refresh", self.name):
                self._select().refresh(clear_pending_creates=True, show_secrets=False)
            done.append(f"cleared {len(pending)} pending creates")
        return done

    def interrupt(self, seconds: float) -> tuple[list[str], list[str]]:
        """Ends the engines that work on the stack now: (which it ended and how, which run on another host).

        One interrupt lets an engine finish the call that it is in and unlock. One that is still there
        after `seconds` is killed; `recover` puts in order what that leaves.
        """
        ended, elsewhere = list[str](), list[str]()
        for lock in self._locks():
            try:
                held = json.loads(lock.read_text())
            except FileNotFoundError:
                continue
            if held.get("hostname", socket.gethostname()) != socket.gethostname():
                elsewhere.append(f"engine {held['pid']} works on {self.name} on {held['hostname']}")
            elif is_alive(int(held["pid"])):
                ended.append(_interrupt(int(held["pid"]), seconds))
        return ended, elsewhere

    def _locks(self) -> list[Path]:
        backend = urlparse(self._environment["PULUMI_BACKEND_URL"])
        if backend.scheme != "file":
            return []
        folder = Path(backend.path) / ".pulumi" / "locks" / "organization" / PROJECT / self.name
        return sorted(folder.glob("*.json")) if folder.is_dir() else []

    def _end_engine(self, lock: Path) -> list[str]:
        try:
            pid = int(json.loads(lock.read_text())["pid"])
        except FileNotFoundError:
            return []
        deadline = time.monotonic() + ENGINE_END_SECONDS
        while lock.exists() and is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.2)
        if not lock.exists():
            return [f"waited for engine {pid} to end its update"]
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
            return [f"killed engine {pid}, which held the lock for {ENGINE_END_SECONDS} s after its runner had died"]
        return [f"took the lock of the dead engine {pid} away"]

    # the Automation API ---------------------------------------------------------------------

    def _select(self) -> automation.Stack:
        if self._stack is None:
            options = automation.LocalWorkspaceOptions(pulumi_command=self._command, env_vars=self._environment)
            self._stack = automation.create_or_select_stack(
                stack_name=self.name, work_dir=str(self.project.root), opts=options
            )
        return self._stack


def _steps(printed: str) -> list[Step]:
    """The steps of a `preview --json` that change something."""
    steps = json.loads(printed).get("steps", [])
    return [Step(op=step["op"], urn=step["urn"]) for step in steps if step["op"] not in {"same", "read"}]


SECRET_KEY, SECRET_VALUE = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"
"""What marks a secret in a state (Pulumi's resource.SigKey and resource.SecretSig)."""


def outputs_in(state: Mapping[str, Any]) -> dict[str, Any]:
    """The stack's outputs as `pulumi stack output --json` prints them: a secret one as `[secret]`."""
    stacks = (one for one in state.get("resources") or [] if one["type"] == "pulumi:pulumi:Stack")
    return _unsecret(next(stacks, {}).get("outputs") or {})


def _unsecret(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get(SECRET_KEY) == SECRET_VALUE:
            return "[secret]"
        return {name: _unsecret(one) for name, one in value.items()}
    return [_unsecret(one) for one in value] if isinstance(value, list) else value


class EngineDied(CloudError):
    """A process of an engine's run was killed or crashed. What it left is recovered before the next run."""


_DEATH = re.compile(
    r"error reading from server: EOF|transport is closing|code = Unavailable|connection reset by peer"
    r"|\bcode: -\d|signal: killed|exited prematurely|could not read plugin"
)
"""Of a plugin or host: the end of its connection, as gRPC says it, or that it ended before it had named its port.
Of the engine or the program: the signal's number.

Measured with Pulumi 3.259; the Automation API prints the engine's own code as `code: -9`, the engine the
program's as `exit code: -9`.
"""


@contextmanager
def _told(what: str, stack: str, *, hint: str | None = None) -> Iterator[None]:
    """The engine's diagnostics as one readable error."""
    try:
        yield
    except CommandError as error:
        if _DEATH.search(str(error)):
            raise EngineDied(
                f"the engine, a plugin or the program died in the {what} of {stack}",
                hint=f"look for what kills processes here (memory?), then: keyshift resume {stack.removeprefix('tenant-')}",
                code="engine-died",
            ) from error
        raise CloudError(
            f"{what} of {stack} failed: {redact_text(diagnostics(str(error)))}",
            hint=hint or f"mend the cause, then: keyshift resume {stack.removeprefix('tenant-')}",
            code="engine",
        ) from error


_ECHOES = ("program exited with non-zero exit code", "but none were seen")
"""What the engine adds to an error: that the program ended, and each planned step that it did not come to."""


def diagnostics(text: str) -> str:
    """The errors in what the CLI printed, as people or as JSON; its last words when there is none."""
    found = _errors_in_json(text) or _errors_in_lines(text)
    told = [error for error in found if not any(echo in error for echo in _ECHOES)]
    return "; ".join(dict.fromkeys(told or found)) or " ".join(text.split())[-400:]


def _errors_in_json(text: str) -> list[str]:
    """What `preview --json` says in its diagnostics."""
    start = text.find("{")
    try:
        printed, _ = json.JSONDecoder().raw_decode(text[start:]) if start >= 0 else ({}, 0)
    except ValueError:
        return []
    errors = [one["message"] for one in printed.get("diagnostics") or [] if one.get("severity") == "error"]
    return [found for error in errors for found in _errors_in_lines(error) or [" ".join(error.split())]]


def _errors_in_lines(text: str) -> list[str]:
    """The `error:` lines; of a program's traceback only the exception."""
    found = []
    trace: int | None = None  # how far the traceback that is being skipped stands to the right
    for line in text.splitlines():
        # CommandError puts the stream's name before its first line.
        stripped = line.strip().removeprefix("stdout: ").removeprefix("stderr: ")
        indent = len(line) - len(line.lstrip())
        if stripped.startswith("Traceback "):
            trace = indent
        elif trace is not None:
            if indent == trace and stripped:
                found.append(stripped.removeprefix("Exception: "))
                trace = None
        elif stripped.startswith("error:") and "Program failed with an unhandled exception" not in stripped:
            found.append(stripped.removeprefix("error:").strip())
    return found


def _interrupt(pid: int, seconds: float) -> str:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + seconds
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
            return f"killed engine {pid}, which went on for {seconds:.0f} s after it was interrupted"
    return f"interrupted engine {pid}"


def write_atomically(path: Path, text: str) -> None:
    """The file is the old or the new text, whatever dies meanwhile."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def is_alive(pid: int) -> bool:
    """Whether a process of this pid runs on this host; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # no /proc here, or it ended between the two looks
        return not Path("/proc/self/stat").exists()
    return state != "Z"


class UnexpectedPlan(KeyshiftError):
    """A preview would do what the phase does not ask for; no resource was changed."""


def judge(steps: list[Step], after: Layout) -> None:
    """Refuses a plan that does more than make the stack into `after`.

    Nothing is ever replaced. Something stateful is created only for a unit of `after`
    and deleted only for one that `after` names as dropped, with its verdict. Raises UnexpectedPlan.
    """
    wrong = list(unfit_steps(steps, after))
    if wrong:
        raise UnexpectedPlan(
            f"the preview of tenant {after.tenant} would {', '.join(wrong)}, which this phase does not ask for; "
            "no resource was changed",
            hint=f"look at it: pulumi preview -s tenant-{after.tenant} --diff",
            code="unexpected-plan",
        )

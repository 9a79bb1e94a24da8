"""What surrounds the engine: the stack file, the judgement of a plan, what a killed engine leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import layouts
import pytest
import yaml
from engine_log import asked_all, line_of
from pulumi.automation import CommandError, CommandResult

from migrate import policing
from migrate import stack as stacks
from migrate.errors import CloudError, KeyshiftError, RefusedInput
from migrate.policing import PolicyViolation
from migrate.stack import Project, Stack, Step, UnexpectedPlan, diagnostics, is_alive, judge
from stacks.layout import Layout

TENANT = "keyshift:aws:DedicatedBucket$"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(root=tmp_path, home=tmp_path / ".keyshift")


@pytest.fixture
def stack(project: Project, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """A stack whose engine is never called."""
    monkeypatch.delenv("PULUMI_BACKEND_URL", raising=False)
    monkeypatch.setattr(stacks.PulumiCommand, "__init__", lambda *_, **__: None)
    monkeypatch.setattr(Stack, "_select", lambda _: None)
    return Stack(project, "tenant-acme")


# the stack file -------------------------------------------------------------------------------


def test_a_rendered_file_holds_the_layout_with_generation_and_digest(stack: Stack) -> None:
    layout = layouts.enable_frozen()
    stack.render(layout, 7)
    held = yaml.safe_load(stack.file.read_text())["config"]
    assert held["keyshift:layout"]["generation"] == 7
    assert held["keyshift:layout"]["digest"] == layout.digest()
    assert Layout.model_validate(held["keyshift:layout"]["layout"]) == layout
    assert held["keyshift:keyMode"] == "standard"
    assert held["keyshift:customer"] == "acme-corp"


def test_rendering_keeps_what_is_not_ours_and_replaces_what_is(stack: Stack) -> None:
    foreign = {
        "encryptionsalt": "v1:abc",
        "secretsprovider": "passphrase",
        "config": {"aws:region": "eu-west-1", "keyshift:bucket": "by hand", "keyshift:keyMode": "byok"},
    }
    stack.file.write_text(yaml.safe_dump(foreign))
    stack.render(layouts.standard(), 1)
    held = yaml.safe_load(stack.file.read_text())
    assert held["encryptionsalt"] == "v1:abc", "without it the stack's secrets could not be read any more"
    assert held["secretsprovider"] == "passphrase"
    assert held["config"]["aws:region"] == "eu-west-1"
    assert "keyshift:bucket" not in held["config"]
    assert held["config"]["keyshift:keyMode"] == "standard"


def test_the_same_layout_is_rendered_to_the_same_bytes(stack: Stack) -> None:
    stack.render(layouts.standard(), 1)
    first = stack.file.read_bytes()
    stack.render(layouts.standard(), 1)
    assert stack.file.read_bytes() == first


def test_a_file_that_is_no_yaml_is_refused_by_its_name_and_stays(stack: Stack) -> None:
    stack.file.write_text("config: [")
    with pytest.raises(RefusedInput, match=r"Pulumi\.tenant-acme\.yaml is not YAML") as refused:
        stack.render(layouts.standard(), 1)
    assert refused.value.hint == "move it away, then: keyshift stack render acme"
    assert stack.file.read_text() == "config: ["


def test_a_death_while_rendering_leaves_the_old_file_whole(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.render(layouts.standard(), 1)
    before = stack.file.read_bytes()

    def die(_: Path, __: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        stack.render(layouts.enable_frozen(), 2)
    assert stack.file.read_bytes() == before


# the project ----------------------------------------------------------------------------------


def test_the_project_is_found_from_any_folder_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEYSHIFT_PROJECT", raising=False)
    (tmp_path / "Pulumi.yaml").touch()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    assert Project.find().root == tmp_path
    monkeypatch.setenv("KEYSHIFT_PROJECT", str(tmp_path / "deep"))
    assert Project.find().home == tmp_path / ".keyshift"


def test_without_a_project_it_is_said_where_one_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYSHIFT_PROJECT", str(tmp_path))
    with pytest.raises(RefusedInput, match=f"no Pulumi.yaml in {tmp_path}") as refused:
        Project.find()
    assert "KEYSHIFT_PROJECT" in refused.value.hint


# the judgement of a plan ----------------------------------------------------------------------


def step(op: str, type_: str, name: str) -> Step:
    return Step(op=op, urn=f"urn:pulumi:tenant-acme::keyshift::{TENANT}{type_}::{name}")


BUCKET, KEY, DEPLOYMENT = "aws:s3/bucket:Bucket", "aws:kms/externalKey:ExternalKey", "ec:index/deployment:Deployment"
INDEX, ROLE = "elasticstack:index/index:Index", "aws:iam/role:Role"


def test_a_steps_type_and_name_are_read_from_its_urn() -> None:
    found = step("create", BUCKET, "s2-bucket")
    assert (found.type, found.name) == (BUCKET, "s2-bucket")


@pytest.mark.parametrize("type_", [BUCKET, KEY, DEPLOYMENT, INDEX, ROLE])
@pytest.mark.parametrize("op", ["replace", "create-replacement", "delete-replaced"])
def test_nothing_at_all_is_ever_replaced(op: str, type_: str) -> None:
    with pytest.raises(UnexpectedPlan, match="would replace s2-thing"):
        judge([step(op, type_, "s2-thing")], layouts.enable_frozen())


@pytest.mark.parametrize("type_", [BUCKET, KEY, "aws:kms/key:Key", DEPLOYMENT, INDEX])
def test_what_holds_data_is_created_only_for_a_unit_of_the_layout(type_: str) -> None:
    judge([step("create", type_, "s2-thing")], layouts.enable_frozen())
    with pytest.raises(UnexpectedPlan, match="would create s3-thing, which this phase does not ask for") as refused:
        judge([step("create", type_, "s3-thing")], layouts.enable_frozen())
    assert refused.value.code == "unexpected-plan"
    assert refused.value.hint == "look at it: pulumi preview -s tenant-acme --diff"


@pytest.mark.parametrize("type_", [BUCKET, KEY, DEPLOYMENT, INDEX])
def test_what_holds_data_is_deleted_only_where_the_layout_names_a_verdict(type_: str) -> None:
    judge([step("delete", type_, "e1-thing")], layouts.enable_done())
    for layout in (layouts.enable_frozen(), layouts.enable_served(), layouts.enable_released()):
        with pytest.raises(UnexpectedPlan, match="would delete e1-thing"):
            judge([step("delete", type_, "e1-thing")], layout)


def test_what_holds_no_data_comes_and_goes_with_the_layout() -> None:
    judge([step("create", ROLE, "new-role"), step("delete", ROLE, "old-role")], layouts.standard())


def test_everything_that_is_wrong_is_named_at_once() -> None:
    steps = [step("delete", BUCKET, "s1-bucket"), step("update", BUCKET, "s2-bucket"), step("replace", ROLE, "a-role")]
    with pytest.raises(UnexpectedPlan, match="would delete s1-bucket, replace a-role"):
        judge(steps, layouts.enable_frozen())


# what the engine says -------------------------------------------------------------------------


def test_the_engines_errors_are_picked_out_of_what_it_prints() -> None:
    printed = """
    Diagnostics:
      pulumi:pulumi:Stack (keyshift-tenant-acme):
        error: tenant acme is sealed (keyshift restore acme)
      aws:s3:Bucket (s2-bucket):
        error: creating: AccessDenied
        error: creating: AccessDenied
    """
    assert diagnostics(printed) == "tenant acme is sealed (keyshift restore acme); creating: AccessDenied"


def test_errors_in_the_engines_json_are_found_too() -> None:
    said = [
        {"message": "using a plugin from $PATH: no error", "severity": "warning"},
        {"message": "error: no such stack", "severity": "error"},
        {"message": TRACEBACK, "severity": "error"},
    ]
    result = CommandResult(stdout=json.dumps({"steps": [], "diagnostics": said}, indent=4), stderr="", code=1)
    assert diagnostics(str(result)) == "no such stack; cannot connect"


TRACEBACK = """\
error: Program failed with an unhandled exception:
Traceback (most recent call last):
  File "stacks/__main__.py", line 19, in <module>
    raise error
Exception: cannot connect
"""


def test_of_a_programs_traceback_only_the_exception_is_told() -> None:
    printed = "Diagnostics:\n" + "\n".join(f"    {line}" for line in TRACEBACK.splitlines())
    assert diagnostics(printed) == "cannot connect"


def test_that_a_program_ended_is_not_told_where_the_reason_is() -> None:
    echo = "error: an unhandled error occurred: program exited with non-zero exit code: 1"
    assert diagnostics(f"error: tenant acme is sealed\n{echo}") == "tenant acme is sealed"
    assert diagnostics(f"{echo}\nerror: expected resource operations for x but none were seen\nerror: no") == "no"
    assert "program exited" in diagnostics(echo)


def test_without_an_error_line_the_end_of_what_was_printed_is_told() -> None:
    said = diagnostics("first\n" + "x" * 500 + "\nit ended here")
    assert said.endswith("it ended here")
    assert len(said) == 400


def test_a_failed_command_becomes_one_sentence_that_names_stack_and_next_command(stack: Stack) -> None:
    def fail(*_: Any) -> CommandResult:
        raise CommandError(CommandResult(stdout="error: boom, password=hunter2", stderr="", code=255))

    stack._cli = fail
    with pytest.raises(CloudError, match="outputs of tenant-acme failed: boom") as failed:
        stack.outputs()
    assert failed.value.hint == "mend the cause, then: keyshift resume acme"
    assert "hunter2" not in failed.value.message


# what is read without the engine --------------------------------------------------------------


def state_of(stack: Stack, latest: dict[str, Any] | None) -> None:
    folder = stack.project.home / "pulumi" / ".pulumi" / "stacks" / "keyshift"
    folder.mkdir(parents=True, exist_ok=True)
    held = {"version": 3, "checkpoint": {"stack": f"organization/keyshift/{stack.name}", "latest": latest}}
    (folder / f"{stack.name}.json").write_text(json.dumps(held))


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("an engine was started")


def test_outputs_are_read_from_the_state_file_with_secrets_hidden(stack: Stack) -> None:
    secret = {stacks.SECRET_KEY: stacks.SECRET_VALUE, "ciphertext": "v1:abc:hunter2"}
    outputs = {"generation": 7, "keys": {"k1": {"arn": "a", "password": secret}}, "list": [secret, 1]}
    resources = [
        {"type": "pulumi:pulumi:Stack", "outputs": outputs},
        {"type": "aws:s3/bucket:Bucket", "outputs": {"x": 1}},
    ]
    state_of(stack, {"resources": resources})
    stack._cli = never
    hidden = {"generation": 7, "keys": {"k1": {"arn": "a", "password": "[secret]"}}, "list": ["[secret]", 1]}
    assert stack.outputs() == hidden
    state_of(stack, {"resources": [{"type": "pulumi:pulumi:Stack", "outputs": {"generation": 8}}]})
    assert stack.outputs() == hidden, "kept until this object's next up"
    stack._cli = lambda *_, **__: None
    stack.up()
    assert stack.outputs() == {"generation": 8}


def test_a_stack_that_holds_nothing_has_no_outputs(stack: Stack) -> None:
    stack._cli = never
    state_of(stack, None)
    assert stack.outputs() == {}


def test_without_a_state_file_the_engine_is_asked(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = CommandResult(stdout='{"generation": 3}', stderr="", code=0)
    stack._cli = lambda *_, **__: asked
    assert stack.outputs() == {"generation": 3}
    state_of(stack, None)
    stack._outputs = None
    stack._environment = {"PULUMI_BACKEND_URL": "s3://states"}
    assert stack.outputs() == {"generation": 3}, "the state of another backend is not in this folder"


def test_a_recovery_looks_for_pending_creates_in_the_state_file(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    refreshed: list[dict[str, Any]] = []

    def select(_: Stack) -> Any:
        return SimpleNamespace(refresh=lambda **how: refreshed.append(how))

    monkeypatch.setattr(Stack, "_select", select)
    state_of(stack, {"pending_operations": [{"type": "updating"}]})
    assert stack.recover() == []
    assert refreshed == []
    state_of(stack, {"pending_operations": [{"type": "creating"}, {"type": "updating"}]})
    assert stack.recover() == ["cleared 1 pending creates"]
    assert refreshed == [{"clear_pending_creates": True, "show_secrets": False}]


def test_a_preview_and_an_up_act_under_the_fence_and_the_plan(stack: Stack, tmp_path: Path) -> None:
    calls: list[tuple[list[str], str | None]] = []

    def run(arguments: list[str], _: str, environment: dict[str, str], inherited: Sequence[int]) -> CommandResult:
        calls.append((arguments, environment.get("KEYSHIFT_FENCE")))
        for descriptor in inherited:
            os.write(descriptor, asked_all())
        return CommandResult(stdout='{"steps": []}', stderr="", code=0)

    stack._command = SimpleNamespace(run=run)
    stack.preview(fence=9, plan_file=tmp_path / "plan.json")
    stack.up(fence=9, plan_file=tmp_path / "plan.json")
    stack.preview()
    (previewed, first), (upped, second), (plain, third) = calls
    assert previewed[:4] == ["preview", "--json", "--save-plan", str(tmp_path / "plan.json")]
    assert previewed[-2:] == ["--stack", "tenant-acme"]
    assert previewed[previewed.index("--policy-pack") + 1] == str(policing.PACK)
    assert upped[:2] == ["up", "--yes"]
    assert upped[upped.index("--plan") + 1] == str(tmp_path / "plan.json")
    assert "--policy-pack" not in upped, "the plan that binds it was judged"
    assert plain[:2] == ["preview", "--json"]
    assert (first, second, third) == ("9", "9", None)


VIOLATION = {
    "resourceUrn": "urn:pulumi:tenant-acme::keyshift::aws:s3/bucket:Bucket::s2-bucket",
    "message": "A bucket that still holds objects cannot be deleted.\nit would go\nto do: something\nsee a page\n",
    "policyName": "storage-kept",
    "policyPackName": "keyshift",
    "enforcementLevel": "mandatory",
}
ADVICE = VIOLATION | {"policyName": "undecided", "enforcementLevel": "advisory"}


def engine_that_logs(stack: Stack, log: bytes, *, fails: bool = False) -> list[list[str]]:
    """An engine that writes this log; what it was called with."""
    calls: list[list[str]] = []

    def run(arguments: list[str], _: str, __: dict[str, str], inherited: Sequence[int] = ()) -> CommandResult:
        calls.append(arguments)
        for descriptor in inherited:
            os.write(descriptor, log)
        done = CommandResult(stdout='{"steps": []}', stderr="error: preview failed", code=int(fails))
        if fails:
            raise CommandError(done)
        return done

    stack._command = SimpleNamespace(run=run)
    return calls


def test_a_violation_is_told_with_rule_resource_and_what_to_do(stack: Stack) -> None:
    engine_that_logs(stack, line_of({"policyEvent": VIOLATION}), fails=True)
    with pytest.raises(PolicyViolation) as refused:
        stack.preview()
    assert refused.value.message == (
        "tenant-acme would break 1 policies, so it stays as it is: s2-bucket: it would go [storage-kept]"
    )
    assert "force_destroy=False" in refused.value.hint
    assert "keyshift policy explain storage-kept" in refused.value.hint


def test_a_preview_that_fails_for_another_reason_says_that_reason(stack: Stack) -> None:
    engine_that_logs(stack, asked_all(), fails=True)
    with pytest.raises(CloudError, match="preview failed"):
        stack.preview()


def test_a_preview_whose_policies_were_not_asked_is_not_taken_for_a_good_one(stack: Stack) -> None:
    engine_that_logs(stack, b"")
    with pytest.raises(KeyshiftError, match="policies were not asked") as refused:
        stack.preview()
    assert refused.value.code == "policies-not-asked"


def test_what_a_preview_could_not_decide_is_judged_again_in_the_update_and_only_then(stack: Stack) -> None:
    engine_that_logs(stack, asked_all({"policyEvent": ADVICE}))
    stack.preview()
    calls = engine_that_logs(stack, asked_all())
    stack.up()
    assert "--policy-pack" in calls[-1]
    engine_that_logs(stack, asked_all())
    stack.preview()
    calls = engine_that_logs(stack, asked_all())
    stack.up()
    assert "--policy-pack" not in calls[-1], "it would cost each update what the preview has paid already"


# processes ------------------------------------------------------------------------------------


@contextmanager
def process() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def test_a_process_is_alive_until_it_has_ended_even_if_nobody_has_reaped_it() -> None:
    with process() as child:
        assert is_alive(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(child.pid), "a zombie acts no more"
        child.wait()
        assert not is_alive(child.pid)
    assert is_alive(os.getpid())
    assert is_alive(1), "somebody else's process is one too"


def locked_by(stack: Stack, pid: int) -> Path:
    folder = stack.project.home / "pulumi" / ".pulumi" / "locks" / "organization" / "keyshift" / stack.name
    folder.mkdir(parents=True)
    lock = folder / "a.json"
    lock.write_text(json.dumps({"pid": pid}))
    assert stack._locks() == [lock]
    return lock


def test_the_lock_of_a_dead_engine_is_taken_away(stack: Stack) -> None:
    with process() as child:
        pid = child.pid
    assert stack._end_engine(locked_by(stack, pid)) == [f"took the lock of the dead engine {pid} away"]


def test_an_engine_that_ends_its_update_is_waited_for(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    with process() as child:
        lock = locked_by(stack, child.pid)
        monkeypatch.setattr(stacks.time, "sleep", lambda _: lock.unlink())
        assert stack._end_engine(lock) == [f"waited for engine {child.pid} to end its update"]
        assert child.poll() is None


def test_an_engine_that_does_not_end_is_killed(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "ENGINE_END_SECONDS", 0.1)
    with process() as child:
        said = stack._end_engine(locked_by(stack, child.pid))
        assert said[0].startswith(f"killed engine {child.pid}, which held the lock")
        assert child.wait(timeout=10) == -9


def test_a_stack_without_locks_has_nothing_to_recover(stack: Stack) -> None:
    assert stack._locks() == []


def test_a_command_outlives_its_caller_in_a_session_of_its_own(tmp_path: Path) -> None:
    script = "#!/bin/sh\nps -o sid= -p $$\necho error: no >&2\nexit 3\n"
    fake = tmp_path / "pulumi"
    fake.write_text(script)
    fake.chmod(0o755)
    command = stacks.DetachedCommand.__new__(stacks.DetachedCommand)
    command.command = str(fake)
    lines: list[str] = []
    with pytest.raises(CommandError, match="error: no"):
        command.run(["up"], str(tmp_path), {}, on_output=lines.append)
    assert len(lines) == 1
    assert int(lines[0]) != os.getsid(0)


# engines that a seal ends ---------------------------------------------------------------------


ENDS = (
    "import signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit()); print('up', flush=True); signal.pause()"
)
STAYS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); signal.pause()"


@contextmanager
def an_engine(program: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        assert engine.stdout.readline() == "up\n"
        try:
            yield engine
        finally:
            engine.kill()


def test_an_engine_at_work_is_interrupted_so_that_it_finishes_its_call(stack: Stack) -> None:
    with an_engine(ENDS) as engine:
        locked_by(stack, engine.pid)
        assert stack.interrupt(30) == ([f"interrupted engine {engine.pid}"], [])
        assert engine.wait(5) == 0


def test_an_engine_that_goes_on_all_the_same_is_killed(stack: Stack) -> None:
    with an_engine(STAYS) as engine:
        locked_by(stack, engine.pid)
        (told,), elsewhere = stack.interrupt(0.2)
        assert told.startswith(f"killed engine {engine.pid}")
        assert elsewhere == []
        assert engine.wait(5) == -9


def test_the_engine_of_another_host_is_named_and_no_process_of_this_one_is_touched(stack: Stack) -> None:
    with an_engine(STAYS) as engine:
        lock = locked_by(stack, engine.pid)
        lock.write_text(json.dumps({"pid": engine.pid, "hostname": "elsewhere"}))
        ended, (told,) = stack.interrupt(0)
        assert ended == []
        assert "elsewhere" in told
        assert engine.poll() is None


def test_without_an_engine_there_is_nothing_to_end(stack: Stack) -> None:
    assert stack.interrupt(0) == ([], [])

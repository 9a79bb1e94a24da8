"""Durable steps: the one module that knows DBOS.

An operation is one workflow whose steps are the walker's. A step that has ended is never run again;
one that was cut off is run again, so every step is idempotent. A step does not raise: it returns its
outcome, because a DBOS workflow that failed is final, while an outcome can be rewound to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import IO, Required, TypedDict

import sqlalchemy as sql
import structlog
from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

from migrate.errors import Conflict, RefusedInput

JOURNAL_FORMAT = "1"
"""Pinned: DBOS silently ignores the workflows of another application version."""


class Outcome(TypedDict, total=False):
    """What a step came to. `state`: done, waiting (a person or a key must act) or failed.

    `again_from`: the earlier step at which to go on after this one failed; without it, this one.
    """

    state: Required[str]
    message: str
    hint: str
    code: str
    waits_for: str
    again_from: str


Act = Callable[[str, str], Outcome]
"""(operation, step name) -> outcome."""

_act: Act | None = None


@DBOS.workflow(name="walk")
def _walk(operation: str, steps: list[str]) -> Outcome:
    outcome = Outcome(state="done")
    for step in steps:
        outcome = DBOS.run_step({"name": step}, _call, operation, step)
        if outcome["state"] != "done":
            break
    return outcome


def _call(operation: str, step: str) -> Outcome:
    assert _act is not None, "a workflow ran outside journal()"  # noqa: S101 - a programming error
    try:
        return _act(operation, step)
    except Conflict as conflict:
        raise _Overtaken(conflict) from conflict


class _Overtaken(BaseException):
    """The operation is another runner's now. No Exception: DBOS writes those into the journal, which is the other's."""


LOCK_SECONDS = 30.0
"""How long the kernel may need to free the lock of a process that was killed."""


@contextmanager
def single_runner(
    folder: Path,
    tenant: str,
    *,
    is_overdue: Callable[[int], bool] = lambda _: False,
    working_on: Callable[[str], str] = lambda _: "",
) -> Iterator[None]:
    """One runner process a tenant on this host. Raises RefusedInput while another one lives.

    The kernel frees the lock when the process dies, however it dies. A process that stands still (SIGSTOP,
    a frozen container) keeps it: one that `is_overdue` is killed, before it can wake up and go on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "runner.lock"
    with path.open("a+") as lock:
        if not _lock(lock) and not _take_from_overdue(lock, is_overdue):
            lock.seek(0)
            raise RefusedInput(
                f"tenant {tenant} is being worked on by process {lock.read().strip() or 'unknown'} on this host"
                f"{working_on(tenant)}",
                hint=f"watch it: keyshift status {tenant} --watch",
                code="runner-busy",
            )
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take_from_overdue(lock: IO[str], is_overdue: Callable[[int], bool]) -> bool:
    lock.seek(0)
    held_by = lock.read().strip()
    if not held_by.isdigit() or not is_overdue(int(held_by)):
        return False
    structlog.get_logger().warning("a runner that stood still is ended", process=int(held_by))
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(held_by), signal.SIGKILL)
    until = time.monotonic() + LOCK_SECONDS
    while not (is_ours := _lock(lock)) and time.monotonic() < until:
        time.sleep(0.02)
    return is_ours


def walk(folder: Path, tenant: str, operation: str, steps: list[str], act: Act) -> Outcome:
    """Runs the steps of an operation, or goes on with them, to the end or to the first that stops.

    The caller holds `single_runner`: a live executor must never be launched twice.
    """
    global _act  # noqa: PLW0603 - DBOS calls module-level functions; one process walks one tenant
    _act = act
    DBOS(config=_config(folder, tenant))
    DBOS.launch()
    try:
        return _watched(operation, steps)
    finally:
        DBOS.destroy(workflow_completion_timeout_sec=0)
        _act = None


def give_up(folder: Path, tenant: str, operation: str) -> None:
    """Cancels an operation that a kill cut off: the next launch would take it up again by itself.

    One that has ended, or never was, stays as it is. The caller holds `single_runner`.
    """
    config = _config(folder, tenant)
    if not _is_begun(config):
        return
    client = DBOSClient(
        system_database_url=config.get("system_database_url"),
        dbos_system_schema=config.get("dbos_system_schema"),
        serializer=DBOSPortableJSONSerializer(),
    )
    try:
        if client.list_workflows(workflow_ids=[operation]):
            client.cancel_workflow(operation)
    finally:
        client.destroy()


def _is_begun(config: DBOSConfig) -> bool:
    """Whether the journal was ever written: its first launch makes its tables."""
    engine = sql.create_engine(str(config.get("system_database_url")))
    try:
        schema = None if engine.dialect.name == "sqlite" else config.get("dbos_system_schema")
        return sql.inspect(engine).has_table("workflow_status", schema=schema)
    finally:
        engine.dispose()


def _config(folder: Path, tenant: str) -> DBOSConfig:
    url = os.environ.get("KEYSHIFT_JOURNAL_URL", f"sqlite:///{folder / 'journal.sqlite'}")
    return DBOSConfig(
        name="keyshift",
        system_database_url=url,
        dbos_system_schema=f"journal_{tenant.replace('-', '_')}",
        application_version=JOURNAL_FORMAT,
        executor_id=tenant,
        serializer=DBOSPortableJSONSerializer(),
        console_log_level="CRITICAL",
        log_level="WARNING",
    )


def _watched(operation: str, steps: list[str]) -> Outcome:
    """The outcome. Raises Conflict when this runner was overtaken, of which the journal says nothing."""
    ended: Queue[Outcome | BaseException] = Queue()

    def act(operation: str, step: str) -> Outcome:
        try:
            return real(operation, step)
        except Conflict as conflict:
            ended.put(conflict)
            raise

    def follow() -> None:
        try:
            ended.put(_start_or_resume(operation, steps))
        except BaseException as error:  # noqa: BLE001 - it is raised by who waits
            ended.put(error)

    global _act
    assert _act is not None  # noqa: S101 - walk has set it
    real, _act = _act, act
    # A workflow that was overtaken never ends in the journal, and whoever asks the journal for it waits for ever.
    threading.Thread(target=follow, name="journal", daemon=True).start()
    found = ended.get()
    if isinstance(found, BaseException):
        raise found
    return found


def _start_or_resume(operation: str, steps: list[str]) -> Outcome:
    status = DBOS.get_workflow_status(operation)
    if status is None:
        with SetWorkflowID(operation):
            return DBOS.start_workflow(_walk, operation, steps).get_result()
    if status.status not in {"PENDING", "ENQUEUED"}:
        stopped = _stopped_at(operation)
        if stopped is None:
            return DBOS.retrieve_workflow(operation).get_result()
        return DBOS.rewind_workflow(operation, start_step=stopped).get_result()
    return DBOS.retrieve_workflow(operation).get_result()


def _stopped_at(operation: str) -> int | None:
    """The number of the step to go on at: the one whose outcome is not done, or the one that it names.

    None when all steps are done.
    """
    steps = DBOS.list_workflow_steps(operation)
    if not steps:
        return 1
    last = steps[-1]
    outcome = last["output"]
    if not isinstance(outcome, dict):
        return int(last["function_id"])
    if outcome.get("state") == "done":
        return None
    again_from = outcome.get("again_from", last["function_name"])
    return next(int(step["function_id"]) for step in steps if step["function_name"] == again_from)

"""`python -m console.worker`: takes orders from the queue and does each in a process of its own.

The queue is DBOS's: it keeps the orders of a tenant apart, spreads them over workers and gives what a dead
worker held to the one that comes back. Several workers need Postgres (KEYSHIFT_CONSOLE_DATABASE_URL and
KEYSHIFT_JOURNAL_URL); each has an id of its own, and a second process under a living one's id is refused.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetEnqueueOptions, SetWorkflowID

from console.deliver import Deliverer
from console.notify import Notifier
from console.orders import FAILED, Orders
from console.settings import Settings, from_environment
from console.store import open_store
from migrate import failures
from migrate.errors import RefusedInput
from migrate.redaction import configure_logging
from migrate.stack import Project

QUEUE = "console-orders"
APPLICATION_VERSION = "1"
"""Pinned: DBOS leaves the workflows of another version alone."""
POLL_SECONDS = 0.25
NOTICE_SECONDS = 2.0
ATTEMPTS = 5
"""How often an order's process may die of something else than its worker."""

_children: dict[str, subprocess.Popen[bytes]] = {}
_orders: Orders | None = None
_stopping = threading.Event()


@DBOS.workflow(name="carry-out")
def carry_out(order: str) -> str:
    """One order. DBOS runs it again where a worker has died."""
    return DBOS.run_step({"name": "process"}, _in_a_process, order)


def _in_a_process(id: str) -> str:
    assert _orders is not None, "a workflow ran outside a worker"  # noqa: S101 - a programming error
    for _ in range(ATTEMPTS):
        if _orders.get(id).ended_at is not None:
            return _orders.get(id).state
        if _stopping.is_set():
            raise _Stopped
        child = subprocess.Popen([sys.executable, "-m", "console.job", id], stdin=subprocess.DEVNULL)
        _children[id] = child
        child.wait()
        del _children[id]
        if _stopping.is_set():
            raise _Stopped
    if _orders.get(id).ended_at is None:
        _orders.end(
            id,
            FAILED,
            said={
                "code": "process-died",
                "message": f"the process of {id} died {ATTEMPTS} times; the tenant's operation stands where it was",
                "hint": "see the worker's log, then ask to go on with it",
            },
        )
    return _orders.get(id).state


class _Stopped(BaseException):
    """The worker ends. No Exception: DBOS would keep it as the order's outcome, and the next worker does the order."""


class Worker:
    def __init__(self, project: Project, settings: Settings) -> None:
        self._settings = settings
        engine = open_store(project.home, settings.database_url)
        self._orders = Orders(engine)
        self._notifier = Notifier(project, engine, settings)
        self._deliverer = Deliverer(engine, settings)
        self._config = DBOSConfig(
            name="keyshift-console",
            system_database_url=os.environ.get("KEYSHIFT_JOURNAL_URL")
            or f"sqlite:///{project.home / 'console-queue.sqlite'}",
            dbos_system_schema="console_queue",
            application_version=APPLICATION_VERSION,
            executor_id=settings.worker_id,
            serializer=DBOSPortableJSONSerializer(),
            console_log_level="CRITICAL",
            log_level="WARNING",
        )

    def run(self) -> None:
        """Until it is told to stop. What runs then is ended, and gone on with by the next worker."""
        global _orders  # noqa: PLW0603 - DBOS calls module-level functions; one process is one worker
        _orders = self._orders
        DBOS(config=self._config)
        DBOS.launch()
        DBOS.register_queue(
            QUEUE,
            worker_concurrency=self._settings.worker_processes,
            partition_concurrency=1,
            polling_interval_sec=POLL_SECONDS,
        )
        notices = threading.Thread(target=self._notices, name="notices", daemon=True)
        notices.start()
        structlog.get_logger().info("the worker runs", worker=self._settings.worker_id)
        while not _stopping.wait(POLL_SECONDS):
            self._hand_over()
        for child in list(_children.values()):
            child.terminate()
        notices.join(timeout=5)

    def _hand_over(self) -> None:
        """Puts new orders into the queue. A second time under the same id changes nothing there."""
        try:
            for order in self._orders.to_hand_over():
                partition = f"{order.tenant}/{order.lane}"
                with SetWorkflowID(order.id), SetEnqueueOptions(queue_partition_key=partition):
                    DBOS.enqueue_workflow(QUEUE, carry_out, order.id)
                self._orders.handed_over(order.id)
        except Exception as error:  # noqa: BLE001 - a database that is away for a moment; the next round tries again
            structlog.get_logger().warning("orders were not handed over", because=failures.explained(error).message)

    def _notices(self) -> None:
        while not _stopping.wait(NOTICE_SECONDS):
            try:
                self._notifier.look()
                self._deliverer.send_due()
            except Exception as error:  # noqa: BLE001 - as above
                structlog.get_logger().warning("notices wait", because=failures.explained(error).message)


@contextmanager
def only_one(home: Path, id: str) -> Iterator[None]:
    """Raises RefusedInput while a worker of this id lives on this host: DBOS would take its work for a dead one's."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / f"console-worker-{id}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedInput(
                f"a worker {id} runs already on this host",
                hint="give this one another id: KEYSHIFT_CONSOLE_WORKER_ID",
                code="worker-runs",
            ) from None
        yield


def main() -> int:
    configure_logging()

    def stop(_number: int, _frame: FrameType | None) -> None:
        _stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        settings, project = from_environment(), Project.find()
        with only_one(project.home, settings.worker_id):
            Worker(project, settings).run()
            # Threads of DBOS wait for what was ended above; their work is the next worker's.
            os._exit(0)
    except RefusedInput as refused:
        _say(f"keyshift console worker: {refused.message}\nhint: {refused.hint}")
        return refused.exit_code


def _say(text: Any) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - who starts it reads it


if __name__ == "__main__":
    sys.exit(main())

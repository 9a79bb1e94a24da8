"""A runner that stands still in a step of its operation, so that nothing that is seen or done then is a matter of luck."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
from pathlib import Path

from cloud import Tenant, until

STEP_SECONDS = 300


def stop_in(tenant: Tenant, runner: subprocess.Popen[str], *steps: str) -> None:
    """SIGSTOP in one of `steps`, and not while the runner holds a lock of the record's: others go on reading it."""

    def is_there() -> bool:
        assert runner.poll() is None, runner.communicate()
        return tenant.step() in steps

    until(is_there, lambda: f"one of {steps}, it is {tenant.step()}", STEP_SECONDS, every=0.005)
    runner.send_signal(signal.SIGSTOP)
    while not _is_unlocked(tenant.cloud.home / "keyshift.db"):
        runner.send_signal(signal.SIGCONT)
        runner.send_signal(signal.SIGSTOP)
    assert tenant.step() in steps


def _is_unlocked(database: Path) -> bool:
    connection = sqlite3.connect(database, timeout=0.2, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
    return True

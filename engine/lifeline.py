"""Ends a process when the process that started it is gone.

Pulumi starts a language host, the host starts the program. A SIGKILL of one of them reaches no
other: the program would go on creating resources that no state records. A changed parent is the
one sign that every system shows, so it is watched for.

As a command, `python -m engine.lifeline <module or folder> [argument…]` runs somebody else's
module, a policy pack say, under the same watch.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
from collections.abc import Callable

from engine.lazy import import_late

INTERVAL = 0.3
"""Seconds between two looks: short beside any cloud call, and too rare to show as load."""


def exit_at_once() -> None:
    """Ends this process from any thread, without finalizers: nobody is left to read what they say."""
    os._exit(1)


def watch_parent(on_loss: Callable[[], None] = exit_at_once, *, interval: float = INTERVAL) -> None:
    """Calls `on_loss` once, in a thread of its own, when the parent of this process has changed."""
    parent = os.getppid()

    def watch() -> None:
        never = threading.Event()
        while os.getppid() == parent:
            never.wait(interval)
        on_loss()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def wait_for(event: threading.Event) -> None:
    """Waits for `event`, which a signal handler may set.

    Python runs a handler in the main thread and only between two waits: a signal that comes just before an endless
    wait begins would never be acted on.
    """
    while not event.wait(INTERVAL):
        pass


def main() -> None:
    del sys.argv[0]
    target = sys.argv[0]
    watch_parent()
    import_late()
    if os.path.exists(target):  # noqa: PTH110 - pathlib would be one more import on every start
        runpy.run_path(target, run_name="__main__")
    else:
        runpy.run_module(target, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

"""What a test changes in a program's surroundings from its first line on; found through PYTHONPATH.

KEYSHIFT_TEST_HOST: the program runs on a host of this name, which shares the folder with others but not the
kernel's locks on its files. KEYSHIFT_TEST_JUMP: its clock jumps by so many seconds at each SIGUSR1.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from datetime import UTC, datetime, timedelta
from typing import Any


def _jump(*_: Any) -> None:
    import time_machine

    by = timedelta(seconds=float(os.environ["KEYSHIFT_TEST_JUMP"]))
    # The monotonic clock stays as it is, as it does on a machine whose clock is set.
    time_machine.travel(datetime.now(UTC) + by, tick=True).start()


if host := os.environ.get("KEYSHIFT_TEST_HOST"):
    socket.gethostname = lambda: host
    fcntl.flock = lambda *_: None
if os.environ.get("KEYSHIFT_TEST_JUMP"):
    signal.signal(signal.SIGUSR1, _jump)

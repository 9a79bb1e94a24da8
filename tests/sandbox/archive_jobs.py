"""The Archive service at work on one tenant: a job that writes and a person who searches, until SIGTERM.

A process of its own, with the environment of one: `python archive_jobs.py TENANT FILE`. Each attempt is
a JSON line in FILE.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from migrate.archive import write_record
from migrate.aws import code_of
from migrate.errors import CloudError, KeyshiftError
from migrate.gate import ArchiveClient
from migrate.stack import Project

WRITE_EVERY = 0.3
SEARCH_EVERY = 0.5


def main(tenant: str, file: Path) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with file.open("a", buffering=1) as out:
        told = threading.Lock()

        def tell(**attempt: Any) -> None:
            with told:
                out.write(json.dumps({"at": time.time(), **attempt}) + "\n")

        # One client each: a person's search must not wait for a job's write.
        writer, reader = (ArchiveClient(Project.find(), tenant, fresh_seconds=0) for _ in range(2))
        jobs = [
            threading.Thread(target=_repeat, args=(stop, WRITE_EVERY, lambda n: _write(writer, n, tell))),
            threading.Thread(target=_repeat, args=(stop, SEARCH_EVERY, lambda n: _search(reader, tell))),
        ]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()


def _repeat(stop: threading.Event, every: float, do: Callable[[int], None]) -> None:
    number = 0
    while not stop.wait(every):
        number += 1
        do(number)


def _write(client: ArchiveClient, number: int, tell: Callable[..., None]) -> None:
    id = f"job-{number:05d}"
    try:
        # Without asking the gate: that the cloud refuses is what is tested.
        write_record(client.side(), "jobs", id, {"number": number})
    except (KeyshiftError, ClientError) as error:
        code = error.cloud_code if isinstance(error, CloudError) else code_of(error)
        tell(did="write", id=id, code=code, message=str(error))
    else:
        tell(did="write", id=id, code="")


def _search(client: ArchiveClient, tell: Callable[..., None]) -> None:
    try:
        found = client.search("*", 1)
    except (KeyshiftError, ClientError) as error:
        tell(did="search", code=getattr(error, "code", "") or code_of(error), message=str(error))
    else:
        tell(did="search", code="", total=found["total"], search=found["search"], cutoff=found["cutoff"])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

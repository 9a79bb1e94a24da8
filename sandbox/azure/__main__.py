"""`python -m sandbox.azure --dir .sandbox --port N`: serves until SIGTERM or SIGINT, then stops what it started."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from engine import lifeline
from sandbox.azure.azurite import AzuriteError
from sandbox.azure.ports import PortsTakenError
from sandbox.azure.server import Azure


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.azure", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="the sandbox's folder; state goes below azure/")
    parser.add_argument("--port", type=int, required=True, help="of Resource Manager, Entra and Graph")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    azure = Azure(arguments.dir.resolve() / "azure", arguments.port)
    try:
        azure.open()
    except (AzuriteError, OSError, PortsTakenError) as error:
        print(f"the sandbox's Azure half cannot start: {error}", file=sys.stderr)
        azure.close()
        return 1
    print(f"Azure Resource Manager on {azure.world.url}", flush=True)
    lifeline.wait_for(stop)
    azure.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m sandbox.elastic --dir .sandbox --port N`: serves until SIGTERM or SIGINT, then stops all nodes."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from engine import lifeline
from sandbox.elastic.cloud_api import Cloud
from sandbox.elastic.customer_key import CustomerKeys
from sandbox.elastic.housing import HousingError, elasticsearch_home, settle
from sandbox.elastic.launch import JavaMissingError, java
from sandbox.elastic.web import LoopbackServer


def main() -> int:
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder = arguments.dir.resolve() / "elastic"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        java()
        housing = settle(folder, elasticsearch_home())
        cloud = Cloud(folder, housing, CustomerKeys(), arguments.key_check_seconds)
    except (HousingError, JavaMissingError) as error:
        print(error, file=sys.stderr)
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        cloud.open()
        server = LoopbackServer(arguments.port, cloud.answer)
    except OSError as error:
        print(f"a port of the sandbox is taken by another program: {error}", file=sys.stderr)
        cloud.close()
        return 1
    print(f"Elastic Cloud API on http://127.0.0.1:{server.port}", flush=True)
    lifeline.wait_for(stop)
    server.close()
    cloud.close()
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandbox.elastic", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="the sandbox's folder; state goes below elastic/")
    parser.add_argument("--port", type=int, required=True, help="of the deployments API; 0 takes a free one")
    parser.add_argument(
        "--key-check-seconds",
        type=float,
        default=2.0,
        help="how often each customer key is checked (default: 2; Elastic Cloud: up to 30 minutes)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

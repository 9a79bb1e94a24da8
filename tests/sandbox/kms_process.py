"""The sandbox's KMS alone behind HTTP, for tests: `python kms_process.py STATE_DIR`, in the emulators' environment.

Callers are told apart by their access key; signatures are not looked at. Prints the port it listens on.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

from sandbox.aws.caller import Caller
from sandbox.aws.kms import Kms, kms_app

ORG_PATH = "o-ygducmlz12/r-e5t3/ou-e5t3-fzpdq76p/ou-e5t3-ysfcmd95/ou-e5t3-hwt05su3/"
ACCOUNTS = {"VENDOR": "111122223333", "CUSTOMER": "444455556666", "ELASTIC": "777788889999"}


class NoSuchKey(Exception):
    code, message, status = "UnrecognizedClientException", "The security token is invalid.", 400


def resolve(_scope: Mapping[str, Any], headers: dict[str, str], _query: Any, _body: bytes) -> Caller:
    name = headers.get("authorization", "").partition("Credential=")[2].partition("/")[0]
    if name not in ACCOUNTS:
        raise NoSuchKey
    arn = f"arn:aws:iam::{ACCOUNTS[name]}:user/{name.lower()}"
    paths = (ORG_PATH,) if name == "ELASTIC" else ()
    return Caller(ACCOUNTS[name], arn, arn, paths, False, lambda *_: "allow")


async def main(state_dir: Path) -> None:
    kms = Kms(state_dir, "eu-west-1", wrapping_keys_ready=1, rotation_seconds=0.2)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listener = socket.create_server(("127.0.0.1", 0))
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.accesslog = config.errorlog = None
    print(listener.getsockname()[1], flush=True)
    await serve(kms_app(kms, resolve), config, shutdown_trigger=stop.wait)
    kms.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

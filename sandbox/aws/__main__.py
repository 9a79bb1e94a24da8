"""`python -m sandbox.aws --dir <sandbox folder> --port <port>`: the AWS half of the sandbox, in one process.

Listens on 127.0.0.1 only. SIGTERM and SIGINT stop it cleanly; what it holds is then on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from pathlib import Path

REGION = "eu-west-1"
# ministack serves these behind its own front; S3 is served by the gate alone, so it is not among them.
SERVICES = ("iam", "sts", "sqs", "events", "lambda", "secretsmanager", "logs")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox.aws", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="the sandbox's folder")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--region", default=REGION)
    options = parser.parse_args()
    folder = options.dir.resolve()
    prepare(folder, options.port, options.region)
    asyncio.run(serve(folder, options.port, options.region))


def prepare(folder: Path, port: int, region: str) -> None:
    """Make the folders and set what ministack reads from its environment when it is imported."""
    temporary, state = folder / "tmp", folder / "state"
    for place in (temporary, state, folder / "aws"):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in [name for name in os.environ if name.startswith(("AWS_", "MINISTACK_", "LOCALSTACK_"))]:
        # Lambda functions inherit the environment; the operator's profile must not reach them.
        del os.environ[name]
    os.environ.update(
        AUTH="true",
        AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
        BIND_HOST="127.0.0.1",
        DOCKER_HOST=f"unix://{folder / 'no-docker'}",
        GATEWAY_PORT=str(port),
        IOT_MTLS_ENABLED="0",
        LAMBDA_EXECUTOR="local",
        LOG_LEVEL="WARNING",
        MINISTACK_HOST="127.0.0.1",
        MINISTACK_REGION=region,
        PERSIST_STATE="1",
        S3_DATA_DIR=str(state / "s3"),
        S3_PERSIST="1",
        SERVICES=",".join(SERVICES),
        SFTP_ENABLED="0",
        STATE_DIR=str(state / "services"),
        TMPDIR=str(temporary),
    )


async def serve(folder: Path, port: int, region: str) -> None:
    """Serve until a signal comes."""
    # Imported only now: ministack reads its environment at import.
    from hypercorn.asyncio import run as hypercorn_run  # noqa: PLC0415
    from hypercorn.asyncio import serve as hypercorn_serve  # noqa: PLC0415
    from hypercorn.config import Config  # noqa: PLC0415

    from sandbox.aws.front import Connection, Front  # noqa: PLC0415

    hypercorn_run.TCPServer = Connection
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.keep_alive_timeout = 75
    config.graceful_timeout = 5
    config.loglevel = "WARNING"
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopping.set)
    await hypercorn_serve(Front(folder, port, region), config, shutdown_trigger=stopping.wait)


if __name__ == "__main__":
    main()

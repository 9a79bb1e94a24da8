"""`python -m sandbox.aws --dir <sandbox folder> --port <port>`: the AWS half of the sandbox, in one process.

Listens on 127.0.0.1 only. SIGTERM and SIGINT stop it cleanly; what it holds is then on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
from pathlib import Path

import uvloop
from uvicorn import Config, Server

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
    uvloop.run(serve(folder, options.port, options.region))


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


class _Server(Server):
    """uvicorn's own signal handling would end a clean stop with the signal instead of with 0."""

    def capture_signals(self) -> contextlib.nullcontext[None]:  # type: ignore[override]
        return contextlib.nullcontext()


async def serve(folder: Path, port: int, region: str) -> None:
    """Serve until a signal comes."""
    # Imported only now: ministack reads its environment at import.
    from sandbox.aws.front import Connection, Front  # noqa: PLC0415

    config = Config(
        Front(folder, port, region),
        host="127.0.0.1",
        port=port,
        http=Connection,
        loop="none",
        lifespan="on",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, setattr, server, "should_exit", True)
    await server.serve()


if __name__ == "__main__":
    main()

"""Runs one Pulumi program: the child process of the language host.

Config comes in the environment and is taken out of it before the program starts, so that secrets
are neither on a command line nor inherited by what the program itself may start.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import runpy
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from engine.lazy import import_late

import_late()

import pulumi  # noqa: E402 - after what decides how much of it is imported
import pulumi.runtime  # noqa: E402

from engine.lifeline import watch_parent  # noqa: E402

REPORTED = 32
"""Exit code for "the error has been shown": the host then tells the engine to stop without another."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the engine asked for. `program` is a folder with a `__main__.py`, or a file."""

    program: str
    arguments: tuple[str, ...]
    project: str
    stack: str
    organization: str
    root_directory: str
    monitor: str
    engine: str
    parallel: int
    dry_run: bool


def parse(argv: list[str]) -> Run:
    parser = argparse.ArgumentParser(prog="engine.run_program")
    for name in ("project", "stack", "organization", "root-directory", "monitor", "engine"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--parallel", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = vars(parser.parse_args(argv))
    options["arguments"] = tuple(options["arguments"])
    return Run(**options)


def configure(run: Run) -> None:
    """Tells the SDK about the stack and takes the config out of the environment."""
    pulumi.runtime.set_all_config(pulumi.runtime.get_config_env(), pulumi.runtime.get_config_secret_keys_env())
    os.environ.pop("PULUMI_CONFIG", None)
    os.environ.pop("PULUMI_CONFIG_SECRET_KEYS", None)
    pulumi.runtime.configure(
        pulumi.runtime.Settings(
            project=run.project,
            stack=run.stack,
            organization=run.organization or "organization",
            root_directory=run.root_directory,
            monitor=run.monitor,
            engine=run.engine,
            parallel=run.parallel,
            dry_run=run.dry_run,
        )
    )


def program_traceback(error: BaseException, program: Path) -> str:
    """The traceback from the program's first frame on; all of it if the program has none."""
    frames = error.__traceback__
    while frames is not None and not _belongs_to(frames.tb_frame.f_code.co_filename, program):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))


def _belongs_to(filename: str, program: Path) -> bool:
    return not filename.startswith("<") and Path(filename).resolve().is_relative_to(program)


def run_program(run: Run) -> int:
    """Runs the program in a new event loop; the exit code of this process.

    Raises SystemExit if the program does, with the program's own code.
    """
    program = Path(run.program).resolve()
    if program.is_dir() and not (program / "__main__.py").is_file():
        pulumi.log.error(f"unable to find main python program `__main__.py` in `{program}`")
        return REPORTED

    def start() -> None:
        # Importing the SDKs makes a great many objects and no garbage: every search for some is in vain.
        gc.disable()
        try:
            runpy.run_path(str(program), run_name="__main__")
        finally:
            gc.enable()

    if program.is_file():
        # As `python program.py` does; for a folder runpy does it.
        sys.path.insert(0, str(program.parent))
    sys.argv = [run.program, *run.arguments]
    # A program that fails leaves awaitables behind, and asyncio complains of each of them.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    if run.parallel > 0:
        loop.set_default_executor(ThreadPoolExecutor(max_workers=run.parallel))
    try:
        loop.run_until_complete(pulumi.runtime.run_in_stack(start))
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
        return 1
    except Exception as error:  # noqa: BLE001 - whatever the program raised is its user's to read
        pulumi.log.error(f"Program failed with an unhandled exception:\n{program_traceback(error, program)}")
        return REPORTED
    finally:
        loop.close()
    return 0


def main() -> None:
    watch_parent()
    run = parse(sys.argv[1:])
    configure(run)
    sys.exit(run_program(run))


if __name__ == "__main__":
    main()

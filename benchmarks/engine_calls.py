"""Where the time of one `up` of an operation goes, on the sandbox: `python -m benchmarks.engine_calls`.

A standard tenant that is already up is brought up again, so that nothing in the cloud takes time: what
is left is the engine, its plugins, the language host and the program. Every figure is the least of the
rounds. Compare them as ratios of two runs on one machine; the CPU times bear a machine that is shared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from components import naming
from migrate import tenants
from migrate.stack import Project, Stack
from sandbox.demo import STAMP, make_project
from sandbox.supervisor import Sandbox

TENANT = "acme"
PROGRAM = """stacks.guard, stacks.stamp, stacks.tenant; from pulumi_aws import s3, iam, kms, cloudwatch, lambda_, sqs
s3.Bucket, iam.Role, kms.Key, cloudwatch.EventRule, lambda_.Function, sqs.Queue"""
"""What the program has imported when it has registered its resources."""
SDKS = ("pulumi", "pydantic", "sqlalchemy", "pulumi_aws", "pulumi_ec", "pulumi_elasticstack")
IMPORTS = {
    **{name: name for name in SDKS},
    "the program, plainly": PROGRAM,
    "the program": "components.lean, " + PROGRAM,
    "the language host": "engine.language_host",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--imports-only", action="store_true", help="needs no sandbox")
    arguments = parser.parse_args()
    found = {
        "imports": {name: _least(arguments.rounds, lambda code=code: _import(code)) for name, code in IMPORTS.items()}
    }
    if not arguments.imports_only:
        with tempfile.TemporaryDirectory() as folder:
            found["calls"] = _on_a_sandbox(Path(folder), arguments.rounds)
    print(json.dumps(found, indent=2))


def _import(code: str) -> None:
    subprocess.run([sys.executable, "-P", "-c", f"import {code}"], check=True)


def _least(rounds: int, act: Callable[[], object]) -> dict[str, float]:
    """The least wall-clock time, and the least CPU time of this process' children."""
    wall, cpu = [], []
    for _ in range(rounds):
        began, used = time.monotonic(), _cpu()
        act()
        wall.append(time.monotonic() - began)
        cpu.append(_cpu() - used)
    return {"seconds": round(min(wall), 2), "cpu_seconds": round(min(cpu), 2)}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _on_a_sandbox(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    sandbox = Sandbox(folder / "sandbox")
    sandbox.up()
    try:
        os.environ.update(sandbox.environment())
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        root = make_project(folder / "project")
        os.environ["KEYSHIFT_PROJECT"] = str(root)
        project = Project.find()
        for words in (("stack", "init", STAMP), ("up", "-s", STAMP, "--yes", "--skip-preview")):
            subprocess.run(["pulumi", *words], cwd=root, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(
            ["keyshift", "tenant", "create", TENANT, "--customer", "acme-corp"],
            cwd=root, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return _calls(project, folder / "plan.json", rounds)
    finally:
        sandbox.reset()


def _calls(project: Project, plan: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of each part of `Runner._up`, and of all of it."""
    name = naming.tenant_stack(TENANT)
    held = tenants.records(project).tenant(TENANT)
    stack = Stack(project, name)

    def whole() -> None:
        stack.render(held.layout, held.generation)
        stack.recover()
        stack.preview(plan_file=plan)
        stack.up(plan_file=plan)
        stack.outputs()

    def outputs() -> None:
        stack._outputs = None  # noqa: SLF001 - the time of a look that nothing has prepared
        stack.outputs()

    parts: dict[str, Callable[[], object]] = {
        "select": lambda: Stack(project, name).make(),
        "recover": stack.recover,
        "preview": lambda: stack.preview(plan_file=plan),
        "up": lambda: stack.up(plan_file=plan),
        "outputs": outputs,
        "whole": whole,
    }
    return {part: _least(rounds, act) for part, act in parts.items()}


if __name__ == "__main__":
    main()

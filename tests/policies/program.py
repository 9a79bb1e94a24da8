"""The program of a project in which one thing is broken on its way to the engine; what is broken is in the environment."""

# ruff: noqa: E402 - the paths and the lean imports come first
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import components.lean  # noqa: F401 - first, as in stacks/__main__.py

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "unit")]

import pulumi
from google.protobuf import json_format, struct_pb2
from mutations import AWS, LAYOUTS, Mutation
from pulumi.runtime import settings

from stacks import record, stamp, tenant
from stacks.config import StampSettings


def broken() -> Mutation | None:
    number = os.environ.get("MUTATION")
    return AWS[int(number)] if number else None


def break_it(mutation: Mutation) -> None:
    """Between the SDK and the engine, so that it is broken in the engine's own words."""
    monitor: Any = settings.get_monitor()
    register = monitor.RegisterResource

    def changed(request: Any, *rest: Any) -> Any:
        if request.name != mutation.resource:
            return register(request, *rest)
        if mutation.drop:
            request.type, request.custom = "keyshift:test:Nothing", False
            request.ClearField("object")
        if mutation.unprotect:
            request.protect = False
        if mutation.change:
            props = json_format.MessageToDict(request.object)
            mutation.change(props)
            struct = struct_pb2.Struct()
            struct.update(props)
            request.object.CopyFrom(struct)
        return register(request, *rest)

    monitor.RegisterResource = changed


class Added(pulumi.CustomResource):
    """Of any type, as a program of somebody else might ask for it."""

    def __init__(self, type_: str, props: dict[str, Any]) -> None:
        super().__init__(type_, "added", props, pulumi.ResourceOptions(version=VERSIONS.get(type_.partition(":")[0])))


VERSIONS = {"aws": "7.51.1", "ec": "0.12.5"}
mutation = broken()
if mutation:
    break_it(mutation)
    if mutation.add:
        Added(*mutation.add)
stack = pulumi.get_stack()
if stack.startswith("stamp-"):
    outputs = stamp.build(StampSettings.parse(stack), record.connect(Path(pulumi.get_root_directory())))
else:
    outputs = tenant.build(LAYOUTS[os.environ["LAYOUT"]]())
    if mutation and mutation.said:
        said = mutation.said(outputs.pop("layout"))
        outputs |= {"layout": said} if said is not None else {}
for name, value in outputs.items():
    pulumi.export(name, value)

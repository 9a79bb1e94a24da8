"""Pulumi's protocol messages without the Pulumi SDK.

`import pulumi.runtime.proto` runs the whole SDK first, twice an `up` for the language host alone.
The generated modules need none of it, so empty packages stand in for their parents while they
load. The stand-ins are gone afterwards: a later `import pulumi` gets the real SDK, and the same
message classes.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

PARENTS = ("pulumi", "pulumi.runtime", "pulumi.runtime.proto")


@contextmanager
def _empty_parents() -> Iterator[None]:
    spec = importlib.util.find_spec("pulumi")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("the Pulumi SDK is not installed in this environment: run `make setup`")
    root = Path(spec.submodule_search_locations[0])
    stand_ins = [name for name in PARENTS if name not in sys.modules]
    for name in stand_ins:
        module = ModuleType(name)
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


if TYPE_CHECKING:
    from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2
else:
    with _empty_parents():
        from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

__all__ = ["language_pb2", "language_pb2_grpc", "plugin_pb2"]

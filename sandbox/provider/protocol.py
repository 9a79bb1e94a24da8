"""Pulumi's generated protobuf classes, without the Pulumi SDK around them.

`import pulumi` costs 0.3 s and a plugin is started several times an `up`, so the folder of generated
modules is imported as a package of its own: they refer to each other by relative imports only.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_ALIAS = "pulumi_rpc"


def _package() -> None:
    spec = importlib.util.find_spec("pulumi")  # finds a top-level package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the pulumi package is not installed")
    package = ModuleType(_ALIAS)
    package.__path__ = [str(Path(spec.submodule_search_locations[0], "runtime", "proto"))]
    sys.modules[_ALIAS] = package


if _ALIAS not in sys.modules:
    _package()

plugin_pb2 = importlib.import_module(f"{_ALIAS}.plugin_pb2")
provider_pb2 = importlib.import_module(f"{_ALIAS}.provider_pb2")
provider_pb2_grpc = importlib.import_module(f"{_ALIAS}.provider_pb2_grpc")
status_pb2 = importlib.import_module(f"{_ALIAS}.status_pb2")

"""Imports that wait until something of the module is asked for. To be called before the Pulumi SDK is imported.

`import pulumi` also brings what only some programs use: dynamic providers (dill) and the Automation API,
with YAML and more. A program or a policy pack pays for that at every preview and every update.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

LATE = ("dill", "pulumi.automation")


class _Finder:
    """Finds the named modules as ever, and has each executed when it is first used."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in LATE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def import_late() -> None:
    """From now on the modules of `LATE` wait."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)

"""Imports Pulumi's SDKs without what the program never uses. To be imported before any of them.

A generated package imports every resource of its service, `pulumi_aws.s3` some ninety modules, and a
program pays for that at every preview and every update. Here the packages that the components use
import a resource's own module when the resource is first asked for. A name that is found in no such
module makes the package import itself whole, so nothing is lost but the time.

`pulumi_elasticstack` asks `pkg_resources` for its own version, which reads every installed package to
answer and is missing from newer setuptools: `importlib.metadata` answers instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

SERVICES = ("cloudwatch", "iam", "kms", "lambda_", "s3", "secretsmanager", "sqs")
SHARED = ("_inputs", "outputs", "_enums")
"""Modules of a package that hold what belongs to no single resource."""


class LeanPackage(ModuleType):
    """A generated package that imports its modules one by one, each when something of it is asked for."""

    def __init__(self, spec: ModuleSpec) -> None:
        super().__init__(spec.name)
        self.__spec__ = spec
        self.__file__ = spec.origin
        self.__path__ = list(spec.submodule_search_locations or ())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        for module in (name, snake_case(name), *SHARED):
            found = self._module(module)
            if found is None:
                continue
            if module == name:
                return vars(self).get(name, found)  # not set yet while it imports itself
            if name in vars(found):
                return vars(found)[name]
        return self._whole(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """What Python does with an imported module; one that holds a function of its own name stands for that."""
        is_function = isinstance(value, ModuleType) and name in vars(value)
        super().__setattr__(name, vars(value)[name] if is_function else value)

    def _module(self, name: str) -> ModuleType | None:
        full = f"{self.__name__}.{name}"
        if full not in sys.modules and PathFinder.find_spec(full, self.__path__) is None:
            return None
        return importlib.import_module(full)

    def _whole(self, name: str) -> Any:
        """The generated `__init__`, as if this class were not there."""
        spec = self.__spec__
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module(self)
        if name in vars(self):
            return vars(self)[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def snake_case(name: str) -> str:
    """The module that the SDK's generator puts a class into: `BucketPolicyArgs` -> `bucket_policy`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix("Args")).lower()


class _QuickPkgResources(ModuleType):
    @staticmethod
    def require(name: str) -> list[metadata.Distribution]:
        return [metadata.distribution(name)]


@contextmanager
def _quick_pkg_resources() -> Iterator[None]:
    """In place of the real one for as long as an import takes."""
    sys.modules["pkg_resources"] = _QuickPkgResources("pkg_resources")
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]


def _import_aws() -> None:
    root = importlib.util.find_spec("pulumi_aws")
    if root is None or "pulumi_aws" in sys.modules:
        return
    for service in SERVICES:
        spec = PathFinder.find_spec(f"pulumi_aws.{service}", root.submodule_search_locations)
        if spec is not None:
            # The SDK's own `__init__` takes what it finds in `sys.modules`.
            sys.modules[spec.name] = LeanPackage(spec)
    importlib.import_module("pulumi_aws")


def _import_elasticstack() -> None:
    if "pkg_resources" not in sys.modules and "pulumi_elasticstack" not in sys.modules:
        with _quick_pkg_resources():
            importlib.import_module("pulumi_elasticstack")


_import_aws()
_import_elasticstack()

"""Where `engine.install` puts what it fetches and builds. Standard library only.

A folder's name holds a hash of what made it, so that two work trees with different locks share one
cache without getting in each other's way, and a finished folder never changes.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

PULUMI_VERSION = "3.259.0"
ELASTICSEARCH_VERSION = "8.19.0"

TREE = Path(__file__).resolve().parent.parent
"""The work tree that this file belongs to."""


def cache_dir() -> Path:
    """`$KEYSHIFT_CACHE`, else the user's cache folder (XDG); it need not exist yet."""
    given = os.environ.get("KEYSHIFT_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home).expanduser().absolute() / "keyshift"


def emulator_python() -> Path:
    """The interpreter that holds the AWS emulator of `requirements/sandbox.txt`."""
    return emulator_home() / "bin" / "python"


def elasticsearch_home() -> Path:
    """Elasticsearch's integration-test distribution, unpacked. Read only: give a node its own `path.conf`."""
    return cache_dir() / f"elasticsearch-{ELASTICSEARCH_VERSION}"


def emulator_home() -> Path:
    return cache_dir() / "emulators" / content_key(TREE / "requirements" / "sandbox.txt")


def azurite_home() -> Path:
    """The folder in whose `node_modules` Azurite is, the storage emulator of the sandbox's Azure half."""
    recipe = TREE / "requirements" / "azurite"
    return cache_dir() / "azurite" / content_key(recipe / "package.json", recipe / "package-lock.json")


def built_engine_home() -> Path:
    """The folder of a CLI that was built from Pulumi's Go module, with our Python host beside it."""
    recipe = TREE / "engine" / "go"
    return cache_dir() / f"engine-{PULUMI_VERSION}" / content_key(recipe / "go.mod", recipe / "go.sum")


def official_engine_home() -> Path:
    """The folder that Pulumi's own installer fills: `bin/pulumi` and its language hosts."""
    return cache_dir() / f"pulumi-{PULUMI_VERSION}"


def content_key(*files: Path, salt: str = "") -> str:
    """Twelve hexadecimal digits over the contents of `files`, in their order, and `salt`."""
    digest = hashlib.sha256(salt.encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]

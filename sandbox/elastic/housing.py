"""Where nodes live and as whom they run.

Elasticsearch refuses to run as root. A sandbox started by root (a container, often) runs its nodes
as `nobody`, who can enter neither root's home nor a private temporary folder. Then the nodes' folders
and a copy of the distribution go below /var/tmp instead, and `.sandbox/elastic/nodes` links there.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path


class HousingError(Exception):
    """The nodes cannot run here; the message says what to do."""


@dataclass(frozen=True)
class Account:
    uid: int
    gid: int


@dataclass(frozen=True)
class Housing:
    """`home` is the distribution, shared by all nodes. `account` is None if nodes run as the caller."""

    home: Path
    nodes: Path
    account: Account | None

    def give(self, *paths: Path) -> None:
        """Make the node's account the owner."""
        if self.account is not None:
            for path in paths:
                os.chown(path, self.account.uid, self.account.gid)


def elasticsearch_home() -> Path:
    """The unpacked distribution: KEYSHIFT_ELASTICSEARCH_HOME, else the one in the engine's cache."""
    if configured := os.environ.get("KEYSHIFT_ELASTICSEARCH_HOME"):
        return Path(configured)
    from engine.paths import elasticsearch_home as cached  # noqa: PLC0415  # not needed where the variable is set

    return cached()


def settle(folder: Path, home: Path) -> Housing:
    """Choose the place and the account of the nodes. `folder` is `.sandbox/elastic`."""
    if not (home / "lib" / "entitlement-bridge").is_dir():
        raise HousingError(f"there is no Elasticsearch distribution at {home}: run `make setup`")
    link = folder / "nodes"
    if os.geteuid() != 0:
        link.mkdir(parents=True, exist_ok=True)
        return Housing(home.resolve(), link.resolve(), None)
    if not sys.platform.startswith("linux"):
        raise HousingError("Elasticsearch refuses to run as root: start the sandbox as an ordinary user")
    account = _nobody()
    if _is_open_to_others(folder) and not link.is_symlink():
        link.mkdir(parents=True, exist_ok=True)
        base = folder
    else:
        base = _public_place(folder)
        if not link.is_symlink():
            link.symlink_to(base / "nodes", target_is_directory=True)
    nodes = (base / "nodes").resolve()
    nodes.mkdir(parents=True, exist_ok=True)
    if not _is_open_to_others(home):
        home = _copied(home, base / "distribution")
    return Housing(home.resolve(), nodes, account)


def clear(folder: Path) -> None:
    """Remove all nodes' data, also what lies below /var/tmp. For `reset`, when no node runs."""
    shutil.rmtree(_public_place(folder), ignore_errors=True)
    link = folder / "nodes"
    if link.is_symlink():
        link.unlink()
    shutil.rmtree(link, ignore_errors=True)


def _public_place(folder: Path) -> Path:
    mark = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return Path("/var/tmp") / f"keyshift-elastic-{mark}"  # survives a reboot, as .sandbox does


def _nobody() -> Account:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise HousingError("this system has no user `nobody`: start the sandbox as an ordinary user") from None
    return Account(entry.pw_uid, entry.pw_gid)


def _is_open_to_others(path: Path) -> bool:
    """True if everybody may enter the folder and all folders above it."""
    path = path.resolve()
    return all(stat.S_IMODE(part.stat().st_mode) & stat.S_IXOTH for part in (path, *path.parents) if part.exists())


def _copied(home: Path, folder: Path) -> Path:
    """The distribution in a place that all may enter: hard links where the file system allows, else copies."""
    target = folder / home.name
    if not target.exists():
        unfinished = folder / f"{home.name}.{os.getpid()}"
        shutil.copytree(home, unfinished, copy_function=_link_or_copy)
        unfinished.rename(target)
    return target


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)

"""An archive of assets as a zip file, the same bytes for the same content."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from sandbox.provider.errors import ProviderError
from sandbox.provider.values import Archive, Asset

_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
_READABLE = 0o644


def zipped(archive: Archive) -> bytes:
    """The zip of an archive: members in the order of their names, without times or owners."""
    if archive.path is not None and archive.path.endswith(".zip"):
        return Path(archive.path).read_bytes()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as zip_file:
        for name, content in sorted(_members(archive, "")):
            member = zipfile.ZipInfo(name, _TIME)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = _READABLE << 16
            zip_file.writestr(member, content)
    return target.getvalue()


def _members(archive: Archive, prefix: str) -> Iterator[tuple[str, bytes]]:
    if archive.members is not None:
        for name, member in archive.members.items():
            if isinstance(member, Asset):
                yield prefix + name, _content(prefix + name, member)
            else:
                yield from _members(member, f"{prefix}{name}/")
    elif archive.path is not None and Path(archive.path).is_dir():
        root = Path(archive.path)
        for path in root.rglob("*"):
            if path.is_file():
                yield prefix + path.relative_to(root).as_posix(), path.read_bytes()
    else:
        raise ProviderError(f"an archive must name its members, a folder or a .zip file, got {archive.path!r}")


def _content(name: str, asset: Asset) -> bytes:
    if asset.text is not None:
        return asset.text.encode()
    if asset.path is None:
        raise ProviderError(f"the asset {name} is neither text nor a file")
    return Path(asset.path).read_bytes()

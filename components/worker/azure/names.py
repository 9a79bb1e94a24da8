"""Metadata names on Azure.

They have to be identifiers (REST reference, "Setting and retrieving properties and metadata"), so a hyphen of ours is an
underscore there. Nothing is lost: no name on Azure holds a hyphen.
"""

from __future__ import annotations

from collections.abc import Mapping


def on_azure(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in metadata.items()}


def of_azure(metadata: Mapping[str, str] | None) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in (metadata or {}).items()}

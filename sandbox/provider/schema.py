"""What the installed SDKs say of each resource type: property names, types, which are required.

`python -m sandbox.provider.schema` writes `schema.json`; the plugin reads that file, so that it needs
neither the SDKs nor their second of import time. A unit test compares the file with the installed SDKs.

Types in the file: `string`, `integer`, `number`, `boolean`, `archive`, `any`; `[t]` a list of t, `{t}` a
map from strings to t, `#Name` a nested object described under `types`, `t|u` either.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

SCHEMA_FILE = Path(__file__).with_name("schema.json")


@dataclass(frozen=True)
class Property:
    type: str
    is_required: bool


@dataclass(frozen=True)
class ResourceSchema:
    """One resource type. `outputs` maps a name to whether its value always exists (computed or defaulted)."""

    inputs: dict[str, Property]
    outputs: dict[str, bool]


@dataclass(frozen=True)
class Schema:
    """One package."""

    version: str
    config: dict[str, Property]
    resources: dict[str, ResourceSchema]
    types: dict[str, dict[str, Property]]


@functools.cache
def load(package: str) -> Schema:
    """The committed schema of one package: `aws`, `ec` or `elasticstack`."""
    document = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))[package]
    return Schema(
        version=document["version"],
        config=_properties(document["config"]),
        resources={
            token: ResourceSchema(_properties(resource["inputs"]), resource["outputs"])
            for token, resource in document["resources"].items()
        },
        types={name: _properties(fields) for name, fields in document["types"].items()},
    )


def _properties(document: dict[str, str]) -> dict[str, Property]:
    return {name: Property(text.removesuffix("!"), text.endswith("!")) for name, text in document.items()}


if __name__ == "__main__":
    from sandbox.provider import introspect

    SCHEMA_FILE.write_text(introspect.render(introspect.generate()), encoding="utf-8")

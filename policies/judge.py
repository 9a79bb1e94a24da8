"""Judges what the engine shows, a resource at a time and then the whole stack. Knows nothing of Pulumi's SDK.

A resource comes twice: alone with its inputs, before it is made, and in the whole stack with its outputs and
with what each input comes from. Rules of a whole stack see all of it together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from policies.facts import Facts
from policies.resource import UNKNOWN, Program, Resource
from policies.rule import Rule, Undecided, Violation

UNKNOWNS = frozenset(
    {
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",  # boolean
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",  # number
        "04da6b54-80e4-46f7-96ec-b56ff0331ba9",  # string
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",  # array
        "030794c1-ac77-496b-92df-f27374a8bd58",  # asset
        "e48ece36-62e2-4504-bad9-02848725956a",  # archive
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",  # object
    }
)
"""What stands for an unknown on the wire: pulumi/sdk, go/common/resource/plugin/rpc.go."""


@dataclass
class Judge:
    _seen: dict[str, Resource] = field(default_factory=dict)

    def remember(self, one: Resource) -> None:
        """For the whole stack, which shows outputs only: an output that is not set may be unknown at a preview."""
        self._seen[one.urn] = one

    def found(self, rule: Rule, one: Resource, settings: Mapping[str, Any]) -> list[str | Undecided]:
        if rule.check is None or one.type not in rule.types:
            return []
        return list(rule.check(one, rule.defaults() | dict(settings)))

    def program(self, shown: Iterable[Resource]) -> Program:
        """The whole stack: inputs as they were when each resource was judged alone."""
        return Program(tuple(self._whole(one) for one in shown))

    def found_in(self, rule: Rule, program: Program, settings: Mapping[str, Any]) -> list[Violation]:
        if rule.check_program is None:
            return []
        stack = program.stack
        layout = stack.outputs.get("layout") if stack else None
        facts = Facts(layout if isinstance(layout, Mapping) else None)
        return list(rule.check_program(program, facts, rule.defaults() | dict(settings)))

    def _whole(self, shown: Resource) -> Resource:
        alone = self._seen.get(shown.urn)
        return replace(shown, props=alone.props if alone else shown.props, outputs=shown.props)


def plain(value: Any) -> Any:
    """Property values as plain data, unknowns as UNKNOWN: no rule can touch one that raises."""
    if isinstance(value, str):
        return UNKNOWN if value in UNKNOWNS else value
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value

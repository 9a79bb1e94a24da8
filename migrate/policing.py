"""The policy pack in the runner: it judges plans, watches previews, and stops what breaks a rule.

`preview --json` does not say what a policy found. The engine's event log does, and among much else whatever
the program logs, so it goes into a file without a name, which is gone with the last process that holds it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import policies
from migrate.errors import KeyshiftError, RefusedInput
from migrate.operations import Plan
from policies.catalogue import RULES, judge_change, rule
from policies.rule import Change
from stacks.layout import Layout

PACK = Path(policies.__file__).parent
NAME, UNDECIDED = "keyshift", "undecided"
SETTINGS = "policy-settings.json"
"""In the project's folder, if the site has any: {"rule": {"setting": value}}."""


class PolicyViolation(RefusedInput):
    """A rule forbids what was asked for; no resource that breaks it was made."""

    default_code = "policy"


@dataclass(frozen=True, kw_only=True)
class Found:
    """One thing that a policy has found."""

    rule: str
    urn: str
    message: str
    is_mandatory: bool

    @property
    def resource(self) -> str:
        return self.urn.rpartition("::")[2]


class Watch:
    """What the pack says during one run of the engine. `arguments` and `environment` ask the engine to say it."""

    def __init__(self, file: IO[str], settings: Path | None) -> None:
        self._file = file
        self.descriptor = file.fileno()
        config = ["--policy-pack-config", str(settings)] if settings else []
        self.arguments = ["--policy-pack", str(PACK), *config, "--event-log", f"/dev/fd/{self.descriptor}"]
        # Without it the engine does not know --event-log; Pulumi's own Automation API sets it too.
        self.environment = {"PULUMI_DEBUG_COMMANDS": "true"}

    def findings(self) -> list[Found]:
        """What was found; raises KeyshiftError unless every rule was asked."""
        asked, found = set[str](), list[Found]()
        for event in self._events():
            if one := event.get("policyEvent"):
                found.append(_found(one))
            for summary in ("policyAnalyzeSummaryEvent", "policyAnalyzeStackSummaryEvent"):
                said = event.get(summary) or {}
                if said.get("policyPackName") == NAME:
                    asked |= {*(said.get("passed") or ()), *(said.get("failed") or ())}
        missing = sorted({one.id for one in RULES if one.check_change is None} - asked)
        if missing and not any(one.is_mandatory for one in found):
            raise KeyshiftError(
                f"{len(missing)} policies were not asked, among them {missing[0]}",
                hint=f"see that the pack starts: pulumi preview --policy-pack {PACK.name}",
                code="policies-not-asked",
            )
        return found

    def violations(self) -> list[Found]:
        """What was found of rules that must be kept, also by an engine that stopped early."""
        return [
            found
            for event in self._events()
            if (one := event.get("policyEvent"))
            if (found := _found(one)).is_mandatory
        ]

    def _events(self) -> Iterator[Mapping[str, Any]]:
        self._file.seek(0)
        for line in self._file:
            if '"policy' in line[:80]:
                yield json.loads(line)


@contextmanager
def watching(folder: Path) -> Iterator[Watch]:
    """For one run of the engine in the project of `folder`. Raises RefusedInput for settings that cannot be used."""
    with tempfile.TemporaryFile("w+") as file:
        yield Watch(file, settings_of(folder))


def settings_of(folder: Path) -> Path | None:
    """The site's settings, checked: they set values and cannot turn a rule off. Raises RefusedInput."""
    path = folder / SETTINGS
    if not path.exists():
        return None
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RefusedInput(
            f"{path.name} is not JSON: {error}", hint="docs/policies.md says what may stand there"
        ) from error
    for id, values in held.items() if isinstance(held, dict) else [(path.name, held)]:
        known = one.settings if (one := rule(str(id))) else {}
        wrong = sorted(set(values) - set(known)) if isinstance(values, dict) else [str(values)]
        if wrong or not known:
            raise RefusedInput(
                f"{path.name} sets {', '.join(wrong) or 'nothing'} of {id}, which no site can set",
                hint=f"it has {', '.join(sorted(known))}" if known else "docs/policies.md says what may stand there",
                code="policy-settings",
            )
    return path


def refuse(found: Iterable[Found], stack: str) -> None:
    """Raises PolicyViolation when a rule that must be kept is broken: rule, resource, what to do."""
    broken = [one for one in found if one.is_mandatory]
    if not broken:
        return
    said = "; ".join(f"{one.resource}: {one.message} [{one.rule}]" for one in broken[:5])
    more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
    raise PolicyViolation(
        f"{stack} would break {len({one.rule for one in broken})} policies, so it stays as it is: {said}{more}",
        hint=_hint(broken[0].rule),
    )


def refuse_plan(made: Plan, owners: Mapping[str, str]) -> None:
    """Raises PolicyViolation when a phase of a plan would break a rule; nothing was begun then.

    `owners`: whose each key is, by ARN and alias (`Records.key_owners`).
    """
    before = made.start
    for phase in made.phases:
        refuse_change(before, phase.layout, owners, what=f"phase {phase.name} of {made.operation}")
        before = phase.layout


def refuse_change(before: Layout | None, after: Layout, owners: Mapping[str, str], *, what: str) -> None:
    broken = judge_change(Change(before=before, after=after, owners=owners))
    if broken:
        said = "; ".join(f"{violation.message} [{one.id}]" for one, violation in broken)
        raise PolicyViolation(
            f"{what} of tenant {after.tenant} would break a policy, so nothing was changed: {said}",
            hint=_hint(broken[0][0].id),
        )


def _hint(id: str) -> str:
    broken = rule(id)
    return f"{broken.remediation} See: keyshift policy explain {id}" if broken else f"keyshift policy explain {id}"


def _found(event: Mapping[str, Any]) -> Found:
    # The engine puts the rule's sentence before what was found, and the pack what to do after it.
    lines = [line for line in str(event["message"]).splitlines() if line]
    said = [line for line in lines[1:] if not line.startswith(("to do: ", "see "))]
    return Found(
        rule=event["policyName"],
        urn=event.get("resourceUrn", ""),
        message=" ".join(said) or lines[0],
        is_mandatory=event.get("enforcementLevel") == "mandatory",
    )

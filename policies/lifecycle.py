"""The life of a tenant: what a stack has to say of itself, and what no change of its layout may do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from policies import kinds
from policies.facts import OFFERED, Facts
from policies.resource import Program, Resource
from policies.rule import Change, Found, FoundInProgram, OnUnknown, Rule, Severity, Step, Violation

if TYPE_CHECKING:
    from stacks.layout import Layout

PULUMI = "https://www.pulumi.com/docs/iac/concepts"
TAGS = ("tenant", "customer", "mode", "key")
KEYS_OF = {"byok": False, "byokms": True, "byokv": True}
"""Mode -> whether the serving key is one that lies with the customer."""
WITHOUT_REGIONS: list[str] = []


def _says_its_layout(program: Program, facts: Facts, _: Mapping[str, Any]) -> FoundInProgram:
    stack = program.stack
    if stack is not None and stack.tenant is not None and facts.layout is None:
        yield Violation("the stack has no output `layout`, so nothing of it can be judged", stack.urn)
    elif stack is not None and stack.tenant is not None and facts.tenant != stack.tenant:
        yield Violation(f"the stack holds the layout of tenant {facts.tenant}", stack.urn)


def _protected(program: Program, facts: Facts, _: Mapping[str, Any]) -> FoundInProgram:
    for one in program.resources:
        if one.type in kinds.STATEFUL and not one.protect and one.unit not in facts.released:
            yield Violation("it could be deleted: it is not protected, and no verdict releases its unit", one.urn)


def _tagged(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.tenant is None:
        return
    tags = one.get("tags", default={})
    held = {} if not isinstance(tags, Mapping) else {key.replace("keyshift-", "keyshift:"): tags[key] for key in tags}
    if missing := [name for name in TAGS if not held.get(f"keyshift:{name}")]:
        yield f"it does not say its {', '.join(missing)}"
    elif held["keyshift:tenant"] != one.tenant:
        yield f"it is tagged as tenant {held['keyshift:tenant']}'s"


def _offered(program: Program, facts: Facts, _: Mapping[str, Any]) -> FoundInProgram:
    cloud = str((facts.layout or {}).get("cloud", "aws"))
    if facts.layout is not None and facts.mode not in OFFERED.get(cloud, frozenset()):
        yield Violation(f"the mode {facts.mode} is not offered on {cloud}", program.stack.urn if program.stack else "")


def _mode_holds(program: Program, facts: Facts, _: Mapping[str, Any]) -> FoundInProgram:
    storage = facts.unit("storages", str(facts.serves.get("storage")))
    if storage is None:
        return
    key, urn = facts.key_of(storage), program.stack.urn if program.stack else ""
    if facts.mode == "standard":
        if key is not None:
            yield Violation(f"the tenant is in mode standard, but {storage['id']} lies under {key['id']}", urn)
    elif key is None or storage.get("kind") != "dedicated":
        yield Violation(
            f"the tenant is in mode {facts.mode}, but {storage['id']} is not its own under its own key", urn
        )
    elif (key.get("arn") is not None) is not KEYS_OF.get(facts.mode):
        where = "in our account" if key.get("arn") is None else "in the customer's"
        yield Violation(f"the tenant is in mode {facts.mode}, but {key['id']} lies {where}", urn)


def _region(program: Program, facts: Facts, settings: Mapping[str, Any]) -> FoundInProgram:
    allowed, region = settings["regions"], (facts.layout or {}).get("region")
    if allowed and region is not None and region not in allowed:
        urn = program.stack.urn if program.stack else ""
        yield Violation(f"the tenant would be in {region}; this site allows {', '.join(allowed)}", urn)


def unfit_steps(steps: Iterable[Step], after: Layout) -> Iterator[str]:
    """What an update would do that its layout does not ask for: the step, in words."""
    gone = {dropped.id for dropped in after.dropped}
    units = {u.id for held in (after.keys, after.storages, after.searches, after.pipelines) for u in held}
    for step in steps:
        unit = step.name.split("-")[0]
        if "replace" in step.op:
            yield f"replace {step.name}"
        elif step.type in kinds.STATEFUL and step.op == "create" and unit not in units:
            yield f"create {step.name}"
        elif step.type in kinds.STATEFUL and step.op == "delete" and unit not in gone:
            yield f"delete {step.name}"


def _steps_fit(change: Change) -> Iterator[str]:
    wrong = list(unfit_steps(change.steps, change.after))
    if wrong:
        yield f"the update would {', '.join(wrong)}, which the layout does not ask for"


def _verdicts(change: Change) -> Iterator[str]:
    if change.before is None:
        return
    kept = {unit.id for unit in _units(change.after)}
    for unit in _units(change.before):
        if unit.id not in kept and not change.after.verdict_for_drop(unit.id):
            yield f"{unit.id} would be gone, and no verdict is named for it"


def _released_first(change: Change) -> Iterator[str]:
    if change.before is None:
        return
    kept = {unit.id for unit in _units(change.after)}
    for unit in (*change.before.storages, *change.before.searches):
        if unit.id not in kept and unit.release is None:
            yield f"{unit.id} would be dropped in the phase that should let go of it first"


def _serving_stays(change: Change) -> Iterator[str]:
    serves = change.after.serves
    if serves is None:
        return
    for unit in (*change.after.storages, *change.after.searches):
        if unit.id in {serves.storage, serves.search} and unit.release is not None:
            yield f"{unit.id} serves, and would be let go of"


def _keys_stay(change: Change) -> Iterator[str]:
    named = {unit.key for unit in (*change.after.storages, *change.after.searches) if unit.key is not None}
    for key in change.after.keys:
        may_be = {"active"} if change.after.gate.access == "open" else {"active", "revoked"}
        if key.id in named and str(key.state) not in may_be:
            yield f"{key.id} would be {key.state} while {_under(change.after, key.id)} lies under it"
    if change.before is not None:
        kept = {key.id for key in change.after.keys}
        for key in change.before.keys:
            if key.id not in kept and not change.after.verdict_for_drop(key.id):
                yield f"{key.id} would be forgotten: a key stays in the layout until its tenant ends under a verdict"


def _one_customer(change: Change) -> Iterator[str]:
    for key in change.after.keys:
        owners = {change.owners.get(reference) for reference in (key.arn, key.alias) if reference} - {None}
        if owners - {change.after.customer}:  # whose it is, is no business of this customer's operator
            yield f"{key.id} is or was a key of another customer than {change.after.customer}, whose the tenant is"
    if change.before is not None and change.before.customer != change.after.customer:
        yield f"the tenant would pass from {change.before.customer} to {change.after.customer}"


def _under(layout: Layout, key: str) -> str:
    return ", ".join(unit.id for unit in (*layout.storages, *layout.searches) if unit.key == key)


def _units(layout: Layout) -> Sequence[Any]:
    return (*layout.storages, *layout.searches, *layout.pipelines)


def _rules() -> Iterator[Rule]:
    yield Rule(
        id="lifecycle-says-its-layout",
        topic="lifecycle",
        sentence="A tenant's stack says which layout it makes.",
        remediation="Export the layout as the stack's output `layout`.",
        severity=Severity.CRITICAL,
        url=f"{PULUMI}/stacks/#outputs",
        unknown=OnUnknown.NONE,
        controls=("SOC 2 CC8.1",),
        check_program=_says_its_layout,
    )
    yield Rule(
        id="lifecycle-protected",
        topic="lifecycle",
        sentence="What holds data or a key is protected until a verdict releases its unit.",
        remediation="Set protect=True; the layout's `release` lifts it.",
        severity=Severity.CRITICAL,
        url=f"{PULUMI}/resources/options/protect/",
        unknown=OnUnknown.NONE,
        controls=("SOC 2 A1.2", "SOC 2 CC8.1"),
        check_program=_protected,
    )
    yield Rule(
        id="lifecycle-tagged",
        topic="lifecycle",
        sentence="What holds data says whose it is: tenant, customer, mode and key.",
        remediation="Give it the tags keyshift:tenant, keyshift:customer, keyshift:mode and keyshift:key.",
        severity=Severity.MEDIUM,
        url="https://docs.aws.amazon.com/whitepapers/latest/tagging-best-practices/tagging-best-practices.html",
        unknown=OnUnknown.DENIED,
        controls=("SOC 2 CC6.1",),
        types=frozenset({kinds.BUCKET, kinds.IMPORTED_KEY, kinds.DEPLOYMENT}),
        check=_tagged,
    )
    yield Rule(
        id="lifecycle-mode-offered",
        topic="lifecycle",
        sentence="The tenant's mode is one that its cloud offers.",
        remediation="On aws: standard, byok, byokms; on azure: standard, byok, byokv.",
        severity=Severity.HIGH,
        url=f"{PULUMI}/config/",
        unknown=OnUnknown.NONE,
        controls=("SOC 2 CC8.1",),
        check_program=_offered,
    )
    yield Rule(
        id="lifecycle-mode-holds",
        topic="lifecycle",
        sentence="What serves lies under the key that the tenant's mode promises.",
        remediation="Change the mode by an operation (keyshift enable); it changes when what serves does.",
        severity=Severity.CRITICAL,
        url=f"{PULUMI}/config/",
        unknown=OnUnknown.NONE,
        controls=("NIST 800-57 5.2", "SOC 2 CC6.1"),
        check_program=_mode_holds,
    )
    yield Rule(
        id="lifecycle-region",
        topic="lifecycle",
        sentence="A tenant lies in a region that the site allows.",
        remediation="Place the tenant on a stamp of an allowed region, or add the region to the site's settings.",
        severity=Severity.HIGH,
        url="https://docs.aws.amazon.com/accounts/latest/reference/manage-acct-regions.html",
        unknown=OnUnknown.NONE,
        controls=("SOC 2 C1.1",),
        check_program=_region,
        settings={
            "regions": {
                "type": "array",
                "items": {"type": "string"},
                "default": WITHOUT_REGIONS,
                "description": "The regions that tenants may be in; empty: every region",
            }
        },
    )
    changes: list[tuple[str, str, str, Any]] = [
        (
            "plan-steps-fit",
            "An update replaces nothing, and makes and deletes only what its layout names.",
            "Look at the preview; a property that forces a replacement is not changed on something that holds data.",
            _steps_fit,
        ),
        (
            "plan-drops-have-verdicts",
            "Nothing is dropped without a verdict.",
            "Name the verdict in the layout's `dropped`.",
            _verdicts,
        ),
        (
            "plan-released-first",
            "A storage or search is let go of in a phase before the one that drops it.",
            "Set `release` in the phase that purges.",
            _released_first,
        ),
        (
            "plan-serving-stays",
            "What serves is not let go of.",
            "Let another storage and search serve first.",
            _serving_stays,
        ),
        (
            "plan-keys-stay",
            "No key is disabled, archived or forgotten while something lies under it.",
            "Archive the key in the phase that drops the last storage and search under it.",
            _keys_stay,
        ),
        (
            "plan-one-customer",
            "A key serves tenants of one customer.",
            "Ask the customer for a key of its own.",
            _one_customer,
        ),
    ]
    for id, sentence, remediation, check in changes:
        yield Rule(
            id=id,
            topic="lifecycle",
            sentence=sentence,
            remediation=remediation,
            severity=Severity.CRITICAL,
            url=f"{PULUMI}/update-plans/",
            unknown=OnUnknown.NONE,
            controls=("SOC 2 CC8.1",),
            cloud="any",
            modes=("standard", "byok", "byokms", "byokv"),
            check_change=check,
        )


RULES = tuple(_rules())

"""From a customer's account number to a key that is bound to their tenant: the policy, the check, the binding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from components import naming
from migrate import aws
from migrate.errors import RefusedInput
from migrate.files import write_private
from migrate.keys import confirmation, policy
from migrate.keys.check import Alias, Report, Ways, check
from migrate.live import Live
from migrate.plan.parts import next_id, unused_key
from migrate.records import Records
from migrate.stack import Project, Stack
from stacks.layout import OFFERED, Key, KeyState, Layout, Mode, OnRotation
from stacks.record import connect

Data = dict[str, Any]
Bind = Callable[[Data], object]
"""Begins the operation `onboard` with what it asks for, and walks it."""


def print_policy(project: Project, name: str, account: str | None, output: Path | None) -> Data:
    """The key policy for a tenant and those that share its key, as a file if `output` is given.

    `account`: the customer's; known already once an alias is bound.
    """
    held, layout = _layout(project, name)
    bound = _bound(layout)
    if account is None and bound is None:
        raise RefusedInput(
            f"no key of its customer is bound to tenant {name} yet, so the customer's AWS account is not known",
            hint=f"keyshift key policy {name} --account NUMBER",
            code="account-number",
        )
    alias = None if bound is None else confirmation.alias_of(layout, bound.id)
    if account is None and alias is not None:
        account = alias.account
    sharing = [name] if alias is None else _sharing(held, layout, alias.arn)
    terms = policy.Terms(
        customer_account=account or "",
        vendor_account=_our_account(layout),
        region=layout.region,
        tenants=sharing,
    )
    file = output or Path(f"keyshift-{name}-key-policy.json")
    if output is not None:
        write_private(output, policy.document(terms).encode())
    return {
        "tenant": name,
        "shared_by": sharing,
        "policy": policy.policy(terms),
        "why": policy.WHY,
        "file": str(file),
        "written": output is not None,
        "commands": policy.commands(terms, str(file)),
        "commands_for_an_existing_key": policy.commands_for_an_existing_key(terms, str(file)),
        "alias": alias.arn if alias else policy.alias_to_send(terms),
        "next": f"keyshift key onboard {name} --alias {alias.arn if alias else policy.alias_to_send(terms)}",
    }


def check_key(project: Project, name: str, alias_text: str | None) -> Data:
    """Tries the tenant's key, or one that is not bound yet, in every way there is. Changes nothing."""
    _, layout = _layout(project, name)
    bound = _bound(layout)
    if alias_text is None and bound is None:
        raise RefusedInput(
            f"no key of its customer is bound to tenant {name} yet",
            hint=f"keyshift key check {name} --alias ARN",
            code="no-key-bound",
        )
    alias = Alias.parse(alias_text or (bound.alias if bound else "") or "", region=layout.region)
    _refuse_our_account(layout, alias)
    is_bound = bound is not None and bound.alias == alias.arn
    report = check(alias, _ways(project, layout, bound.id if bound and is_bound else None))
    mends = f"keyshift key policy {name} --account {alias.account}"
    return {"tenant": name, "bound": is_bound, **report.data(), "next": None if report.is_fit else mends}


def onboard(project: Project, name: str, alias_text: str, on_rotation: OnRotation | None, bind: Bind) -> Data:
    """Binds the key behind an alias to a tenant. Where something speaks against it that can be seen, nothing is changed.

    Doing it again with the same alias changes nothing, or takes in that the alias has moved meanwhile.
    """
    held, layout = _layout(project, name)
    held.refuse_sealed(name)
    alias = Alias.parse(alias_text, region=layout.region)
    if Mode.BYOKMS not in OFFERED[layout.cloud]:
        raise RefusedInput(
            f"tenant {name} is on {layout.cloud}, where there is no mode {Mode.BYOKMS}",
            hint=f"keyshift tenant show {name}",
            code="mode-not-offered",
        )
    _refuse_our_account(layout, alias)
    held.refuse_foreign_keys([layout], also={alias.arn})
    before = check(alias, _ways(project, layout, None))
    if before.seen is None or not before.is_fit:
        return _onboarded(layout, before, is_bound=False)
    held.refuse_foreign_keys([layout], also={before.seen.arn})
    waiting = unused_key(layout, Mode.BYOKMS)
    key = Key(
        id=waiting.id if waiting else next_id(layout.keys, "k"),
        state=KeyState.PENDING,
        arn=before.seen.arn,
        alias=alias.arn,
        material=before.seen.material,
    )
    if key != waiting or on_rotation not in (None, layout.on_rotation):
        terms = {"on_rotation": on_rotation.model_dump(mode="json")} if on_rotation else {}
        bind({"key": key.model_dump(mode="json"), **terms})
    _, layout = _layout(project, name)
    return _onboarded(layout, check(alias, _ways(project, layout, key.id)), is_bound=True)


def _onboarded(layout: Layout, report: Report, *, is_bound: bool) -> Data:
    mends = f"have the customer mend it (keyshift key policy {layout.tenant}), then run this again"
    next_command = confirmation.next_command(layout) if report.is_fit else mends
    about = {"bound": is_bound, **report.data(), "on_rotation": layout.on_rotation.model_dump(mode="json")}
    return {"tenant": layout.tenant, **about, "next": next_command}


def _layout(project: Project, name: str) -> tuple[Records, Layout]:
    held = Records(connect(project.home))
    return held, held.tenant(name).layout


def _bound(layout: Layout) -> Key | None:
    """The customer's key that is looked at first: what serves, else what waits to be used."""
    serving = layout.storage(layout.serves.storage).key if layout.serves else None
    in_use = [k for k in layout.keys if k.alias is not None and k.state in {KeyState.PENDING, KeyState.ACTIVE}]
    return next((k for k in in_use if k.id == serving), in_use[-1] if in_use else None)


def _sharing(held: Records, layout: Layout, alias: str) -> list[str]:
    """The customer's tenants that hold this alias, this one included: they share one policy."""
    sharing = {
        one.name
        for one in held.tenants()
        if one.layout.customer == layout.customer and any(key.alias == alias for key in one.layout.keys)
    }
    return sorted(sharing | {layout.tenant})


def _ways(project: Project, layout: Layout, key: str | None) -> Ways:
    outputs = Stack(project, naming.tenant_stack(layout.tenant)).outputs()
    return confirmation.ways(Live(layout, outputs), key)


def _our_account(layout: Layout) -> str:
    return aws.client(aws.operator(layout.region), "sts").get_caller_identity()["Account"]


def _refuse_our_account(layout: Layout, alias: Alias) -> None:
    policy.Terms(
        customer_account=alias.account,
        vendor_account=_our_account(layout),
        region=alias.region,
        tenants=[layout.tenant],
    )

"""What is left to do for a tenant whose key has ended: everything can be deleted without one, nothing can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from elasticsearch import ApiError, Elasticsearch

from migrate.certificates import Certificates
from migrate.denials import is_locked
from migrate.errors import Conflict
from migrate.fates import Fate, Fates, KeyFate
from migrate.operations import EndedKey, OperationKind
from migrate.stack import Project
from stacks.layout import Layout
from stacks.record import TenantRecord, connect

Data = dict[str, Any]


def asked(project: Project, tenant: TenantRecord, kind: OperationKind) -> Data:
    """What a deletion of a sealed tenant is asked with, if what serves lies under a key that has ended; else nothing."""
    if kind is not OperationKind.DELETE or not tenant.sealed:
        return {}
    ended = ended_keys(project, tenant.layout)
    return {"ended": [one.model_dump(mode="json") for one in ended]} if ended else {}


def ended_keys(project: Project, layout: Layout) -> list[EndedKey]:
    """The keys under which what serves lies and which were destroyed or declared lost."""
    if layout.serves is None:
        return []
    keys = (layout.storage(layout.serves.storage).key, layout.search(layout.serves.search).key)
    used = {key for key in keys if key is not None}
    fates = Fates(connect(project.home)).of(layout.tenant)
    proofs = Certificates(project.home / "tenants" / layout.tenant)
    return [_ended(fates[key], proofs) for key in sorted(used & fates.keys())]


def _ended(fate: KeyFate, proofs: Certificates) -> EndedKey:
    name = f"{fate.key}-destroyed"
    is_certified = fate.fate is Fate.DESTROYED and proofs.load(name) is not None
    return EndedKey(id=fate.key, says=str(fate), certificate=name if is_certified else None)


def require_ended(tenant: str, ended: Sequence[EndedKey], refusal: Callable[[str], str]) -> Data:
    """What a verdict says of keys that have ended, each tried just now. Raises Conflict for one that works again.

    `refusal`: what the cloud answers to who uses a key, "" if it lets them.
    """
    said = {key.id: refusal(key.id) for key in ended}
    if back := [id for id, answer in said.items() if not answer]:
        raise Conflict(
            f"{', '.join(back)} of tenant {tenant} works again, so what lies under it can be read; nothing was deleted",
            hint=f"keyshift restore {tenant} takes the deletion back",
            code="key-back",
        )
    return {
        "unreadable": "nothing of it could be read, so it is listed and never compared; "
        + "; ".join(f"{key.says} (KMS: {said[key.id]})" for key in ended),
        "certificates": ", ".join(key.certificate or f"none: {key.id} was declared lost" for key in ended),
    }


def locked(search: Elasticsearch) -> str:
    """What a deployment answers that its lost key has locked; "" where it answers as ever."""
    try:
        search.info()
    except ApiError as error:
        if is_locked(error):
            return f"{error.meta.status} ({error.message})"
        raise
    return ""

"""What a caller (CLI, Console) asks about tenants: plain functions from a project to JSON-able data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from components import naming
from migrate import archive, aws
from migrate.copy.s3 import Side
from migrate.errors import KeyshiftError, RefusedInput, Waiting
from migrate.index import aliases
from migrate.intake import Ids
from migrate.keys import imported, wrap
from migrate.live import Live
from migrate.progress import Report
from migrate.records import Operation, Records
from migrate.seals import Seals
from migrate.stack import Project, Stack, brought_up
from migrate.verdict import Verdict, Verdicts
from stacks import config
from stacks.errors import ConfigError
from stacks.first import first_layout
from stacks.layout import KeyState, Layout
from stacks.record import TenantRecord, connect

Data = dict[str, Any]


def records(project: Project) -> Records:
    return Records(connect(project.home))


def folder(project: Project, name: str) -> Path:
    """Where a tenant's journal, verdicts, log and key requests are kept."""
    return project.home / "tenants" / name


# tenants ----------------------------------------------------------------------------------------


def create(project: Project, name: str, said: Mapping[str, str]) -> Data:
    """A new tenant's record at generation 1, and its stack file. Raises RefusedInput; then nothing was made.

    `said`: customer, keyMode, cloud, stamp and region, as they would stand below `keyshift:` in the stack file.
    """
    try:
        settings = config.parse(naming.tenant_stack(name), said)
    except ConfigError as error:
        raise RefusedInput(
            error.message, hint=error.hint or "keyshift tenant create --help", code="tenant-input"
        ) from error
    if not isinstance(settings, config.TenantSettings):
        raise RefusedInput(f"{name} is no tenant's name", hint="keyshift tenant create --help", code="tenant-input")
    if settings.stamp not in brought_up(project):
        raise RefusedInput(
            f"tenant {name} should sit on {settings.stamp}, which has not been brought up in this project",
            hint=f"pulumi stack init {settings.stamp}, then pulumi up -s {settings.stamp}",
            code="no-stamp",
        )
    held = records(project)
    held.refuse_taken(name)
    Stack(project, naming.tenant_stack(name)).make()  # first, because it is what can fail
    held.create(first_layout(settings))
    render(project, name)
    return describe(project, name)


def render(project: Project, name: str) -> Data:
    """Writes the stack file from the record."""
    tenant = records(project).tenant(name)
    stack = Stack(project, naming.tenant_stack(name))
    stack.render(tenant.layout, tenant.generation)
    return {"tenant": name, "generation": tenant.generation, "file": stack.file.name}


def describe(project: Project, name: str) -> Data:
    held = records(project)
    tenant = held.tenant(name)
    return {
        "generation": tenant.generation,
        "layout": tenant.layout.model_dump(mode="json"),
        "sealed": _seal(project, name),
        "next": _next_command(tenant, held.unfinished(name)),
    }


def describe_all(project: Project) -> list[Data]:
    held = records(project)
    rows = []
    for tenant in held.tenants():
        layout, operation = tenant.layout.model_dump(mode="json"), held.unfinished(tenant.name)
        row = {name: layout[name] for name in ("tenant", "customer", "mode", "serves", "gate")}
        row["sealed"] = _seal(project, tenant.name)
        rows.append({**row, "operation": operation and f"{operation.id}: {operation.state}"})
    return rows


def status(project: Project, name: str) -> Data:
    """Where a tenant and its last operation stand. Reads the record only; takes no lock."""
    held = records(project)
    tenant = held.tenant(name)
    operations = held.operations(name)
    gate = tenant.layout.gate
    last = operations[-1] if operations else None
    return {
        "tenant": name,
        "mode": str(tenant.layout.mode),
        "generation": tenant.generation,
        "sealed": _seal(project, name),
        "jobs": gate.jobs,
        "searches": f"archived before {gate.search_cutoff}" if gate.search_cutoff else "all",
        "worked_on_by": held.worker(name),
        "operation": last
        and {
            "id": last.id,
            "state": last.state,
            "step": last.step,
            "started_at": last.started_at.isoformat(),
            "progress": last.progress,
            "message": last.message,
            "hint": last.hint,
        },
    }


def last_operation(project: Project, name: str) -> Operation:
    """The newest operation of a tenant. Raises RefusedInput when there was none."""
    operations = records(project).operations(name)
    if not operations:
        raise RefusedInput(f"tenant {name} has had no operation yet", hint=f"keyshift tenant show {name}")
    return operations[-1]


def report(_: Project, operation: Operation) -> Data:
    """What an operation came to: the closing table."""
    found = {step.split("-", 1)[-1]: result for step, result in operation.results.items()}
    ended = operation.ended_at
    closed, opened = operation.jobs_closed_at, operation.jobs_opened_at
    left = found.get("prove-empty")
    return {
        "operation": operation.id,
        "state": operation.state,
        "seconds": (ended - operation.started_at).total_seconds() if ended else None,
        "jobs_disabled_seconds": (opened - closed).total_seconds() if closed and opened else None,
        "storage": found.get("verify-storage"),
        "index": found.get("verify-index"),
        "left_behind": left and left["left_behind"],
        "verdicts": {step: result["verdict"] for step, result in found.items() if result.get("verdict")},
    }


def _seal(project: Project, name: str) -> Data | None:
    """The seal in force: why, since when, by whom."""
    seal = Seals(connect(project.home)).in_force(name)
    return seal and {"reason": seal.reason, "at": seal.at.isoformat(), "by": seal.by}


def _next_command(tenant: TenantRecord, unfinished: Operation | None) -> str | None:
    if tenant.sealed:
        return f"keyshift restore {tenant.name}, once it may be opened again"
    if unfinished is not None:
        return unfinished.hint or f"keyshift resume {tenant.name}"
    if any(key.state is KeyState.PENDING for key in tenant.layout.keys):
        return f"keyshift key request {tenant.name}"
    return None


# seal -------------------------------------------------------------------------------------------


def seal(project: Project, name: str, reason: str, limit: float, report: Report) -> Data:
    """Closes a tenant to all but the runner, and tries every path until it is refused."""
    from migrate.seal import Sealer  # noqa: PLC0415 - a second of imports that only operations need

    return Sealer(project, name, report).seal(reason, limit=limit)


def restore(project: Project, name: str, reason: str, limit: float, report: Report) -> Data:
    """Opens a sealed tenant again, once the runner has read what lies in it."""
    from migrate.seal import Sealer  # noqa: PLC0415 - as above

    return Sealer(project, name, report).restore(reason, limit=limit)


# keys -------------------------------------------------------------------------------------------


def has_empty_key(project: Project, name: str) -> bool:
    """Whether a key without material already stands in the cloud, waiting for the customer's."""
    tenant = records(project).tenant(name)
    pending = _pending_key(tenant.layout)
    return pending is not None and pending in Stack(project, naming.tenant_stack(name)).outputs().get("keys", {})


def key_request(project: Project, name: str, into: Path) -> Data:
    """Gets the wrapping key of the tenant's empty key and puts its public half into a folder."""
    records(project).refuse_sealed(name)
    tenant = records(project).tenant(name)
    key = _pending_key(tenant.layout)
    if key is None:
        raise RefusedInput(
            f"tenant {name} has no key that waits for its material",
            hint=f"keyshift key list {name}",
            code="no-empty-key",
        )
    live = Live.find(project, name)
    kms, arn = aws.client(live.operator, "kms"), live.key_arn(key)
    if kms.describe_key(KeyId=arn)["KeyMetadata"]["KeyState"] != "PendingImport":
        raise RefusedInput(
            f"{key} of tenant {name} already holds the customer's key; a new request would make its upload unknown",
            hint=f"keyshift key list {name}",
            code="key-already-imported",
        )
    requests = folder(project, name) / "key-requests"
    made = imported.request(kms, arn, requests)
    into.mkdir(parents=True, exist_ok=True)
    public_key = into / f"{name}-{key}-wrapping-public-key.der"
    public_key.write_bytes(imported.public_key_path(requests, made).read_bytes())
    return {
        "tenant": name,
        "key": key,
        "public_key": str(public_key),
        "valid_until": made.valid_to,
        "openssl": wrap.openssl_lines(public_key),
    }


_UPLOAD_HINTS = {
    "import-token-expired": "keyshift key request {name}, then have the same key wrapped with its new public key",
    "import-token-invalid": "keyshift key request {name}, then have the same key wrapped with its new public key",
    "key-not-unwrapped": "keyshift key wrap, with the public key of this request: keyshift key request {name}",
    "no-import-request": "keyshift key request {name}, then have a key wrapped with its public key",
    "key-already-imported": "keyshift key list {name} shows what it holds; another key would be a rotation",
    "key-state": "keyshift key list {name}",
}
"""What to type next, where `keys.imported`, which knows no tenants, can only describe it."""


def key_upload(project: Project, name: str, file: Path, sha256: str) -> Data:
    """Imports the customer's wrapped key. Uploading the same file twice changes nothing."""
    tenant = records(project).tenant(name)
    if not tenant.layout.keys:
        raise RefusedInput(
            f"tenant {name} has no key to import into", hint=f"keyshift key request {name}", code="no-empty-key"
        )
    records(project).refuse_sealed(name)
    wrapped = _read(file)
    live = Live.find(project, name)
    key = _pending_key(tenant.layout) or tenant.layout.keys[-1].id
    try:
        found = imported.upload(
            aws.client(live.operator, "kms"), live.key_arn(key), wrapped, sha256, folder(project, name) / "key-requests"
        )
    except (RefusedInput, Waiting) as refused:
        refused.message = f"{file}: {refused.message}"
        if refused.code in _UPLOAD_HINTS:
            refused.hint = _UPLOAD_HINTS[refused.code].format(name=name)
        raise
    return {
        "tenant": name,
        "key": key,
        "state": "imported before; nothing was changed" if found.already else "imported",
        "fingerprint": found.key_material_id,
        "sha256": found.wrapped_sha256,
        "next": f"keyshift {'resume' if tenant.layout.serves is None or records(project).unfinished(name) else 'enable'} {name}",
    }


def keys(project: Project, name: str) -> list[Data]:
    """The tenant's keys as the layout and as KMS see them."""
    tenant = records(project).tenant(name)
    if not tenant.layout.keys:
        return []
    live = Live.find(project, name)
    kms = aws.client(live.operator, "kms")
    rows = []
    for key in tenant.layout.keys:
        described = kms.describe_key(KeyId=live.key_arn(key.id))["KeyMetadata"]
        users = [u.id for u in (*tenant.layout.storages, *tenant.layout.searches) if u.key == key.id]
        rows.append(
            {
                "id": key.id,
                "state": str(key.state),
                "kms_state": described["KeyState"],
                "used_by": ", ".join(users) or "nothing",
                "fingerprint": described.get("CurrentKeyMaterialId", "-"),
                "arn": described["Arn"],
            }
        )
    return rows


def wrap_key(public_key: Path, output: Path, key: Path | None, keep: Path | None) -> Data:
    """The customer's side: wraps a key, needs no cloud and no tenant."""
    made = wrap.wrap(_read(public_key), _read(key) if key else None)
    wrap.save(made, output, keep)
    return {
        "file": str(output),
        "bytes": len(made.wrapped),
        "sha256": made.wrapped_sha256,
        "kept": str(keep) if keep else None,
    }


def _pending_key(layout: Layout) -> str | None:
    pending = [key.id for key in layout.keys if key.state is KeyState.PENDING]
    return pending[-1] if pending else None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RefusedInput(f"{file} cannot be read: {error.strerror}", hint="name an existing file") from error


# archive ----------------------------------------------------------------------------------------


def archive_import(project: Project, name: str, path: Path, ids: Ids, report: Report) -> Data:
    """Loads records and attachments as the Archive service, under its role."""
    live = Live.find(project, name)
    began = time.monotonic()
    found = archive.import_path(live.storage(live.serves.storage, "archive"), path, ids, report)
    return {**asdict(found), "seconds": round(time.monotonic() - began, 1)}


class ArchiveClient:
    """What the Archive service does with one tenant: writes, reads, searches. Follows what serves."""

    def __init__(self, project: Project, name: str) -> None:
        self._project = project
        self._name = name
        self._live: Live | None = None
        self._before: Live | None = None

    def write(self, type: str, id: str, data: Mapping[str, Any]) -> int:
        """Archives a record; returns its revision. Raises CloudError when the cloud refuses."""
        return archive.write_record(self._side(), type, id, data).revision

    def has(self, type: str, id: str) -> bool:
        return archive.read(self._side(), f"records/{type}/{id}.json") is not None

    def read_first(self) -> tuple[str, int]:
        """Key and length of the first object of a listing, really read. Raises ClientError as S3 gave it."""
        side = self._side()
        listed = side.s3.list_objects_v2(Bucket=side.storage.bucket, Prefix=side.storage.prefix + "records/", MaxKeys=1)
        key = listed["Contents"][0]["Key"].removeprefix(side.storage.prefix)
        return key, len(archive.read(side, key) or b"")

    def search(self, query: str, limit: int = 10) -> Data:
        """Searches the deployment that serves, through the read alias.

        While the serving side is switched, the old one answers until the new one lets Archive in.
        """
        live = self._current()
        try:
            return self._found(live, query, limit)
        except KeyshiftError:
            if self._before is None:
                raise
            return self._found(self._before, query, limit)

    def _found(self, live: Live, query: str, limit: int) -> Data:
        unit = live.serves.search
        found = aliases.search(live.search(unit, "archive"), live.outputs["searches"][unit]["read_alias"], query, limit)
        cutoff = live.layout.gate.search_cutoff
        return {"tenant": self._name, "search": unit, "cutoff": cutoff and cutoff.isoformat(), **asdict(found)}

    def _side(self) -> Side:
        live = self._current()
        return live.storage(live.serves.storage, "archive")

    def _current(self) -> Live:
        """The tenant as the record has it now; the stack's outputs are read anew only when it changed."""
        layout = records(self._project).tenant(self._name).layout
        if self._live is None or self._live.layout.serves != layout.serves:
            self._before, self._live = self._live, Live.find(self._project, self._name)
        elif self._live.layout != layout:
            self._live = replace(self._live, layout=layout)
        return self._live


def encryption(project: Project, name: str) -> Data:
    """Which key encrypts what serves, as the cloud says it, not as the layout does."""
    live = Live.find(project, name)
    side, search = live.storage(live.serves.storage), live.outputs["searches"][live.serves.search]
    rules = live.client("runner", "s3").get_bucket_encryption(Bucket=side.storage.bucket)
    rule = rules["ServerSideEncryptionConfiguration"]["Rules"][0]["ApplyServerSideEncryptionByDefault"]
    return {
        "bucket": side.storage.bucket,
        "bucket_key": rule.get("KMSMasterKeyID"),
        "deployment": search["deployment_id"],
        "deployment_key": search["key_arn"],
    }


# verdicts ---------------------------------------------------------------------------------------


def verdicts(project: Project, name: str) -> list[Data]:
    """The tenant's verdicts, oldest first, each with its signature checked."""
    records(project).tenant(name)
    return [_verdict(found) for found in Verdicts(folder(project, name)).all()]


def verdict(project: Project, name: str, id: str) -> Data:
    """One verdict. Raises RefusedInput when there is none, VerificationFailed when its signature does not fit."""
    records(project).tenant(name)
    found = Verdicts(folder(project, name)).load(id)
    if found is None:
        raise RefusedInput(
            f"tenant {name} has no verdict {id}", hint=f"keyshift verdict list {name}", code="unknown-verdict"
        )
    return _verdict(found)


def _verdict(found: Verdict) -> Data:
    counts = found.counts
    return {**found.model_dump(mode="json"), "count": counts.get("versions", counts.get("found")), "signature": "fits"}

"""Layouts of one tenant along its life, as the planner makes them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import azure_graph
from graph import STAMP

from stacks.config import TenantSettings, parse
from stacks.first import first_layout
from stacks.layout import (
    Dropped,
    Gate,
    Key,
    KeyState,
    Layout,
    Mode,
    Pipeline,
    PipelineState,
    Search,
    Serves,
    Storage,
    StorageKind,
)

CUTOFF = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CUSTOMER_ALIAS = "arn:aws:kms:eu-west-1:444455556666:alias/archive"
CUSTOMER_KEY = "arn:aws:kms:eu-west-1:444455556666:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def settings(**values: object) -> TenantSettings:
    parsed = parse("tenant-acme", {"stamp": STAMP, "customer": "acme-corp", **values})
    assert isinstance(parsed, TenantSettings)
    return parsed


def changed(layout: Layout, **values: object) -> Layout:
    return Layout.model_validate({**layout.model_dump(), **values})


def standard() -> Layout:
    return first_layout(settings())


def byok_pending() -> Layout:
    return first_layout(settings(keyMode="byok"))


def byok_active() -> Layout:
    return changed(
        byok_pending(),
        keys=(Key(id="k1", state=KeyState.ACTIVE),),
        storages=(Storage(id="s1", kind=StorageKind.DEDICATED, key="k1"),),
        searches=(Search(id="e1", key="k1"),),
        pipelines=(Pipeline(id="p1", storage="s1", search="e1", state=PipelineState.RUNNING),),
        serves=Serves(storage="s1", search="e1", pipeline="p1"),
    )


def enable_frozen() -> Layout:
    """The middle of enable: both storages and both searches stand, jobs are closed."""
    start = standard()
    return changed(
        start,
        keys=(Key(id="k1", state=KeyState.ACTIVE),),
        storages=(
            Storage(id="s1", kind=StorageKind.SHARED, watched=True),
            Storage(id="s2", kind=StorageKind.DEDICATED, key="k1"),
        ),
        searches=(*start.searches, Search(id="e2", key="k1")),
        pipelines=(
            *start.pipelines,
            Pipeline(id="p2", storage="s2", search="e2", state=PipelineState.DETACHED),
        ),
        gate=Gate(jobs="closed", search_cutoff=CUTOFF, reason="enable-1: final copy"),
    )


def enable_served() -> Layout:
    frozen = enable_frozen()
    return changed(
        frozen,
        mode=Mode.BYOK,
        storages=(Storage(id="s1", kind=StorageKind.SHARED), frozen.storage("s2")),
        pipelines=(
            Pipeline(id="p1", storage="s1", search="e1", state=PipelineState.DETACHED),
            Pipeline(id="p2", storage="s2", search="e2", state=PipelineState.RUNNING),
        ),
        serves=Serves(storage="s2", search="e2", pipeline="p2"),
        gate=Gate(),
    )


def enable_released() -> Layout:
    return changed(
        enable_served(),
        storages=(
            Storage(id="s1", kind=StorageKind.SHARED, release="enable-1-storage"),
            Storage(id="s2", kind=StorageKind.DEDICATED, key="k1"),
        ),
        searches=(Search(id="e1", release="enable-1-index"), Search(id="e2", key="k1")),
    )


def enable_done() -> Layout:
    served = enable_served()
    return changed(
        served,
        storages=served.storages[1:],
        searches=served.searches[1:],
        pipelines=served.pipelines[1:],
        dropped=(
            Dropped(id="s1", verdict="enable-1-purge"),
            Dropped(id="e1", verdict="enable-1-index"),
            Dropped(id="p1", verdict="enable-1-index"),
        ),
    )


def rotation() -> Layout:
    """Two pipelines listen to one bucket, whose default key is the new one already."""
    active = byok_active()
    return changed(
        active,
        keys=(*active.keys, Key(id="k2", state=KeyState.ACTIVE)),
        storages=(Storage(id="s1", kind=StorageKind.DEDICATED, key="k2"),),
        searches=(*active.searches, Search(id="e2", key="k2")),
        pipelines=(*active.pipelines, Pipeline(id="p2", storage="s1", search="e2", state=PipelineState.RUNNING)),
    )


def byokms_bound() -> Layout:
    """A new tenant whose customer's key may be tried, and nothing more."""
    key = Key(id="k1", state=KeyState.PENDING, arn=CUSTOMER_KEY, alias=CUSTOMER_ALIAS, material="m1")
    return changed(first_layout(settings(keyMode="byokms")), keys=(key,))


def byokms_active() -> Layout:
    return changed(
        byok_active(),
        mode=Mode.BYOKMS,
        keys=(Key(id="k1", state=KeyState.ACTIVE, arn=CUSTOMER_KEY, alias=CUSTOMER_ALIAS),),
    )


def sealed(layout: Layout) -> Layout:
    return changed(layout, gate=Gate(jobs="closed", access="closed", reason="revoked"))


CUSTOMER_VAULT_KEY = "https://acme-archive.vault.azure.net/keys/archive"
CUSTOMER_DIRECTORY = "99999999-8888-7777-6666-555555555555"


def on_azure(layout: Layout) -> Layout:
    """The same moment of a tenant's life on the other cloud."""
    keys = [
        key.model_copy(
            update={"arn": CUSTOMER_VAULT_KEY, "alias": CUSTOMER_VAULT_KEY, "directory": CUSTOMER_DIRECTORY}
            if key.arn
            else {"material": None if key.state is KeyState.PENDING else f"version-{key.id}"}
        )
        for key in layout.keys
    ]
    return changed(
        layout,
        cloud="azure",
        region=azure_graph.LOCATION,
        stamp=azure_graph.STAMP,
        mode=Mode.BYOKV if layout.mode is Mode.BYOKMS else layout.mode,
        keys=[key.model_dump() for key in keys],
        searches=[{**search.model_dump(), "key": None} for search in layout.searches],
    )


def azure_rotation() -> Layout:
    """The one account is under the new version already; no search comes beside the one that serves."""
    active = on_azure(byok_active())
    keys = (*active.keys, Key(id="k2", state=KeyState.ACTIVE, material="version-k2"))
    return changed(active, keys=keys, storages=(Storage(id="s1", kind=StorageKind.DEDICATED, key="k2"),))


ALL = {
    "standard": standard,
    "byok_pending": byok_pending,
    "byok_active": byok_active,
    "enable_frozen": enable_frozen,
    "enable_served": enable_served,
    "enable_released": enable_released,
    "enable_done": enable_done,
    "rotation": rotation,
    "byokms_bound": byokms_bound,
    "byokms_active": byokms_active,
}

AZURE = {
    **{name.replace("byokms", "byokv"): partial(lambda make: on_azure(make()), make) for name, make in ALL.items()},
    "rotation": azure_rotation,
}

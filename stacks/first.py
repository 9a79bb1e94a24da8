"""The first layout of a tenant that so far is only a few words of configuration."""

from __future__ import annotations

from stacks.config import TenantSettings
from stacks.layout import (
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


def first_layout(settings: TenantSettings) -> Layout:
    """A standard tenant is whole at once. One under a customer's key serves nothing until that key is in.

    For byok we make the key, empty, for the customer to import into; in the other modes the key is
    the customer's own and comes with the operation that names it.
    """
    bare = Layout(
        tenant=settings.tenant,
        customer=settings.customer,
        cloud=settings.cloud,
        region=settings.region,
        stamp=settings.stamp,
        mode=settings.key_mode,
    )
    match settings.key_mode:
        case Mode.STANDARD:
            units = {
                "storages": (Storage(id="s1", kind=StorageKind.SHARED),),
                "searches": (Search(id="e1"),),
                "pipelines": (Pipeline(id="p1", storage="s1", search="e1", state=PipelineState.RUNNING),),
                "serves": Serves(storage="s1", search="e1", pipeline="p1"),
            }
        case Mode.BYOK:
            units = {"keys": (Key(id="k1", state=KeyState.PENDING),)}
        case Mode.BYOKMS | Mode.BYOKV:
            units = {}
    return Layout.model_validate({**bare.model_dump(), **units})

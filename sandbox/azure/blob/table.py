"""The blob calls that the gate lets through. Azurite takes an unknown one for another: a DELETE with `comp=madeup`
deletes the blob. So what is not here is answered 501.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
_CONTAINERS = "Microsoft.Storage/storageAccounts/blobServices/containers"
READ, WRITE, DELETE = f"{_BLOBS}/read", f"{_BLOBS}/write", f"{_BLOBS}/delete"
READ_TAGS, WRITE_TAGS = f"{_BLOBS}/tags/read", f"{_BLOBS}/tags/write"


@dataclass(frozen=True)
class Operation:
    """`action` is what a role must grant (Docs: permissions for blob service operations); `needs_key` whether it is
    among those that the account's key is needed for (Docs: customer-managed-keys-overview, revoke access).
    """

    name: str
    action: str
    is_data: bool = True
    needs_key: bool = False
    query: frozenset[str] = field(default_factory=frozenset)
    event: str = ""


def _q(*names: str) -> frozenset[str]:
    return frozenset(names)


_CREATED, _DELETED = "Microsoft.Storage.BlobCreated", "Microsoft.Storage.BlobDeleted"

# By level, method, restype and comp.
TABLE: Mapping[tuple[str, str, str, str], Operation] = {
    ("service", "GET", "", "list"): Operation(
        "ListContainers", f"{_CONTAINERS}/read", is_data=False, query=_q("prefix", "marker", "maxresults", "include")
    ),
    ("container", "PUT", "container", ""): Operation("CreateContainer", f"{_CONTAINERS}/write", is_data=False),
    ("container", "DELETE", "container", ""): Operation("DeleteContainer", f"{_CONTAINERS}/delete", is_data=False),
    ("container", "GET", "container", ""): Operation("GetContainerProperties", f"{_CONTAINERS}/read", is_data=False),
    ("container", "HEAD", "container", ""): Operation("GetContainerProperties", f"{_CONTAINERS}/read", is_data=False),
    ("container", "GET", "container", "list"): Operation(
        "ListBlobs", READ, query=_q("prefix", "delimiter", "marker", "maxresults", "include", "showonly", "startfrom")
    ),
    ("blob", "GET", "", ""): Operation("GetBlob", READ, needs_key=True, query=_q("snapshot")),
    ("blob", "HEAD", "", ""): Operation("GetBlobProperties", READ, needs_key=True, query=_q("snapshot")),
    ("blob", "GET", "", "metadata"): Operation("GetBlobMetadata", READ, needs_key=True, query=_q("snapshot")),
    ("blob", "HEAD", "", "metadata"): Operation("GetBlobMetadata", READ, needs_key=True, query=_q("snapshot")),
    ("blob", "GET", "", "tags"): Operation("GetBlobTags", READ_TAGS, query=_q("snapshot")),
    ("blob", "GET", "", "blocklist"): Operation("GetBlockList", READ, query=_q("snapshot", "blocklisttype")),
    ("blob", "GET", "", "pagelist"): Operation("GetPageRanges", READ, query=_q("snapshot", "marker", "maxresults")),
    ("blob", "PUT", "", ""): Operation("PutBlob", WRITE, needs_key=True, event=_CREATED),
    ("blob", "PUT", "", "block"): Operation("PutBlock", WRITE, needs_key=True, query=_q("blockid")),
    ("blob", "PUT", "", "blocklist"): Operation("PutBlockList", WRITE, event=_CREATED),
    ("blob", "PUT", "", "page"): Operation("PutPage", WRITE, needs_key=True),
    ("blob", "PUT", "", "appendblock"): Operation("AppendBlock", WRITE, needs_key=True),
    ("blob", "PUT", "", "metadata"): Operation("SetBlobMetadata", WRITE, needs_key=True),
    ("blob", "PUT", "", "properties"): Operation("SetBlobProperties", WRITE),
    ("blob", "PUT", "", "tags"): Operation("SetBlobTags", WRITE_TAGS),
    ("blob", "PUT", "", "tier"): Operation("SetBlobTier", WRITE, needs_key=True, query=_q("snapshot")),
    ("blob", "PUT", "", "lease"): Operation("LeaseBlob", WRITE),
    ("blob", "PUT", "", "snapshot"): Operation("SnapshotBlob", WRITE),
    ("blob", "PUT", "", "copy"): Operation("AbortCopyBlob", WRITE, query=_q("copyid")),
    ("blob", "DELETE", "", ""): Operation("DeleteBlob", DELETE, query=_q("snapshot"), event=_DELETED),
}

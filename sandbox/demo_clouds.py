"""What a demo is told about the cloud that it runs on; everything else is the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DemoCloud:
    """`settings`: of the stamp, from the sandbox's environment. `wrap`: options of `key wrap`.

    `locked`: the cloud's word for a storage whose key is disabled; `denials`: its words for a write past a closed gate.
    """

    name: str
    region: str
    shared: str
    wrap: tuple[str, ...]
    wrapped: str
    locked: str
    denials: tuple[str, ...]
    settings: Callable[[], Mapping[str, str]]

    @property
    def stamp(self) -> str:
        return f"stamp-{self.name}-{self.region}-01"


def _of_azure() -> dict[str, str]:
    said = os.environ
    return {
        "operatorPrincipal": said["AZURE_OPERATOR_OBJECT_ID"],
        "operatorIssuer": said["KEYSHIFT_WORKLOAD_ISSUER"],
        "operatorSubject": said["KEYSHIFT_WORKLOAD_SUBJECT"],
        "workerImage": "keyshift/worker:sandbox",
        "entraIssuer": f"{said['AZURE_AUTHORITY_HOST']}/{said['AZURE_TENANT_ID']}/v2.0",
    }


CLOUDS = {
    "aws": DemoCloud(
        name="aws",
        region="eu-west-1",
        shared="bucket",
        wrap=(),
        wrapped="wrapped-key.bin",
        locked="KMS.DisabledException",
        denials=("AccessDenied", "denied"),
        settings=dict,
    ),
    "azure": DemoCloud(
        name="azure",
        region="westeurope",
        shared="storage account",
        wrap=("--azure",),
        wrapped="customer-key.byok",
        locked="KeyVaultEncryptionKeyNotFound",
        denials=("AuthorizationPermissionMismatch",),
        settings=_of_azure,
    ),
}

"""What a secret gets: a place in the stamp's vault."""

from __future__ import annotations

import pulumi
import pulumi_azure_native as azure

from components.search import KeepSecret


def keeper(*, vault: pulumi.Input[str], group: pulumi.Input[str]) -> KeepSecret:
    """Keeps secrets in that vault. A deleted one stays there for as long as the vault keeps what is deleted."""

    def keep_secret(logical: str, name: str, value: pulumi.Output[str], opts: pulumi.ResourceOptions) -> None:
        azure.keyvault.Secret(
            logical,
            secret_name=name,
            vault_name=vault,
            resource_group_name=group,
            properties=azure.keyvault.SecretPropertiesArgs(value=value, content_type="application/json"),
            opts=opts,
        )

    return keep_secret

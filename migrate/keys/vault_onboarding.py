"""From a customer's words about a key in their own vault to a key that is bound to their tenant.

We can read neither their vault nor their directory, and do not try: the one thing asked is which directory the vault
says it belongs to, which it tells everybody. Whether the key can be used shows when the account is made under it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from typing import Any

import httpx
from azure.identity import AzureAuthorityHosts

from components import naming
from components.vault import VaultKey, is_of_the_same_cloud
from migrate.errors import RefusedInput
from migrate.plan.parts import next_id, unused_key
from migrate.records import Records
from migrate.stack import Project, Stack
from stacks.layout import OFFERED, Key, KeyState, Mode, OnRotation
from stacks.record import connect

Data = dict[str, Any]
ROLE = "Key Vault Crypto Service Encryption User"
_DIRECTORY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ASK_SECONDS = 10.0


def onboard(  # noqa: PLR0913 - the customer's words, each by name
    project: Project,
    name: str,
    *,
    vault: str,
    key: str,
    directory: str,
    on_rotation: OnRotation | None,
    bind: Callable[[Data], object],
) -> Data:
    """Binds vault, key and directory to a tenant, for good. Raises RefusedInput, and then nothing was changed."""
    held = Records(connect(project.home))
    held.refuse_sealed(name)
    layout = held.tenant(name).layout
    if Mode.BYOKV not in OFFERED[layout.cloud]:
        raise RefusedInput(
            f"tenant {name} is on {layout.cloud}, where there is no mode {Mode.BYOKV}",
            hint=f"keyshift tenant show {name}",
            code="mode-not-offered",
        )
    stamp = Stack(project, naming.tenant_stack(name)).outputs().get("stamp")
    if not stamp:
        raise RefusedInput(
            f"tenant {name} has not been brought up yet", hint=f"pulumi up -s tenant-{name}", code="not-up"
        )
    theirs = _named(vault, key, ours=stamp["vault_uri"])
    directory = _directory(directory)
    held.refuse_foreign_keys([layout], also={theirs.id, theirs.vault_uri})
    says = directory_of(theirs.vault_uri)
    if says is not None and says != directory:
        raise RefusedInput(
            f"the vault {theirs.vault_uri} belongs to the directory {says}, not to {directory}; nothing was changed",
            hint="ask the customer again: az account show --query tenantId, with the vault's subscription chosen",
            code="vault-of-another-directory",
        )
    waiting = unused_key(layout, Mode.BYOKV)
    bound = Key(
        id=waiting.id if waiting else next_id(layout.keys, "k"),
        state=KeyState.PENDING,
        arn=theirs.id,
        alias=theirs.id,
        directory=directory,
    )
    if bound != waiting or on_rotation not in (None, layout.on_rotation):
        bind(
            {"key": bound.model_dump(mode="json")}
            | ({"on_rotation": on_rotation.model_dump(mode="json")} if on_rotation else {})
        )
    layout = held.tenant(name).layout
    begins = "resume" if layout.serves is None else "enable" if layout.mode is Mode.STANDARD else "change"
    return {
        "tenant": name,
        "key": bound.id,
        "vault": theirs.vault_uri,
        "name": theirs.name,
        "directory": directory,
        "directory_is_proved": says is not None,
        "application": stamp["app_client_id"],
        "consent": consent_link(directory, stamp["app_client_id"]),
        "commands": commands(theirs, stamp["app_client_id"]),
        "portal": portal(theirs),
        "on_rotation": layout.on_rotation.model_dump(mode="json"),
        "next": f"keyshift {begins} {name}{'' if begins == 'resume' else f' --mode {Mode.BYOKV}'}",
    }


def directory_of(vault_uri: str) -> str | None:
    """The directory that a vault trusts, by what it answers to whoever is nobody; None where it cannot be reached.

    https://learn.microsoft.com/azure/key-vault/general/authentication-requests-and-responses
    """
    try:
        answer = httpx.get(f"{vault_uri}keys", params={"api-version": "7.4"}, timeout=ASK_SECONDS)
    except httpx.HTTPError:
        return None
    challenge = answer.headers.get("WWW-Authenticate", "")
    found = re.search(r'authorization(?:_uri)?="[^"]*/([0-9a-fA-F-]{36})/?"', challenge)
    return found[1].lower() if found else None


def consent_link(directory: str, application: str) -> str:
    """Where an administrator of the customer installs our application."""
    authority = os.environ.get("AZURE_AUTHORITY_HOST", AzureAuthorityHosts.AZURE_PUBLIC_CLOUD)
    host = authority.removeprefix("https://").rstrip("/")
    return f"https://{host}/{directory}/adminconsent?client_id={application}"


def commands(key: VaultKey, application: str) -> list[str]:
    """What the customer types; the role lies at the one key, not at its vault."""
    vault = _vault_name(key)
    scope = f"$(az keyvault show --name {shlex.quote(vault)} --query id -o tsv)/keys/{key.name}"
    ours = f"--assignee-object-id $(az ad sp show --id {application} --query id -o tsv)"
    kind = "--assignee-principal-type ServicePrincipal"
    return [
        f"az ad sp create --id {application}",
        f'az role assignment create --role {shlex.quote(ROLE)} {ours} {kind} --scope "{scope}"',
        f"az keyvault show --name {shlex.quote(vault)} --query properties.enablePurgeProtection   # has to be true",
    ]


def portal(key: VaultKey) -> list[str]:
    """The same by hand."""
    return [
        f"Key vaults > {_vault_name(key)} > Keys > {key.name} > Access control (IAM) > Add role assignment",
        f"Role: {ROLE}; Members: the application above, as an enterprise application; Review + assign",
    ]


def _vault_name(key: VaultKey) -> str:
    return key.vault_uri.removeprefix("https://").partition(".")[0]


def _named(vault: str, key: str, *, ours: str) -> VaultKey:
    try:
        named = VaultKey.of(vault, key)
    except ValueError as error:
        raise RefusedInput(
            f"{error}; nothing was changed",
            hint="give --vault https://<name>.vault.azure.net/ and --key <name>, without a version",
            code="vault-key-form",
        ) from error
    if not is_of_the_same_cloud(named.vault_uri, ours):
        raise RefusedInput(
            f"{named.vault_uri} is no vault of the Azure cloud that the tenant lies in, whose vaults are like {ours}",
            hint="a key of another cloud cannot be used across directories",
            code="vault-of-another-cloud",
        )
    if named.vault_uri == ours:
        raise RefusedInput(
            f"{named.vault_uri} is our own vault; nothing was changed",
            hint="a key that lies with us is the mode byok: keyshift key request",
            code="vault-is-ours",
        )
    return named


def _directory(text: str) -> str:
    directory = text.strip().lower()
    if not _DIRECTORY.fullmatch(directory):
        raise RefusedInput(
            f"{text!r} is no Entra tenant's id, which is a GUID; nothing was changed",
            hint="az account show --query tenantId",
            code="directory-form",
        )
    return directory

"""The configuration of a stack: one strict model, built from `pulumi.Config` at the edge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

import pulumi
import pulumi.runtime.config as runtime_config
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from components import naming
from stacks.errors import ConfigError
from stacks.layout import OFFERED, Cloud, Layout, Mode, Name

NAMESPACE = "keyshift"
SCALARS = ("cloud", "region", "stamp", "customer", "keyMode")
VENDOR_KEYS = {"vendorKeys": "vendor_keys", "vendorKey": "vendor_key", "oldestVendorKey": "oldest_vendor_key"}
"""What `keyshift stamp rotate` writes into a stamp's stack file -> the field that it is here."""
LAYOUT = "layout"
OF_AN_AZURE_STAMP = (
    "operatorPrincipal",
    "operatorIssuer",
    "operatorSubject",
    "workerImage",
    "vaultPrefix",
    "entraIssuer",
)

_STAMP = re.compile(r"stamp-(?P<cloud>aws|azure)-(?P<region>[a-z0-9-]*[a-z0-9])-(?P<number>\d{2,})")
_TENANT = re.compile(r"tenant-(?P<tenant>.+)")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AzureStamp(_Frozen):
    """What Azure does not tell of a stamp by itself.

    `operator_principal`: the object id of the service principal that runs `keyshift`, which is given the vault's keys.
    `operator_issuer` and `operator_subject`: of the workload tokens by which it acts as a tenant's identities.
    `entra_issuer`: of our own directory's tokens, if it is not the public cloud's. `vault_prefix`: another one lets a
    stamp be made again under its name while its old vault is still kept.
    """

    operator_principal: Annotated[str, Field(pattern="^[0-9a-fA-F-]{36}$")]
    operator_issuer: Annotated[str, Field(pattern="^https://[^ ]+$")]
    operator_subject: Annotated[str, Field(pattern="^[^ ]+$")]
    worker_image: Annotated[str, Field(pattern="^[^ ]+$")]
    vault_prefix: Annotated[str, Field(pattern="^[a-z](-?[a-z0-9]){2,13}$")] = "keyshift"
    entra_issuer: Annotated[str, Field(pattern="^https://[^ ]+$")] | None = None


class StampSettings(_Frozen):
    """A stamp is named `stamp-<cloud>-<region>-<nn>`, and on AWS its name says where everything of it is.

    Its vendor keys are numbered, never reused: `vendor_keys` of them were made, the shared bucket comes under
    `vendor_key`, and nothing lies under one before `oldest_vendor_key`: those are archived.
    """

    name: str
    cloud: Cloud
    region: str
    number: Annotated[int, Field(ge=1)]
    azure: AzureStamp | None = None
    vendor_keys: Annotated[int, Field(ge=1)] = 1
    vendor_key: Annotated[int, Field(ge=1)] = 1
    oldest_vendor_key: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _in_turn(self) -> Self:
        if not self.oldest_vendor_key <= self.vendor_key <= self.vendor_keys:
            raise ValueError(
                f"vendorKey is {self.vendor_key}, which is not between oldestVendorKey {self.oldest_vendor_key} and "
                f"vendorKeys {self.vendor_keys}"
            )
        return self

    @classmethod
    def parse(cls, name: str, **keys: object) -> Self:
        """`keys`: the numbers of its vendor keys. Raises ConfigError when `name` is no stamp's, or they do not fit."""
        named = _STAMP.fullmatch(name)
        if named is None:
            raise ConfigError(
                f"{name!r} is not the name of a stamp", hint="a stamp is named stamp-<cloud>-<region>-<two digits>"
            )
        about = {"cloud": named["cloud"], "region": named["region"], "number": named["number"], **keys}
        try:
            return cls.model_validate({"name": name, **about})
        except ValidationError as error:
            raise ConfigError(f"the configuration of {name} cannot be used: {_sentences(error)}") from error


class Rendered(_Frozen):
    """The tenant's layout as the runner or `keyshift stack render` wrote it into the stack file."""

    generation: Annotated[int, Field(ge=1)]
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    layout: Layout


class TenantSettings(_Frozen):
    tenant: Annotated[str, Field(min_length=1)]
    cloud: Cloud
    region: str
    stamp: str
    customer: Name
    key_mode: Mode
    rendered: Rendered | None = None

    @field_validator("tenant")
    @classmethod
    def _can_be_carried(cls, tenant: str) -> str:
        return naming.tenant_name(tenant)

    @model_validator(mode="after")
    def _is_offered(self) -> Self:
        if self.cloud is Cloud.AZURE and "--" in self.tenant:
            raise ValueError(f"the tenant name {self.tenant!r} has two hyphens in a row, which no container may have")
        if self.key_mode not in OFFERED[self.cloud]:
            offered = ", ".join(sorted(OFFERED[self.cloud]))
            raise ValueError(f"keyMode {self.key_mode} is not offered on {self.cloud}; choose one of: {offered}")
        stamp = StampSettings.parse(self.stamp)
        if (stamp.cloud, stamp.region) != (self.cloud, self.region):
            raise ValueError(
                f"the stamp {self.stamp} is in {stamp.region} on {stamp.cloud}, "
                f"but the tenant should be in {self.region} on {self.cloud}"
            )
        return self


Settings = StampSettings | TenantSettings


def read_settings() -> Settings:
    """The settings of the running stack. Raises ConfigError in one sentence for each thing wrong."""
    config = pulumi.Config(NAMESPACE)
    known = (*SCALARS, *VENDOR_KEYS)
    values: dict[str, Any] = {name: config.get(name) for name in known if config.get(name)}
    values |= {name: config.get(name) for name in _names() if name not in (*known, LAYOUT)}
    values = {name: value for name, value in values.items() if value or name not in OF_AN_AZURE_STAMP}
    if LAYOUT in _names():
        values[LAYOUT] = config.require_object(LAYOUT)
    if "region" not in values and (region := pulumi.Config("aws").get("region")):
        values["region"] = region
    return parse(pulumi.get_stack(), values)


def parse(stack: str, values: Mapping[str, Any]) -> Settings:
    """The settings of `stack` from the values below `keyshift:`. Raises ConfigError."""
    unknown = sorted(set(values) - {*SCALARS, LAYOUT, *_of_a_stamp(stack)})
    if unknown:
        raise ConfigError(
            f"the configuration of {stack} has keys that Keyshift does not know: "
            + ", ".join(f"{NAMESPACE}:{name}" for name in unknown),
            hint=f"pulumi config rm {NAMESPACE}:{unknown[0]} -s {stack}",
        )
    if stack.startswith("stamp-"):
        return _stamp(stack, values)
    named = _TENANT.fullmatch(stack)
    if named is None:
        raise ConfigError(
            f"the stack {stack!r} is neither a stamp nor a tenant",
            hint="name it stamp-<cloud>-<region>-<two digits> or tenant-<name>",
        )
    return _tenant(stack, named["tenant"], values)


def _of_a_stamp(stack: str) -> Iterable[str]:
    """Only a bucket's vendor key is rotated by hand: an account follows its own by itself."""
    if stack.startswith("stamp-azure-"):
        return OF_AN_AZURE_STAMP
    return VENDOR_KEYS if stack.startswith("stamp-") else ()


def _stamp(stack: str, values: Mapping[str, Any]) -> StampSettings:
    settings = StampSettings.parse(
        stack, **{field: values[name] for name, field in VENDOR_KEYS.items() if name in values}
    )
    if settings.cloud is not Cloud.AZURE:
        return settings
    return settings.model_copy(update={"azure": _azure_stamp(stack, values)})


def _azure_stamp(stack: str, values: Mapping[str, Any]) -> AzureStamp:
    given = {_snake(name): values[name] for name in OF_AN_AZURE_STAMP if values.get(name)}
    missing = [name for name in OF_AN_AZURE_STAMP[:4] if name not in values]
    if missing:
        raise ConfigError(
            f"the configuration of {stack} does not say: {', '.join(missing)}",
            hint=f"pulumi config set {NAMESPACE}:{missing[0]} VALUE -s {stack}; docs/azure.md says what each is",
        )
    try:
        return AzureStamp(**given)
    except ValidationError as error:
        raise ConfigError(f"the configuration of {stack} cannot be used: {_sentences(error)}") from error


def _tenant(stack: str, tenant: str, values: Mapping[str, Any]) -> TenantSettings:
    given = {**_defaults(stack, values), **{_field(name): value for name, value in values.items() if name != LAYOUT}}
    try:
        return TenantSettings(tenant=tenant, rendered=values.get(LAYOUT), **given)
    except ValidationError as error:
        raise ConfigError(f"the configuration of {stack} cannot be used: {_sentences(error)}") from error


def _defaults(stack: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """AWS and standard unless said otherwise; stamp and region each follow from the other."""
    cloud = values.get("cloud", Cloud.AWS)
    if "stamp" not in values and "region" not in values:
        raise ConfigError(
            f"the configuration of {stack} names no region",
            hint=f"pulumi config set {NAMESPACE}:region eu-west-1 -s {stack}",
        )
    if "customer" not in values:
        raise ConfigError(
            f"the configuration of {stack} names no customer",
            hint=f"pulumi config set {NAMESPACE}:customer NAME -s {stack}",
        )
    stamp = values.get("stamp") or naming.stamp_stack(cloud, values["region"], 1)
    return {"cloud": cloud, "key_mode": Mode.STANDARD, "stamp": stamp, "region": StampSettings.parse(stamp).region}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _field(name: str) -> str:
    return "key_mode" if name == "keyMode" else name


def _names() -> set[str]:
    """What stands below `keyshift:`; `pulumi.Config` reads a key but lists none."""
    held = {**runtime_config.get_config_env(), **runtime_config.CONFIG.get()}
    return {key.removeprefix(f"{NAMESPACE}:") for key in held if key.startswith(f"{NAMESPACE}:")}


def _sentences(error: ValidationError) -> str:
    """What pydantic found, without its own decoration: place and reason of each."""
    found = []
    for one in error.errors():
        place = ".".join(str(part) for part in one["loc"])
        reason = one["msg"].removeprefix("Value error, ")
        if place == "customer" and one["type"] == "string_pattern_mismatch":
            reason = (
                f"{one['input']!r} must be 3 to 32 lower-case letters, digits and hyphens, "
                "begin with a letter and end with a letter or digit"
            )
        found.append(f"{place}: {reason}" if place else reason)
    return "; ".join(found)

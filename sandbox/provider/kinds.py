"""What the plugin knows of one resource type, and what its calls are given."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.provider.clouds import Clouds

Properties = dict[str, Any]
Problems = Iterable[tuple[str, str]]

# Where each service's types are. A module is imported when the first resource of its service arrives.
_MODULES = {
    "aws:cloudwatch": "events",
    "aws:iam": "iam",
    "aws:kms": "kms",
    "aws:lambda": "lambda_",
    "aws:s3": "s3",
    "aws:secretsmanager": "secretsmanager",
    "aws:sqs": "sqs",
    "azure-native:authorization": "azure_authorization",
    "azure-native:eventgrid": "azure_eventgrid",
    "azure-native:keyvault": "azure_keyvault",
    "azure-native:managedidentity": "azure_identity",
    "azure-native:resources": "azure_identity",
    "azure-native:storage": "azure_storage",
    "azure-native:web": "azure_web",
    "azuread:index": "azuread",
    "ec:index": "ec",
    "elasticstack:index": "elasticstack",
}


@dataclass(frozen=True)
class Resource:
    """One resource in one call.

    `inputs` are the checked inputs, `state` what was last recorded (empty in a create). `may_adopt` is
    false when the engine holds an object under this URN already: a create is then one half of a
    replacement, and what it finds under its name is the other half, never a lost create of its own.
    `said_once` is where a create leaves what the service will not say again, such as a password.
    """

    urn: str
    inputs: Properties
    clouds: Clouds
    id: str = ""
    state: Properties = field(default_factory=dict)
    may_adopt: bool = False
    said_once: Properties = field(default_factory=dict)

    @property
    def mark(self) -> str:
        """The value of the `keyshift:urn` tag: a digest, because a URN holds characters that no tag may."""
        return hashlib.sha256(self.urn.encode()).hexdigest()[:32]

    @property
    def region(self) -> str | None:
        return self.inputs.get("region") or self.state.get("region")

    def client(self, service: str) -> Any:
        return self.clouds.client(service, self.region)


@dataclass(frozen=True)
class Autoname:
    """How the real provider names an object when its name is left out: `<logical name>-<7 hex digits>`.

    `deletes_first`: an object whose name the program gives cannot stand beside its replacement, so the
    real provider (pulumi-terraform-bridge, for resources of Terraform's older SDK) deletes it first.
    """

    property: str
    prefix: str = ""
    suffix_digits: int = 7
    max_length: int = 255
    is_lower: bool = False
    deletes_first: bool = True


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One resource type.

    `create` makes the object and returns its id; `configure`, where given, then sets what the create call
    does not, and a failure in it leaves a recorded but unhealthy resource, as the real provider does.
    `read` gives every property that it can see, None for one that is unset, and raises GoneError.
    Property names are the wire's (camelCase).
    """

    create: Callable[[Resource], str]
    read: Callable[[Resource], Properties]
    update: Callable[[Resource], None]
    delete: Callable[[Resource], None]
    configure: Callable[[Resource], None] | None = None
    autoname: Autoname | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    force_new: frozenset[str] = frozenset()
    policies: frozenset[str] = frozenset()  # IAM documents: compared by meaning
    documents: frozenset[str] = frozenset()  # other JSON texts
    sets: frozenset[str] = frozenset()  # lists whose order means nothing
    partial: frozenset[str] = frozenset()  # objects in which the service fills what the program left out
    same: Mapping[str, Callable[[Any, Any], bool]] = field(default_factory=dict)  # two spellings of one thing
    unsupported: frozenset[str] = frozenset()  # the real provider has it, the sandbox refuses it
    secrets: frozenset[str] = frozenset()  # outputs that are always secret
    computed: frozenset[str] = frozenset()  # optional in the SDK, filled in by the service
    unforeseen: frozenset[str] = frozenset()  # inputs that come back in another form, or with more in them
    unread: frozenset[str] = frozenset()  # inputs that no read tells whole: compared with what was last said
    absent: frozenset[str] = frozenset()  # outputs that the sandbox's cloud never has
    volatile: frozenset[str] = frozenset()  # outputs that an update changes
    validate: Callable[[Properties], Problems] = lambda _inputs: ()


def kind_of(token: str) -> Kind:
    """The Kind of a type token such as `aws:kms/key:Key`; KeyError if the plugin does not offer it."""
    place, _, name = token.rpartition(":")  # azure-native has no `/<name in lower case>` in its tokens
    service = place.partition("/")[0]
    return vars(importlib.import_module(f"sandbox.provider.types.{_MODULES[service]}"))["KINDS"][name]

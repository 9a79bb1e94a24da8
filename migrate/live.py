"""A tenant as it stands in the cloud: its layout, what the stack made of it, and clients by role."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import boto3
from elasticsearch import Elasticsearch

from components import naming
from migrate import aws, cloud
from migrate.cloud import Cloud, Role
from migrate.copy.s3 import prepare
from migrate.copy.store import Store
from migrate.errors import RefusedInput
from migrate.fence import Fence
from migrate.index.client import connect as connect_to
from migrate.records import Records
from migrate.stack import Project, Stack
from stacks.layout import Layout, Serves
from stacks.record import connect


@dataclass(frozen=True)
class Live:
    """`outputs` are the tenant stack's. Sessions and clients are made when first asked for, then shared."""

    layout: Layout
    outputs: dict[str, Any]
    fence: Fence | None = None  # a runner's: its calls are refused once it is overtaken
    _clients: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def find(cls, project: Project, name: str) -> Live:
        """Raises RefusedInput when the tenant is unknown or was never brought up."""
        layout = Records(connect(project.home)).tenant(name).layout
        outputs = Stack(project, naming.tenant_stack(name)).outputs()
        if not outputs:
            raise RefusedInput(
                f"tenant {name} has not been brought up yet",
                hint=f"pulumi up -s tenant-{name}",
                code="not-up",
            )
        return cls(layout, outputs)

    @property
    def serves(self) -> Serves:
        """Raises RefusedInput while nothing serves (a byok tenant whose key is not in)."""
        if self.layout.serves is None or self.layout.serves.storage not in self.outputs.get("storages", {}):
            raise RefusedInput(
                f"tenant {self.layout.tenant} serves nothing yet",
                hint=f"keyshift tenant show {self.layout.tenant}",
                code="serves-nothing",
            )
        return self.layout.serves

    @cached_property
    def operator(self) -> boto3.Session:
        return aws.operator(self.layout.region)

    def client(self, role: Role, service: str) -> Any:
        """A shared client of a `service` of AWS as one of the tenant's roles."""
        if (role, service) not in self._clients:
            session = aws.assume(self.outputs["roles"][role], f"keyshift-{role}", session=self.operator)
            made = aws.client(session, service, pool=32)
            if self.fence is not None:
                self.fence.before_aws(made)
            self._clients[role, service] = prepare(made) if service == "s3" else made
        return self._clients[role, service]

    @cached_property
    def cloud(self) -> Cloud:
        return cloud.of(self)

    def storage(self, id: str, role: Role = "runner") -> Store:
        return self.cloud.store(id, role)

    def search(self, id: str, audience: str = "admin") -> Elasticsearch:
        """A client of a deployment with the credentials of an audience, read from its secret."""
        if (id, audience) not in self._clients:
            role: Role = "archive" if audience == "archive" else "runner"
            secret = self.outputs["searches"][id]["secrets"][audience]
            made = connect_to(self.cloud.secret(secret, role))
            if self.fence is not None:
                self.fence.before_search(made)
            self._clients[id, audience] = made
        return self._clients[id, audience]

    def key_arn(self, id: str) -> str:
        return self.layout.key(id).arn or self.outputs["keys"][id]["arn"]

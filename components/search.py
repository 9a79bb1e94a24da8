"""What a search gets: an Elasticsearch deployment, its index of records and the credentials to it.

The same on every cloud; where its credentials are kept is the cloud's own. `pulumi_elasticstack` is
unmaintained and stays behind this file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pulumi
import pulumi_ec as ec
import pulumi_elasticstack as elasticstack

from components import naming
from components.index import (
    API_KEYS,
    EDITS,
    EDITS_MAPPING,
    EDITS_PATTERN,
    INDEX,
    INDEX_PATTERN,
    KEPT,
    KEPT_MAPPING,
    KEPT_PATTERN,
    READ_ALIAS,
    READER_ROLE,
    RECORDS_MAPPING,
    SECRET_AUDIENCES,
    SETTINGS,
    api_key,
    records_filter,
)
from components.retention import Retention

TEMPLATES = {"aws": "aws-storage-optimized", "azure": "azure-storage-optimized"}


class KeepSecret(Protocol):
    """Makes a secret of that logical and physical name in the cloud's own store."""

    def __call__(self, logical: str, name: str, value: pulumi.Output[str], opts: pulumi.ResourceOptions) -> None: ...


@dataclass(frozen=True, kw_only=True)
class SearchDeploymentArgs:
    """`encryption_key_path` is a key ARN, never an alias: behind an alias Elastic re-wraps by itself.

    None leaves the deployment under Elastic's own key. `stays_under_its_key`: made under it, and another one given later
    is left alone, because Elastic could only replace the deployment. `secret_names`: by audience, as `keep_secret` takes
    them. `labels` say whose it is: tenant, customer, mode, key, unit.
    """

    id: str
    tenant: str
    cloud: str
    region: str
    version: str
    encryption_key_path: pulumi.Input[str] | None
    labels: Mapping[str, str]
    retention: Retention
    secret_names: Mapping[str, str]
    keep_secret: KeepSecret
    stays_under_its_key: bool = False


class SearchDeployment(pulumi.ComponentResource):
    """A deployment with the records index. A new key is a new deployment: Elastic cannot change one's key."""

    deployment_id: pulumi.Output[str]
    endpoint: pulumi.Output[str]
    key_arn: pulumi.Output[str | None]

    def __init__(self, name: str, args: SearchDeploymentArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:search:SearchDeployment", name, None, opts)
        deployment = self._deployment(args)
        self.deployment_id = deployment.id
        self.key_arn = deployment.encryption_key_path
        # With the id, which nobody knows before the deployment is made: a preview may return the block
        # half filled, and an endpoint that is planned as missing would contradict the update.
        self.endpoint = pulumi.Output.all(deployment.id, deployment.elasticsearch.https_endpoint).apply(_endpoint)
        password = pulumi.Output.secret(deployment.elasticsearch_password)
        # With each resource and not by a provider of its own: the engine lets nothing be checked by a
        # provider whose settings a preview cannot know, and then the update differs from the plan.
        self._connection: Mapping[str, Any] = {
            "endpoints": [self.endpoint],
            "username": deployment.elasticsearch_username,
            "password": password,
        }
        # What is inside goes with the deployment; to delete it piece by piece would need the deployment alive.
        inside = pulumi.ResourceOptions(parent=self, deleted_with=deployment, protect=args.retention.protect)
        for index in _indices():
            self._index(args, index, inside)
        writer, reader = self._api_keys(args, inside)
        credentials: dict[str, dict[str, pulumi.Input[str]]] = {
            "admin": {"username": deployment.elasticsearch_username, "password": password},
            "pipeline": {"api_key": writer.encoded},
            "archive": {"api_key": reader.encoded},
        }
        for audience in SECRET_AUDIENCES:
            args.keep_secret(
                f"{args.id}-{audience}-secret",
                args.secret_names[audience],
                pulumi.Output.secret(
                    pulumi.Output.json_dumps({"endpoint": self.endpoint, **credentials[audience]}, sort_keys=True)
                ),
                pulumi.ResourceOptions(parent=self, protect=args.retention.protect),
            )
        self.register_outputs({"deployment_id": self.deployment_id, "endpoint": self.endpoint})

    def _deployment(self, args: SearchDeploymentArgs) -> ec.Deployment:
        return ec.Deployment(
            f"{args.id}-deployment",
            name=naming.deployment(args.tenant, args.id),
            region=naming.elastic_region(args.cloud, args.region),
            version=args.version,
            deployment_template_id=TEMPLATES[args.cloud],
            encryption_key_path=args.encryption_key_path,
            elasticsearch=ec.DeploymentElasticsearchArgs(
                hot=ec.DeploymentElasticsearchHotArgs(autoscaling=ec.DeploymentElasticsearchHotAutoscalingArgs())
            ),
            tags=naming.tags(args.labels, separator="-"),
            opts=pulumi.ResourceOptions.merge(
                args.retention.options(self),
                pulumi.ResourceOptions(ignore_changes=["encryptionKeyPath"] if args.stays_under_its_key else []),
            ),
        )

    def _index(self, args: SearchDeploymentArgs, index: _Index, inside: pulumi.ResourceOptions) -> None:
        mappings = json.dumps(index.mapping, sort_keys=True)
        template = elasticstack.IndexTemplate(
            f"{args.id}-{index.prefix}template",
            name=index.template,
            index_patterns=[index.pattern],
            template=elasticstack.IndexTemplateTemplateArgs(
                mappings=mappings, settings=json.dumps(SETTINGS, sort_keys=True)
            ),
            elasticsearch_connection=self._connection,
            opts=inside,
        )
        kept = pulumi.ResourceOptions.merge(inside, args.retention.options(self))
        elasticstack.Index(
            f"{args.id}-{index.prefix}index",
            name=index.name,
            mappings=mappings,
            aliases=index.aliases,
            elasticsearch_connection=self._connection,
            opts=pulumi.ResourceOptions.merge(
                kept,
                # The runner swaps the alias' filter at a cut-off: Pulumi knows no atomic swap.
                pulumi.ResourceOptions(depends_on=[template], ignore_changes=["aliases"]),
            ),
        )

    def _api_keys(
        self, args: SearchDeploymentArgs, inside: pulumi.ResourceOptions
    ) -> tuple[elasticstack.SecurityApiKey, elasticstack.SecurityApiKey]:
        # For people of the support desk, who sign in by single sign-on and see what Archive sees.
        elasticstack.SecurityRole(
            f"{args.id}-reader-role",
            name=READER_ROLE,
            indices=[elasticstack.SecurityRoleIndexArgs(names=[READ_ALIAS], privileges=["read"])],
            elasticsearch_connection=self._connection,
            opts=inside,
        )
        writer, reader = (
            elasticstack.SecurityApiKey(
                f"{args.id}-{audience}-api-key",
                name=api_key(audience),
                role_descriptors=json.dumps({audience: descriptor}, sort_keys=True),
                elasticsearch_connection=self._connection,
                opts=inside,
            )
            for audience, descriptor in API_KEYS.items()
        )
        return writer, reader


@dataclass(frozen=True, kw_only=True)
class _Index:
    """`prefix` is that of the logical names, which are state keys."""

    prefix: str
    name: str
    template: str
    pattern: str
    mapping: Mapping[str, Any]
    aliases: Sequence[elasticstack.IndexAliasArgs] | None = None


def _indices() -> list[_Index]:
    read = elasticstack.IndexAliasArgs(name=READ_ALIAS, filter=json.dumps(records_filter(), sort_keys=True))
    return [
        _Index(
            prefix="",
            name=INDEX,
            template="records",
            pattern=INDEX_PATTERN,
            mapping=RECORDS_MAPPING,
            aliases=[read],
        ),
        _Index(prefix="edits-", name=EDITS, template="edits", pattern=EDITS_PATTERN, mapping=EDITS_MAPPING),
        _Index(prefix="pipeline-", name=KEPT, template="pipeline", pattern=KEPT_PATTERN, mapping=KEPT_MAPPING),
    ]


def _endpoint(found: Sequence[str | None]) -> str:
    deployment, endpoint = found
    if not endpoint:
        raise ValueError(f"Elastic Cloud returned the deployment {deployment} without an endpoint")
    return endpoint

"""Runs the program against a fresh mock engine and records the whole resource graph it asks for."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import azure_graph
import pulumi
from pulumi.runtime import mocks, rpc
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.settings import SETTINGS

ACCOUNT = "111122223333"
REGION = "eu-west-1"
STAMP = "stamp-aws-eu-west-1-01"
VENDOR_KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/vendor"
SHARED_BUCKET = "keyshift-stamp-aws-eu-west-1-01-5b1ec0de"

STAMP_OUTPUTS = {
    "bucket": SHARED_BUCKET,
    "bucket_arn": f"arn:aws:s3:::{SHARED_BUCKET}",
    "vendor_key_arn": VENDOR_KEY,
    "region": REGION,
    "account_id": ACCOUNT,
    "event_bus": "default",
}


@dataclass(frozen=True, kw_only=True)
class Registered:
    """One resource as the program registered it."""

    type: str
    name: str
    parent: str
    inputs: Mapping[str, Any]
    protect: bool
    deleted_with: str
    depends_on: tuple[str, ...]
    ignore_changes: tuple[str, ...]
    before_delete: tuple[str, ...]
    on_error: tuple[str, ...]
    secret_outputs: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What a golden file holds: the parts that say something."""
        said = {
            "parent": self.parent,
            "protect": self.protect,
            "deleted_with": self.deleted_with,
            "depends_on": list(self.depends_on),
            "ignore_changes": list(self.ignore_changes),
            "before_delete": list(self.before_delete),
            "on_error": list(self.on_error),
            "inputs": readable(self.inputs),
        }
        return {"type": self.type, **{name: value for name, value in said.items() if value}}


@dataclass
class Graph:
    """Every registered resource by its logical name, the hooks and, on a real run, the outputs."""

    resources: dict[str, Registered] = field(default_factory=dict)
    hooks: dict[str, pulumi.ResourceHook] = field(default_factory=dict)
    error_hooks: dict[str, pulumi.ErrorHook] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)

    def of_type(self, type: str) -> dict[str, Registered]:
        return {name: one for name, one in self.resources.items() if one.type == type}

    def policy(self, name: str) -> dict[str, Any]:
        return json.loads(self.resources[name].inputs["policy"])

    def statement(self, name: str, sid: str) -> dict[str, Any] | None:
        found = [one for one in self.policy(name)["Statement"] if one.get("Sid") == sid]
        return found[0] if found else None

    def to_json(self) -> dict[str, Any]:
        return {
            "resources": {name: one.to_json() for name, one in sorted(self.resources.items())},
            "hooks": sorted(self.hooks),
            "outputs": self.outputs,
        }


class _Cloud(mocks.Mocks):
    """Answers as the providers do. At a preview nobody knows what a resource will be called."""

    def __init__(self, *, is_preview: bool, region: str) -> None:
        self._is_preview = is_preview
        self._region = region

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        answers = {
            "aws:index/getCallerIdentity:getCallerIdentity": {"accountId": ACCOUNT, "id": ACCOUNT},
            "aws:index/getRegion:getRegion": {"region": self._region, "id": self._region},
            **azure_graph.CALLS,
        }
        return answers[args.token], []

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        if args.typ == "pulumi:pulumi:StackReference":
            outputs = azure_graph.STAMP_OUTPUTS if args.name.endswith(azure_graph.STAMP) else STAMP_OUTPUTS
            return args.name, {"name": args.name, "outputs": outputs, "secretOutputNames": []}
        computed = _COMPUTED.get(args.typ, lambda _: {})(args)
        if self._is_preview:
            return "", {**args.inputs, **dict.fromkeys(computed, rpc.UNKNOWN)}
        return computed.get("id", f"id-of-{args.name}"), {**args.inputs, **computed}


_COMPUTED: dict[str, Callable[[mocks.MockResourceArgs], dict[str, Any]]] = {
    "aws:s3/bucket:Bucket": lambda a: {"id": a.inputs["bucket"], "arn": f"arn:aws:s3:::{a.inputs['bucket']}"},
    "aws:kms/key:Key": lambda a: {"id": a.name, "keyId": a.name, "arn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{a.name}"},
    "aws:kms/externalKey:ExternalKey": lambda a: {
        "id": a.name,
        "arn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{a.name}",
    },
    "aws:sqs/queue:Queue": lambda a: {
        "id": f"https://sqs/{a.inputs['name']}",
        "url": f"https://sqs/{a.inputs['name']}",
        "arn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{a.inputs['name']}",
    },
    "aws:iam/role:Role": lambda a: {"arn": f"arn:aws:iam::{ACCOUNT}:role/{a.inputs['name']}"},
    "aws:lambda/eventSourceMapping:EventSourceMapping": lambda a: {"uuid": f"uuid-of-{a.name}"},
    "ec:index/deployment:Deployment": lambda a: {
        "elasticsearch": {**a.inputs["elasticsearch"], "httpsEndpoint": f"https://{a.inputs['name']}.es:443"},
        "elasticsearchUsername": "elastic",
        "elasticsearchPassword": "password-of-" + a.name,
    },
    "elasticstack:index/securityApiKey:SecurityApiKey": lambda a: {"encoded": "encoded-" + a.name},
    **azure_graph.COMPUTED,
}


class _Monitor(mocks.MockMonitor):
    def __init__(self, cloud: _Cloud, graph: Graph) -> None:
        super().__init__(cloud)
        self._graph = graph

    def RegisterResource(self, request: Any) -> resource_pb2.RegisterResourceResponse:  # noqa: N802 - gRPC's name
        if request.type != "pulumi:pulumi:Stack":
            if request.name in self._graph.resources:
                raise AssertionError(f"two resources are called {request.name}")
            self._graph.resources[request.name] = Registered(
                type=request.type,
                name=request.name,
                parent=_short(request.parent),
                inputs=rpc.deserialize_properties(request.object, keep_unknowns=True),
                protect=request.protect,
                deleted_with=_short(request.deletedWith),
                depends_on=tuple(sorted({_short(urn) for urn in request.dependencies})),
                ignore_changes=tuple(request.ignoreChanges),
                before_delete=tuple(request.hooks.before_delete),
                on_error=tuple(request.hooks.on_error),
                secret_outputs=tuple(request.additionalSecretOutputs),
            )
        return super().RegisterResource(request)


class _Callbacks:
    """Stands for the server through which the engine calls hooks back."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def register_resource_hook(self, hook: pulumi.ResourceHook) -> None:
        self._graph.hooks[hook.name] = hook

    def register_error_hook(self, hook: pulumi.ErrorHook) -> None:
        self._graph.error_hooks[hook.name] = hook


def run(
    program: Callable[[], Mapping[str, Any]], *, stack: str, is_preview: bool = False, region: str = REGION
) -> Graph:
    """The graph that `program` asks for; what it returns are the outputs, resolved on a real run."""
    graph = Graph()
    monitor = _Monitor(_Cloud(is_preview=is_preview, region=region), graph)
    mocks.set_mocks(
        mocks=monitor.mocks,
        project="keyshift",
        stack=stack,
        preview=is_preview,
        monitor=monitor,
        organization="organization",
        logger=logging.getLogger("pulumi"),
    )
    SETTINGS.callbacks = _Callbacks(graph)

    @pulumi.runtime.test
    def body() -> pulumi.Output[None]:
        return pulumi.Output.from_input(dict(program())).apply(graph.outputs.update)

    body()
    return graph


def check_golden(name: str, graph: Graph, *, write: bool) -> None:
    """Compares with tests/unit/golden/<name>.json, which KEYSHIFT_GOLDEN=write makes anew."""
    path = Path(__file__).parent / "golden" / f"{name}.json"
    text = json.dumps(graph.to_json(), indent=1, sort_keys=True) + "\n"
    if write:
        path.write_text(text)
    assert json.loads(text) == json.loads(path.read_text()), (
        f"the resources of {name} are not those of {path.name}; if that is meant: KEYSHIFT_GOLDEN=write pytest"
    )


def readable(value: Any) -> Any:  # noqa: PLR0911 - one return a kind of value
    """Policies as structures, archives as the names in them, secrets and unknowns by name."""
    match value:
        case pulumi.AssetArchive():
            return {"archive of": sorted(value.assets)}
        case pulumi.output.Unknown() | rpc.UNKNOWN:
            return "unknown"
        case {rpc._special_sig_key: rpc._special_secret_sig, "value": secret}:
            return {"secret": readable(secret)}
        case dict():
            return {key: readable(one) for key, one in value.items()}
        case list():
            return [readable(one) for one in value]
        case str() if value.startswith("{"):
            return json.loads(value)
    return value


def _short(urn: str) -> str:
    name = urn.rpartition("::")[2]
    return "" if urn.split("::")[2:3] == ["pulumi:pulumi:Stack"] else name

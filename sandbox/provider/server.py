"""Pulumi's ResourceProvider protocol over the table of resource types."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import any_pb2, empty_pb2, struct_pb2

from engine import lifeline
from sandbox.provider import check, compare, functions, schema, values
from sandbox.provider.clouds import Clouds
from sandbox.provider.errors import GoneError, ProviderError
from sandbox.provider.kinds import Kind, Properties, Resource, kind_of
from sandbox.provider.protocol import plugin_pb2, provider_pb2, provider_pb2_grpc, status_pb2

_CONFIG = {
    "aws": frozenset(
        [
            "accessKey",
            "defaultTags",
            "maxRetries",
            "profile",
            "region",
            "s3UsePathStyle",
            "secretKey",
            "skipCredentialsValidation",
            "skipMetadataApiCheck",
            "skipRegionValidation",
            "skipRequestingAccountId",
            "token",
        ]
    ),
    "azure-native": frozenset(
        [
            "clientId",
            "clientSecret",
            "disableInstanceDiscovery",
            "location",
            "metadataHost",
            "subscriptionId",
            "tenantId",
        ]
    ),
    "azuread": frozenset({"clientId", "clientSecret", "metadataHost", "tenantId"}),
    "ec": frozenset({"apikey", "endpoint", "timeout"}),
    "elasticstack": frozenset({"elasticsearch"}),
}
_FINISH_SECONDS = 180  # an operation under way when Cancel comes is let finish, as the CLI expects


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What this process has seen of the object that the engine holds under a URN."""

    name: str | None


class Provider(provider_pb2_grpc.ResourceProviderServicer):
    """One package's provider."""

    def __init__(self, package: str, on_cancel: Callable[[], None] = lambda: None) -> None:
        self._package = package
        self._schema = schema.load(package)
        self._clouds = Clouds({})
        self._recorded: dict[str, Recorded] = {}
        self._on_cancel = on_cancel

    # The handshake and the configuration

    def Handshake(self, request: Any, context: grpc.ServicerContext) -> Any:
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True)

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return plugin_pb2.PluginInfo(version=self._schema.version)

    def GetSchema(self, request: Any, context: grpc.ServicerContext) -> Any:
        return provider_pb2.GetSchemaResponse(
            schema=f'{{"name": "{self._package}", "version": "{self._schema.version}"}}'
        )

    def GetMapping(self, request: Any, context: grpc.ServicerContext) -> Any:
        return provider_pb2.GetMappingResponse()

    def GetMappings(self, request: Any, context: grpc.ServicerContext) -> Any:
        return provider_pb2.GetMappingsResponse()

    def CheckConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        config, _ = values.decode(request.news)
        config.pop("version", None)
        failures = [
            provider_pb2.CheckFailure(property=name, reason=reason) for name, reason in self._config_problems(config)
        ]
        return provider_pb2.CheckResponse(inputs=request.news, failures=failures)

    def _config_problems(self, config: Properties) -> Iterator[tuple[str, str]]:
        for name in config:
            if name not in self._schema.config:
                yield name, f"unknown configuration '{name}' of the {self._package} provider"
            elif name not in _CONFIG[self._package]:
                yield name, f"configuration '{name}' is not offered by the sandbox's {self._package} provider"

    def DiffConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        old, _ = values.decode(request.old_inputs)
        new, _ = values.decode(request.news)
        changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        return provider_pb2.DiffResponse(
            changes=provider_pb2.DiffResponse.DIFF_SOME if changed else provider_pb2.DiffResponse.DIFF_NONE,
            diffs=changed,
        )

    def Configure(self, request: Any, context: grpc.ServicerContext) -> Any:
        config, _ = values.decode(request.args)
        self._clouds = Clouds({name: value for name, value in config.items() if value is not values.UNKNOWN})
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    def Invoke(self, request: Any, context: grpc.ServicerContext) -> Any:
        arguments, _ = values.decode(request.args)
        with _refusals(context, request.tok):
            found = functions.invoke(request.tok, arguments, self._clouds)
        response = provider_pb2.InvokeResponse()
        getattr(response, "return").CopyFrom(values.encode(found))
        return response

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._on_cancel()
        return empty_pb2.Empty()

    # Resources

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind, resource_schema = self._kind(request.urn, context)
        news, _ = values.decode(request.news)
        olds, _ = values.decode(request.olds)
        failures = [
            *check.problems(self._schema, _token(request.urn), resource_schema.inputs, news),
            *check.kind_problems(kind, news),
        ]
        name_property = kind.autoname.property if kind.autoname else ""
        recorded = self._recorded.get(request.urn)
        if olds:
            self._recorded[request.urn] = Recorded(olds.get(name_property))
        added = check.filled(
            kind,
            news,
            urn=request.urn,
            olds=olds,
            taken=recorded.name if recorded else None,
        )
        inputs = _without_nulls(request.news)
        for name, value in values.encode(added).fields.items():
            inputs.fields[name].CopyFrom(value)
        return provider_pb2.CheckResponse(
            inputs=inputs,
            failures=[provider_pb2.CheckFailure(property=name, reason=reason) for name, reason in failures],
        )

    def Diff(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind, resource_schema = self._kind(request.urn, context)
        state, _ = values.decode(request.olds)
        old_inputs, _ = values.decode(request.old_inputs)
        news, _ = values.decode(request.news)
        ignored = {path.partition(".")[0].partition("[")[0] for path in request.ignoreChanges}
        changed = [
            name
            for name in compare.changes(kind, resource_schema, state=state, old_inputs=old_inputs, inputs=news)
            if name not in ignored
        ]
        replaces = [name for name in changed if name in kind.force_new]
        response = provider_pb2.DiffResponse(
            changes=provider_pb2.DiffResponse.DIFF_SOME if changed else provider_pb2.DiffResponse.DIFF_NONE,
            diffs=changed,
            replaces=replaces,
            deleteBeforeReplace=bool(replaces) and check.is_deleted_first(kind, news),
            hasDetailedDiff=True,
        )
        for name in changed:
            response.detailedDiff[name].kind = _difference(
                was=state.get(name), wanted=news.get(name), is_replacement=name in kind.force_new
            )
        return response

    def Create(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind, resource_schema = self._kind(request.urn, context)
        inputs, secrets = values.decode(request.properties)
        if request.preview:
            unknown = {
                name: values.UNKNOWN
                for name, is_computed in resource_schema.outputs.items()
                if is_computed and name not in inputs and name not in kind.absent
            } | dict.fromkeys(kind.unforeseen & inputs.keys(), values.UNKNOWN)
            return provider_pb2.CreateResponse(
                properties=_encode_like(_stated(inputs) | unknown, request.properties, secrets | kind.secrets)
            )
        resource = Resource(
            urn=request.urn, inputs=inputs, clouds=self._clouds, may_adopt=request.urn not in self._recorded
        )
        with _refusals(context, f"creating {_token(request.urn)}"):
            id_ = kind.create(resource)
            made = dataclasses.replace(resource, id=id_)
            _configure(kind, made, request.properties, secrets, context)
            properties = self._state(kind, made, request.properties, secrets)
        return provider_pb2.CreateResponse(id=id_, properties=properties)

    def Read(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind, resource_schema = self._kind(request.urn, context)
        inputs, input_secrets = values.decode(request.inputs)
        state, state_secrets = values.decode(request.properties)
        resource = Resource(urn=request.urn, inputs=inputs, clouds=self._clouds, id=request.id, state=state)
        with _refusals(context, f"reading {_token(request.urn)} {request.id}"):
            try:
                found = kind.read(resource)
            except GoneError:
                return provider_pb2.ReadResponse()
        if not inputs:  # an import: what the cloud holds becomes the inputs
            inputs = {
                name: found[name]
                for name in resource_schema.inputs
                if name not in kind.unsupported and not compare.is_absent(found.get(name))
            }
        kept, now = compare.settle(kind, inputs, found)
        unreadable = {name: value for name, value in state.items() if name not in found and name not in inputs}
        return provider_pb2.ReadResponse(
            id=request.id,
            inputs=_encode_like(kept, request.inputs, input_secrets),
            properties=_encode_like(unreadable | now, request.properties, state_secrets | input_secrets | kind.secrets),
        )

    def Update(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind, _ = self._kind(request.urn, context)
        inputs, secrets = values.decode(request.news)
        state, state_secrets = values.decode(request.olds)
        if request.preview:
            unknown = dict.fromkeys(kind.volatile - inputs.keys(), values.UNKNOWN)
            for name in kind.unforeseen & inputs.keys():
                stays = compare.is_same(kind, name, inputs[name], state.get(name))
                unknown[name] = state[name] if stays else values.UNKNOWN
            return provider_pb2.UpdateResponse(
                properties=_encode_like(
                    state | _stated(inputs) | unknown, request.news, secrets | state_secrets | kind.secrets
                )
            )
        resource = Resource(urn=request.urn, inputs=inputs, clouds=self._clouds, id=request.id, state=state)
        with _refusals(context, f"updating {_token(request.urn)} {request.id}"):
            kind.update(resource)
            _configure(kind, resource, request.news, secrets, context)
            properties = self._state(kind, resource, request.news, secrets | (state_secrets & kind.secrets))
        return provider_pb2.UpdateResponse(properties=properties)

    def Delete(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind, _ = self._kind(request.urn, context)
        state, _ = values.decode(request.properties)
        inputs, _ = values.decode(request.old_inputs)
        resource = Resource(urn=request.urn, inputs=inputs or state, clouds=self._clouds, id=request.id, state=state)
        what = f"deleting {_token(request.urn)} {request.id}"
        # what an interrupted delete is asked for again may be gone
        with _refusals(context, what), contextlib.suppress(GoneError):
            kind.delete(resource)
        self._recorded.pop(request.urn, None)
        return empty_pb2.Empty()

    def _kind(self, urn: str, context: grpc.ServicerContext) -> tuple[Kind, schema.ResourceSchema]:
        token = _token(urn)
        if token not in self._schema.resources:
            context.abort(
                grpc.StatusCode.UNIMPLEMENTED, f"the sandbox's {self._package} provider does not offer {token}"
            )
        return kind_of(token), self._schema.resources[token]

    def _state(self, kind: Kind, resource: Resource, inputs: struct_pb2.Struct, secrets: frozenset[str]) -> Any:
        found = kind.read(resource)
        _, state = compare.settle(kind, resource.inputs, found)
        own = self._schema.resources[_token(resource.urn)].inputs
        # outputs that no read gives, such as a password
        known = {name: value for name, value in resource.state.items() if name not in found and name not in own}
        return _encode_like(known | resource.said_once | state, inputs, secrets | kind.secrets)


def _configure(
    kind: Kind, resource: Resource, inputs: struct_pb2.Struct, secrets: frozenset[str], context: grpc.ServicerContext
) -> None:
    """Sets what the create call does not; a failure records the object as made but unhealthy."""
    if kind.configure is None:
        return
    try:
        kind.configure(resource)
    except Exception as error:
        reason = f"{_token(resource.urn)} {resource.id} was made, but not finished: {error}"
        detail = any_pb2.Any()
        detail.Pack(
            provider_pb2.ErrorResourceInitFailed(
                id=resource.id,
                properties=_encode_like(
                    resource.state | _stated(resource.inputs) | resource.said_once, inputs, secrets | kind.secrets
                ),
                inputs=inputs,
                reasons=[reason],
            )
        )
        status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=reason, details=[detail])
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(grpc.StatusCode.UNKNOWN, reason)


@contextlib.contextmanager
def _refusals(context: grpc.ServicerContext, what: str) -> Iterator[None]:
    """Passes a cloud's refusal on in its own words and with its own code."""
    try:
        yield
    except (GoneError, ProviderError) as error:
        context.abort(grpc.StatusCode.UNKNOWN, f"{what}: {error}")
    except Exception as error:
        if not _is_refusal(error):
            raise
        context.abort(grpc.StatusCode.UNKNOWN, f"{what}: {error}")


def _is_refusal(error: Exception) -> bool:
    # by name: importing botocore or httpx to compare classes would cost every start of the plugin
    return any(base.__module__.split(".")[0] in {"botocore", "httpx"} for base in type(error).__mro__)


def _stated(inputs: Properties) -> Properties:
    """Inputs as they appear among the outputs: without the provider's book-keeping."""
    return {name: value for name, value in inputs.items() if not name.startswith("__")}


def _token(urn: str) -> str:
    return urn.split("::")[2].rsplit("$", 1)[-1]


def _without_nulls(struct: struct_pb2.Struct) -> struct_pb2.Struct:
    kept = {name: value for name, value in struct.fields.items() if value.WhichOneof("kind") != "null_value"}
    return struct_pb2.Struct(fields=kept)


def _encode_like(properties: Properties, like: struct_pb2.Struct, secrets: frozenset[str]) -> struct_pb2.Struct:
    """Properties on the wire; one whose value came with `like` keeps its form there, secrets within included."""
    known, hidden = values.decode(like)
    encoded = values.encode(properties, secrets)
    for name, value in properties.items():
        is_hidden_enough = name in hidden or name not in secrets
        if name in known and known[name] == value and name in encoded.fields and is_hidden_enough:
            encoded.fields[name].CopyFrom(like.fields[name])
    return encoded


def _difference(*, was: Any, wanted: Any, is_replacement: bool) -> int:
    kinds = provider_pb2.PropertyDiff.Kind
    word = "ADD" if was is None else "DELETE" if wanted is None else "UPDATE"
    return kinds.Value(f"{word}_REPLACE" if is_replacement else word)


def serve(package: str) -> None:
    """Serves one package until told to stop or until the parent is gone. The first line printed is the port."""
    lifeline.watch_parent()  # at once, under way or not: what a dead CLI asked for would never be recorded
    stopping = threading.Event()
    server = grpc.server(
        ThreadPoolExecutor(max_workers=64, thread_name_prefix="call"),
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(Provider(package, on_cancel=stopping.set), server)
    port = server.add_insecure_port("127.0.0.1:0")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    lifeline.wait_for(stopping)
    server.stop(_FINISH_SECONDS).wait()

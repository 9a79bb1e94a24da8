"""Elastic Cloud's deployments API, as far as a Pulumi provider and this product use it.

Shapes follow the public client (elastic/cloud-sdk-go, `pkg/models`) and the API reference. Not known
from public material, so chosen here: the error codes `deployments.byok.*`, what a deployment whose key
is lost shows (status `stopped`, not healthy, and the sandbox's own field `_sandbox`), and that the
traffic filters' association is effective at once.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from sandbox.elastic import launch, shapes
from sandbox.elastic.credentials import USER, digest, new_secret
from sandbox.elastic.customer_key import CustomerKeys, KeyRefusedError
from sandbox.elastic.deployment import Deployment
from sandbox.elastic.faults import FaultOrder
from sandbox.elastic.front import Front
from sandbox.elastic.housing import Housing
from sandbox.elastic.record import DeploymentRecord, Ruleset, Store, write_privately
from sandbox.elastic.traffic_filter import RulesetInUseError, RulesetMissingError, TrafficFilters
from sandbox.elastic.wanted import ApiError, aws_region, check_version, checked, key_path
from sandbox.elastic.web import BadRequestError, LoopbackServer, Request, Response, json_response

log = logging.getLogger(__name__)

_API = ("api", "v1", "deployments")


class Cloud:
    """All deployments of this sandbox, and the API over them."""

    def __init__(self, folder: Path, housing: Housing, keys: CustomerKeys, key_check_seconds: float) -> None:
        self.api_key = _api_key(folder / "api-key")
        self._housing = housing
        self._keys = keys
        self._key_check_seconds = key_check_seconds
        self._store = Store(folder / "deployments", DeploymentRecord)
        self._filters = TrafficFilters(Store(folder / "traffic-filters", Ruleset))
        self._link = httpx.Client(
            transport=httpx.HTTPTransport(limits=httpx.Limits(max_connections=256, max_keepalive_connections=64)),
            timeout=httpx.Timeout(300, connect=5),
            trust_env=False,
        )
        self._deployments: dict[str, Deployment] = {}
        self._servers: dict[str, LoopbackServer] = {}
        self._lock = threading.RLock()

    def open(self) -> None:
        """Bring back what was there. Raises OSError if a deployment's port has been taken by another program."""
        for record in self._store.load():
            self._adopt(record)

    def close(self) -> None:
        """Stop all nodes cleanly, at the same time, and close all ports."""
        stopping = [threading.Thread(target=deployment.close) for deployment in self._deployments.values()]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        for server in self._servers.values():
            server.close()
        self._link.close()

    def answer(self, request: Request) -> Response:
        try:
            if request.segments[:1] == ("_sandbox",):
                return self._sandbox(request)
            self._authenticate(request)
            return self._route(request)
        except ApiError as error:
            return _errors(error.status, error.code, str(error))
        except KeyRefusedError as error:
            return _errors(400, error.code, str(error))
        except RulesetMissingError as error:
            return _errors(404, "traffic_filter.not_found", f"no ruleset [{error}]")
        except RulesetInUseError as error:
            return _errors(400, "traffic_filter.in_use", f"ruleset [{error}] is associated with deployments")
        except BadRequestError as error:
            return _errors(400, "root.invalid_json_request", str(error))

    def _authenticate(self, request: Request) -> None:
        expected = f"ApiKey {self.api_key}"
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), expected.encode()):
            raise ApiError(401, "root.unauthorized", "The supplied authentication is invalid")

    def _route(self, request: Request) -> Response:
        if (request.method, *request.segments) == ("GET", "api", "v1", "stack", "versions"):
            return json_response(200, {"stacks": [{"version": launch.VERSION}]})
        if request.segments[:3] != _API:
            raise ApiError(404, "root.resource_not_found", f"The requested resource [{request.target}] is not known")
        match request.method, *request.segments[3:]:
            case method, "traffic-filter", *rest:
                return self._traffic_filter(method, rest, request)
            case ["GET"]:
                return json_response(200, {"deployments": [shapes.listed(each) for each in self._deployments.values()]})
            case ["POST"]:
                return self._create(request)
            case "GET", id:
                return json_response(200, shapes.shown(self._get(id), self._filters.of(id)))
            case "PUT", id:
                return self._change(self._get(id), request.json())
            case "DELETE", id:
                return self._delete(self._get(id))
            case "POST", id, "_shutdown":
                return self._shut_down(self._get(id))
            case "POST", id, "elasticsearch", ref_id, "_reset-password":
                return self._reset_password(self._get(id), ref_id)
        raise ApiError(501, "sandbox.not_offered", f"the sandbox does not offer {request.method} {request.target}")

    # --- deployments

    def _create(self, request: Request) -> Response:
        request_id = request.query.get("request_id")
        with self._lock:
            before = self._by_request(request_id)
            if before is not None:
                # The password is shown once; `_reset-password` makes a new one.
                return json_response(200, shapes.created(before, None))
            body = request.json()
            wanted = checked(body)
            for id in wanted.rulesets:
                self._filters.get(id)
            key = None if wanted.key_path is None else self._keys.bind(wanted.key_path, aws_region(wanted.region))
            password = new_secret()
            record = DeploymentRecord(
                id=secrets.token_hex(16),
                cluster_id=secrets.token_hex(16),
                ref_id=wanted.ref_id,
                name=wanted.name,
                region=wanted.region,
                template_id=request.query.get("template_id"),
                request_id=request_id,
                created=_now(),
                port=0,
                password_digest=digest(password),
                key=key,
                request=body,
                tags=wanted.tags,
            )
            deployment = self._adopt(record)
            for id in wanted.rulesets:
                self._filters.associate(id, record.id)
        return json_response(201, shapes.created(deployment, password))

    def _adopt(self, record: DeploymentRecord) -> Deployment:
        """Give the deployment its port and begin to keep it."""
        deployment = Deployment(record, self._store, self._housing, self._keys, self._key_check_seconds)
        if not record.is_shut_down:
            server = LoopbackServer(record.port, Front(deployment, self._filters, self._link).answer)
            self._servers[record.id] = server
            deployment.update(lambda _: {"port": server.port})
        self._deployments[record.id] = deployment
        deployment.open()
        return deployment

    def _change(self, deployment: Deployment, body: dict[str, Any]) -> Response:
        """Name, tags and nothing else have an effect; another key is refused, as Elastic Cloud does."""
        key = deployment.record.key
        settings = body.get("settings") or {}
        if "byok" in settings and key_path(settings) != (key.path if key else None):
            raise ApiError(
                400,
                "deployments.byok.unsupported",
                "changing or removing the encryption key of a deployment is unsupported",
            )
        for resource in (body.get("resources") or {}).get("elasticsearch") or []:
            check_version(resource)
        tags = (body.get("metadata") or {}).get("tags", deployment.record.tags)
        name = body.get("name", deployment.record.name)
        deployment.update(lambda _: {"name": name, "tags": tags})
        return json_response(200, shapes.created(deployment, None))

    def _shut_down(self, deployment: Deployment) -> Response:
        with self._lock:
            if not deployment.record.is_shut_down:
                deployment.shut_down()
                self._servers.pop(deployment.record.id).close()
        return json_response(200, {"id": deployment.record.id, "name": deployment.record.name})

    def _delete(self, deployment: Deployment) -> Response:
        """The API reference: 400 while the resources have not been shut down."""
        id = deployment.record.id
        if not deployment.record.is_shut_down:
            raise ApiError(
                400, "deployments.resources_not_stopped", "The Deployment resources have not been shutdown yet"
            )
        with self._lock:
            self._filters.forget(id)
            self._store.delete(id)
            self._deployments.pop(id, None)
        return json_response(200, {"id": id, "name": deployment.record.name})

    def _reset_password(self, deployment: Deployment, ref_id: str) -> Response:
        if ref_id != deployment.record.ref_id:
            raise ApiError(404, "deployments.elasticsearch.ref_id_not_found", f"no resource [{ref_id}]")
        password = new_secret()
        deployment.update(lambda _: {"password_digest": digest(password)})
        return json_response(200, {"username": USER, "password": password})

    def _get(self, id: str) -> Deployment:
        if id not in self._deployments:
            raise ApiError(404, "deployments.deployment_not_found", f"The deployment [{id}] was not found")
        return self._deployments[id]

    def _by_request(self, request_id: str | None) -> Deployment | None:
        if request_id is None:
            return None
        return next((each for each in self._deployments.values() if each.record.request_id == request_id), None)

    # --- traffic filters

    def _traffic_filter(self, method: str, rest: list[str], request: Request) -> Response:
        filters = self._filters
        match method, *rest:
            case "GET", "rulesets":
                return json_response(200, {"rulesets": [shapes.ruleset(each) for each in filters.all()]})
            case "POST", "rulesets":
                return json_response(201, {"id": filters.create(request.json()).id})
            case "GET", "rulesets", id:
                return json_response(200, shapes.ruleset(filters.get(id)))
            case "PUT", "rulesets", id:
                return json_response(200, {"id": filters.replace(id, request.json()).id})
            case "DELETE", "rulesets", id:
                filters.delete(id)
                return json_response(200, {})
            case "POST", "rulesets", id, "associations":
                filters.associate(id, self._get(request.json().get("id", "")).record.id)
                return json_response(201, {})
            case "DELETE", "rulesets", id, "associations", "deployment", deployment:
                filters.dissociate(id, deployment)
                return json_response(200, {})
        raise ApiError(501, "sandbox.not_offered", f"the sandbox does not offer {method} {request.target}")

    # --- the sandbox's own

    def _sandbox(self, request: Request) -> Response:
        match request.method, *request.segments[1:]:
            case "GET", "health":
                phases = {id: each.phase.value for id, each in self._deployments.items()}
                return json_response(200, {"ok": True, "deployments": phases})
            case "POST", "faults":
                return self._set_faults(request)
        raise ApiError(404, "sandbox.not_offered", f"{request.method} {request.target} is not known")

    def _set_faults(self, request: Request) -> Response:
        try:
            order = FaultOrder.model_validate(request.json())
        except ValidationError as error:
            raise BadRequestError(str(error)) from error
        deployment = self._get(order.deployment)
        deployment.faults.set(order)
        if order.kill_node:
            deployment.kill_node()
        return json_response(200, {"ok": True})


def _api_key(path: Path) -> str:
    """The organization's API key: made once, then read."""
    if not path.exists():
        write_privately(path, new_secret(40).encode())
    return path.read_text()


def _errors(status: int, code: str, message: str) -> Response:
    return json_response(status, {"errors": [{"code": code, "message": message}]}, ("x-cloud-error-codes", code))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

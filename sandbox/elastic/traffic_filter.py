"""Traffic filters: which addresses may reach a deployment.

As on Elastic Cloud: a deployment with no ruleset is open; with rulesets, only their sources reach it.
All clients here come from 127.0.0.1, so a ruleset that does not cover it closes the deployment to all.
"""

from __future__ import annotations

import ipaddress
import secrets
import threading
from typing import Any

from sandbox.elastic.record import Ruleset, Store
from sandbox.elastic.web import BadRequestError


class RulesetMissingError(Exception):
    """No ruleset has this id."""


class RulesetInUseError(Exception):
    """A ruleset that is associated with deployments cannot be deleted."""


class TrafficFilters:
    """All rulesets. Safe to use from several threads."""

    def __init__(self, store: Store[Ruleset]) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._rulesets = {ruleset.id: ruleset for ruleset in store.load()}

    def all(self) -> list[Ruleset]:
        return list(self._rulesets.values())

    def get(self, id: str) -> Ruleset:
        if id not in self._rulesets:
            raise RulesetMissingError(id)
        return self._rulesets[id]

    def create(self, body: dict[str, Any]) -> Ruleset:
        """Raises BadRequestError for a body that is no ruleset of IP addresses."""
        return self._keep(_parse(secrets.token_hex(16), body, ()))

    def replace(self, id: str, body: dict[str, Any]) -> Ruleset:
        return self._keep(_parse(id, body, tuple(self.get(id).deployments)))

    def delete(self, id: str) -> None:
        with self._lock:
            if self.get(id).deployments:
                raise RulesetInUseError(id)
            self._store.delete(id)
            del self._rulesets[id]

    def associate(self, id: str, deployment: str) -> None:
        ruleset = self.get(id)
        if deployment not in ruleset.deployments:
            self._keep(ruleset.model_copy(update={"deployments": [*ruleset.deployments, deployment]}))

    def dissociate(self, id: str, deployment: str) -> None:
        ruleset = self.get(id)
        self._keep(
            ruleset.model_copy(update={"deployments": [each for each in ruleset.deployments if each != deployment]})
        )

    def of(self, deployment: str) -> list[Ruleset]:
        return [ruleset for ruleset in self.all() if deployment in ruleset.deployments]

    def forget(self, deployment: str) -> None:
        """Dissociate a deployment that is deleted."""
        for ruleset in self.of(deployment):
            self.dissociate(ruleset.id, deployment)

    def admit(self, deployment: str, address: str) -> bool:
        rulesets = self.of(deployment)
        client = ipaddress.ip_address(address)
        sources = (rule["source"] for ruleset in rulesets for rule in ruleset.rules)
        return not rulesets or any(client in ipaddress.ip_network(source, strict=False) for source in sources)

    def _keep(self, ruleset: Ruleset) -> Ruleset:
        with self._lock:
            self._store.save(ruleset)
            self._rulesets[ruleset.id] = ruleset
        return ruleset


def _parse(id: str, body: dict[str, Any], deployments: tuple[str, ...]) -> Ruleset:
    try:
        ruleset = Ruleset.model_validate({**body, "id": id, "deployments": deployments})
        for rule in ruleset.rules:
            ipaddress.ip_network(rule.get("source", ""), strict=False)
    except ValueError as error:
        raise BadRequestError(f"not a ruleset: {error}") from error
    if ruleset.type != "ip":
        raise BadRequestError(f"the sandbox offers rulesets of type [ip], not [{ruleset.type}]")
    return ruleset

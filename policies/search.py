"""Search: an Elasticsearch deployment under its key, reached by TLS, opened for one tenant only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from policies import kinds
from policies.facts import Facts
from policies.keys import is_key_arn, under_its_key
from policies.resource import UNKNOWN, Program, Resource, document
from policies.rule import Found, FoundInProgram, OnUnknown, Rule, Severity, Violation

ELASTIC = "https://www.elastic.co/docs/deploy-manage"
CUSTOMER_KEY = f"{ELASTIC}/security/encrypt-deployment-with-customer-managed-encryption-key"
PRIVILEGES = {
    "records": frozenset({"read", "write", "view_index_metadata"}),
    "edits": frozenset({"read", "create_doc", "monitor", "maintenance"}),
    "pipeline": frozenset({"read", "write", "maintenance"}),
}
"""What a tenant's indices begin with -> what may be done with them: an edit is added and never changed."""
_SAFE = re.compile(r"https://|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?(/|$)")
"""What never leaves the machine, such as the sandbox's deployments, needs no TLS."""
EVERYWHERE = frozenset({"0.0.0.0/0", "::/0", "0.0.0.0", "*"})  # noqa: S104 - what is refused, not listened on


def _has_key(one: Resource) -> Iterator[str]:
    key = one.get("encryptionKeyPath")
    if key is None:
        yield "it would lie under Elastic's own key"
    elif key is not UNKNOWN and not is_key_arn(key):
        yield "its key is not named by a key's ARN: behind an alias Elastic re-wraps by itself"


def _names_a_key(program: Program, facts: Facts, _: Mapping[str, Any]) -> FoundInProgram:
    """On Azure Elastic Cloud offers a deployment its own key only: there a name would be a promise that nobody keeps."""
    for one in program.of(kinds.DEPLOYMENT):
        if facts.cloud == "azure":
            if one.get("encryptionKeyPath") is not None:
                yield Violation("it would name a key, and on Azure it can lie under Elastic's own only", one.urn)
        else:
            yield from (Violation(why, one.urn) for why in _has_key(one))


def _own_key(program: Program, facts: Facts, _: Mapping[str, Any]) -> FoundInProgram:
    for one in program.of(kinds.DEPLOYMENT):
        wrong = under_its_key(program, facts, "searches", one, "encryptionKeyPath")
        unit = facts.unit("searches", one.unit) or {}
        if not wrong and unit.get("key") is None:
            wrong = _not_the_vendors(program, facts, one)
        if wrong:
            yield Violation(wrong, one.urn)


def _not_the_vendors(program: Program, facts: Facts, one: Resource) -> str:
    """A search without a customer's key lies under the stamp's, which comes by its stack's outputs."""
    theirs = {str(key["arn"]) for key in facts.units("keys") if key.get("arn")}
    ours = {key.outputs.get("arn", UNKNOWN) for key in program.of(kinds.IMPORTED_KEY)} - {UNKNOWN}
    if one.get("encryptionKeyPath") in theirs | ours:
        return f"the layout names no customer's key for {one.unit}, but it is given one"
    return ""


def _tls(program: Program, _facts: Facts, _: Mapping[str, Any]) -> FoundInProgram:
    for one in program.of(kinds.INDEX, kinds.INDEX_TEMPLATE, kinds.API_KEY, kinds.SEARCH_ROLE):
        if one.get("elasticsearchConnection.insecure", default=False) is not False:
            yield Violation("the deployment's certificate would not be checked", one.urn)
        endpoints = one.get("elasticsearchConnection.endpoints", default=[])
        if endpoints is UNKNOWN or UNKNOWN in endpoints:
            # Only a deployment that is being made tells its endpoint, and Elastic Cloud has none but https.
            origins = one.comes_from("elasticsearchConnection")
            if origins != {f"{one.unit}-deployment"}:
                yield Violation(f"its endpoint comes from {', '.join(sorted(origins)) or 'nowhere'}", one.urn)
        elif not endpoints or not all(_SAFE.match(str(endpoint)) for endpoint in endpoints):
            yield Violation("the deployment would be reached without TLS", one.urn)


def _not_open(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.get("includeByDefault", default=False) is not False:
        yield "the filter would be put on every deployment of the organization"
    rules = one.get("rules", default=[])
    if rules is UNKNOWN:
        yield "the filter's sources are not known"
        return
    sources = [_part(rule, "source") for rule in rules]
    if not sources:
        yield "the filter names no source"
    for source in sources:
        if source is UNKNOWN or str(source) in EVERYWHERE or str(source).endswith("/0"):
            yield f"the filter lets everybody in: {source}"


def _own_indices(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.type == kinds.SEARCH_ROLE:
        descriptors = {one.get("name"): {"cluster": one.get("clusters", []), "indices": one.get("indices", [])}}
    else:
        descriptors = document(one.get("roleDescriptors"))
    if not isinstance(descriptors, Mapping) or not descriptors:
        yield "it has no descriptor that is known: it would have the rights of who made it"
        return
    for name, rights in descriptors.items():
        if rights.get("cluster") or rights.get("cluster") is UNKNOWN:
            yield f"{name} has rights over the whole cluster"
        for index in _listed(rights.get("indices")):
            names, privileges = _listed(_part(index, "names")), _listed(_part(index, "privileges"))
            for each in names:
                may = next((may for prefix, may in PRIVILEGES.items() if str(each).startswith(prefix)), None)
                if may is None:
                    yield f"{name} reaches the index {each}; its own begin with {', '.join(PRIVILEGES)}"
                elif more := set(map(str, privileges)) - may:
                    yield f"{name} may {', '.join(sorted(more))} in {each}"


def _part(of: Any, name: str) -> Any:
    return of.get(name) if isinstance(of, Mapping) else UNKNOWN


def _listed(value: Any) -> list[Any]:
    """A list; one that is not known as one that holds something unknown, which no rule lets pass."""
    return [UNKNOWN] if value is UNKNOWN else list(value or [])


def _rules() -> Iterator[Rule]:
    yield Rule(
        id="search-names-a-key",
        topic="search",
        sentence="A deployment is encrypted by a KMS key that is named by its ARN.",
        remediation="Set encryption_key_path to the ARN of a key, never of an alias.",
        severity=Severity.CRITICAL,
        url=CUSTOMER_KEY,
        unknown=OnUnknown.ORIGIN,
        controls=("NIST 800-57 5.3", "SOC 2 CC6.1"),
        check_program=_names_a_key,
    )
    yield Rule(
        id="search-under-its-own-key",
        topic="search",
        sentence="A deployment lies under the one key that the layout names for it.",
        remediation="Take encryption_key_path from the layout's key of this search.",
        severity=Severity.CRITICAL,
        url=CUSTOMER_KEY,
        unknown=OnUnknown.ORIGIN,
        controls=("NIST 800-57 5.2", "SOC 2 CC6.1"),
        check_program=_own_key,
    )
    yield Rule(
        id="search-tls-only",
        topic="search",
        sentence="A deployment is reached by TLS or on the machine itself, and its certificate is checked.",
        remediation="Use the https endpoint of the deployment and leave `insecure` out.",
        severity=Severity.HIGH,
        url=f"{ELASTIC}/security/secure-cluster-communications",
        unknown=OnUnknown.ORIGIN,
        controls=("SOC 2 CC6.7",),
        check_program=_tls,
    )
    yield Rule(
        id="search-no-open-filter",
        topic="search",
        sentence="No traffic filter lets everybody in.",
        remediation="Name the sources: private links, or addresses of the vendor's network.",
        severity=Severity.HIGH,
        url=f"{ELASTIC}/security/ip-filtering",
        unknown=OnUnknown.DENIED,
        controls=("SOC 2 CC6.6",),
        types=frozenset({kinds.TRAFFIC_FILTER}),
        check=_not_open,
    )
    yield Rule(
        id="search-own-indices-only",
        topic="search",
        sentence="API keys and roles of a deployment reach its records and edits and nothing else.",
        remediation="Give the key a descriptor with no cluster right and the indices records-*, edits-* and pipeline-*.",
        severity=Severity.HIGH,
        url=f"{ELASTIC}/api-keys/elasticsearch-api-keys",
        unknown=OnUnknown.DENIED,
        controls=("SOC 2 CC6.3",),
        types=frozenset({kinds.API_KEY, kinds.SEARCH_ROLE}),
        check=_own_indices,
    )


RULES = tuple(_rules())

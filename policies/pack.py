"""The rules as a Pulumi policy pack: `pulumi preview --policy-pack policies`.

The SDK turns a mandatory policy that touches an unknown value into advice, silently. Here no rule can touch
one: values come to it as plain data in which an unknown is a value too, and what a rule cannot decide yet
it says by name, as the advice `undecided`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pulumi_policy import (
    EnforcementLevel,
    Policy,
    PolicyConfigSchema,
    PolicyPack,
    PolicyResource,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    Severity,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy.proxy import _DictProxy, _ListProxy

from policies.catalogue import RULES
from policies.judge import Judge, plain
from policies.resource import Resource
from policies.rule import Rule, Undecided

NAME = "keyshift"
UNDECIDED = "undecided"


def run() -> None:
    """Serves the pack to the engine until it has no more questions."""
    PolicyPack(NAME, policies(Judge()), EnforcementLevel.MANDATORY)


def policies(judge: Judge) -> list[Policy]:
    undecided = ResourceValidationPolicy(
        UNDECIDED,
        "What a preview cannot tell yet; it is judged in the update.",
        _undecided(judge),
        EnforcementLevel.ADVISORY,
    )
    # First, because it also remembers each resource.
    return [undecided, *(_policy(judge, rule) for rule in RULES if rule.check_change is None)]


def _policy(judge: Judge, rule: Rule) -> Policy:
    said: Mapping[str, Any] = {
        "enforcement_level": EnforcementLevel.MANDATORY,
        "severity": Severity(str(rule.severity)),
        "remediation_steps": rule.remediation,
        "url": rule.url,
        "tags": [rule.topic, *rule.controls],
        "config_schema": PolicyConfigSchema({name: dict(schema) for name, schema in rule.settings.items()}),
    }
    if rule.check is not None:
        return ResourceValidationPolicy(rule.id, rule.sentence, _of_resource(judge, rule), **said)
    return StackValidationPolicy(rule.id, rule.sentence, _of_program(judge, rule), **said)


def _undecided(judge: Judge) -> Callable[[ResourceValidationArgs, ReportViolation], None]:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        one = _alone(args)
        judge.remember(one)
        by_what: dict[str, list[str]] = {}
        for rule in RULES:
            for what in {found.what for found in judge.found(rule, one, {}) if isinstance(found, Undecided)}:
                by_what.setdefault(what, []).append(rule.id)
        for what, ids in by_what.items():
            report(f"{what} is not known yet: {', '.join(ids)}", None)

    return validate


def _of_resource(judge: Judge, rule: Rule) -> Callable[[ResourceValidationArgs, ReportViolation], None]:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        if args.resource_type not in rule.types:
            return
        for found in judge.found(rule, _alone(args), args.get_config()):
            if not isinstance(found, Undecided):
                report(_told(rule, found), None)

    return validate


def _of_program(judge: Judge, rule: Rule) -> Callable[[StackValidationArgs, ReportViolation], None]:
    def validate(args: StackValidationArgs, report: ReportViolation) -> None:
        program = judge.program(_shown(one) for one in args.resources)
        for found in judge.found_in(rule, program, args.get_config()):
            report(_told(rule, found.message), found.urn or None)

    return validate


def _told(rule: Rule, message: str) -> str:
    return f"{message}\nto do: {rule.remediation}\nsee {rule.url}"


def _alone(args: ResourceValidationArgs) -> Resource:
    return Resource(urn=args.urn, type=args.resource_type, props=bare(args.props), protect=bool(args.opts.protect))


def _shown(one: PolicyResource) -> Resource:
    origins = {name: tuple(found.urn for found in held) for name, held in one.property_dependencies.items()}
    return Resource(
        urn=one.urn,
        type=one.resource_type,
        props=bare(one.props),
        deps=origins,
        protect=bool(one.opts.protect),
    )


def bare(value: Any) -> Any:
    """What the SDK wraps so that touching an unknown raises, as plain data."""
    if isinstance(value, _DictProxy):
        return {key: bare(one) for key, one in value["__target"].items()}
    if isinstance(value, _ListProxy):
        return [bare(one) for one in value["__target"]]
    return plain(value)

"""The rules and what they found, for reviewers and for their tools: Markdown, SARIF, JUnit. Pure functions."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from policies.catalogue import RULES, TOPICS
from policies.rule import Rule, Severity

MODES = ("standard", "byok", "byokms", "byokv")
SARIF_LEVELS = {Severity.MEDIUM: "warning", Severity.HIGH: "error", Severity.CRITICAL: "error"}
SCORES = {Severity.MEDIUM: "5.0", Severity.HIGH: "8.0", Severity.CRITICAL: "9.5"}
"""GitHub sorts alerts by `security-severity`."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`rule` was broken by `resource` of `stack`."""

    rule: str
    stack: str
    resource: str
    message: str


def proof(rule: Rule) -> str:
    """How a rule is proved; the last column of the table."""
    if rule.cloud == "azure":
        return "function, graph"
    return "function" if rule.check_change else "function, engine"


def kind(rule: Rule) -> str:
    return "plan" if rule.check_change else "stack" if rule.check_program else "resource"


def explained(rule: Rule) -> dict[str, Any]:
    """Everything that a rule says of itself."""
    return {
        "id": rule.id,
        "topic": rule.topic,
        "sentence": rule.sentence,
        "severity": str(rule.severity),
        "remediation": rule.remediation,
        "url": rule.url,
        "unknown": str(rule.unknown),
        "controls": list(rule.controls),
        "cloud": rule.cloud,
        "modes": list(rule.modes),
        "looks_at": kind(rule),
        "types": sorted(rule.types),
        "settings": {name: dict(schema) for name, schema in rule.settings.items()},
        "proof": proof(rule),
    }


def table() -> str:
    """Rule x mode x cloud, with how each is proved, as Markdown."""
    lines = ["| rule | cloud | " + " | ".join(MODES) + " | looks at | proved as |", "|---" * (len(MODES) + 4) + "|"]
    for rule in RULES:
        modes = ["x" if mode in rule.modes else "" for mode in MODES]
        lines.append(f"| `{rule.id}` | {rule.cloud} | {' | '.join(modes)} | {kind(rule)} | {proof(rule)} |")
    return "\n".join(lines)


def catalogue() -> str:
    """What each rule says, by topic, as Markdown."""
    parts = []
    for topic in TOPICS:
        parts += [f"### {topic.capitalize()}", ""]
        for rule in (one for one in RULES if one.topic == topic):
            parts += [
                f"**`{rule.id}`** ({rule.severity}): {rule.sentence} [source]({rule.url})  ",
                f"To do: {rule.remediation} Unknown at a preview: {rule.unknown.value}.",
                "",
            ]
    return "\n".join(parts).strip()


def controls() -> str:
    """Control -> rules, as Markdown."""
    by_control: dict[str, list[str]] = {}
    for rule in RULES:
        for control in rule.controls:
            by_control.setdefault(control, []).append(f"`{rule.id}`")
    rows = [f"| {control} | {', '.join(ids)} |" for control, ids in sorted(by_control.items())]
    return "\n".join(["| control | rules |", "|---|---|", *rows])


def settings() -> str:
    """What a site may set, as Markdown."""
    rows = [
        f"| `{rule.id}` | `{name}` | {schema['description']} | {schema.get('minimum', '')} | `{schema['default']}` |"
        for rule in RULES
        for name, schema in rule.settings.items()
    ]
    return "\n".join(["| rule | setting | what | least | if not set |", "|---|---|---|---|---|", *rows])


def sarif(findings: Sequence[Finding]) -> dict[str, Any]:
    """SARIF 2.1.0. A finding is about a resource and not about a line, hence a logical location."""
    rules = [
        {
            "id": rule.id,
            "shortDescription": {"text": rule.sentence},
            "help": {"text": rule.remediation},
            "helpUri": rule.url,
            "defaultConfiguration": {"level": SARIF_LEVELS[rule.severity]},
            "properties": {"tags": [rule.topic, *rule.controls], "security-severity": SCORES[rule.severity]},
        }
        for rule in RULES
    ]
    levels = {rule.id: SARIF_LEVELS[rule.severity] for rule in RULES}
    results = [
        {
            "ruleId": found.rule,
            "level": levels[found.rule],
            "message": {"text": f"{found.resource}: {found.message}"},
            "locations": [
                {
                    "physicalLocation": {"artifactLocation": {"uri": f"Pulumi.{found.stack}.yaml"}},
                    "logicalLocations": [
                        {"name": found.resource, "fullyQualifiedName": f"{found.stack}/{found.resource}"}
                    ],
                }
            ],
        }
        for found in findings
    ]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": {"name": "keyshift policies", "rules": rules}}, "results": results}],
    }


def junit(stack: str, findings: Sequence[Finding]) -> str:
    """JUnit XML: a test case a rule that an engine judges, failed by what breaks it."""
    judged = [rule for rule in RULES if rule.check_change is None]
    broken = {found.rule for found in findings}
    suite = ET.Element("testsuite", name=f"policies of {stack}", tests=str(len(judged)), failures=str(len(broken)))
    for rule in judged:
        case = ET.SubElement(suite, "testcase", classname=f"policies.{rule.topic}", name=rule.id)
        said = [f"{found.resource}: {found.message}" for found in findings if found.rule == rule.id]
        if said:
            failure = ET.SubElement(case, "failure", message=rule.sentence)
            failure.text = "\n".join([*said, f"to do: {rule.remediation}", rule.url])
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"

"""The engine's event log, as far as policies are in it."""

from __future__ import annotations

import json
from typing import Any

from policies.catalogue import RULES


def asked_all(*events: dict[str, Any]) -> bytes:
    """What the engine logs when every policy was asked, and these events."""
    summary = {"policyAnalyzeStackSummaryEvent": {"policyPackName": "keyshift", "passed": [rule.id for rule in RULES]}}
    return b"".join(line_of(event) for event in (*events, summary))


def line_of(event: dict[str, Any]) -> bytes:
    return json.dumps({"sequence": 1} | event).encode() + b"\n"

"""Every rule, in the order in which people read them."""

from __future__ import annotations

from policies import access, azure, keys, lifecycle, pipeline, search, storage
from policies.rule import Change, Rule, Violation

RULES: tuple[Rule, ...] = (
    *storage.RULES,
    *keys.RULES,
    *search.RULES,
    *access.RULES,
    *pipeline.RULES,
    *lifecycle.RULES,
    *azure.RULES,
)
TOPICS = ("storage", "keys", "search", "access", "pipeline", "lifecycle", "azure")


def rule(id: str) -> Rule | None:
    return next((one for one in RULES if one.id == id), None)


def judge_change(change: Change) -> list[tuple[Rule, Violation]]:
    """What a change of a layout breaks of the rules about plans."""
    return [
        (one, Violation(message))
        for one in RULES
        if one.check_change is not None
        for message in one.check_change(change)
    ]

"""What a rule is: an id, a sentence, and a pure function from what is asked for to what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from policies.facts import Facts
from policies.resource import Program, Resource

if TYPE_CHECKING:
    from stacks.layout import Layout


class Severity(StrEnum):
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class OnUnknown(StrEnum):
    """The written rule for a value that a preview does not know."""

    DENIED = "must be known: an unknown value is a violation"
    ORIGIN = "judged by the resources that the value comes from"
    UPDATE = "undecided at the preview, which says so; judged in the update, before the resource is made"
    NONE = "reads no value that a preview may not know"


@dataclass(frozen=True)
class Undecided:
    """A preview cannot tell: `what` is not known yet."""

    what: str


@dataclass(frozen=True)
class Violation:
    """`urn` names the resource when a rule has looked at a whole stack; empty: the resource that it was given."""

    message: str
    urn: str = ""


class Step(Protocol):
    """One step of a previewed update."""

    @property
    def op(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def name(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Change:
    """A tenant's layout and the one that follows on it, as a phase of an operation makes it.

    `steps`: what the previewed update would do. `owners`: whose key an ARN or alias is or ever was.
    """

    before: Layout | None
    after: Layout
    steps: Sequence[Step] = ()
    owners: Mapping[str, str] = field(default_factory=dict)


Found = Iterator[str | Undecided]
FoundInProgram = Iterator[Violation]
CheckResource = Callable[[Resource, Mapping[str, Any]], Found]
CheckChange = Callable[[Change], Iterator[str]]
CheckProgram = Callable[[Program, Facts, Mapping[str, Any]], FoundInProgram]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """`types`: what a rule of single resources looks at. `settings`: a site may set these, as JSON schema."""

    id: str
    topic: str
    sentence: str
    remediation: str
    severity: Severity
    url: str
    unknown: OnUnknown
    controls: tuple[str, ...]
    cloud: str = "aws"
    modes: tuple[str, ...] = ("standard", "byok", "byokms")
    types: frozenset[str] = frozenset()
    check: CheckResource | None = None
    check_program: CheckProgram | None = None
    check_change: CheckChange | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def defaults(self) -> dict[str, Any]:
        return {name: schema["default"] for name, schema in self.settings.items()}

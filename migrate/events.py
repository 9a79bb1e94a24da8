"""What happens in an operation, as facts with stable names: one JSON line each, described in docs/events.md.

The lines of text that people see are made of the same events (`show.Ticker`). Data only, and functions
from data to data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from migrate.errors import KeyshiftError, Waiting
from migrate.operations import Phase, Plan
from migrate.progress import Pace, Progress


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Place(_Frozen):
    """Where in its plan an operation is. Numbers begin at 1."""

    phase: str
    phase_title: str
    phase_number: int
    phases: int
    step: str
    step_title: str
    step_number: int
    steps: int


class _Event(_Frozen):
    at: datetime
    tenant: str


class _Placed(_Event):
    """All but the tenant are null in what `archive import` tells: it is no operation."""

    operation: str | None
    phase: str | None
    phase_title: str | None
    phase_number: int | None
    phases: int | None
    step: str | None
    step_title: str | None
    step_number: int | None
    steps: int | None


class Begun(_Event):
    """An operation begins, or goes on (`resumed`)."""

    event: Literal["operation"] = "operation"
    operation: str
    kind: str
    mode: str | None
    resumed: bool
    phases: tuple[str, ...]


class StepBegun(_Placed):
    event: Literal["step"] = "step"


class StepDone(_Placed):
    event: Literal["step-done"] = "step-done"
    seconds: float


class Progressed(_Placed):
    """How far a move of the step is; at most four a second. A total or a rate that is not known is null."""

    event: Literal["progress"] = "progress"
    move: str
    objects: int
    objects_total: int | None
    bytes: int
    bytes_total: int | None
    seconds: float
    objects_per_second: float | None
    bytes_per_second: float | None
    remaining_seconds: float | None


class Waits(_Placed):
    """The step waits and goes on by itself; `seconds` since it began to wait for this reason."""

    event: Literal["wait"] = "wait"
    reason: str
    seconds: float


class Warned(_Event):
    """What Archive shows its users for as long as it stands; told again at each look."""

    event: Literal["warning"] = "warning"
    operation: str | None
    text: str


class Ended(_Event):
    """The last event. `waiting`: somebody has to act, then `keyshift resume`; `failed`: the same, after the hint."""

    event: Literal["done", "failed", "waiting"]
    operation: str
    step: str | None
    code: str | None
    message: str | None
    hint: str | None
    waits_for: str | None
    seconds: float
    jobs_disabled_seconds: float | None


Event = Annotated[
    Begun | StepBegun | StepDone | Progressed | Waits | Warned | Ended,
    Field(discriminator="event"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
Tell = Callable[[Event], None]
"""What a watcher is: it is told each event as it happens."""


def step_names(phase: Phase) -> list[str]:
    """`<phase>/up`, then `<phase>/<n>-<wait or move>`: stable, because the journal is keyed by them."""
    parts = [*phase.waits, *phase.moves]
    return [f"{phase.name}/up", *(f"{phase.name}/{n}-{part.kind}" for n, part in enumerate(parts, 1))]


def place(plan: Plan, step: str) -> Place | None:
    """Where `step` stands in a plan; None for a name that is not of the plan."""
    for number, phase in enumerate(plan.phases, 1):
        names = step_names(phase)
        if step in names:
            index = names.index(step)
            return Place(
                phase=phase.name,
                phase_title=phase.title,
                phase_number=number,
                phases=len(plan.phases),
                step=step,
                step_title=_titles(phase)[index],
                step_number=index + 1,
                steps=len(names),
            )
    return None


def _titles(phase: Phase) -> list[str]:
    return [
        "bring up the layout",
        *(
            f"use {wait.subject} once" if wait.kind == "key-usable" else f"wait for {wait.reason}"
            for wait in phase.waits
        ),
        *(move.title for move in phase.moves),
    ]


def as_json(event: Event) -> str:
    """One line."""
    return event.model_dump_json()


class Scribe:
    """Makes the events of one operation: it knows the tenant, the operation and the plan."""

    def __init__(self, tell: Tell, *, tenant: str, operation: str | None = None, plan: Plan | None = None) -> None:
        self._tell = tell
        self._tenant = tenant
        self._operation = operation
        self._plan = plan

    def begun(self, *, kind: str, mode: str | None, resumed: bool) -> None:
        phases = tuple(phase.name for phase in self._plan.phases) if self._plan else ()
        self._tell(
            Begun(
                at=_now(), tenant=self._tenant, operation=self._operation or "", kind=kind, mode=mode, resumed=resumed,
                phases=phases,
            )
        )  # fmt: skip

    def step(self, step: str) -> None:
        self._tell(StepBegun(**self._at(step)))

    def step_done(self, step: str, seconds: float) -> None:
        self._tell(StepDone(**self._at(step), seconds=round(seconds, 1)))

    def progress(self, step: str | None, progress: Progress, pace: Pace) -> None:
        """A wait when the progress names a reason, else how far the move is."""
        if progress.waiting is not None:
            self._tell(Waits(**self._at(step), reason=progress.waiting, seconds=pace.seconds))
            return
        facts = {name: value for name, value in asdict(progress).items() if name != "waiting"}
        self._tell(Progressed(**self._at(step), **facts, **asdict(pace)))

    def warned(self, text: str) -> None:
        self._tell(Warned(at=_now(), tenant=self._tenant, operation=self._operation, text=text))

    def ended(
        self, error: KeyshiftError | None, *, step: str | None, seconds: float, jobs_disabled_seconds: float | None
    ) -> None:
        waits = isinstance(error, Waiting)
        self._tell(
            Ended(
                at=_now(),
                tenant=self._tenant,
                event="done" if error is None else "waiting" if waits else "failed",
                operation=self._operation or "",
                step=step,
                code=error.code if error else None,
                message=error.message if error else None,
                hint=(error.hint or None) if error else None,
                waits_for=error.waits_for if isinstance(error, Waiting) else None,
                seconds=round(seconds, 1),
                jobs_disabled_seconds=jobs_disabled_seconds,
            )
        )

    def _at(self, step: str | None) -> dict[str, Any]:
        found = place(self._plan, step) if self._plan and step else None
        where = dict.fromkeys(Place.model_fields) | {"step": step} | (found.model_dump() if found else {})
        return {"at": _now(), "tenant": self._tenant, "operation": self._operation, **where}


def _now() -> datetime:
    return datetime.now(UTC)

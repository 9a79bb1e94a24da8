"""What every operation does in every state of a tenant: docs/operations.md says what the code says.

`KEYSHIFT_DOCS=write pytest tests/unit/test_operations_table.py` writes the page anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import layouts
import pytest
import sqlalchemy as sql
from test_runner import FakeStack

from migrate import durable, runner
from migrate.errors import KeyshiftError, RefusedInput
from migrate.fates import Fate, Fates, KeyFate
from migrate.operations import OperationKind, Request
from migrate.plan import plan
from migrate.records import Records
from migrate.runner import Runner
from migrate.stack import Project
from stacks.layout import Key, KeyState, Layout
from stacks.record import TENANTS, connect

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
THEIRS = Key(
    id="k9",
    state=KeyState.ACTIVE,
    arn="arn:aws:kms:eu-west-1:444455556666:key/nine",
    alias="arn:aws:kms:eu-west-1:444455556666:alias/acme",
)
COMMANDS: dict[str, tuple[OperationKind, str | None, dict[str, Any]]] = {
    "key request": (OperationKind.REQUEST, None, {}),
    "key onboard": (OperationKind.ONBOARD, None, {"key": THEIRS}),
    "enable --mode byok": (OperationKind.ENABLE, "byok", {}),
    "enable --mode byokms": (OperationKind.ENABLE, "byokms", {}),
    "rotate": (OperationKind.ROTATE, None, {}),
    "key follow, a rotation": (OperationKind.ROTATE, None, {"key": THEIRS}),
    "confirm": (OperationKind.CONFIRM, None, {}),
    "change --mode byok": (OperationKind.CHANGE, "byok", {}),
    "change --mode byokms": (OperationKind.CHANGE, "byokms", {}),
    "remove": (OperationKind.REMOVE, None, {}),
    "upgrade --search-version": (OperationKind.UPGRADE, None, {"search_version": "8.99.0"}),
    "delete": (OperationKind.DELETE, None, {}),
    "revoke": (OperationKind.REVOKE, None, {}),
}
BOUND = Key(id="k8", state=KeyState.ACTIVE, arn="arn:aws:kms:eu-west-1:444455556666:key/eight", alias=THEIRS.alias)


def paused() -> Layout:
    asked = Request(operation="acme-rotate-1", kind=OperationKind.ROTATE, key=THEIRS)
    return plan(asked, layouts.byokms_active()).end


QUIET: dict[str, Callable[[], Layout]] = {
    "standard": layouts.standard,
    "standard, their key bound": lambda: layouts.changed(layouts.standard(), keys=(BOUND,)),
    "byok, waits for its first key": layouts.byok_pending,
    "byok": layouts.byok_active,
    "byokms": layouts.byokms_active,
    "byokms, paused by a rotation": paused,
}
BEGUN = "it has begun, which is what is asked here"
LOST = KeyFate(
    tenant="acme", key="k1", fate=Fate.LOST, by="someone", at=datetime(2026, 1, 2, tzinfo=UTC), reason="says its owner"
)
BUSY = {
    "sealed or revoked": "sealed",
    "sealed, its key destroyed or lost": "ended",
    "in a move, before it serves": "build/3-copy",
    "in a move, once the new side serves": "purge/1-purge-storage",
}
WALKED = {name: asked for name, asked in COMMANDS.items() if name != "revoke"}


def came(act: Callable[[], Any]) -> str:
    try:
        done = act()
    except RefusedInput as refused:
        return f"refused: `{refused.code}`"
    except KeyshiftError as begun:
        if begun.message != BEGUN:
            raise
        return "works"
    return " → ".join(phase.name for phase in done.phases)


def written(asked: dict[str, Any]) -> dict[str, Any]:
    """As the record keeps it."""
    return {name: value.model_dump(mode="json") if isinstance(value, Key) else value for name, value in asked.items()}


def quiet(layout: Layout) -> dict[str, str]:
    return {
        name: came(partial(plan, Request(operation="acme-x-1", kind=kind, mode=mode, **asked), layout))
        for name, (kind, mode, asked) in COMMANDS.items()
    }


@pytest.fixture
def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """How a real runner with a real record answers in a state that is not quiet."""
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    monkeypatch.setattr(runner, "Stack", lambda *_: FakeStack())

    def only_deleted(folder: Path, tenant: str, operation: str, *_: Any) -> durable.Outcome:
        assert operation == "acme-delete-1", "nothing else may be walked in these states"
        return durable.Outcome(state="failed", message=BEGUN)

    monkeypatch.setattr(durable, "walk", only_deleted)

    def answers(state: str) -> dict[str, str]:
        home = tmp_path / state.replace("/", "-") / ".keyshift"
        engine = connect(home)
        records = Records(engine)
        held = records.create(layouts.byok_active() if state == "ended" else layouts.standard())
        acting = Runner(Project(root=home.parent, home=home), "acme", lambda _: None)
        if state in {"sealed", "ended"}:
            with engine.begin() as connection:
                connection.execute(sql.update(TENANTS).values(sealed=True))
            if state == "ended":
                Fates(engine).put(LOST)
        else:
            with records.lease("acme") as fence:
                operation = records.begin(held, OperationKind.ENABLE, "byok")
                records.note(operation.id, fence=fence, step=state)
        way_back = came(acting.preview_abort)
        found = {
            name: came(partial(acting.run, kind, mode, asked=written(asked)))
            for name, (kind, mode, asked) in WALKED.items()
        }
        return {**found, "abort": way_back}

    return answers


def page(answers: Callable[[str], dict[str, str]]) -> str:
    lines = [
        "# Every operation in every state",
        "",
        "Generated from the planner and the runner by a test; what works shows its phases, what is refused the code of",
        "the refusal, whose message names the next command. `keyshift enable acme --dry-run` shows a plan in full.",
        "`seal` and `restore` work in every state of a tenant that exists: they ask for no lease. `confirm` also needs a",
        "token, which only a pause gives.",
        "",
        "## Nothing else is under way",
        "",
    ]
    found = {state: quiet(made()) for state, made in QUIET.items()}
    lines += _table(["operation", *found], [[name, *(found[state][name] for state in found)] for name in COMMANDS])
    lines += ["", "## Something is", ""]
    answered = {state: answers(step) for state, step in BUSY.items()}
    names = [*WALKED, "abort"]
    lines += _table(
        ["operation", *answered], [[name, *(answered[state][name] for state in answered)] for name in names]
    )
    return "\n".join(lines) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def test_the_page_says_what_the_code_says(busy: Callable[[str], dict[str, str]]) -> None:
    right = page(busy)
    if os.environ.get("KEYSHIFT_DOCS") == "write":
        PAGE.write_text(right, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == right, "KEYSHIFT_DOCS=write pytest mends it"


def test_every_kind_of_operation_is_in_the_table() -> None:
    elsewhere = {OperationKind.CREATE, OperationKind.ABORT, OperationKind.RESTORE}
    assert {kind for kind, _, _ in COMMANDS.values()} | elsewhere == set(OperationKind)


def test_a_state_that_is_not_quiet_lets_nothing_in_but_the_way_back(busy: Callable[[str], dict[str, str]]) -> None:
    for step in BUSY.values():
        answers = busy(step)
        way_back = answers.pop("abort")
        assert (answers.pop("delete") == "works") == (step == "ended"), "nobody can read it, and it has to go some day"
        assert all(answer.startswith("refused") for answer in answers.values()), (step, answers)
        assert way_back.startswith("refused") == (step != "build/3-copy"), (step, way_back)


def test_a_refusal_names_the_next_command() -> None:
    hints = []
    for made in QUIET.values():
        for kind, mode, asked in COMMANDS.values():
            try:
                plan(Request(operation="acme-x-1", kind=kind, mode=mode, **asked), made())
            except KeyshiftError as refused:
                hints.append(refused.hint)
    assert len(hints) > 20
    assert [hint for hint in hints if "keyshift " not in hint] == []

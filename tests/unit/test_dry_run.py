"""A dry run: what is counted, what is priced, what is previewed, and that no variable turns it into more."""

# ruff: noqa: F811 - a fixture that is imported is redefined by every parameter of its name
from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import layouts
import pytest
import yaml
from engine_log import asked_all
from fake_s3 import put, two_storages
from pulumi.automation import CommandError, CommandResult
from test_guard import NOW, recorded, rendered
from test_show import text
from test_stack import project, stack  # noqa: F401 - its fixtures

from migrate import dry_run, prices
from migrate.copy.s3 import Entry
from migrate.dry_run import Inventory, inventory, preview_all, price
from migrate.errors import CloudError
from migrate.operations import MoveKind, OperationKind, Plan, Request
from migrate.plan import plan
from migrate.progress import Progress, unwatched
from migrate.records import Records
from migrate.show_dry_run import dry_run as shown
from migrate.stack import Project, Stack, Step
from stacks import guard, record
from stacks.errors import GuardError
from stacks.layout import Layout

GIGABYTE = 1024**3
ENABLE = plan(Request(operation="acme-enable", kind=OperationKind.ENABLE, mode="byok"), layouts.standard())
HELD = Inventory(versions=2500, delete_markers=10, objects=2400, bytes=5_000_000, current_bytes=4_000_000)


# the guard: a preview of a proposed layout, and nothing more ----------------------------------


def test_a_preview_of_a_layout_that_follows_on_the_records_is_admitted():
    admitted = guard.judge(
        rendered(layouts.enable_frozen()), recorded(layouts.standard()), fence=None, now=NOW, is_proposed=True
    )
    assert admitted.layout == layouts.enable_frozen()
    with pytest.raises(GuardError, match="the record at generation 4"):
        guard.judge(rendered(layouts.enable_frozen()), recorded(layouts.standard()), fence=None, now=NOW)


def proposed(settings: Any, held: Any) -> str:
    with pytest.raises(GuardError) as refused:
        guard.judge(settings, held, fence=None, now=NOW, is_proposed=True)
    return refused.value.message


def test_everything_else_is_refused_for_a_proposed_layout_as_for_any_other():
    standard, frozen = layouts.standard(), layouts.enable_frozen()
    assert "at generation 3" in proposed(rendered(frozen, generation=3), recorded(standard))
    assert "edited by hand" in proposed(rendered(frozen, digest=standard.digest()), recorded(standard))
    assert "no record of that tenant" in proposed(rendered(frozen), None)
    assert "is sealed" in proposed(rendered(frozen), recorded(standard, sealed=True))
    assert "was deleted" in proposed(rendered(frozen), recorded(standard, archived=True))
    assert "keyshift:customer is evil-corp" in proposed(rendered(frozen, customer="evil-corp"), recorded(standard))
    leased = recorded(standard, lease_owner="host-a:17", lease_until=NOW.replace(year=2027))
    assert "being worked on by host-a:17" in proposed(rendered(frozen), leased)


def test_no_variable_turns_a_proposed_layout_into_an_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    engine = record.connect(tmp_path)
    record.insert(engine, layouts.standard())
    monkeypatch.setenv(guard.PROPOSED_VARIABLE, "1")
    settings = rendered(layouts.enable_frozen(), generation=1)
    assert guard.admit(settings, engine, is_preview=True).layout == layouts.enable_frozen()
    with pytest.raises(GuardError, match="KEYSHIFT_PROPOSED is set") as refused:
        guard.admit(settings, engine, is_preview=False)
    assert refused.value.hint == "unset KEYSHIFT_PROPOSED"
    with pytest.raises(GuardError, match="is no preview"):
        guard.admit(rendered(layouts.standard(), generation=1), engine, is_preview=False)
    monkeypatch.delenv(guard.PROPOSED_VARIABLE)
    with pytest.raises(GuardError, match="the record at generation 1"):
        guard.admit(settings, engine, is_preview=True)


# the engine: another stack file, the same stack -----------------------------------------------


class Engine:
    """Notes how it is called and what the file that it is given holds at that moment."""

    def __init__(self, steps: list[dict[str, str]]) -> None:
        self.steps = steps
        self.arguments: list[str] = []
        self.environment: Mapping[str, str] = {}
        self.config: dict[str, Any] = {}

    def run(
        self, arguments: list[str], _: str, environment: Mapping[str, str], inherited: Sequence[int]
    ) -> CommandResult:
        os.write(inherited[0], asked_all())
        self.arguments, self.environment = arguments, environment
        self.config = yaml.safe_load(self._file.read_text())
        return CommandResult(stdout=json.dumps({"steps": self.steps}), stderr="", code=0)

    @property
    def _file(self) -> Path:
        return Path(self.arguments[self.arguments.index("--config-file") + 1])


URN = "urn:pulumi:tenant-acme::keyshift::"


def test_a_proposed_layout_is_previewed_from_a_file_of_its_own_and_the_real_one_stays(stack: Stack) -> None:
    stack.file.write_text(yaml.safe_dump({"encryptionsalt": "v1:abc", "config": {"aws:region": "eu-west-1"}}))
    stack.render(layouts.standard(), 4)
    before = stack.file.read_bytes()
    engine = Engine(
        [{"op": "create", "urn": f"{URN}aws:s3/bucket:Bucket::s2-bucket"}, {"op": "same", "urn": f"{URN}x::y"}]
    )
    stack._command = engine
    assert [step.name for step in stack.preview_proposed(layouts.enable_frozen(), 4)] == ["s2-bucket"]
    assert engine.arguments[0] == "preview", "the one command that changes nothing"
    assert engine.arguments[-2:] == ["--stack", "tenant-acme"]
    assert engine.environment["KEYSHIFT_PROPOSED"] == "1"
    assert engine.config["encryptionsalt"] == "v1:abc"
    held = engine.config["config"]
    assert held["aws:region"] == "eu-west-1"
    assert Layout.model_validate(held["keyshift:layout"]["layout"]) == layouts.enable_frozen()
    assert held["keyshift:layout"]["generation"] == 4
    assert stack.file.read_bytes() == before
    assert not engine._file.exists()
    assert sorted(path.name for path in stack.project.root.iterdir() if path.is_file()) == [stack.file.name]


def test_a_layout_that_cannot_be_previewed_is_an_error_with_a_way_on(stack: Stack) -> None:
    def fail(*_: Any, **__: Any) -> CommandResult:
        raise CommandError(CommandResult(stdout="error: tenant acme is sealed", stderr="", code=255))

    stack._command = SimpleNamespace(run=fail)
    with pytest.raises(CloudError, match="preview of tenant-acme failed: tenant acme is sealed") as failed:
        stack.preview_proposed(layouts.enable_frozen(), 4)
    assert "--no-preview" in failed.value.hint


class Previewer:
    """A stack whose previews say one thing for each layout."""

    def __init__(self, steps: Mapping[str, list[Step]]) -> None:
        self._steps = {phase.layout.digest(): steps.get(phase.name, []) for phase in ENABLE.phases}
        self.generations: set[int] = set()

    def preview_proposed(self, layout: Layout, generation: int) -> list[Step]:
        self.generations.add(generation)
        return self._steps[layout.digest()]


def step(op: str, type_: str, name: str) -> Step:
    return Step(op=op, urn=f"{URN}{type_}::{name}")


BUCKET, POLICY = "aws:s3/bucket:Bucket", "aws:iam/rolePolicy:RolePolicy"


def previews() -> list[dict[str, Any]]:
    made = step("create", BUCKET, "s2-bucket")
    stack = Previewer(
        {
            "build": [made, step("create", "keyshift:aws:DedicatedBucket", "s2"), step("update", POLICY, "roles")],
            "freeze": [made, step("update", POLICY, "roles"), step("delete", BUCKET, "s1-bucket")],
            "drop": [made, step("replace", POLICY, "roles")],
        }
    )
    told: list[Progress] = []
    found = preview_all(stack, ENABLE, 4, told.append)
    assert stack.generations == {4}
    assert told[-1].objects == told[-1].objects_total == len(ENABLE.phases)
    return found


def test_each_phase_is_previewed_counted_and_judged_as_the_runner_would() -> None:
    found = {preview["phase"]: preview for preview in previews()}
    assert list(found) == [phase.name for phase in ENABLE.phases]
    assert found["key"]["counts"] == {"create": 0, "update": 0, "delete": 0}
    assert found["build"]["counts"] == {"create": 1, "update": 1, "delete": 0}, "a component is no resource"
    assert found["build"]["changes"][0] == {"op": "create", "type": BUCKET, "name": "s2-bucket"}
    assert found["build"]["refused"] is None
    assert "would delete s1-bucket" in found["freeze"]["refused"]
    assert "would replace roles" in found["drop"]["refused"]
    assert found["drop"]["counts"]["replace"] == 1


# counts and prices ----------------------------------------------------------------------------


def entry(key: str, size: int = 10, *, is_latest: bool = True, is_delete_marker: bool = False) -> Entry:
    return Entry(key, "v", "e", size, "2026-01-02", is_latest, is_delete_marker, "STANDARD")


def test_one_listing_shows_versions_objects_bytes_and_what_has_to_be_copied_in_parts() -> None:
    found = inventory(
        [
            entry("a"),
            entry("a", 20, is_latest=False),
            entry("b", 0, is_delete_marker=True),
            entry("b", 5, is_latest=False),
            entry("c", 5 * GIGABYTE),
            entry("d", 5 * GIGABYTE + 1),
        ]
    )
    assert found == Inventory(
        versions=5, delete_markers=1, objects=3, bytes=35 + 10 * GIGABYTE + 1, current_bytes=11 + 10 * GIGABYTE,
        large=1, parts=6,
    )  # fmt: skip


@pytest.mark.parametrize(("versions", "pages"), [(0, 1), (1, 1), (1000, 1), (1001, 2), (2500, 3)])
def test_a_listing_costs_one_request_a_thousand_entries(versions: int, pages: int) -> None:
    assert Inventory(versions=versions).pages == pages


def counted(made: Plan, held: Inventory) -> dict[str, int]:
    return {row["kind"]: row["count"] for row in price(made, {"s1": held})["requests"]}


def test_the_requests_of_an_enable_are_those_that_its_moves_make() -> None:
    assert counted(ENABLE, HELD) == {
        # The preflight, three passes of the copy, twice to settle, both sides to verify, a last look, before the purge, after it.
        "LIST": 3 + 3 * 3 + (2 * 3 + 3) + 2 * 3 + (3 + 1) + (3 + 1) + 2 + 1,
        "PUT": 5 + 1,
        "COPY": 2500,
        "HEAD": 5000,
        "GET": 1 + 3 * 2 + 2400,
        "GET tags": 4,
        "DELETE": 10 + 2 + 2 + 3,
        "KMS Decrypt": 2500 + 5000 + 2400,
        "KMS GenerateDataKey": 2500 + 1,
    }


def test_a_version_above_five_gigabytes_costs_its_parts() -> None:
    whole, large = counted(ENABLE, HELD), counted(ENABLE, dataclasses.replace(HELD, large=2, parts=12))
    assert large["COPY"] == whole["COPY"] - 2 + 12
    assert large["PUT"] == whole["PUT"] + 4
    assert large["GET tags"] == whole["GET tags"] + 2


def test_dollars_are_counts_times_list_prices_and_deletions_are_free() -> None:
    assert prices.cost({"COPY": 1_000_000}) == pytest.approx(5.0)
    assert prices.cost({"HEAD": 1_000_000}) == pytest.approx(0.4)
    assert prices.cost({"KMS Decrypt": 1_000_000}) == pytest.approx(3.0)
    assert prices.cost({"DELETE": 10**9}) == 0
    found = price(ENABLE, {"s1": HELD})
    assert found["dollars"] == pytest.approx(prices.cost(counted(ENABLE, HELD)), abs=1e-4)
    assert found["dollars"] == pytest.approx(sum(row["dollars"] for row in found["requests"]), abs=1e-3)
    with pytest.raises(KeyError):
        prices.cost({"SELECT": 1})


def test_the_minutes_follow_from_the_stated_rates() -> None:
    requests = dataclasses.replace(HELD, versions=160 * 60, bytes=1)
    copy = next(move for move in price(ENABLE, {"s1": requests})["moves"] if move["move"] == "copy")
    assert copy["seconds"] == pytest.approx(3 * 60, rel=0.01), "COPY, Decrypt and GenerateDataKey for each version"
    size = dataclasses.replace(HELD, bytes=100_000_000 * 600)
    moves = price(ENABLE, {"s1": size})["moves"]
    assert next(move["seconds"] for move in moves if move["move"] == "copy") == 600
    assert [move["bytes"] for move in moves if move["move"] == "copy"] == [size.bytes, 0, 0], (
        "later passes copy what is new"
    )
    assert price(ENABLE, {"s1": size})["expected_minutes"] > 10


def test_both_copies_and_the_key_cost_something_as_long_as_they_are_there() -> None:
    found = price(ENABLE, {"s1": dataclasses.replace(HELD, bytes=1000 * 2**30)})["standing"]
    assert found == {"second_copy_per_hour": round(23 / 730, 6), "new_keys_per_month": 1.0}


def test_a_region_without_kept_prices_gets_counts_and_no_money() -> None:
    away = layouts.changed(layouts.standard(), region="ap-south-1", stamp="stamp-aws-ap-south-1-01")
    found = price(plan(Request(operation="x", kind=OperationKind.ENABLE, mode="byok"), away), {"s1": HELD})
    assert (found["dollars"], found["standing"], found["this_dry_run"]["dollars"]) == (None, None, None)
    assert {row["dollars"] for row in found["requests"]} == {None}
    assert "ap-south-1" in found["prices"]


def test_a_plan_without_moves_costs_nothing() -> None:
    found = price(plan(Request(operation="x", kind=OperationKind.REQUEST), layouts.standard()), {})
    assert (found["dollars"], found["requests"], found["expected_minutes"]) == (0, [], 0)


def test_every_price_names_its_page_and_month() -> None:
    for one in (*prices.REQUESTS.values(), prices.STORAGE, prices.KEY):
        assert one.source.startswith("https://aws.amazon.com/")
        assert datetime.strptime(one.as_of, "%Y-%m").replace(tzinfo=UTC)


# all of it, and what people see ---------------------------------------------------------------


@pytest.fixture
def looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    home = tmp_path / ".keyshift"
    held = Records(record.connect(home))
    held.create(layouts.standard())
    s3, source, _ = two_storages()
    for number in range(3):
        put(s3, f"records/{number}", b"12345")
    live = SimpleNamespace(storage=lambda _: source)
    monkeypatch.setattr(dry_run.Live, "find", lambda *_: live)
    previewer = Previewer({"build": [step("create", BUCKET, "s2-bucket")]})
    monkeypatch.setattr(dry_run, "Stack", lambda *_: previewer)
    before = held.tenant("acme"), len(s3.calls)
    project = Project(root=tmp_path, home=home)
    yield dry_run.dry_run(project, ENABLE, unwatched, with_previews=True)
    assert held.tenant("acme") == before[0]
    assert held.operations("acme") == []
    assert set(s3.calls[before[1] :]) == {"list_object_versions"}, "one look, and nothing but looks"


def test_a_dry_run_is_the_plan_its_previews_and_its_price(looked: dict[str, Any]) -> None:
    assert [phase["name"] for phase in looked["phases"]] == [phase.name for phase in ENABLE.phases]
    assert looked["previews"][1]["counts"]["create"] == 1
    assert looked["price"]["storages"]["s1"]["objects"] == 3
    assert looked["price"]["bytes_copied"] == 15
    json.dumps(looked)


def test_people_see_each_change_once_the_counts_and_what_is_not_priced() -> None:
    said = text(shown({**ENABLE.model_dump(mode="json"), "previews": previews(), "price": price(ENABLE, {"s1": HELD})}))
    assert said.count("+ s2-bucket (aws:s3/bucket:Bucket)") == 1, "under the first phase that makes it"
    assert "compared with now" in said
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line and not line.startswith(" ")}
    assert re.search(r"^freeze +1 +1 +1 +0 +refuse it$", said, re.MULTILINE)
    assert "freeze: refused: the preview of tenant acme would delete s1-bucket" in said
    assert rows["COPY"] == ["COPY", "2,500", "$0.01"]
    assert "storage s1    2,400 objects in 2,500 versions, 5.0 MB" in said
    assert "not priced: the second search deployment" in said
    assert "list price: https://aws.amazon.com/s3/pricing/, 2024-04, eu-west-1, us-east-1" in said


def test_people_see_that_previews_were_left_out() -> None:
    said = text(shown({**ENABLE.model_dump(mode="json"), "previews": None, "price": price(ENABLE, {"s1": HELD})}))
    assert "previews: left out" in said


def test_every_move_of_a_plan_is_either_priced_or_makes_no_request_of_aws() -> None:
    free = {
        "limit-search",
        "open-search",
        "verify-index",
        "verify-live-index",
        "purge-search",
        "remove-stack",
        "retire-key",
    }
    assert set(MoveKind.__args__) - free == set(dry_run._REQUESTS), "a new move needs a line in the price, or here"

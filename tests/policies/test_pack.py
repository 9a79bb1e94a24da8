"""The pack in the real engine: what passes, what is stopped, what a preview cannot tell yet."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from conftest import BIN, LIMIT, PACK, TENANT, World
from mutations import AWS, LAYOUTS, STAMP, Mutation

from migrate.policing import PolicyViolation
from migrate.stack import Project, Stack
from policies.catalogue import RULES

EVERY = pytest.mark.every
QUICK_LAYOUTS = ("enable_frozen", STAMP)
QUICK_RULES = ("storage-under-its-own-key", "access-seal-denies")
IN_THE_ENGINE = {rule.id for rule in RULES if rule.check_change is None}


def quickly(values, is_quick):
    """The quick ones run in `make test`, all of them in `make policies`."""
    return [pytest.param(one, marks=() if is_quick(one) else EVERY, id=name(one)) for one in values]


def name(one: str | Mutation) -> str:
    return one if isinstance(one, str) else f"{one.rule}: {one.what}"


def first_of_quick_rules(one: Mutation) -> bool:
    return one.rule in QUICK_RULES and one is next(each for each in AWS if each.rule == one.rule)


@pytest.mark.parametrize("layout", quickly([*LAYOUTS, STAMP], lambda one: one in QUICK_LAYOUTS))
def test_what_keyshift_makes_passes_and_every_rule_was_asked(world: World, layout: str) -> None:
    seen = world.preview(layout)
    assert seen.code == 0, seen.text
    assert seen.violations == []
    assert seen.asked == IN_THE_ENGINE | {"undecided"}
    assert "can't run policy" not in seen.text, "the SDK would have turned a mandatory rule into advice"
    assert all("What a preview cannot tell yet" in advice for advice in seen.advice), "no rule is advice"


@pytest.mark.parametrize("mutation", quickly(AWS, first_of_quick_rules))
def test_a_thing_that_is_broken_stops_the_preview_by_exactly_its_rule(world: World, mutation: Mutation) -> None:
    config = []
    if mutation.settings:
        file = world.folder / "settings.json"
        file.write_text(json.dumps(mutation.settings))
        config = ["--policy-pack-config", str(file)]
    seen = world.preview(mutation.layout, *config, MUTATION=str(AWS.index(mutation)))
    assert seen.code != 0, seen.text
    assert {rule for rule, _ in seen.violations} == {mutation.rule}, seen.text
    if mutation.resource and not mutation.drop:
        assert {resource for _, resource in seen.violations} == {mutation.resource}
    assert "can't run policy" not in seen.text


def test_what_a_preview_cannot_tell_is_judged_in_the_update_before_the_resource_is_made(world: World) -> None:
    """The policy of a bucket whose key is only being made holds that key's ARN, so that none of it is known."""
    mutation = next(one for one in AWS if one.rule == "storage-tls-only")
    broken = {"LAYOUT": "byok_active", "MUTATION": str(AWS.index(mutation))}
    previewed = world.run("preview", stack=TENANT, variables={"LAYOUT": "byok_active"})
    assert previewed.code == 0, previewed.text
    assert any("storage-tls-only" in advice for advice in previewed.advice), "it says what it could not judge"

    # A state of its own: what the update makes before it stops must not be there for other tests.
    elsewhere = world.folder / "state-of-an-update"
    shutil.copytree(world.folder / "state", elsewhere)
    upped = world.run(
        "up", "--yes", "--skip-preview", stack=TENANT, variables=broken | {"PULUMI_BACKEND_URL": f"file://{elsewhere}"}
    )
    assert upped.code != 0, upped.text
    assert ("storage-tls-only", "s1-bucket-policy") in upped.violations, upped.text
    assert "k1-key" in upped.made, "else the update would have stopped for another reason"
    assert "s1-bucket-policy" not in upped.made


@EVERY
def test_an_enable_keeps_the_policies_over_the_state_that_each_phase_finds(world: World) -> None:
    """Most is known then: what stands already, and what the phase before has made."""
    elsewhere = world.folder / "state-of-an-enable"
    shutil.copytree(world.folder / "state", elsewhere)
    for layout in ("standard", "enable_frozen", "enable_served", "enable_released", "enable_done"):
        place = {"LAYOUT": layout, "PULUMI_BACKEND_URL": f"file://{elsewhere}"}
        for verb, *words in (("preview",), ("up", "--yes", "--skip-preview")):
            seen = world.run(verb, *words, stack=TENANT, variables=place)
            assert seen.violations == [], seen.text
            if layout != "enable_done":
                assert seen.code == 0, seen.text


def test_the_runners_preview_is_stopped_by_a_violation_and_goes_on_without_one(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mutation = next(one for one in AWS if one.rule == "storage-kept")
    for name, value in (world.environment | {"PULUMI_BACKEND_URL": f"file://{world.folder / 'state'}"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LAYOUT", mutation.layout)
    stack = Stack(Project(root=world.folder / "project", home=tmp_path), TENANT)

    monkeypatch.setenv("MUTATION", str(AWS.index(mutation)))
    with pytest.raises(PolicyViolation) as refused:
        stack.preview(plan_file=tmp_path / "refused.json")
    assert "s1-bucket: a delete of the bucket would delete every object in it first" in refused.value.message
    assert "[storage-kept]" in refused.value.message
    assert "force_destroy=False" in refused.value.hint

    monkeypatch.delenv("MUTATION")
    steps = stack.preview(plan_file=tmp_path / "plan.json")
    assert "s1-bucket" in {step.name for step in steps if step.op == "create"}
    assert (tmp_path / "plan.json").exists()


def test_keyshift_says_what_a_stack_breaks_to_people_and_to_their_tools(world: World) -> None:
    mutation = next(one for one in AWS if one.rule == "keys-no-material")
    sarif, junit = world.folder / "found.sarif", world.folder / "found.xml"
    done = subprocess.run(
        [
            *(str(BIN / "keyshift"), "policy", "check", TENANT, "--json"),
            *("--sarif", str(sarif), "--junit", str(junit)),
        ],
        env=world.environment
        | {
            "KEYSHIFT_PROJECT": str(world.folder / "project"),
            "PULUMI_BACKEND_URL": f"file://{world.folder / 'state'}",
            "LAYOUT": mutation.layout,
            "MUTATION": str(AWS.index(mutation)),
        },
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert [(one["rule"], one["resource"]) for one in told["violations"]] == [("keys-no-material", "k1-key")]
    assert told["undecided"], "the key is only being made, so policies that name it are not known"
    assert [one["ruleId"] for one in json.loads(sarif.read_text())["runs"][0]["results"]] == ["keys-no-material"]
    failed = [case.get("name") for case in ET.parse(junit).iter("testcase") if case.find("failure") is not None]
    assert failed == ["keys-no-material"]
    assert "AAAA" not in done.stdout + sarif.read_text() + junit.read_text(), "material is named and never shown"


@EVERY
def test_the_pack_also_starts_as_pulumis_own_host_starts_it(tmp_path: Path) -> None:
    """`python -m pulumi.policy`, from a folder that has nothing to do with ours."""
    copy = tmp_path / "pack"
    shutil.copytree(PACK, copy, ignore=shutil.ignore_patterns("__pycache__"))
    with subprocess.Popen(
        [sys.executable, "-m", "pulumi.policy", "127.0.0.1:1", str(copy)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip().isdigit(), "it answers with the port that it listens on"
        finally:
            process.kill()


def test_the_entry_point_is_three_lines() -> None:
    assert len((PACK / "__main__.py").read_text().splitlines()) == 3

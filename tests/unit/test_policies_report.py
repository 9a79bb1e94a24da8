"""What reviewers and their tools read of the policies: the page, SARIF, JUnit; and what a site may set."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from engine_log import asked_all, line_of

from migrate import policing
from migrate.errors import KeyshiftError, RefusedInput
from policies import report
from policies.catalogue import RULES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policies.md"
PARTS = {
    "table": report.table,
    "catalogue": report.catalogue,
    "controls": report.controls,
    "settings": report.settings,
}
FINDING = report.Finding(rule="storage-kept", stack="tenant-acme", resource="s2-bucket", message="it would go")


def test_the_page_says_what_the_rules_say():
    """`KEYSHIFT_POLICIES=write pytest tests/unit/test_policies_report.py` writes the page's parts anew."""
    text = PAGE.read_text(encoding="utf-8")
    right = text
    for name, make in PARTS.items():
        held = re.compile(rf"(<!-- policies: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert held.search(right), name
        made = make()
        right = held.sub(lambda found, made=made: f"{found[1]}{made}\n{found[2]}", right)
    if os.environ.get("KEYSHIFT_POLICIES") == "write":
        PAGE.write_text(right, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == right, (
        "KEYSHIFT_POLICIES=write pytest tests/unit/test_policies_report.py mends it"
    )


def test_the_table_has_a_line_a_rule_and_says_how_it_is_proved():
    lines = report.table().splitlines()[2:]
    assert len(lines) == len(RULES)
    assert all(("function, graph" in line) == ("| azure |" in line) for line in lines)


def test_sarif_names_rule_resource_and_where_to_read_on():
    run = report.sarif([FINDING])["runs"][0]
    assert {one["id"] for one in run["tool"]["driver"]["rules"]} == {rule.id for rule in RULES}
    (found,) = run["results"]
    assert (found["ruleId"], found["level"]) == ("storage-kept", "error")
    assert found["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "tenant-acme/s2-bucket"
    assert report.sarif([])["runs"][0]["results"] == []


def test_junit_has_a_case_a_rule_and_fails_the_broken_one():
    suite = ET.fromstring(report.junit("tenant-acme", [FINDING]))
    failed = {case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None}
    assert failed == {"storage-kept"}
    assert suite.get("failures") == "1"
    assert int(suite.get("tests")) == len(list(suite.iter("testcase"))) == sum(r.check_change is None for r in RULES)


# settings of a site ---------------------------------------------------------------------------


def settings(folder: Path, value: object) -> Path:
    path = folder / policing.SETTINGS
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_a_site_without_settings_has_the_rules_own(tmp_path):
    assert policing.settings_of(tmp_path) is None


def test_a_site_sets_what_the_rules_let_it(tmp_path):
    path = settings(
        tmp_path, {"keys-deletion-window": {"deletion_window_days": 14}, "lifecycle-region": {"regions": []}}
    )
    assert policing.settings_of(tmp_path) == path
    with policing.watching(tmp_path) as watch:
        assert watch.arguments[watch.arguments.index("--policy-pack-config") + 1] == str(path)


@pytest.mark.parametrize(
    "value",
    [
        {"storage-encrypted-by-kms": "disabled"},
        {"all": "advisory"},
        {"storage-encrypted-by-kms": {"enforcementLevel": "disabled"}},
        {"keys-deletion-window": {"enforcementLevel": "disabled", "deletion_window_days": 30}},
        {"keys-deletion-window": {"days": 30}},
        {"no-such-rule": {"days": 30}},
        "not JSON",
        [],
    ],
    ids=str,
)
def test_no_setting_turns_a_rule_off(tmp_path, value):
    settings(tmp_path, value)
    with pytest.raises(RefusedInput):
        policing.settings_of(tmp_path)


# what the engine logs -------------------------------------------------------------------------


def watch(tmp_path: Path, log: bytes) -> list[policing.Found]:
    with policing.watching(tmp_path) as found:
        os.write(found.descriptor, log)
        return found.findings()


def test_a_log_without_one_rule_is_no_good_preview(tmp_path):
    assert watch(tmp_path, asked_all()) == []
    short = json.loads(asked_all().splitlines()[-1])
    short["policyAnalyzeStackSummaryEvent"]["passed"].remove("storage-kept")
    with pytest.raises(KeyshiftError, match="1 policies were not asked, among them storage-kept"):
        watch(tmp_path, line_of(short))


def test_what_a_program_logs_is_not_taken_for_a_policy(tmp_path):
    noise = line_of({"diagnosticEvent": {"message": '"policyEvent" says the program'}})
    assert watch(tmp_path, noise + asked_all()) == []


def test_the_log_lies_nowhere(tmp_path):
    with policing.watching(tmp_path) as found:
        assert not list(tmp_path.iterdir())
        assert "deleted" in str(Path(f"/proc/self/fd/{found.descriptor}").readlink()), "a kill must leave nothing of it"

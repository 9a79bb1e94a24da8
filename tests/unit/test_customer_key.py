"""The policy that a customer attaches, and the check that says which part of it is missing."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from customer_key_lab import ALIAS, BUCKET, TERMS, BotoKms, CustomerKey
from elastic_transport import ConnectionTimeout
from kms_lab import CUSTOMER, REGION, VENDOR, VENDOR_ADMIN, VIA_S3, role_session

from migrate.errors import RefusedInput
from migrate.keys import policy
from migrate.keys.check import Alias, Came, check, of_metadata

GOLDEN = Path(__file__).with_name("golden") / "customer_key_policy.json"


@pytest.fixture
def key(tmp_path: Path) -> Iterator[CustomerKey]:
    made = CustomerKey(tmp_path)
    made.archive_one()
    yield made
    made.close()


# the policy -----------------------------------------------------------------------------------


def test_the_printed_policy_is_the_one_that_was_reviewed() -> None:
    """`KEYSHIFT_GOLDEN=write` writes it anew; a change of it has to be sent to every customer."""
    if os.environ.get("KEYSHIFT_GOLDEN") == "write":
        GOLDEN.write_text(policy.document(TERMS), encoding="utf-8")
    assert GOLDEN.read_text(encoding="utf-8") == policy.document(TERMS)


def test_none_of_our_statements_administers_the_key() -> None:
    ours = [one for sid, one in policy.statements(TERMS).items() if sid != policy.OWNER]
    asked = {action for statement in ours for action in statement["Action"]}
    assert asked == {
        "kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey", "kms:GetKeyRotationStatus",
    }  # fmt: skip
    assert not [action for action in asked if "*" in action], "a pattern would grow with KMS"


def test_tenants_that_share_a_key_share_one_policy() -> None:
    both = policy.statements(dataclasses.replace(TERMS, tenants=["zeta", "acme"]))
    roles = both[policy.DATA]["Condition"]["ArnEquals"]["aws:PrincipalArn"]
    assert len(roles) == 6
    assert both == policy.statements(dataclasses.replace(TERMS, tenants=["acme", "zeta"])), "the order is ours"
    assert both.keys() == policy.statements(TERMS).keys(), "KMS refuses a Sid that stands twice"


def test_the_commands_make_the_alias_that_is_to_be_sent() -> None:
    lines = [*policy.commands(TERMS, "p.json"), *policy.commands_for_an_existing_key(TERMS, "p.json")]
    assert policy.alias_to_send(TERMS) == ALIAS
    assert sum("--alias-name alias/keyshift-acme " in line for line in lines) == 2
    assert all(f"--region {REGION}" in line for line in lines), "else the shell's default Region decides"
    assert "'a b.json'" in policy.commands(TERMS, "a b.json")[0]


@pytest.mark.parametrize("account", ["", "44445555666", "acme", VENDOR])
def test_a_policy_for_no_account_or_for_our_own_is_refused(account: str) -> None:
    with pytest.raises(RefusedInput):
        dataclasses.replace(TERMS, customer_account=account)


def test_nobody_of_ours_gets_more_than_the_policy_says(key: CustomerKey) -> None:
    """Each pair first proves that it is refused for its reason and for no other."""

    def may(caller: Any, via: str | None, arn: str | None, operation: str = "generate_data_key") -> bool:
        kms = BotoKms(key.lab, caller, via)
        context = {"EncryptionContext": {"aws:s3:arn": arn}} if arn else {}
        try:
            getattr(kms, operation)(KeyId=key.arn, KeySpec="AES_256", **context)
        except ClientError as error:
            if error.response["Error"]["Code"] != "AccessDeniedException":  # only permission may differ
                raise
            return False
        return True

    inside, foreign = f"arn:aws:s3:::{BUCKET}/records/a.json", "arn:aws:s3:::shared/t/acme/records/a.json"
    archive, runner = key.role("archive"), key.role("runner")
    assert may(archive, VIA_S3, inside)
    assert not may(archive, VIA_S3, foreign), "a bucket that is not the tenant's own"
    assert not may(archive, None, inside), "Archive asks KMS through S3 only"
    assert may(runner, None, None)
    assert not may(role_session(VENDOR, "keyshift-other-runner"), None, None), "another tenant's runner"
    assert not may(VENDOR_ADMIN, None, None), "an administrator of ours sees the key and cannot use it"
    for operation in ("disable_key", "schedule_key_deletion", "put_key_policy"):
        with pytest.raises(ClientError):
            getattr(BotoKms(key.lab, VENDOR_ADMIN), operation)(KeyId=key.arn, Policy="{}")


# the check ------------------------------------------------------------------------------------


def outcomes(key: CustomerKey) -> dict[str, Came]:
    return {one.check: one.came for one in check(key.alias, key.ways).findings}


ALL_CHECKS = {
    "alias", "kind", "state", "rotation", "generate-data-key", "decrypt",
    "write-runner", "read-archive", "read-pipeline", "read-runner", "elastic",
}  # fmt: skip
FAILS_WITHOUT = {
    policy.DATA: {"write-runner", "read-archive", "read-pipeline", "read-runner"},
    policy.PROBE: {"generate-data-key"},
    policy.ELASTIC: {"elastic"},
}


def test_the_printed_policy_lets_every_check_pass_and_nothing_stays(key: CustomerKey) -> None:
    before = set(key.objects)
    report = check(key.alias, key.ways)
    assert {one.check: one.came for one in report.findings} == dict.fromkeys(ALL_CHECKS, Came.OK)
    assert report.is_fit
    assert report.seen is not None
    assert (report.seen.arn, report.seen.material) == (key.arn, report.seen.metadata["CurrentKeyMaterialId"])
    assert set(key.objects) == before, "the trial object is taken away"


@pytest.mark.parametrize("sid", sorted(FAILS_WITHOUT))
def test_a_missing_statement_fails_its_own_checks_and_names_itself(key: CustomerKey, sid: str) -> None:
    kept = [one for one in policy.policy(TERMS)["Statement"] if one["Sid"] != sid]
    key.put_policy(json.dumps({"Version": "2012-10-17", "Statement": kept}))
    report = check(key.alias, key.ways)
    assert {one.check for one in report.failed} == FAILS_WITHOUT[sid]
    assert {one.statement for one in report.failed} == {sid}
    assert not report.is_fit
    assert report.data()["missing_statements"] == [sid]
    assert sid in report.summary()


def test_without_the_statement_that_describes_nothing_else_is_tried(key: CustomerKey) -> None:
    kept = [one for one in policy.policy(TERMS)["Statement"] if one["Sid"] != policy.DESCRIBE]
    key.put_policy(json.dumps({"Version": "2012-10-17", "Statement": kept}))
    report = check(key.alias, key.ways)
    assert [(one.check, one.statement) for one in report.findings] == [("alias", policy.DESCRIBE)]
    assert report.seen is None
    assert not report.is_fit


@pytest.mark.parametrize("action", ["kms:GenerateDataKey", "kms:Decrypt"])
def test_an_action_that_was_struck_out_of_the_probe_is_found(key: CustomerKey, action: str) -> None:
    changed = policy.policy(TERMS)
    statement = next(one for one in changed["Statement"] if one["Sid"] == policy.PROBE)
    statement["Action"] = [one for one in statement["Action"] if one != action]
    key.put_policy(json.dumps(changed))
    failed = check(key.alias, key.ways).failed
    assert [(one.check, one.statement) for one in failed] == [
        ({"kms:GenerateDataKey": "generate-data-key", "kms:Decrypt": "decrypt"}[action], policy.PROBE)
    ]


def test_before_the_roles_stand_what_needs_them_is_untried_and_said_to_be(key: CustomerKey) -> None:
    bare = dataclasses.replace(key.ways, prober=None, storages={}, searches={})
    report = check(key.alias, bare)
    untried = {one.check for one in report.findings if one.came is Came.UNTRIED}
    assert untried == {"generate-data-key", "decrypt", "through-s3", "elastic"}
    assert report.is_fit, "nothing that could be looked at speaks against it"


def test_our_own_missing_right_is_not_laid_on_the_customer(key: CustomerKey) -> None:
    powerless = dataclasses.replace(
        key.ways, prober=BotoKms(key.lab, role_session(VENDOR, "keyshift-acme-runner", iam="none"))
    )
    failed = check(key.alias, powerless).failed
    assert [(one.check, one.statement) for one in failed] == [("generate-data-key", None)]
    assert "our own role" in failed[0].says


@pytest.mark.parametrize(
    ("operation", "words"),
    [("DisableKey", "aws kms enable-key"), ("ScheduleKeyDeletion", "aws kms cancel-key-deletion")],
)
def test_a_key_that_is_not_enabled_is_said_to_be_so_once(key: CustomerKey, operation: str, words: str) -> None:
    key.lab(operation, KeyId=key.arn)
    report = check(key.alias, key.ways)
    assert [one.check for one in report.failed] == ["state"], "every use is refused for the same reason"
    assert words in report.failed[0].says


def test_a_key_that_is_disabled_between_two_calls_is_not_taken_for_a_missing_statement(key: CustomerKey) -> None:
    class Disabled:
        def generate_data_key(self, **_: Any) -> None:
            raise ClientError({"Error": {"Code": "DisabledException", "Message": "is disabled."}}, "GenerateDataKey")

    failed = check(key.alias, dataclasses.replace(key.ways, prober=Disabled())).failed
    assert [(one.check, one.statement) for one in failed] == [("generate-data-key", None)]


def test_a_search_that_cannot_be_reached_says_nothing_about_the_key(key: CustomerKey) -> None:
    def unreachable() -> str:
        raise ConnectionTimeout("nobody answers")

    report = check(key.alias, dataclasses.replace(key.ways, searches={"e2": unreachable}))
    assert report.is_fit
    assert [one.came for one in report.findings if one.check == "elastic"] == [Came.UNTRIED]


def test_an_alias_that_does_not_exist_is_found(key: CustomerKey) -> None:
    absent = Alias.parse(ALIAS + "-absent", region=REGION)
    assert ["does not exist" in one.says for one in check(absent, key.ways).failed] == [True]


def described(**values: Any) -> dict[str, Any]:
    return {
        "KeyManager": "CUSTOMER", "KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT", "KeyState": "Enabled",
        "CurrentKeyMaterialId": "m1", **values,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("metadata", "failed", "noted"),
    [
        (described(), [], []),
        (described(KeySpec="RSA_2048"), ["kind"], []),
        (described(KeyUsage="SIGN_VERIFY"), ["kind"], []),
        (described(KeyManager="AWS"), ["kind"], []),
        (described(KeyState="PendingImport"), ["state"], []),
        (described(KeyState="Unavailable"), ["state"], []),
        (described(MultiRegion=True), [], ["multi-region"]),
        (described(CurrentKeyMaterialId=None), [], ["material"]),
        (described(ExpirationModel="KEY_MATERIAL_EXPIRES"), [], ["expiry"]),
        (
            described(MultiRegion=True, MultiRegionConfiguration={"MultiRegionKeyType": "PRIMARY"}),
            [],
            ["multi-region", "multi-region"],
        ),
    ],
)
def test_what_a_key_is_decides_whether_it_fits(metadata: dict[str, Any], failed: list[str], noted: list[str]) -> None:
    found = of_metadata(metadata)
    assert [one.check for one in found if one.came is Came.FAILED] == failed
    assert [one.check for one in found if one.came is Came.NOTE] == noted


# what may be given ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("arn:aws:kms:eu-west-1:444455556666:key/1234abcd-12ab-34cd-56ef-1234567890ab", "not-an-alias"),
        ("alias/keyshift-acme", "not-an-alias"),
        ("1234abcd-12ab-34cd-56ef-1234567890ab", "not-an-alias"),
        ("", "not-an-alias"),
        (f"{ALIAS}\n", "not-an-alias"),
        ("arn:aws:kms:eu-west-1:444455556666:alias/aws/s3", "aws-managed-key"),
        ("arn:aws:kms:eu-central-1:444455556666:alias/keyshift-acme", "other-region"),
    ],
)
def test_nothing_but_an_alias_arn_of_the_tenants_region_is_taken(text: str, code: str) -> None:
    with pytest.raises(RefusedInput) as refused:
        Alias.parse(text, region=REGION)
    assert refused.value.code == code
    assert refused.value.hint


def test_an_alias_arn_is_taken_apart() -> None:
    assert Alias.parse(ALIAS, region=REGION).account == CUSTOMER

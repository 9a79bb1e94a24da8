"""Who may use a key: key policies, conditions, identity policies, accounts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kms_lab import (
    CUSTOMER,
    CUSTOMER_ADMIN,
    ELASTIC,
    ORG_PATH,
    VENDOR,
    VENDOR_ADMIN,
    VIA_S3,
    Lab,
    blob,
    open_kms,
    role_session,
    root,
    statement,
    user,
)

from sandbox.aws.caller import Caller
from sandbox.aws.kms import KmsError

ROLE = "arn:aws:iam::111122223333:role/archive"
ARCHIVE = role_session(VENDOR, "archive")
OBJECT = {"aws:s3:arn": "arn:aws:s3:::tenant/records/1.json"}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    kms = open_kms(tmp_path)
    yield Lab(kms, CUSTOMER_ADMIN)
    kms.close()


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def key_with(lab: Lab, *statements: dict[str, Any]) -> str:
    """A key of the customer whose account may administer it, with more statements."""
    return lab.key(Policy=policy(statement(root(CUSTOMER)), *statements))


def may_encrypt(lab: Lab, caller: Caller, key: str, via: str | None = None, **request: Any) -> bool:
    try:
        lab.as_(caller)("Encrypt", via=via, KeyId=key, Plaintext=blob(b"x"), **request)
    except KmsError as error:
        if error.code != "AccessDeniedException":  # only permission may differ between these calls
            raise
        return False
    return True


# --- one account -----------------------------------------------------------------------------------


def test_the_default_policy_leaves_it_to_identity_policies(lab: Lab) -> None:
    key = lab.key()
    assert may_encrypt(lab, user(CUSTOMER, "worker", iam={"kms:Encrypt": "allow"}), key)
    assert not may_encrypt(lab, user(CUSTOMER, "worker", iam="none"), key)


def test_a_principal_named_by_the_key_policy_needs_no_identity_policy(lab: Lab) -> None:
    worker = user(CUSTOMER, "worker", iam="none")
    key = key_with(lab, statement(worker.arn, "kms:Encrypt"))
    assert may_encrypt(lab, worker, key)
    assert not may_encrypt(lab, user(CUSTOMER, "other", iam="none"), key)


def test_an_explicit_deny_in_an_identity_policy_wins_over_the_key_policy(lab: Lab) -> None:
    worker = user(CUSTOMER, "worker", iam="deny")
    assert not may_encrypt(lab, worker, key_with(lab, statement(worker.arn, "kms:Encrypt")))


def test_an_explicit_deny_in_the_key_policy_wins_over_everything(lab: Lab) -> None:
    key = key_with(lab, statement(CUSTOMER_ADMIN.arn, "kms:Encrypt", effect="Deny"))
    assert not may_encrypt(lab, CUSTOMER_ADMIN, key)
    assert may_encrypt(lab, user(CUSTOMER, "other"), key), "the deny names one user"


def test_a_deny_on_the_account_denies_everyone_in_it(lab: Lab) -> None:
    key = key_with(lab, statement(root(CUSTOMER), "kms:Encrypt", effect="Deny"))
    assert not may_encrypt(lab, CUSTOMER_ADMIN, key)


def test_without_the_account_in_the_key_policy_identity_policies_do_nothing(lab: Lab) -> None:
    key = lab.key(Policy=policy(statement(CUSTOMER_ADMIN.arn)))
    assert may_encrypt(lab, CUSTOMER_ADMIN, key)
    assert not may_encrypt(lab, user(CUSTOMER, "other", iam="allow"), key)
    assert not may_encrypt(lab, user(CUSTOMER, "root", is_root=True), key), "not even root (Guide, key-policy-default)"


def test_a_role_is_meant_whatever_its_session_is_called(lab: Lab) -> None:
    key = key_with(lab, statement(ROLE, "kms:Encrypt"))
    assert may_encrypt(lab, ARCHIVE, key)
    assert not may_encrypt(lab, role_session(VENDOR, "archive-2"), key)


def test_not_principal_spares_whom_it_names_with_their_account(lab: Lab) -> None:
    spared = user(CUSTOMER, "spared")
    deny = {"Effect": "Deny", "Action": "kms:Encrypt", "Resource": "*"}
    key = key_with(lab, {**deny, "NotPrincipal": {"AWS": [spared.arn, root(CUSTOMER)]}})
    assert may_encrypt(lab, spared, key)
    assert not may_encrypt(lab, CUSTOMER_ADMIN, key)
    bare = key_with(lab, {**deny, "NotPrincipal": {"AWS": [spared.arn]}})
    assert not may_encrypt(lab, spared, bare), "its account is denied, and so is it"


def test_a_statement_for_another_action_or_resource_does_not_count(lab: Lab) -> None:
    worker = user(CUSTOMER, "worker", iam="none")
    assert not may_encrypt(lab, worker, key_with(lab, statement(worker.arn, "kms:Decrypt")))
    assert may_encrypt(lab, worker, key_with(lab, statement(worker.arn, "KMS:enc*")))
    other = key_with(lab)
    assert not may_encrypt(lab, worker, key_with(lab, {**statement(worker.arn), "Resource": other}))


# --- across accounts ---------------------------------------------------------------------------------


def test_another_account_needs_both_its_own_and_the_key_policy(lab: Lab) -> None:
    closed, opened = key_with(lab), key_with(lab, statement(root(VENDOR), "kms:Encrypt"))
    assert not may_encrypt(lab, VENDOR_ADMIN, closed)
    assert may_encrypt(lab, VENDOR_ADMIN, opened)
    assert not may_encrypt(lab, user(VENDOR, "worker", iam="none"), opened)


def test_a_foreign_principal_named_directly_still_needs_its_identity_policy(lab: Lab) -> None:
    key = key_with(lab, statement(ROLE, "kms:Encrypt"))
    assert may_encrypt(lab, ARCHIVE, key)
    assert not may_encrypt(lab, role_session(VENDOR, "archive", iam="none"), key)


def test_a_foreign_key_that_is_closed_reads_like_one_that_is_not_there(lab: Lab) -> None:
    closed = key_with(lab)
    absent = closed.rpartition("/")[0] + "/12345678-1234-1234-1234-123456789012"
    messages = []
    for key in (closed, absent):
        with pytest.raises(KmsError) as refused:
            lab.as_(VENDOR_ADMIN)("DescribeKey", KeyId=key)
        assert refused.value.code == "AccessDeniedException"
        messages.append(refused.value.message)
    assert messages[0] == messages[1]


def test_a_foreign_key_is_not_found_by_its_bare_id_or_alias_name(lab: Lab) -> None:
    key = key_with(lab, statement(root(VENDOR)))
    lab("CreateAlias", AliasName="alias/byokms", TargetKeyId=key)
    vendor = lab.as_(VENDOR_ADMIN)
    for ref in (key.rpartition("/")[2], "alias/byokms"):
        with pytest.raises(KmsError, match="NotFoundException"):
            vendor.encrypt(ref)
    assert vendor.encrypt(f"arn:aws:kms:eu-west-1:{CUSTOMER}:alias/byokms")


@pytest.mark.parametrize(
    ("operation", "more"),
    [
        ("GetKeyPolicy", {}),
        ("PutKeyPolicy", {"Policy": policy(statement(root(CUSTOMER)))}),
        ("DisableKey", {}),
        ("ScheduleKeyDeletion", {}),
        ("RotateKeyOnDemand", {}),
        ("ListKeyRotations", {}),
        ("ListResourceTags", {}),
        ("ListAliases", {}),
        ("DeleteImportedKeyMaterial", {}),
    ],
)
def test_administration_does_not_work_across_accounts_even_if_allowed(lab: Lab, operation: str, more: Any) -> None:
    key = key_with(lab, statement(root(VENDOR)))
    with pytest.raises(KmsError, match="AccessDeniedException"):
        lab.as_(VENDOR_ADMIN)(operation, KeyId=key, **more)


def test_describe_and_rotation_status_work_across_accounts(lab: Lab) -> None:
    key = key_with(lab, statement(root(VENDOR), ["kms:DescribeKey", "kms:GetKeyRotationStatus"]))
    lab("CreateAlias", AliasName="alias/byokms", TargetKeyId=key)
    alias = f"arn:aws:kms:eu-west-1:{CUSTOMER}:alias/byokms"
    vendor = lab.as_(VENDOR_ADMIN)
    assert vendor("DescribeKey", KeyId=alias)["KeyMetadata"]["Arn"] == key
    assert vendor("GetKeyRotationStatus", KeyId=key)["KeyRotationEnabled"] is False
    with pytest.raises(KmsError, match="InvalidArnException"):
        vendor("GetKeyRotationStatus", KeyId=alias)


def test_withdrawing_the_policy_holds_at_the_next_call(lab: Lab) -> None:
    key = key_with(lab, statement(root(VENDOR), ["kms:Encrypt", "kms:Decrypt"]))
    ciphertext = lab.as_(VENDOR_ADMIN).encrypt(key)
    lab("PutKeyPolicy", KeyId=key, Policy=policy(statement(root(CUSTOMER))))
    with pytest.raises(KmsError, match="on the resource associated with this ciphertext"):
        lab.as_(VENDOR_ADMIN).decrypt(ciphertext)
    assert lab.decrypt(ciphertext) == b"secret", "the owner still reads"


# --- conditions --------------------------------------------------------------------------------------


def condition(operator: str, key: str, *values: str) -> dict[str, Any]:
    return {"Condition": {operator: {key: list(values)}}}


def test_via_service_separates_s3_from_a_direct_call(lab: Lab) -> None:
    key = key_with(lab, statement(root(VENDOR), "kms:Encrypt", **condition("StringEquals", "kms:ViaService", VIA_S3)))
    assert may_encrypt(lab, VENDOR_ADMIN, key, via=VIA_S3)
    assert not may_encrypt(lab, VENDOR_ADMIN, key)
    assert not may_encrypt(lab, VENDOR_ADMIN, key, via="sqs.eu-west-1.amazonaws.com")


def test_the_encryption_context_limits_to_one_bucket(lab: Lab) -> None:
    name = "kms:EncryptionContext:aws:s3:arn"
    wanted = condition("StringLike", name, "arn:aws:s3:::tenant", "arn:aws:s3:::tenant/*")
    key = key_with(lab, statement(root(VENDOR), "kms:Encrypt", **wanted))
    assert may_encrypt(lab, VENDOR_ADMIN, key, EncryptionContext=OBJECT)
    assert not may_encrypt(lab, VENDOR_ADMIN, key, EncryptionContext={"aws:s3:arn": "arn:aws:s3:::tenant-2/x"})
    assert not may_encrypt(lab, VENDOR_ADMIN, key)


def test_the_names_in_the_encryption_context_can_be_limited(lab: Lab) -> None:
    wanted = condition("ForAllValues:StringEquals", "kms:EncryptionContextKeys", "aws:s3:arn")
    key = key_with(lab, statement(root(VENDOR), "kms:Encrypt", **wanted))
    assert may_encrypt(lab, VENDOR_ADMIN, key, EncryptionContext=OBJECT)
    assert not may_encrypt(lab, VENDOR_ADMIN, key, EncryptionContext={**OBJECT, "more": "x"})
    assert may_encrypt(lab, VENDOR_ADMIN, key), "ForAllValues holds for no values at all"


def test_elastic_is_let_in_by_the_path_of_its_organization(lab: Lab) -> None:
    wanted = condition("ForAnyValue:StringLike", "aws:PrincipalOrgPaths", f"{ORG_PATH}*")
    key = key_with(lab, statement("*", "kms:Encrypt", **wanted))
    assert may_encrypt(lab, user(ELASTIC, "elastic", org_paths=(ORG_PATH,)), key)
    assert not may_encrypt(lab, user(ELASTIC, "elastic", org_paths=("o-another/r-1/",)), key)
    assert not may_encrypt(lab, user(ELASTIC, "elastic"), key), "no organization, no path"


def test_principal_arn_patterns_outlive_a_role_that_is_made_anew(lab: Lab) -> None:
    wanted = condition("ArnLike", "aws:PrincipalArn", "arn:aws:iam::111122223333:role/keyshift-*")
    key = key_with(lab, statement(root(VENDOR), "kms:Encrypt", **wanted))
    assert may_encrypt(lab, role_session(VENDOR, "keyshift-acme-archive"), key)
    assert not may_encrypt(lab, role_session(VENDOR, "other"), key)
    assert not may_encrypt(lab, VENDOR_ADMIN, key)


# Each condition, and whether the vendor's call (no via-service, no encryption context) satisfies it.
OPERATORS = [
    ("StringEquals", "kms:CallerAccount", VENDOR, True),
    ("StringEquals", "KMS:calleraccount", VENDOR, True),
    ("StringEquals", "kms:CallerAccount", CUSTOMER, False),
    ("StringNotEquals", "aws:PrincipalAccount", CUSTOMER, True),
    ("StringNotEquals", "aws:PrincipalAccount", VENDOR, False),
    ("StringNotEquals", "kms:ViaService", VIA_S3, True),
    ("StringEqualsIfExists", "kms:ViaService", VIA_S3, True),
    ("StringEquals", "kms:ViaService", VIA_S3, False),
    ("StringLike", "aws:PrincipalArn", "arn:aws:iam::1111????3333:user/*", True),
    ("StringLike", "aws:PrincipalArn", "ARN:aws:iam::1111????3333:USER/*", False),
    ("StringNotLike", "aws:PrincipalArn", "arn:aws:iam::*:user/*", False),
    ("ArnEquals", "aws:PrincipalArn", "arn:aws:iam::111122223333:user/oper*", True),
    ("ArnNotLike", "aws:PrincipalArn", "arn:aws:iam::111122223333:role/*", True),
    ("Null", "kms:ViaService", "true", True),
    ("Null", "kms:ViaService", "false", False),
    ("Bool", "kms:GrantIsForAWSResource", "true", False),
    ("BoolIfExists", "kms:GrantIsForAWSResource", "true", True),
    ("Bool", "aws:PrincipalIsAWSService", "false", True),
    ("ForAnyValue:StringEquals", "kms:EncryptionContextKeys", "aws:s3:arn", False),
]


@pytest.mark.parametrize(("operator", "name", "value", "expected"), OPERATORS)
def test_an_operator_means_what_iam_documents(
    lab: Lab, operator: str, name: str, value: str, *, expected: bool
) -> None:
    key = key_with(lab, statement(root(VENDOR), "kms:Encrypt", **condition(operator, name, value)))
    assert may_encrypt(lab, VENDOR_ADMIN, key) is expected
    deny = statement(root(VENDOR), "kms:Encrypt", effect="Deny", **condition(operator, name, value))
    denied = key_with(lab, statement(root(VENDOR), "kms:Encrypt"), deny)
    assert may_encrypt(lab, VENDOR_ADMIN, denied) is not expected


@pytest.mark.parametrize(
    ("operator", "name", "value"),
    [
        ("StringEquals", "aws:SourceVpce", "vpce-1"),
        ("NumericLessThan", "kms:CallerAccount", "9"),
        ("StringEquals", "aws:PrincipalArn", "${aws:PrincipalArn}"),
        ("StringEquals", "aws:PrincipalOrgPaths", ORG_PATH),
    ],
)
def test_what_cannot_be_judged_never_allows_and_always_denies(lab: Lab, operator: str, name: str, value: str) -> None:
    caller = user(VENDOR, org_paths=(ORG_PATH,))
    unclear = condition(operator, name, value)
    assert not may_encrypt(lab, caller, key_with(lab, statement(root(VENDOR), "kms:Encrypt", **unclear)))
    allow, deny = statement(root(VENDOR)), statement(root(VENDOR), effect="Deny", **unclear)
    assert may_encrypt(lab, caller, key_with(lab, allow)), "else the next line would prove nothing"
    assert not may_encrypt(lab, caller, key_with(lab, allow, deny))


def test_a_deny_that_plainly_does_not_apply_stays_out_of_the_way(lab: Lab) -> None:
    conditions = {"StringEquals": {"kms:CallerAccount": CUSTOMER, "aws:SourceVpce": "vpce-1"}}
    deny = statement(root(VENDOR), effect="Deny", Condition=conditions)
    assert may_encrypt(lab, VENDOR_ADMIN, key_with(lab, statement(root(VENDOR)), deny))


# --- putting a policy ---------------------------------------------------------------------------------

MALFORMED = {
    "no JSON": "{",
    "a member twice": '{"Statement": [], "Statement": []}',
    "no statement": '{"Version": "2012-10-17", "Statement": []}',
    "another version": json.dumps({"Version": "2020-01-01", "Statement": [statement(root(CUSTOMER))]}),
    "an unknown member": json.dumps({"Statements": [statement(root(CUSTOMER))]}),
    "no effect": policy({"Principal": "*", "Action": "kms:*", "Resource": "*"}),
    "no principal": policy({"Effect": "Allow", "Action": "kms:*", "Resource": "*"}),
    "no resource": policy({"Effect": "Allow", "Principal": "*", "Action": "kms:*"}),
    "no action": policy({"Effect": "Allow", "Principal": "*", "Resource": "*"}),
    "an action of no service": policy(statement(root(CUSTOMER), "Encrypt")),
    "a wildcard in a principal": policy(statement("arn:aws:iam::444455556666:role/*")),
    "a principal that is no ARN": policy(statement("customer")),
    "a unique id": policy(statement("AROAEXAMPLEID")),
    "an unknown operator": policy(statement(root(CUSTOMER), **condition("StringMatches", "kms:CallerAccount", "1"))),
    "a value that is no string": policy(
        statement(root(CUSTOMER), Condition={"StringEquals": {"kms:CallerAccount": {}}})
    ),
    "the same Sid twice": policy(*[statement(root(CUSTOMER), Sid="one")] * 2),
    "an allow for all but some": policy(
        {"Effect": "Allow", "NotPrincipal": {"AWS": root(VENDOR)}, "Action": "kms:*", "Resource": "*"}
    ),
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_policy_is_refused_and_the_old_one_stays(lab: Lab, text: str) -> None:
    key = lab.key()
    before = lab("GetKeyPolicy", KeyId=key)
    for operation, more in (("PutKeyPolicy", {"KeyId": key}), ("CreateKey", {})):
        with pytest.raises(KmsError, match="MalformedPolicyDocumentException"):
            lab(operation, Policy=text, **more)
    assert lab("GetKeyPolicy", KeyId=key) == before


def test_a_policy_that_would_lock_its_author_out_is_refused_unless_asked_for(lab: Lab) -> None:
    key, locked = lab.key(), policy(statement(root(VENDOR)))
    with pytest.raises(KmsError, match="will not allow you to update the key policy in the future"):
        lab("PutKeyPolicy", KeyId=key, Policy=locked)
    lab("PutKeyPolicy", KeyId=key, Policy=locked, BypassPolicyLockoutSafetyCheck=True)
    with pytest.raises(KmsError, match="AccessDeniedException"):
        lab("GetKeyPolicy", KeyId=key)


def test_the_lock_out_check_looks_at_identity_policies_where_the_key_policy_leaves_it_to_them(lab: Lab) -> None:
    maker = lab.as_(user(CUSTOMER, "maker", iam={"kms:CreateKey": "allow"}))
    with pytest.raises(KmsError, match="will not allow you to update"):
        maker.key(Policy=policy(statement(root(CUSTOMER))))
    assert maker.key(), "the default policy is not checked"


def test_a_principal_that_does_not_exist_is_refused_where_that_can_be_known(lab: Lab) -> None:
    known = {root(CUSTOMER), ROLE}
    lab.kms.principal_exists = known.__contains__
    assert lab.key(Policy=policy(statement(root(CUSTOMER)), statement(ROLE)))
    assert lab.key(Policy=policy(statement(CUSTOMER))), "an account id is its root"
    with pytest.raises(KmsError, match="invalid principals"):
        lab.key(Policy=policy(statement(root(CUSTOMER)), statement(f"{ROLE}-not-yet")))


def test_making_a_key_needs_permission_and_so_do_its_tags(lab: Lab) -> None:
    for iam in ("none", "deny"):
        with pytest.raises(KmsError, match="AccessDeniedException"):
            lab.as_(user(CUSTOMER, iam=iam)).key()
    maker = lab.as_(user(CUSTOMER, iam={"kms:CreateKey": "allow"}))
    with pytest.raises(KmsError, match="kms:TagResource"):
        maker.key(Tags=[{"TagKey": "a", "TagValue": "b"}])


def test_an_alias_needs_permission_on_the_alias_and_on_each_key(lab: Lab) -> None:
    closed = lab.key(Policy=policy(statement(CUSTOMER_ADMIN.arn)))
    opened = lab.key()
    worker = lab.as_(user(CUSTOMER, "worker"))
    with pytest.raises(KmsError, match="AccessDeniedException"):
        worker("CreateAlias", AliasName="alias/a", TargetKeyId=closed)
    worker("CreateAlias", AliasName="alias/a", TargetKeyId=opened)
    with pytest.raises(KmsError, match="AccessDeniedException"):
        worker("UpdateAlias", AliasName="alias/a", TargetKeyId=closed)
    lab("UpdateAlias", AliasName="alias/a", TargetKeyId=closed)
    with pytest.raises(KmsError, match="AccessDeniedException"):
        worker("DeleteAlias", AliasName="alias/a")


def test_re_encryption_needs_a_permission_on_either_key(lab: Lab) -> None:
    source = key_with(lab, statement(root(VENDOR), "kms:ReEncryptFrom"))
    target = key_with(lab, statement(root(VENDOR), "kms:ReEncryptTo"))
    ciphertext = lab.encrypt(source)
    vendor = lab.as_(VENDOR_ADMIN)
    assert vendor("ReEncrypt", CiphertextBlob=ciphertext, DestinationKeyId=target)["SourceKeyId"] == source
    with pytest.raises(KmsError, match="kms:ReEncryptTo"):
        vendor("ReEncrypt", CiphertextBlob=ciphertext, DestinationKeyId=source)
    with pytest.raises(KmsError, match="kms:ReEncryptFrom"):
        vendor("ReEncrypt", CiphertextBlob=lab.encrypt(target), DestinationKeyId=target)

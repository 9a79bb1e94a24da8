"""Keys in use: encryption, aliases, deletion, tags, lists, validation, faults, persistence."""

import base64
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kms_lab import CUSTOMER, CUSTOMER_ADMIN, VENDOR, Clock, Lab, blob, open_kms, wrap

from sandbox.aws.kms import KmsError, set_faults

DAY = 86_400
OBJECT = {"aws:s3:arn": "arn:aws:s3:::tenant/records/1.json"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lab(tmp_path: Path, clock: Clock) -> Iterator[Lab]:
    kms = open_kms(tmp_path, clock=clock)
    yield Lab(kms)
    kms.close()


# --- cryptography ----------------------------------------------------------------------------------


def test_a_data_key_comes_back_from_its_ciphertext(lab: Lab) -> None:
    key = lab.key()
    answer = lab("GenerateDataKey", KeyId=key, KeySpec="AES_256", EncryptionContext=OBJECT)
    plaintext = base64.b64decode(answer["Plaintext"])
    assert (len(plaintext), answer["KeyId"]) == (32, key)
    assert lab.decrypt(answer["CiphertextBlob"], EncryptionContext=OBJECT) == plaintext
    metadata = lab("DescribeKey", KeyId=key)["KeyMetadata"]
    assert answer["KeyMaterialId"] == metadata["CurrentKeyMaterialId"]


@pytest.mark.parametrize(("size", "length"), [({"KeySpec": "AES_128"}, 16), ({"NumberOfBytes": 1024}, 1024)])
def test_a_data_key_without_plaintext_has_the_size_asked_for(lab: Lab, size: dict[str, Any], length: int) -> None:
    answer = lab("GenerateDataKeyWithoutPlaintext", KeyId=lab.key(), **size)
    assert "Plaintext" not in answer
    assert len(lab.decrypt(answer["CiphertextBlob"])) == length


@pytest.mark.parametrize("size", [{}, {"KeySpec": "AES_256", "NumberOfBytes": 32}, {"NumberOfBytes": 1025}])
def test_a_data_key_has_exactly_one_size(lab: Lab, size: dict[str, Any]) -> None:
    with pytest.raises(KmsError, match="ValidationException"):
        lab("GenerateDataKey", KeyId=lab.key(), **size)


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"aws:s3:arn": "arn:aws:s3:::tenant/records/2.json"},
        {**OBJECT, "more": "x"},
        {"AWS:s3:arn": OBJECT["aws:s3:arn"]},
    ],
)
def test_another_encryption_context_opens_nothing(lab: Lab, context: dict[str, str]) -> None:
    ciphertext = lab.encrypt(lab.key(), EncryptionContext=OBJECT)
    with pytest.raises(KmsError) as refused:
        lab.decrypt(ciphertext, EncryptionContext=context)
    assert (refused.value.code, refused.value.message) == ("InvalidCiphertextException", "")


def test_the_order_of_the_encryption_context_means_nothing(lab: Lab) -> None:
    ciphertext = lab.encrypt(lab.key(), EncryptionContext={"a": "1", "b": "2"})
    assert lab.decrypt(ciphertext, EncryptionContext={"b": "2", "a": "1"}) == b"secret"


def test_pairs_of_the_encryption_context_do_not_run_together(lab: Lab) -> None:
    ciphertext = lab.encrypt(lab.key(), EncryptionContext={"ab": "c"})
    with pytest.raises(KmsError, match="InvalidCiphertextException"):
        lab.decrypt(ciphertext, EncryptionContext={"a": "bc"})


def test_no_bit_of_a_ciphertext_can_be_changed(lab: Lab) -> None:
    content = base64.b64decode(lab.encrypt(lab.key()))
    for position in range(len(content)):
        changed = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        with pytest.raises(KmsError, match=r"InvalidCiphertextException|AccessDeniedException"):
            lab.decrypt(blob(changed))


def test_two_encryptions_of_the_same_text_differ(lab: Lab) -> None:
    key = lab.key()
    assert lab.encrypt(key) != lab.encrypt(key)


def test_the_key_named_at_decryption_must_be_the_right_one(lab: Lab) -> None:
    key, other = lab.key(), lab.key()
    ciphertext = lab.encrypt(key)
    for ref in (key, key.rpartition("/")[2]):
        assert lab.decrypt(ciphertext, KeyId=ref) == b"secret"
    with pytest.raises(KmsError, match="IncorrectKeyException"):
        lab.decrypt(ciphertext, KeyId=other)


def test_re_encryption_moves_a_ciphertext_to_another_key_and_context(lab: Lab) -> None:
    source, destination = lab.key(), lab.imported_key()
    answer = lab(
        "ReEncrypt",
        CiphertextBlob=lab.encrypt(source, EncryptionContext=OBJECT),
        SourceEncryptionContext=OBJECT,
        DestinationKeyId=destination,
        DestinationEncryptionContext={"moved": "yes"},
    )
    assert (answer["SourceKeyId"], answer["KeyId"]) == (source, destination)
    lab("DisableKey", KeyId=source)
    assert lab.decrypt(answer["CiphertextBlob"], EncryptionContext={"moved": "yes"}) == b"secret"


def test_4096_bytes_are_encrypted_and_one_more_is_refused(lab: Lab) -> None:
    key = lab.key()
    assert len(lab.decrypt(lab.encrypt(key, b"x" * 4096))) == 4096
    with pytest.raises(KmsError) as refused:
        lab.encrypt(key, b"x" * 4097)
    assert refused.value.message == (
        "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: "
        "Member must have length less than or equal to 4096"
    )


def test_a_dry_run_checks_everything_and_does_nothing(lab: Lab) -> None:
    key, other = lab.key(), lab.key()
    ciphertext = lab.encrypt(key)
    requests: list[tuple[str, dict[str, Any]]] = [
        ("Encrypt", {"KeyId": key, "Plaintext": blob(b"x")}),
        ("GenerateDataKey", {"KeyId": key, "KeySpec": "AES_256"}),
        ("GenerateDataKeyWithoutPlaintext", {"KeyId": key, "KeySpec": "AES_256"}),
        ("Decrypt", {"CiphertextBlob": ciphertext}),
        ("Decrypt", {"KeyId": key, "DryRunModifiers": ["IGNORE_CIPHERTEXT"]}),
        ("ReEncrypt", {"CiphertextBlob": ciphertext, "DestinationKeyId": other}),
    ]
    for operation, request in requests:
        with pytest.raises(KmsError, match="DryRunOperationException"):
            lab(operation, DryRun=True, **request)
    lab("DisableKey", KeyId=key)
    for operation, request in requests:
        with pytest.raises(KmsError, match="DisabledException"):
            lab(operation, DryRun=True, **request)


def test_what_is_not_offered_is_an_error_and_not_ignored(lab: Lab) -> None:
    key = lab.key()
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("CreateKey", {"MultiRegion": True}, "UnsupportedOperationException"),
        ("CreateKey", {"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"}, "UnsupportedOperationException"),
        ("CreateKey", {"Origin": "AWS_CLOUDHSM"}, "UnsupportedOperationException"),
        ("CreateKey", {"CustomKeyStoreId": "cks-1"}, "UnsupportedOperationException"),
        ("CreateKey", {"Colour": "red"}, "ValidationException"),
        ("CreateKey", {"Origin": "SOMEWHERE"}, "ValidationException"),
        ("CreateKey", {"Description": 7}, "SerializationException"),
        ("DescribeKey", {}, "ValidationException"),
        ("DescribeKey", {"KeyId": ""}, "ValidationException"),
        ("DescribeKey", {"KeyId": key, "GrantTokens": ["x"]}, "InvalidGrantTokenException"),
        ("Encrypt", {"KeyId": key, "Plaintext": "not base64!"}, "SerializationException"),
        (
            "Encrypt",
            {"KeyId": key, "Plaintext": blob(b"x"), "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"},
            "InvalidKeyUsageException",
        ),
        ("Encrypt", {"KeyId": key, "Plaintext": blob(b"x"), "EncryptionContext": {"a": "x" * 8192}}, "ValidationE"),
        ("Decrypt", {"CiphertextBlob": blob(b"garbage")}, "InvalidCiphertextException"),
        ("GetKeyPolicy", {"KeyId": key, "PolicyName": "other"}, "NotFoundException"),
        ("ScheduleKeyDeletion", {"KeyId": key, "PendingWindowInDays": 6}, "ValidationException"),
        ("ScheduleKeyDeletion", {"KeyId": key, "PendingWindowInDays": 31}, "ValidationException"),
        ("ListKeys", {"Marker": "x"}, "InvalidMarkerException"),
    ]
    for operation, request, code in refused:
        with pytest.raises(KmsError, match=code):
            lab(operation, **request)


# --- names -------------------------------------------------------------------------------------------


def test_a_key_is_found_by_id_arn_alias_and_alias_arn(lab: Lab) -> None:
    key = lab.key()
    lab("CreateAlias", AliasName="alias/acme/k1", TargetKeyId=key)
    for ref in (key, key.rpartition("/")[2], "alias/acme/k1", f"arn:aws:kms:eu-west-1:{VENDOR}:alias/acme/k1"):
        assert lab("DescribeKey", KeyId=ref)["KeyMetadata"]["Arn"] == key


@pytest.mark.parametrize(
    ("ref", "code", "message"),
    [
        ("12345678-1234-1234-1234-123456789012", "NotFoundException", "does not exist"),
        ("fake-key-id", "NotFoundException", "Invalid keyId 'fake-key-id'"),
        ("alias/none", "NotFoundException", f"Alias arn:aws:kms:eu-west-1:{VENDOR}:alias/none is not found."),
        (f"arn:aws:kms:ap-southeast-1:{VENDOR}:key/x", "NotFoundException", "Invalid arn ap-southeast-1"),
        ("arn:aws:s3:::bucket", "InvalidArnException", "Invalid arn"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_as_aws_words_it(lab: Lab, ref: str, code: str, message: str) -> None:
    with pytest.raises(KmsError) as refused:
        lab("DescribeKey", KeyId=ref)
    assert refused.value.code == code
    assert message in refused.value.message


def test_administration_takes_no_alias(lab: Lab) -> None:
    key = lab.key()
    lab("CreateAlias", AliasName="alias/a", TargetKeyId=key)
    with pytest.raises(KmsError, match="NotFoundException"):
        lab("DisableKey", KeyId="alias/a")
    with pytest.raises(KmsError, match="InvalidArnException"):
        lab("DisableKey", KeyId=f"arn:aws:kms:eu-west-1:{VENDOR}:alias/a")
    assert lab.state(key) == "Enabled"


def test_an_alias_that_moves_encrypts_under_the_new_key_and_old_text_stays_readable(lab: Lab) -> None:
    old, new = lab.key(), lab.key()
    lab("CreateAlias", AliasName="alias/a", TargetKeyId=old)
    ciphertext = lab.encrypt("alias/a")
    lab("UpdateAlias", AliasName="alias/a", TargetKeyId=new)
    assert lab("Encrypt", KeyId="alias/a", Plaintext=blob(b"x"))["KeyId"] == new
    assert lab.decrypt(ciphertext) == b"secret"
    with pytest.raises(KmsError, match="IncorrectKeyException"):
        lab.decrypt(ciphertext, KeyId="alias/a")


def test_an_alias_is_refused_where_aws_refuses_it(lab: Lab) -> None:
    key = lab.key()
    lab("CreateAlias", AliasName="alias/a", TargetKeyId=key)
    with pytest.raises(KmsError, match="AlreadyExistsException"):
        lab("CreateAlias", AliasName="alias/a", TargetKeyId=key)
    for name in ("a", "alias/aws/s3"):
        with pytest.raises(KmsError, match="InvalidAliasNameException"):
            lab("CreateAlias", AliasName=name, TargetKeyId=key)
    with pytest.raises(KmsError, match="Aliases must refer to keys"):
        lab("CreateAlias", AliasName="alias/b", TargetKeyId="alias/a")
    with pytest.raises(KmsError, match="NotFoundException"):
        lab("DeleteAlias", AliasName="alias/none")
    lab.as_(CUSTOMER_ADMIN)("CreateAlias", AliasName="alias/a", TargetKeyId=lab.as_(CUSTOMER_ADMIN).key())


def test_a_key_has_50_aliases_at_most(lab: Lab) -> None:
    key = lab.key()
    for number in range(50):
        lab("CreateAlias", AliasName=f"alias/{number}", TargetKeyId=key)
    with pytest.raises(KmsError, match="LimitExceededException"):
        lab("CreateAlias", AliasName="alias/50", TargetKeyId=key)


def test_lists_come_in_pages_and_show_one_account(lab: Lab) -> None:
    keys = {lab.key() for _ in range(5)}
    lab.as_(CUSTOMER_ADMIN).key()
    seen: list[str] = []
    page = lab("ListKeys", Limit=2)
    while True:
        seen += [entry["KeyArn"] for entry in page["Keys"]]
        if not page["Truncated"]:
            break
        page = lab("ListKeys", Limit=2, Marker=page["NextMarker"])
    assert (len(seen), set(seen)) == (5, keys)
    lab("CreateAlias", AliasName="alias/a", TargetKeyId=seen[0])
    lab("CreateAlias", AliasName="alias/b", TargetKeyId=seen[1])
    assert [a["AliasName"] for a in lab("ListAliases")["Aliases"]] == ["alias/a", "alias/b"]
    assert [a["AliasName"] for a in lab("ListAliases", KeyId=seen[1])["Aliases"]] == ["alias/b"]


# --- life ----------------------------------------------------------------------------------------------


def test_a_scheduled_deletion_can_be_cancelled_and_leaves_the_key_disabled(lab: Lab, clock: Clock) -> None:
    key = lab.key()
    answer = lab("ScheduleKeyDeletion", KeyId=key)
    assert answer["DeletionDate"] == clock.now + 30 * DAY
    assert (answer["KeyState"], answer["PendingWindowInDays"], answer["KeyId"]) == ("PendingDeletion", 30, key)
    lab("CancelKeyDeletion", KeyId=key)
    assert lab.state(key) == "Disabled"


def test_a_deleted_key_is_gone_with_its_aliases_and_its_bytes(lab: Lab, clock: Clock, tmp_path: Path) -> None:
    material = os.urandom(32)
    key = lab.imported_key(material)
    lab("CreateAlias", AliasName="alias/a", TargetKeyId=key)
    ciphertext = lab.encrypt(key)
    lab("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    clock.now += 7 * DAY - 1
    assert lab.state(key) == "PendingDeletion"
    clock.now += 1
    for ref in (key, "alias/a"):
        with pytest.raises(KmsError, match="NotFoundException"):
            lab("DescribeKey", KeyId=ref)
    assert lab("ListAliases")["Aliases"] == []
    with pytest.raises(KmsError, match="AccessDeniedException"):
        lab.decrypt(ciphertext)
    assert not any(material in file.read_bytes() for file in tmp_path.iterdir())


def test_tags_are_kept_replaced_removed_and_refused(lab: Lab) -> None:
    key = lab.key(Tags=[{"TagKey": "tenant", "TagValue": "acme"}])
    lab("TagResource", KeyId=key, Tags=[{"TagKey": "tenant", "TagValue": "b"}, {"TagKey": "key", "TagValue": "k1"}])
    lab("UntagResource", KeyId=key, TagKeys=["key", "none"])
    assert lab("ListResourceTags", KeyId=key)["Tags"] == [{"TagKey": "tenant", "TagValue": "b"}]
    for tags in ([{"TagKey": "aws:x", "TagValue": ""}], [{"TagKey": "a", "TagValue": "1"}] * 2):
        with pytest.raises(KmsError, match="TagException"):
            lab("TagResource", KeyId=key, Tags=tags)
    with pytest.raises(KmsError, match="LimitExceededException"):
        lab("TagResource", KeyId=key, Tags=[{"TagKey": str(n), "TagValue": ""} for n in range(50)])


def test_the_description_and_the_state_show_in_the_metadata(lab: Lab) -> None:
    key = lab.key(Description="one")
    lab("UpdateKeyDescription", KeyId=key, Description="two")
    lab("DisableKey", KeyId=key)
    metadata = lab("DescribeKey", KeyId=key)["KeyMetadata"]
    assert (metadata["Description"], metadata["Enabled"], metadata["KeyState"]) == ("two", False, "Disabled")


# --- the server ------------------------------------------------------------------------------------------


def test_faults_strike_as_often_as_asked_and_where_asked(lab: Lab) -> None:
    key = lab.key()
    assert set_faults(lab.kms, {"throttle": 2, "operations": ["Encrypt"]})["throttle"] == 2
    lab("DescribeKey", KeyId=key)
    for _ in range(2):
        with pytest.raises(KmsError, match="ThrottlingException"):
            lab.encrypt(key)
    assert lab.encrypt(key)
    set_faults(lab.kms, {"internal": 1})
    with pytest.raises(KmsError) as refused:
        lab("ListKeys")
    assert (refused.value.code, refused.value.status) == ("KMSInternalException", 500)
    for wrong in ({"throttle": -1}, {"throttle": "2"}, {"explode": 1}):
        with pytest.raises(ValueError, match="fault"):
            set_faults(lab.kms, wrong)


def test_everything_outlives_a_restart(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "state"
    lab = Lab(open_kms(folder, clock=clock))
    imported, made = lab.imported_key(), lab.key(Tags=[{"TagKey": "a", "TagValue": "b"}])
    waiting = lab.key(Origin="EXTERNAL")
    parameters = lab.parameters(waiting)
    lab("CreateAlias", AliasName="alias/a", TargetKeyId=made)
    lab("RotateKeyOnDemand", KeyId=made)
    ciphertexts = {key: lab.encrypt(key) for key in (imported, made)}
    before = dict(lab.kms.keys)
    lab.kms.close()
    lab = Lab(open_kms(folder, clock=clock))
    assert lab.kms.keys == before
    assert [lab.decrypt(c) for c in ciphertexts.values()] == [b"secret"] * 2
    assert lab("DescribeKey", KeyId="alias/a")["KeyMetadata"]["Arn"] == made
    token = parameters["ImportToken"]
    wrapped = wrap(parameters, os.urandom(32))
    model = "KEY_MATERIAL_DOES_NOT_EXPIRE"
    lab(
        "ImportKeyMaterial",
        KeyId=waiting,
        ImportToken=token,
        EncryptedKeyMaterial=wrapped,
        ExpirationModel=model,
    )
    assert lab.state(waiting) == "Enabled"
    lab.kms.close()


def test_a_second_process_on_the_same_state_is_refused(lab: Lab, tmp_path: Path) -> None:
    lab.key()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        open_kms(tmp_path)


def test_the_state_file_is_for_its_owner_only(lab: Lab, tmp_path: Path) -> None:
    assert (tmp_path / "kms.sqlite").stat().st_mode & 0o077 == 0


def test_no_representation_shows_key_bytes(lab: Lab) -> None:
    material = os.urandom(32)
    key = lab.kms.keys[lab.imported_key(material).rpartition("/")[2]]
    assert key.current.id in repr(key)
    assert repr(material) not in repr(key)


def test_many_threads_may_call_while_aliases_move_and_keys_change(lab: Lab) -> None:
    keys = [lab.key() for _ in range(2)]
    lab("CreateAlias", AliasName="alias/a", TargetKeyId=keys[0])

    def use(number: int) -> bytes:
        if number % 10 == 0:
            lab("UpdateAlias", AliasName="alias/a", TargetKeyId=keys[number // 10 % 2])
            lab("UpdateKeyDescription", KeyId=keys[0], Description=str(number))
        text = str(number).encode()
        return lab.decrypt(lab.encrypt("alias/a", text))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(200))) == [str(n).encode() for n in range(200)]


def test_accounts_do_not_see_each_other(lab: Lab) -> None:
    customer = lab.as_(CUSTOMER_ADMIN)
    key = customer.key()
    assert [k["KeyArn"] for k in customer("ListKeys")["Keys"]] == [key]
    assert lab("ListKeys")["Keys"] == []
    assert f":{CUSTOMER}:" in key
    with pytest.raises(KmsError, match="AccessDeniedException"):
        lab.decrypt(customer.encrypt(key))

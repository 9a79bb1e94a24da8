"""Imported key material: wrapping, tokens, expiry, deletion, rotation."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from kms_lab import Clock, Lab, blob, open_kms, wrap

from sandbox.aws.kms import Kms, KmsError

DAY = 86_400
FOREVER = {"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
NEW = {"ImportType": "NEW_KEY_MATERIAL"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lab(tmp_path: Path, clock: Clock) -> Iterator[Lab]:
    kms = open_kms(tmp_path, clock=clock)
    yield Lab(kms)
    kms.close()


def send(lab: Lab, key: str, parameters: dict[str, Any], wrapped: str, **request: Any) -> dict[str, Any]:
    token = parameters["ImportToken"]
    return lab("ImportKeyMaterial", KeyId=key, ImportToken=token, EncryptedKeyMaterial=wrapped, **request)


def rotations(lab: Lab, key: str, which: str = "ALL_KEY_MATERIAL") -> list[dict[str, Any]]:
    return lab("ListKeyRotations", KeyId=key, IncludeKeyMaterial=which)["Rotations"]


# --- wrapping ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "digest"), [("RSAES_OAEP_SHA_256", hashes.SHA256()), ("RSAES_OAEP_SHA_1", hashes.SHA1())]
)
def test_material_wrapped_as_announced_enables_the_key(lab: Lab, algorithm: str, digest: Any) -> None:
    key = lab.key(Origin="EXTERNAL")
    assert lab.state(key) == "PendingImport"
    parameters = lab.parameters(key, algorithm)
    answer = send(lab, key, parameters, wrap(parameters, os.urandom(32), digest=digest), **FOREVER)
    metadata = lab("DescribeKey", KeyId=key)["KeyMetadata"]
    assert (metadata["KeyState"], metadata["ExpirationModel"]) == ("Enabled", "KEY_MATERIAL_DOES_NOT_EXPIRE")
    assert metadata["CurrentKeyMaterialId"] == answer["KeyMaterialId"]
    assert lab.decrypt(lab.encrypt(key)) == b"secret"


def test_the_material_is_what_encrypts(lab: Lab) -> None:
    material = os.urandom(32)
    key, twin, other = lab.key(Origin="EXTERNAL"), lab.key(Origin="EXTERNAL"), lab.key(Origin="EXTERNAL")
    ids = [lab.bring(key, material), lab.bring(twin, material), lab.bring(other, os.urandom(32))]
    assert len(set(ids)) == 3, "the id is bound to the key: equal bytes must not show in two customers' keys"
    secrets = [lab.kms.keys[k.rpartition("/")[2]].current.secret for k in (key, twin)]
    assert secrets == [material, material]


def _not_wrapped(parameters: dict[str, Any], how: str) -> str:
    material = os.urandom(32)
    public = serialization.load_der_public_key(base64.b64decode(parameters["PublicKey"]))
    return {
        "PKCS1 v1.5": lambda: blob(public.encrypt(material, padding.PKCS1v15())),
        "another hash": lambda: wrap(parameters, material, digest=hashes.SHA1()),
        "16 bytes": lambda: wrap(parameters, material[:16]),
        "33 bytes": lambda: wrap(parameters, material + b"x"),
        "base64 text": lambda: wrap(parameters, base64.b64encode(material)),
        "plain bytes": lambda: blob(material),
        "one bit off": lambda: blob(_flipped(base64.b64decode(wrap(parameters, material)))),
    }[how]()


def _flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "how", ["PKCS1 v1.5", "another hash", "16 bytes", "33 bytes", "base64 text", "plain bytes", "one bit off"]
)
def test_material_wrapped_otherwise_is_refused_and_the_key_still_waits(lab: Lab, how: str) -> None:
    key = lab.key(Origin="EXTERNAL")
    parameters = lab.parameters(key)
    with pytest.raises(KmsError, match="InvalidCiphertextException"):
        send(lab, key, parameters, _not_wrapped(parameters, how), **FOREVER)
    assert lab.state(key) == "PendingImport"
    send(lab, key, parameters, wrap(parameters, os.urandom(32)), **FOREVER)
    assert lab.state(key) == "Enabled", "a failed import does not use up the token"


@pytest.mark.parametrize(
    ("algorithm", "spec"),
    [
        ("RSA_AES_KEY_WRAP_SHA_256", "RSA_4096"),
        ("RSA_AES_KEY_WRAP_SHA_1", "RSA_2048"),
        ("RSAES_PKCS1_V1_5", "RSA_2048"),
        ("SM2PKE", "SM2"),
    ],
)
def test_a_wrapping_algorithm_that_does_not_fit_is_refused(lab: Lab, algorithm: str, spec: str) -> None:
    key = lab.key(Origin="EXTERNAL")
    with pytest.raises(KmsError, match="UnsupportedOperationException"):
        lab("GetParametersForImport", KeyId=key, WrappingAlgorithm=algorithm, WrappingKeySpec=spec)


@pytest.mark.parametrize(("spec", "size"), [("RSA_2048", 256), ("RSA_3072", 384), ("RSA_4096", 512)])
def test_the_public_key_has_the_size_that_was_asked_for(tmp_path: Path, spec: str, size: int) -> None:
    kms = Kms(tmp_path, "eu-west-1", wrapping_keys_ready=1 if spec == "RSA_4096" else 0)
    lab = Lab(kms)
    key = lab.key(Origin="EXTERNAL")
    parameters = lab("GetParametersForImport", KeyId=key, WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec=spec)
    wrapped = wrap(parameters, os.urandom(32))
    assert len(base64.b64decode(wrapped)) == size
    send(lab, key, parameters, wrapped, **FOREVER)
    assert lab.state(key) == "Enabled"
    kms.close()


# --- tokens --------------------------------------------------------------------------------------------


def test_a_token_ends_after_24_hours(lab: Lab, clock: Clock) -> None:
    key = lab.key(Origin="EXTERNAL")
    parameters = lab.parameters(key)
    assert parameters["ParametersValidTo"] == clock.now + DAY
    wrapped = wrap(parameters, os.urandom(32))
    clock.now += DAY
    with pytest.raises(KmsError, match="ExpiredImportTokenException"):
        send(lab, key, parameters, wrapped, **FOREVER)
    clock.now -= 1
    send(lab, key, parameters, wrapped, **FOREVER)


def test_a_token_of_another_key_or_of_nobody_is_invalid(lab: Lab) -> None:
    key, other = lab.key(Origin="EXTERNAL"), lab.key(Origin="EXTERNAL")
    parameters = lab.parameters(other)
    wrapped = wrap(parameters, os.urandom(32))
    for token in (parameters["ImportToken"], blob(os.urandom(256))):
        with pytest.raises(KmsError, match="InvalidImportTokenException"):
            send(lab, key, {"ImportToken": token}, wrapped, **FOREVER)


def test_several_sets_may_be_open_but_a_used_one_ends_with_the_next(lab: Lab) -> None:
    key, material = lab.key(Origin="EXTERNAL"), os.urandom(32)
    first, second = lab.parameters(key), lab.parameters(key)
    send(lab, key, first, wrap(first, material), **FOREVER)
    with pytest.raises(KmsError, match="InvalidImportTokenException"):
        send(lab, key, first, wrap(first, material), **FOREVER)
    send(lab, key, second, wrap(second, material), **FOREVER)
    send(lab, key, second, wrap(second, material), **FOREVER)


# --- expiry --------------------------------------------------------------------------------------------


def test_material_expires_by_default_so_the_end_must_be_said(lab: Lab) -> None:
    key = lab.key(Origin="EXTERNAL")
    parameters = lab.parameters(key)
    with pytest.raises(KmsError, match="A validTo date must be set"):
        send(lab, key, parameters, wrap(parameters, os.urandom(32)))


@pytest.mark.parametrize("days", [-1, 0, 366])
def test_the_end_lies_in_the_future_and_within_a_year(lab: Lab, clock: Clock, days: int) -> None:
    key = lab.key(Origin="EXTERNAL")
    parameters = lab.parameters(key)
    with pytest.raises(KmsError, match="ValidationException"):
        send(lab, key, parameters, wrap(parameters, os.urandom(32)), ValidTo=clock.now + days * DAY)


def test_an_end_contradicts_material_that_does_not_expire(lab: Lab, clock: Clock) -> None:
    key = lab.key(Origin="EXTERNAL")
    parameters = lab.parameters(key)
    with pytest.raises(KmsError, match="ValidationException"):
        send(lab, key, parameters, wrap(parameters, os.urandom(32)), ValidTo=clock.now + DAY, **FOREVER)


def test_expired_material_is_gone_until_the_same_bytes_come_back(lab: Lab, clock: Clock) -> None:
    key, material = lab.key(Origin="EXTERNAL"), os.urandom(32)
    end = clock.now + 10 * DAY
    lab.bring(key, material, ExpirationModel="KEY_MATERIAL_EXPIRES", ValidTo=end)
    assert lab("DescribeKey", KeyId=key)["KeyMetadata"]["ValidTo"] == end
    ciphertext = lab.encrypt(key)
    clock.now = end - 1
    assert lab.decrypt(ciphertext) == b"secret"
    clock.now = end
    with pytest.raises(KmsError, match="is pending import"):
        lab.decrypt(ciphertext)
    with pytest.raises(KmsError, match="IncorrectKeyMaterialException"):
        lab.bring(key, os.urandom(32))
    lab.bring(key, material)
    assert lab.decrypt(ciphertext) == b"secret"
    assert "ValidTo" not in lab("DescribeKey", KeyId=key)["KeyMetadata"]


# --- deletion --------------------------------------------------------------------------------------------


def test_deleted_material_makes_the_ciphertext_unreadable_until_it_is_brought_back(lab: Lab) -> None:
    material = os.urandom(32)
    key = lab.imported_key(material)
    ciphertext = lab.encrypt(key)
    identity = lab("DeleteImportedKeyMaterial", KeyId=key)["KeyMaterialId"]
    assert [(r["KeyMaterialId"], r["ImportState"]) for r in rotations(lab, key)] == [(identity, "PENDING_IMPORT")]
    with pytest.raises(KmsError, match="is pending import"):
        lab.decrypt(ciphertext)
    lab.bring(key, material)
    assert lab.decrypt(ciphertext) == b"secret"


def test_deleted_material_is_on_no_disk_page_and_in_no_log(lab: Lab, tmp_path: Path) -> None:
    def on_disk(content: bytes) -> bool:
        return any(content in file.read_bytes() for file in tmp_path.iterdir())

    material, kept = os.urandom(32), os.urandom(32)
    key = lab.imported_key(material)
    lab.imported_key(kept)
    assert on_disk(material), "the search would see it"
    lab("DeleteImportedKeyMaterial", KeyId=key)
    assert not on_disk(material)
    assert on_disk(kept)


def test_deleting_what_is_not_there_says_so(lab: Lab) -> None:
    key = lab.key(Origin="EXTERNAL")
    assert lab("DeleteImportedKeyMaterial", KeyId=key) == {"KeyId": key}
    with pytest.raises(KmsError, match="NotFoundException"):
        lab("DeleteImportedKeyMaterial", KeyId=key, KeyMaterialId="0" * 64)


# --- rotation --------------------------------------------------------------------------------------------


def test_new_material_waits_for_its_rotation_and_the_old_still_decrypts(lab: Lab) -> None:
    key = lab.imported_key()
    before = lab.encrypt(key)
    (first,) = rotations(lab, key)
    second = lab.bring(key, os.urandom(32), **NEW, KeyMaterialDescription="year two")
    assert [r["KeyMaterialState"] for r in rotations(lab, key)] == ["CURRENT", "PENDING_ROTATION"]
    assert lab("DescribeKey", KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"] == first["KeyMaterialId"]
    lab("RotateKeyOnDemand", KeyId=key)
    assert lab("DescribeKey", KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"] == second
    assert [r["KeyMaterialState"] for r in rotations(lab, key)] == ["NON_CURRENT", "CURRENT"]
    (rotation,) = rotations(lab, key, "ROTATIONS_ONLY")
    assert (rotation["RotationType"], rotation["KeyMaterialDescription"]) == ("ON_DEMAND", "year two")
    after = lab.encrypt(key)
    assert (lab.decrypt(before), lab.decrypt(after)) == (b"secret", b"secret")
    used = [lab("Decrypt", CiphertextBlob=c)["KeyMaterialId"] for c in (before, after)]
    assert used == [first["KeyMaterialId"], second]


def test_losing_the_old_material_loses_the_whole_key(lab: Lab) -> None:
    first, second = os.urandom(32), os.urandom(32)
    key = lab.imported_key(first)
    lab.bring(key, second, **NEW)
    lab("RotateKeyOnDemand", KeyId=key)
    ciphertext = lab.encrypt(key)
    old = rotations(lab, key)[0]["KeyMaterialId"]
    lab("DeleteImportedKeyMaterial", KeyId=key, KeyMaterialId=old)
    with pytest.raises(KmsError, match="is pending import"):
        lab.decrypt(ciphertext)
    with pytest.raises(KmsError, match="KMSInvalidStateException"):
        lab.bring(key, os.urandom(32), **NEW)
    lab.bring(key, first, KeyMaterialId=old)
    assert lab.decrypt(ciphertext) == b"secret"


def test_material_pending_rotation_can_be_deleted_and_the_key_works_on(lab: Lab) -> None:
    key = lab.imported_key()
    waiting = lab.bring(key, os.urandom(32), **NEW)
    with pytest.raises(KmsError, match="pending rotation already"):
        lab.bring(key, os.urandom(32), **NEW)
    lab("DeleteImportedKeyMaterial", KeyId=key, KeyMaterialId=waiting)
    assert len(rotations(lab, key)) == 1
    assert lab.decrypt(lab.encrypt(key)) == b"secret"
    with pytest.raises(KmsError, match="No available key material pending rotation"):
        lab("RotateKeyOnDemand", KeyId=key)
    lab.bring(key, os.urandom(32), **NEW)


def test_after_the_first_import_other_bytes_are_refused_unless_said_to_be_new(lab: Lab) -> None:
    material = os.urandom(32)
    key = lab.imported_key(material)
    with pytest.raises(KmsError, match="IncorrectKeyMaterialException"):
        lab.bring(key, os.urandom(32))
    with pytest.raises(KmsError, match="IncorrectKeyMaterialException"):
        lab.bring(key, material, **NEW)
    with pytest.raises(KmsError, match="IncorrectKeyMaterialException"):
        lab.bring(key, material, KeyMaterialId="0" * 64)
    with pytest.raises(KmsError, match="IncorrectKeyMaterialException"):
        lab.bring(lab.key(Origin="EXTERNAL"), material, ImportType="EXISTING_KEY_MATERIAL")
    with pytest.raises(KmsError, match="KeyMaterialId can't be specified"):
        lab.bring(key, os.urandom(32), **NEW, KeyMaterialId="0" * 64)


def test_an_on_demand_rotation_takes_its_time(tmp_path: Path, clock: Clock) -> None:
    kms = open_kms(tmp_path / "slow", clock=clock, rotation_seconds=30)
    lab = Lab(kms)
    key = lab.key()
    current = lab("DescribeKey", KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]
    lab("RotateKeyOnDemand", KeyId=key)
    assert lab("GetKeyRotationStatus", KeyId=key)["OnDemandRotationStartDate"] == clock.now
    assert lab("DescribeKey", KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"] == current
    with pytest.raises(KmsError, match="ConflictException"):
        lab("RotateKeyOnDemand", KeyId=key)
    clock.now += 30
    assert lab("DescribeKey", KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"] != current
    assert "OnDemandRotationStartDate" not in lab("GetKeyRotationStatus", KeyId=key)
    kms.close()


def test_a_key_rotates_on_demand_25_times(lab: Lab) -> None:
    key = lab.key()
    first = lab.encrypt(key)
    for _ in range(25):
        lab("RotateKeyOnDemand", KeyId=key)
    with pytest.raises(KmsError, match="LimitExceededException"):
        lab("RotateKeyOnDemand", KeyId=key)
    assert lab.decrypt(first) == b"secret"
    assert len(rotations(lab, key)) == 26
    assert len(rotations(lab, key, "ROTATIONS_ONLY")) == 25


def test_automatic_rotation_comes_at_its_date_and_not_on_a_disabled_key(lab: Lab, clock: Clock) -> None:
    key = lab.key()
    lab("EnableKeyRotation", KeyId=key, RotationPeriodInDays=90)
    due = clock.now + 90 * DAY
    assert lab("GetKeyRotationStatus", KeyId=key)["NextRotationDate"] == due
    clock.now = due - 60
    with pytest.raises(KmsError, match="ConflictException"):
        lab("RotateKeyOnDemand", KeyId=key)
    lab("DisableKey", KeyId=key)
    clock.now = due
    assert len(rotations(lab, key)) == 1
    lab("EnableKey", KeyId=key)
    assert [r.get("RotationType") for r in rotations(lab, key)] == [None, "AUTOMATIC"]
    lab("DisableKeyRotation", KeyId=key)
    assert lab("GetKeyRotationStatus", KeyId=key)["KeyRotationEnabled"] is False

"""Wrapping on the customer's side and importing on ours: what is refused, and that nothing leaks."""

from __future__ import annotations

import base64
import hashlib
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stamina
import time_machine
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from fake_s3 import error

from migrate.errors import CloudError, RefusedInput, Waiting
from migrate.keys import imported
from migrate.keys.wrap import openssl_lines, save, wrap

PAIR = rsa.generate_private_key(public_exponent=65537, key_size=4096)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=4096)
KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
ARN = f"arn:aws:kms:eu-west-1:111122223333:key/{KEY_ID}"
OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


def der(pair: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = PAIR) -> bytes:
    return pair.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class FakeKms:
    """One key without material; unwraps as KMS does, with the real arithmetic."""

    def __init__(self) -> None:
        self.state = "PendingImport"
        self.material_id = ""
        self.calls: list[str] = []
        self.imported: dict[str, Any] = {}
        self.failures: list[Exception] = []

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.failures:
            raise self.failures.pop(0)

    def get_parameters_for_import(self, **asked: str) -> dict[str, Any]:
        self._called("get_parameters_for_import")
        assert asked["WrappingAlgorithm"] == "RSAES_OAEP_SHA_256"
        assert asked["WrappingKeySpec"] == "RSA_4096"
        valid_to = datetime.now(UTC) + timedelta(hours=24)
        return {"PublicKey": der(), "ImportToken": b"the token", "ParametersValidTo": valid_to}

    def describe_key(self, KeyId: str) -> dict[str, Any]:  # noqa: N803 - AWS's name
        self._called("describe_key")
        known = {"CurrentKeyMaterialId": self.material_id} if self.material_id else {}
        return {"KeyMetadata": {"KeyState": self.state, "Arn": ARN, **known}}

    def import_key_material(self, **given: Any) -> dict[str, str]:
        self._called("import_key_material")
        self.imported = given
        try:
            material = PAIR.decrypt(given["EncryptedKeyMaterial"], OAEP)
        except ValueError:
            material = b""
        if len(material) != 32:
            raise error("InvalidCiphertextException", 400)
        self.state, self.material_id = "Enabled", hashlib.sha256(material).hexdigest()
        return {"KeyId": KEY_ID, "KeyMaterialId": self.material_id}


@pytest.fixture(autouse=True)
def _hurried():
    with stamina.set_testing(True, attempts=3):
        yield


@pytest.fixture
def kms() -> FakeKms:
    return FakeKms()


@pytest.fixture
def asked(kms: FakeKms, tmp_path: Path):
    imported.request(kms, KEY_ID, tmp_path)
    kms.calls.clear()
    return tmp_path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# the customer's side --------------------------------------------------------------------------


def test_a_wrapped_key_unwraps_to_the_key_with_the_padding_that_kms_uses():
    made = wrap(der(), bytes(range(32)))
    assert PAIR.decrypt(made.wrapped, OAEP) == bytes(range(32))
    assert made.wrapped_sha256 == sha256(made.wrapped)
    assert made.key_material_sha256 == sha256(bytes(range(32)))


def test_a_key_is_drawn_anew_each_time():
    assert wrap(der()).key_material != wrap(der()).key_material


def test_a_repr_shows_no_key():
    made = wrap(der(), b"k" * 32)
    assert "kkkk" not in repr(made)
    assert str(made.wrapped[:4]) not in repr(made)


@pytest.mark.parametrize(
    ("public_key", "material", "said"),
    [
        (base64.b64encode(der()), None, "not a DER public key"),
        (b"-----BEGIN PUBLIC KEY-----\n", None, "PEM text"),
        (der(rsa.generate_private_key(public_exponent=65537, key_size=2048)), None, "not RSA-4096"),
        (der(ec.generate_private_key(ec.SECP256R1())), None, "not RSA-4096"),
        (der(), b"0" * 64, "64 bytes long"),
        (der(), b"", "0 bytes long"),
    ],
    ids=("base64", "pem", "too-short", "elliptic-curve", "material-too-long", "material-empty"),
)
def test_what_kms_would_refuse_later_is_refused_here_with_the_reason(public_key, material, said):
    with pytest.raises(RefusedInput, match=said):
        wrap(public_key, material)


def test_files_are_for_their_owner_only_and_a_kept_key_is_never_replaced(tmp_path):
    made = wrap(der())
    save(made, tmp_path / "wrapped.bin", tmp_path / "key.bin")
    for name in ("wrapped.bin", "key.bin"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    save(made, tmp_path / "wrapped.bin", tmp_path / "key.bin")
    with pytest.raises(RefusedInput, match="another key"):
        save(wrap(der()), tmp_path / "other.bin", tmp_path / "key.bin")
    assert (tmp_path / "key.bin").read_bytes() == made.key_material
    assert not (tmp_path / "other.bin").exists(), "a refusal changes nothing"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_the_openssl_lines_wrap_a_key_that_kms_can_unwrap(tmp_path):
    (tmp_path / "our key.der").write_bytes(der())
    for line in openssl_lines(tmp_path / "our key.der", tmp_path / "wrapped.bin", tmp_path / "key.bin"):
        done = subprocess.run(["sh", "-c", line], check=True, capture_output=True, text=True)
    wrapped = (tmp_path / "wrapped.bin").read_bytes()
    assert PAIR.decrypt(wrapped, OAEP) == (tmp_path / "key.bin").read_bytes()
    assert sha256(wrapped) in done.stdout


# our side: the request ------------------------------------------------------------------------


def test_a_request_keeps_token_and_public_key_for_the_owner_only(kms, tmp_path):
    made = imported.request(kms, KEY_ID, tmp_path)
    assert imported.public_key_path(tmp_path, made).read_bytes() == der()
    assert (tmp_path / KEY_ID / made.token).read_bytes() == b"the token"
    for file in (tmp_path / KEY_ID).iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "the token" not in repr(made)


def test_a_valid_request_is_handed_out_again_and_an_expired_one_is_replaced(kms, tmp_path):
    first = imported.request(kms, KEY_ID, tmp_path)
    assert imported.request(kms, KEY_ID, tmp_path) == first
    assert len(kms.calls) == 1, "a new public key would make useless what the customer is wrapping"
    with time_machine.travel(datetime.now(UTC) + timedelta(hours=25)):
        assert imported.request(kms, KEY_ID, tmp_path).valid_to > first.valid_to


def test_a_key_that_kms_does_not_know_yet_is_asked_for_again(kms, tmp_path):
    kms.failures = [error("NotFoundException", 400), error("NotFoundException", 400)]
    imported.request(kms, KEY_ID, tmp_path)
    assert len(kms.calls) == 3


# our side: the upload -------------------------------------------------------------------------


def test_an_upload_imports_a_new_key_that_does_not_expire_and_forgets_the_token(kms, asked):
    made = wrap(der())
    found = imported.upload(kms, KEY_ID, made.wrapped, made.wrapped_sha256.upper(), asked)
    assert kms.imported["ExpirationModel"] == "KEY_MATERIAL_DOES_NOT_EXPIRE"
    assert kms.imported["ImportType"] == "NEW_KEY_MATERIAL"
    assert (found.arn, found.key_material_id, found.already) == (ARN, kms.material_id, False)
    assert not any(b"the token" in file.read_bytes() for file in (asked / KEY_ID).iterdir())
    assert not any(made.key_material in file.read_bytes() for file in (asked / KEY_ID).iterdir())


GOOD = PAIR.public_key().encrypt(b"k" * 32, OAEP)
BAD_FILES = {
    "base64": (base64.encodebytes(GOOD), "base64 text"),
    "hexadecimal": (GOOD.hex().encode(), "hexadecimal text"),
    "PEM": (b"-----BEGIN PKCS7-----\nAAAA\n", "PEM text"),
    "wrapped with RSA-2048": (b"\x01" * 256, "RSA-2048"),
    "the key itself": (b"\x01" * 32, "never leave you"),
    "cut off": (GOOD[:-1], "511 bytes"),
    "empty": (b"", "0 bytes"),
}


@pytest.mark.parametrize("bad", BAD_FILES)
def test_a_file_of_the_wrong_form_is_refused_before_any_call(kms, asked, bad):
    wrapped, said = BAD_FILES[bad]
    with pytest.raises(RefusedInput, match=said):
        imported.upload(kms, KEY_ID, wrapped, sha256(wrapped), asked)
    assert kms.calls == []


@pytest.mark.parametrize(("digest", "said"), [(sha256(b"other"), "changed on the way"), ("abc", "64 hexadecimal")])
def test_a_file_that_is_not_what_the_customer_hashed_is_refused_before_any_call(kms, asked, digest, said):
    with pytest.raises(RefusedInput, match=said):
        imported.upload(kms, KEY_ID, GOOD, digest, asked)
    assert kms.calls == []


def test_an_expired_token_is_refused_before_the_import(kms, asked):
    with (
        time_machine.travel(datetime.now(UTC) + timedelta(hours=25)),
        pytest.raises(RefusedInput, match="expired"),
    ):
        imported.upload(kms, KEY_ID, GOOD, sha256(GOOD), asked)
    assert "import_key_material" not in kms.calls


def test_an_upload_without_a_request_waits_for_one(kms, tmp_path):
    with pytest.raises(Waiting, match="no import has been asked"):
        imported.upload(kms, KEY_ID, GOOD, sha256(GOOD), tmp_path)


def test_the_same_file_twice_changes_nothing_and_another_file_is_refused(kms, asked):
    first = imported.upload(kms, KEY_ID, GOOD, sha256(GOOD), asked)
    again = imported.upload(kms, KEY_ID, GOOD, sha256(GOOD), asked)
    assert (again.already, again.key_material_id) == (True, first.key_material_id)
    other = wrap(der())
    with pytest.raises(RefusedInput, match="already holds"):
        imported.upload(kms, KEY_ID, other.wrapped, other.wrapped_sha256, asked)
    assert kms.calls.count("import_key_material") == 1


def test_an_upload_that_was_cut_off_after_kms_took_it_is_found_done(kms, asked):
    take = kms.import_key_material

    def cut_off(**given: Any) -> dict[str, str]:
        take(**given)
        raise KeyboardInterrupt

    kms.import_key_material = cut_off
    with pytest.raises(KeyboardInterrupt):
        imported.upload(kms, KEY_ID, GOOD, sha256(GOOD), asked)
    assert imported.upload(kms, KEY_ID, GOOD, sha256(GOOD), asked).already


def test_a_key_that_is_to_be_deleted_takes_no_material(kms, asked):
    kms.state = "PendingDeletion"
    with pytest.raises(RefusedInput, match="PendingDeletion"):
        imported.upload(kms, KEY_ID, GOOD, sha256(GOOD), asked)


WRONGLY_WRAPPED = {
    "PKCS#1 v1.5": PAIR.public_key().encrypt(b"k" * 32, padding.PKCS1v15()),
    "OAEP over SHA-1": PAIR.public_key().encrypt(
        b"k" * 32, padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)
    ),
    "33 bytes": PAIR.public_key().encrypt(b"k" * 33, OAEP),
    "another public key": OTHER.public_key().encrypt(b"k" * 32, OAEP),
}


@pytest.mark.parametrize("wrongly", WRONGLY_WRAPPED)
def test_what_kms_cannot_unwrap_is_said_with_every_possible_reason(kms, asked, wrongly):
    wrapped = WRONGLY_WRAPPED[wrongly]
    with pytest.raises(RefusedInput, match=r"PKCS#1 v1\.5.*another public key.*32 raw bytes") as refused:
        imported.upload(kms, KEY_ID, wrapped, sha256(wrapped), asked)
    assert refused.value.exit_code == 2
    assert imported.upload(kms, KEY_ID, GOOD, sha256(GOOD), asked).already is False, "a mended file is taken"


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("IncorrectKeyMaterialException", RefusedInput, "belongs to other material"),
        ("ExpiredImportTokenException", RefusedInput, "expired"),
        ("InvalidImportTokenException", RefusedInput, "token is not of this key"),
        ("KMSInvalidStateException", RefusedInput, "state"),
        ("UnsupportedOperationException", RefusedInput, "EXTERNAL"),
        ("NotFoundException", CloudError, "does not exist"),
        ("AccessDeniedException", CloudError, "not allowed"),
        ("SomethingNew", CloudError, "AWS answered SomethingNew"),
    ],
)
def test_each_refusal_of_aws_is_one_sentence(kms, asked, code, kind, said):
    def refuse(**_: Any) -> None:
        raise error(code, 400, "AWS's own words")

    kms.import_key_material = refuse
    with pytest.raises(kind, match=said):
        imported.upload(kms, KEY_ID, GOOD, sha256(GOOD), asked)

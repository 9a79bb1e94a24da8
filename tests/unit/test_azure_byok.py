"""The customer's side of a key for a vault: what a `.byok` file is, and what is refused before anybody is asked."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from migrate.errors import RefusedInput
from migrate.keys import byok

KID = "https://keyshift-5b1ec0de.vault.azure.net/keys/keyshift-acme-k1-kek/0123456789abcdef"


@pytest.fixture(scope="module")
def ours() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 4096)


@pytest.fixture(scope="module")
def kek(ours: rsa.RSAPrivateKey) -> byok.KeyExchangeKey:
    return byok.KeyExchangeKey(KID, ours.public_key(), "2026-12-01T12:00:00+00:00")


@pytest.fixture(scope="module")
def target() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def unwrapped(file: bytes, ours: rsa.RSAPrivateKey) -> rsa.RSAPrivateKey:
    """As the vault does it."""
    text = json.loads(file)["ciphertext"]
    sealed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)
    between = ours.decrypt(sealed[:512], oaep)
    key = serialization.load_der_private_key(keywrap.aes_key_unwrap_with_padding(between, sealed[512:]), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_a_wrapped_key_comes_out_at_the_other_end_and_names_what_wrapped_it(ours, kek, target):
    made = byok.wrap(kek, pem(target))
    assert unwrapped(made.file, ours).private_numbers() == target.private_numbers()
    assert json.loads(made.file)["header"] == {"kid": KID, "alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP"}
    assert made.sha256 == hashlib.sha256(made.file).hexdigest()
    assert b"PRIVATE" not in repr(made).encode()
    byok.checked(made.file, kek)


def test_without_a_key_one_is_made(ours, kek):
    assert unwrapped(byok.wrap(kek).file, ours).key_size == byok.DEFAULT_BITS


def test_what_is_sent_to_the_customer_says_all_that_wrapping_needs(kek):
    read = byok.KeyExchangeKey.read(kek.text().encode())
    assert (read.id, read.valid_until, read.public_key.public_numbers()) == (
        kek.id, kek.valid_until, kek.public_key.public_numbers(),
    )  # fmt: skip


def test_the_openssl_lines_do_the_same(tmp_path: Path, ours, kek):
    file = tmp_path / "kek.pem"
    file.write_text(kek.text())
    lines = byok.openssl_lines(kek, file, tmp_path / "key.byok")
    script = "set -e\n" + "\n".join(lines)
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    made = (tmp_path / "key.byok").read_bytes()
    byok.checked(made, kek)
    assert unwrapped(made, ours).key_size == byok.DEFAULT_BITS
    assert hashlib.sha256(made).hexdigest() in done.stdout


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), "RSA-1024"),
        (lambda: ec.generate_private_key(ec.SECP256R1()), "ECPrivateKey"),
    ],
)
def test_a_key_that_no_account_can_lie_under_is_not_wrapped(kek, make, kind):
    with pytest.raises(RefusedInput, match=f"the key is {kind}"):
        byok.wrap(kek, pem(make()))


def test_a_symmetric_key_is_not_wrapped(kek):
    with pytest.raises(RefusedInput, match="cannot be read as an RSA private key"):
        byok.wrap(kek, bytes(32))


def altered(file: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(file), **changes}).encode()


def test_a_file_that_the_vault_could_not_import_is_refused_by_what_is_wrong_with_it(kek, target):
    good = byok.wrap(kek, pem(target)).file
    header = json.loads(good)["header"]
    sealed = base64.urlsafe_b64encode(bytes(512 + 648)).decode()
    cases = {
        "byok-other-kek": altered(good, header={**header, "kid": KID.replace("k1", "k2")}),
        "byok-mechanism": altered(good, header={**header, "enc": "CKM_AES_KEY_WRAP"}),
        "byok-target": altered(good, ciphertext=sealed.rstrip("=")),
        "byok-form": good[:-20],
    }
    for code, file in cases.items():
        with pytest.raises(RefusedInput) as refused:
            byok.checked(file, kek)
        assert refused.value.code == code
        assert refused.value.hint


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (bytes(512), "as a key wrapped for AWS is"),
        (b"-----BEGIN PRIVATE KEY-----\n", "in clear text, which must never leave you"),
        (b"[]", "it should be JSON"),
    ],
)
def test_a_file_of_another_kind_is_told_by_what_it_looks_like(kek, file, says):
    with pytest.raises(RefusedInput, match=says):
        byok.checked(file, kek)


def test_a_file_without_the_name_of_its_key_is_refused(kek):
    with pytest.raises(RefusedInput, match="does not say which key exchange key"):
        byok.KeyExchangeKey.read(kek.text().encode().partition(b"\n")[2])

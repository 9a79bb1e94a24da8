"""A customer's key in the sandbox's vault, as our code asks for it: request, upload, rotation, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from azure_server import CRYPTO_OFFICER, AzureServer, running_azure
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from migrate.errors import RefusedInput, Waiting
from migrate.keys import byok, vault_onboarding
from migrate.keys.ops import Filled, Requested
from migrate.keys.vault import VaultKeys
from stacks.config import parse
from stacks.first import first_layout
from stacks.layout import Key, KeyState, Layout

pytestmark = pytest.mark.sandbox

NAME = "keyshift-acme"


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    with running_azure(tmp_path_factory.mktemp("azure"), role_lag_seconds=0.2, directory_lag_seconds=0.2) as server:
        yield server


@dataclass
class Desk:
    """The vendor's side of one tenant with a key that waits, and one that waits behind it."""

    keys: VaultKeys
    client: Any
    folder: Path

    def request(self, key: str) -> Requested:
        return self.keys.request(key, self.folder / "requests", self.folder / "out")

    def upload(self, key: str, file: bytes, sha256: str | None = None) -> Filled:
        return self.keys.upload(key, file, sha256 or hashlib.sha256(file).hexdigest(), self.folder / "requests")

    def wrapped(self, key: str, private: bytes | None = None) -> bytes:
        file = self.request(key).public_key
        return byok.wrap(byok.KeyExchangeKey.read(file.read_bytes()), private).file


@pytest.fixture(scope="module")
def vault(azure: AzureServer) -> dict[str, Any]:
    group = azure.group("keys")
    made = azure.vault(group, "keyshift-keys")
    azure.assign(made["id"], CRYPTO_OFFICER, azure.person()["object_id"], "1")
    return made


@pytest.fixture
def desk(azure: AzureServer, vault: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest) -> Desk:
    client, uri = azure.keys(vault), vault["properties"]["vaultUri"]
    called = f"{NAME}-{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}"
    settings = parse(
        "tenant-acme",
        {"stamp": "stamp-azure-westeurope-01", "cloud": "azure", "customer": "acme-corp", "keyMode": "byok"},
    )
    layout: Layout = first_layout(settings)  # type: ignore[arg-type]
    layout = layout.model_copy(update={"keys": tuple(Key(id=id, state=KeyState.PENDING) for id in ("k1", "k2"))})
    outputs = {
        "stamp": {"vault_uri": uri},
        "keys": {
            id: {"vault_uri": uri, "name": called, "key_id": f"{uri}keys/{called}", "kek_name": f"{called}-{id}-kek"}
            for id in ("k1", "k2")
        },
    }
    keys = VaultKeys(SimpleNamespace(layout=layout, outputs=outputs), client)  # type: ignore[arg-type]
    for id in ("k1", "k2"):
        keys._asked("making", lambda kek=id: client.create_rsa_key(
            f"{called}-{kek}-kek", size=2048, hardware_protected=True, key_operations=["import"]
        ))  # fmt: skip
    return Desk(keys, client, tmp_path)


def test_an_upload_is_a_version_that_says_which_and_a_second_time_changes_nothing(desk: Desk) -> None:
    assert (desk.keys.material("k1"), desk.keys.describe("k1").state) == (None, "PendingImport")
    file = desk.wrapped("k1")
    first = desk.upload("k1", file)
    assert not first.already
    assert desk.keys.describe("k1").state == "Enabled"
    assert desk.keys.material("k1") == first.material
    again = desk.upload("k1", file)
    assert (again.already, again.material) == (True, first.material)
    kek = desk.client.get_key(desk.keys._slot("k1")["kek_name"])
    assert not kek.properties.enabled, "nothing may be imported with it again"
    with pytest.raises(RefusedInput, match="already holds the customer's key"):
        desk.request("k1")


def test_the_imported_key_is_the_customers_own(desk: Desk) -> None:
    private = rsa.generate_private_key(65537, 2048)
    der = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    made = desk.upload("k1", desk.wrapped("k1", der))
    jwk = desk.client.get_key(desk.keys._slot("k1")["name"], made.material).key
    assert int.from_bytes(jwk.n, "big") == private.public_key().public_numbers().n
    assert (jwk.kty, sorted(jwk.key_ops)) == ("RSA-HSM", ["unwrapKey", "wrapKey"])


def test_a_rotation_is_another_version_and_each_is_disabled_alone(desk: Desk) -> None:
    old, new = (desk.upload(key, desk.wrapped(key)) for key in ("k1", "k2"))
    assert old.material != new.material
    desk.keys.enable("k1", is_enabled=False)
    desk.keys.enable("k1", is_enabled=False)
    assert [desk.keys.describe(key).state for key in ("k1", "k2")] == ["Disabled", "Enabled"]
    desk.keys.enable("k1", is_enabled=True)
    assert desk.keys.describe("k1").state == "Enabled"


def test_a_file_for_another_key_exchange_key_is_refused_and_nothing_is_imported(desk: Desk) -> None:
    theirs = desk.wrapped("k2")
    desk.request("k1")
    with pytest.raises(RefusedInput) as refused:
        desk.upload("k1", theirs)
    assert refused.value.code == "byok-other-kek"
    assert desk.keys.material("k1") is None


def test_a_file_that_was_changed_on_the_way_is_refused_by_its_hash(desk: Desk) -> None:
    file = desk.wrapped("k1")
    with pytest.raises(RefusedInput) as refused:
        desk.upload("k1", file, hashlib.sha256(file + b" ").hexdigest())
    assert refused.value.code == "wrapped-sha256"
    assert desk.keys.material("k1") is None


def test_what_the_vault_cannot_unwrap_is_refused_in_words(desk: Desk) -> None:
    file = json.loads(desk.wrapped("k1"))
    text = file["ciphertext"]
    broken = json.dumps({**file, "ciphertext": text[:40] + ("A" * 20) + text[60:]}).encode()
    with pytest.raises(RefusedInput) as refused:
        desk.upload("k1", broken)
    assert refused.value.code == "key-not-unwrapped"
    assert "key wrap --azure" in refused.value.hint
    assert desk.keys.material("k1") is None


def test_an_upload_before_any_request_waits_for_one(desk: Desk) -> None:
    with pytest.raises(Waiting) as waiting:
        desk.upload("k1", b"{}")
    assert waiting.value.code == "no-import-request"


def test_an_expired_request_is_refused_and_a_new_one_has_another_key(desk: Desk) -> None:
    file = desk.wrapped("k1")
    name = desk.keys._slot("k1")["kek_name"]
    before = desk.client.get_key(name).id
    desk.client.update_key_properties(name, expires_on=datetime.now(UTC) - timedelta(minutes=1))
    with pytest.raises(RefusedInput) as refused:
        desk.upload("k1", file)
    assert refused.value.code == "import-token-expired"
    assert f"kid: {before}" not in desk.request("k1").public_key.read_text()
    with pytest.raises(RefusedInput) as refused:
        desk.upload("k1", file)
    assert refused.value.code == "byok-other-kek", "what was wrapped for an expired key stays useless"


def test_a_vault_tells_whose_it_is_to_whoever_asks(
    azure: AzureServer, vault: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", azure.bundle)
    uri = vault["properties"]["vaultUri"]
    assert vault_onboarding.directory_of(uri) == azure.person()["tenant_id"]
    assert vault_onboarding.directory_of("https://127.0.0.1:9/") is None

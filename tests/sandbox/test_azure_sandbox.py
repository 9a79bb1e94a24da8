"""The Azure half as Azure's own SDKs find it: keys, blobs under them, roles, events. What Azure refuses, it refuses."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from aws_server import until
from azure.core import MatchConditions
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.keyvault.keys import JsonWebKey
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm
from azure.storage.blob import ContainerClient
from azure_server import (
    BLOB_OWNER,
    BLOB_READER,
    CRYPTO_OFFICER,
    ENCRYPTION_USER,
    LOCATION,
    STORAGE_API,
    AzureServer,
    Refused,
    running_azure,
)
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding

pytestmark = pytest.mark.sandbox

LAG = 0.2
DATA = b"the customer's record\n" * 50


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    with running_azure(tmp_path_factory.mktemp("azure"), role_lag_seconds=LAG, directory_lag_seconds=LAG) as server:
        yield server


def code_of(call: Callable[[], Any]) -> str:
    """The code of the refusal that `call` ends with."""
    with pytest.raises(HttpResponseError) as caught:
        call()
    code = caught.value.error_code  # an enumeration for the codes that the SDK knows
    return getattr(code, "value", code)


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.code


def settled(call: Callable[[], Any], *codes: str) -> Any:
    """The result of `call`, tried again while a role's lag makes it one of `codes`."""

    def tried() -> list[Any] | None:
        try:
            return [call()]
        except (HttpResponseError, Refused) as error:
            if not any(code in str(error) for code in codes):
                raise
            return None

    return until(tried, "a role holds", 20)[0]


def wrapped(kek: Any, key: Any, **changes: Any) -> bytes:
    """A key transfer blob, as a customer's HSM or openssl makes it (Microsoft's byok-specification)."""
    public = rsa.RSAPublicNumbers(int.from_bytes(kek.key.e), int.from_bytes(kek.key.n)).public_key()
    aes = b"\x07" * 32
    sha1 = hashes.SHA1()  # noqa: S303 - the format's
    first = public.encrypt(aes, padding.OAEP(mgf=padding.MGF1(sha1), algorithm=sha1, label=None))
    der = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    ciphertext = first + aes_key_wrap_with_padding(aes, der)
    document = {
        "schema_version": "1.0.0",
        "header": {"kid": kek.id, "alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP"},
        "ciphertext": base64.urlsafe_b64encode(ciphertext).decode(),
        "generator": "test",
    }
    document["header"] |= changes
    return json.dumps(document).encode()


@dataclass
class Home:
    """A group with a vault that holds a customer's imported key, an identity that may use it, an account under it."""

    group: str
    vault: dict[str, Any]
    kek: Any
    imported: Any
    identity: dict[str, Any]
    assignment: str
    account: dict[str, Any]
    runner: dict[str, Any]

    def encryption(self, key: str = "acme", version: str = "", **more: Any) -> dict[str, Any]:
        return {
            "identity": {"userAssignedIdentity": self.identity["id"]},
            "keySource": "Microsoft.Keyvault",
            "keyvaultproperties": {
                "keyname": key,
                "keyvaulturi": self.vault["properties"]["vaultUri"],
                "keyversion": version,
            },
            **more,
        }

    @property
    def attached(self) -> dict[str, Any]:
        return {"type": "UserAssigned", "userAssignedIdentities": {self.identity["id"]: {}}}


@pytest.fixture(scope="module")
def customer_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def home(azure: AzureServer, customer_key: rsa.RSAPrivateKey) -> Home:
    group = azure.group("home")
    vault = azure.vault(group, "keyshift-home")
    azure.assign(vault["id"], CRYPTO_OFFICER, azure.person()["object_id"], "1")
    keys = azure.keys(vault)
    make = partial(keys.create_rsa_key, "acme-kek", size=2048, hardware_protected=True, key_operations=["import"])
    kek = settled(make, "ForbiddenByRbac", "Forbidden")
    jwk = JsonWebKey(kty="RSA-HSM", key_ops=["wrapKey", "unwrapKey"], t=wrapped(kek, customer_key))
    imported = keys.import_key("acme", jwk, hardware_protected=True)
    identity = azure.identity(group, "key")
    azure.settings(role_lag_seconds=60)
    assignment = azure.assign(f"{vault['id']}/keys/acme", ENCRYPTION_USER, identity["principalId"], "2")
    found = Home(group, vault, kek, imported, identity, assignment, {}, azure.identity(group, "runner"))
    create = partial(azure.account, group, "acmes2", encryption=found.encryption(), identity=found.attached)
    assert refused(create) == "KeyVaultAuthenticationFailure", "the role does not hold yet"
    azure.settings(role_lag_seconds=LAG)
    found.account = settled(create, "KeyVaultAuthenticationFailure")
    container = f"{found.account['id']}/blobServices/default/containers/acme-s2"
    azure.arm("PUT", container, {"properties": {}}, api=STORAGE_API)
    azure.assign(container, BLOB_OWNER, found.runner["principalId"], "3")
    return found


@pytest.fixture(scope="module")
def blobs(azure: AzureServer, home: Home) -> ContainerClient:
    """The container, as the runner's identity sees it."""
    client = azure.container(home.account, "acme-s2", azure.acting_as(home.runner["clientId"]))
    settled(lambda: list(client.list_blobs()), "AuthorizationPermissionMismatch")
    return client


# Entra


def test_a_wrong_secret_and_an_unknown_tenant_are_entras_errors(azure: AzureServer) -> None:
    from azure.identity import ClientSecretCredential

    person = azure.person()
    for tenant, secret, code in (
        (person["tenant_id"], "wrong", "AADSTS7000215"),
        ("00000000-0000-4000-8000-000000000000", person["client_secret"], "Unable to get authority configuration"),
    ):
        credential = ClientSecretCredential(
            tenant, person["client_id"], secret, authority=azure.url, disable_instance_discovery=True
        )
        with pytest.raises(Exception, match=code):
            credential.get_token("https://management.azure.com/.default")


def test_an_identity_without_a_federated_credential_cannot_be_acted_as(azure: AzureServer, home: Home) -> None:
    id_ = f"{home.group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/lonely"
    made = azure.arm("PUT", id_, {"location": LOCATION}, api="2024-11-30")
    with pytest.raises(ClientAuthenticationError, match="AADSTS70021"):
        azure.acting_as(made["properties"]["clientId"]).get_token("https://storage.azure.com/.default")


def test_a_role_for_an_identity_that_is_new_needs_its_principal_type(azure: AzureServer, home: Home) -> None:
    azure.settings(directory_lag_seconds=60)
    try:
        fresh = azure.identity(home.group, "fresh")
        properties = {
            "principalId": fresh["principalId"],
            "roleDefinitionId": f"/providers/Microsoft.Authorization/roleDefinitions/{BLOB_READER}",
        }
        id_ = f"{home.group}/providers/Microsoft.Authorization/roleAssignments/00000000-0000-4000-8000-000000000099"
        assert refused(lambda: azure.arm("PUT", id_, {"properties": properties})) == "PrincipalNotFound"
        azure.arm("PUT", id_, {"properties": properties | {"principalType": "ServicePrincipal"}})
    finally:
        azure.settings(directory_lag_seconds=LAG)


# Key Vault


def test_an_owner_of_the_subscription_has_no_rights_to_keys(azure: AzureServer, home: Home) -> None:
    vault = azure.vault(home.group, "keyshift-no-role")
    with pytest.raises(HttpResponseError, match="ForbiddenByRbac"):
        azure.keys(vault).get_key("anything")


def test_the_imported_key_is_the_customers(home: Home, customer_key: rsa.RSAPrivateKey) -> None:
    assert int.from_bytes(home.imported.key.n) == customer_key.public_key().public_numbers().n
    assert home.imported.key_type == "RSA-HSM"


def test_a_second_import_is_a_new_version(azure: AzureServer, home: Home) -> None:
    keys = azure.keys(home.vault)
    for _ in range(2):
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        keys.import_key("twice", JsonWebKey(kty="RSA-HSM", t=wrapped(home.kek, other)), hardware_protected=True)
    versions = list(keys.list_properties_of_key_versions("twice"))
    assert len(versions) == 2
    assert int.from_bytes(keys.get_key("twice").key.n) == other.public_key().public_numbers().n


def _bad_blobs(home: Home, key: Any) -> dict[str, bytes]:
    other = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - to be refused
    good = wrapped(home.kek, key)
    document = json.loads(good)
    damaged = bytearray(base64.urlsafe_b64decode(document["ciphertext"]))
    damaged[-1] ^= 1
    document["ciphertext"] = base64.urlsafe_b64encode(bytes(damaged)).decode()
    return {
        "no JSON": b"-----BEGIN PRIVATE KEY-----",
        "wrong algorithm": wrapped(home.kek, key, enc="CKM_RSA_PKCS"),
        "another vault's KEK": wrapped(home.kek, key, kid="https://127.0.0.1:1/keys/acme-kek/0"),
        "not a KEK": wrapped(home.kek, key, kid=home.imported.id),
        "no version": wrapped(home.kek, key, kid=home.kek.id.rsplit("/", 1)[0]),
        "damaged": json.dumps(document).encode(),
        "RSA-1024": wrapped(home.kek, other),
        "EC": wrapped(home.kek, ec.generate_private_key(ec.SECP256R1())),
    }


def test_a_bad_transfer_blob_is_refused_and_makes_no_version(
    azure: AzureServer, home: Home, customer_key: rsa.RSAPrivateKey
) -> None:
    keys = azure.keys(home.vault)
    for what, blob in _bad_blobs(home, customer_key).items():
        with pytest.raises(HttpResponseError, match="BadParameter|KeyNotFound") as caught:
            keys.import_key("bad", JsonWebKey(kty="RSA-HSM", t=blob), hardware_protected=True)
        assert caught.value.status_code in (400, 404), what
    with pytest.raises(ResourceNotFoundError):
        keys.get_key("bad")


def test_a_disabled_kek_imports_nothing(azure: AzureServer, home: Home, customer_key: rsa.RSAPrivateKey) -> None:
    keys = azure.keys(home.vault)
    kek = keys.create_rsa_key("old-kek", size=2048, hardware_protected=True, key_operations=["import"])
    keys.update_key_properties("old-kek", enabled=False)
    with pytest.raises(HttpResponseError, match="disabled"):
        keys.import_key("x", JsonWebKey(kty="RSA-HSM", t=wrapped(kek, customer_key)), hardware_protected=True)


def test_hsm_keys_need_a_premium_vault_and_import_is_exclusive(azure: AzureServer, home: Home) -> None:
    vault = azure.vault(home.group, "keyshift-cheap", sku={"family": "A", "name": "standard"})
    azure.assign(vault["id"], CRYPTO_OFFICER, azure.person()["object_id"], "4")
    make = partial(azure.keys(vault).create_rsa_key, "x", size=2048, hardware_protected=True)
    with pytest.raises(HttpResponseError, match="standard SKU"):
        settled(make, "ForbiddenByRbac")
    with pytest.raises(HttpResponseError, match="exclusive"):
        azure.keys(home.vault).create_rsa_key(
            "x", size=2048, hardware_protected=True, key_operations=["import", "wrapKey"]
        )


def test_a_disabled_key_wraps_nothing(azure: AzureServer, home: Home) -> None:
    keys = azure.keys(home.vault)
    key = keys.create_rsa_key("toggled", size=2048)
    client = CryptographyClient(key.id, azure.credential(), connection_verify=azure.bundle)
    secret = client.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, b"k" * 32).encrypted_key
    keys.update_key_properties("toggled", enabled=False)
    with pytest.raises(HttpResponseError, match="KeyDisabled"):
        client.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, secret)
    keys.update_key_properties("toggled", enabled=True)
    assert client.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, secret).key == b"k" * 32


def test_a_deleted_keys_name_is_burned(azure: AzureServer, home: Home) -> None:
    keys = azure.keys(home.vault)
    keys.create_rsa_key("burned", size=2048)
    keys.begin_delete_key("burned").wait()
    with pytest.raises(ResourceExistsError, match="recoverable"):
        keys.create_rsa_key("burned", size=2048)
    with pytest.raises(HttpResponseError, match="purge"):
        keys.purge_deleted_key("burned")
    keys.begin_recover_deleted_key("burned").wait()
    assert keys.get_key("burned").name == "burned"


def test_a_deleted_vaults_name_is_burned_and_its_roles_are_gone(azure: AzureServer, home: Home) -> None:
    vault = azure.vault(home.group, "keyshift-gone")
    assignment = azure.assign(vault["id"], CRYPTO_OFFICER, azure.person()["object_id"], "5")
    azure.arm("DELETE", vault["id"], api="2024-11-01")
    assert refused(lambda: azure.vault(home.group, "keyshift-gone")) == "VaultAlreadyExists"
    azure.vault(home.group, "keyshift-gone", createMode="recover")
    assert refused(lambda: azure.arm("GET", assignment)) == "ResourceNotFound"


@pytest.mark.parametrize(
    ("properties", "code"),
    [
        ({"enablePurgeProtection": False}, "BadRequest"),
        ({"enableRbacAuthorization": False}, "NotImplemented"),
        ({"softDeleteRetentionInDays": 3}, "BadRequest"),
        ({"tenantId": "44444444-bbbb-4bbb-8bbb-444444444444"}, "BadRequest"),
    ],
)
def test_a_vault_that_would_not_keep_keys_is_refused(
    azure: AzureServer, home: Home, properties: dict[str, Any], code: str
) -> None:
    assert refused(lambda: azure.vault(home.group, "keyshift-bad", **properties)) == code


def test_a_secret_is_read_by_who_has_the_role_only(azure: AzureServer, home: Home) -> None:
    id_ = f"{home.vault['id']}/secrets/word"
    azure.arm("PUT", id_, {"properties": {"value": "the word"}}, api="2024-11-01")
    shown = azure.arm("GET", id_, api="2024-11-01")
    assert "the word" not in json.dumps(shown), "Resource Manager never shows a value"
    reader = azure.identity(home.group, "reader")
    client = azure.secrets(home.vault, azure.acting_as(reader["clientId"]))
    with pytest.raises(HttpResponseError, match="ForbiddenByRbac"):
        client.get_secret("word")
    azure.assign(id_, "4633458b-17de-408a-b874-0445c86b69e6", reader["principalId"], "6")
    assert settled(lambda: client.get_secret("word"), "ForbiddenByRbac").value == "the word"


# Accounts under a key


def _expired(keys: Any) -> None:
    import datetime

    keys.create_rsa_key("expired", size=2048, expires_on=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))


def test_an_account_is_not_made_under_a_key_that_does_not_serve(azure: AzureServer, home: Home) -> None:
    keys = azure.keys(home.vault)
    _expired(keys)
    keys.create_rsa_key("off", size=2048, enabled=False)
    azure.assign(home.vault["id"], ENCRYPTION_USER, home.identity["principalId"], "7")
    soft = azure.vault(home.group, "keyshift-soft", enablePurgeProtection=None)
    outside = azure.identity(home.group, "outside")["id"]
    uri = {"keyvaultproperties": {"keyname": "acme", "keyvaulturi": soft["properties"]["vaultUri"]}}
    nowhere = {"keyvaultproperties": {"keyname": "acme", "keyvaulturi": "https://127.0.0.1:1/"}}
    two = {"type": "UserAssigned", "userAssignedIdentities": {home.identity["id"]: {}, outside: {}}}
    ready = partial(azure.account, home.group, "never", encryption=home.encryption("off"), identity=home.attached)
    assert refused(ready) == "KeyVaultAuthenticationFailure", "a disabled key"
    cases: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
        ("KeyVaultAuthenticationFailure", "expired", home.encryption("expired"), home.attached),
        ("KeyVaultKeyNotFound", "no such key", home.encryption("none"), home.attached),
        ("KeyVaultPolicyError", "no purge protection", home.encryption(**uri), home.attached),
        ("HttpResourceNotFound", "no such vault", home.encryption(**nowhere), home.attached),
        ("InvalidValuesForRequestParameters", "identity not attached", home.encryption(), {"type": "None"}),
        ("InvalidRequestPropertyValue", "no identity", home.encryption(identity={}), home.attached),
        ("TooManyUserAssignedIdentities", "two identities", home.encryption(), two),
    ]
    for code, what, encryption, identity in cases:
        with pytest.raises(Refused) as caught:
            settled(
                partial(azure.account, home.group, "never", encryption=encryption, identity=identity),
                "KeyVaultAuthenticationFailure" if code != "KeyVaultAuthenticationFailure" else "none",
            )
        assert caught.value.code == code, what
    with pytest.raises(Refused, match="ResourceNotFound"):
        azure.arm("GET", f"{home.group}/providers/Microsoft.Storage/storageAccounts/never", api=STORAGE_API)


def test_key_and_identity_are_not_changed_in_one_update(azure: AzureServer, home: Home) -> None:
    other = azure.identity(home.group, "other-key")
    azure.assign(home.vault["id"], ENCRYPTION_USER, other["principalId"], "8")
    keys = azure.keys(home.vault)
    keys.create_rsa_key("next", size=2048)
    encryption = home.encryption("next") | {"identity": {"userAssignedIdentity": other["id"]}}
    attached = {"type": "UserAssigned", "userAssignedIdentities": {other["id"]: {}}}
    with pytest.raises(Refused, match="cannot be updated in a single operation"):
        azure.account(home.group, "acmes2", encryption=encryption, identity=attached)
    now = azure.arm("GET", home.account["id"], api=STORAGE_API)
    assert now["properties"]["encryption"]["keyvaultproperties"]["keyname"] == "acme", "nothing was changed"


def test_an_account_is_redirected_to_a_named_version(azure: AzureServer, home: Home) -> None:
    keys = azure.keys(home.vault)
    old = keys.create_rsa_key("turning", size=2048)
    azure.assign(f"{home.vault['id']}/keys/turning", ENCRYPTION_USER, home.identity["principalId"], "10")
    put = lambda version: settled(  # noqa: E731
        partial(
            azure.account,
            home.group,
            "turned",
            encryption=home.encryption("turning", version),
            identity=home.attached,
        ),
        "KeyVaultAuthenticationFailure",
    )
    current = lambda account: account["properties"]["encryption"]["keyvaultproperties"]["currentVersionedKeyIdentifier"]  # noqa: E731
    assert current(put(old.properties.version)) == old.id
    new = keys.create_rsa_key("turning", size=2048)
    assert current(azure.arm("GET", f"{home.group}/providers/Microsoft.Storage/storageAccounts/turned", api=STORAGE_API)) == old.id
    assert current(put(new.properties.version)) == new.id
    keys.update_key_properties("turning", old.properties.version, enabled=False)
    keys.update_key_properties("turning", new.properties.version, enabled=False)
    newest = keys.create_rsa_key("turning", size=2048)
    with pytest.raises(Refused, match="KeyVaultAuthenticationFailure"):
        azure.account(
            home.group,
            "turned",
            encryption=home.encryption("turning", newest.properties.version),
            identity=home.attached,
        )


def test_shared_keys_and_unknown_settings_are_refused(azure: AzureServer, home: Home) -> None:
    assert refused(lambda: azure.account(home.group, "x12", properties={"allowSharedKeyAccess": True})) == "NotImplemented"
    assert refused(lambda: azure.account(home.group, "x12", properties={"isSftpEnabled": True})) == "NotImplemented"
    assert refused(lambda: azure.account(home.group, "Bad_Name")) == "AccountNameInvalid"
    elsewhere = azure.group("elsewhere")
    assert refused(lambda: azure.account(elsewhere, "acmes2")) == "StorageAccountAlreadyTaken"


# Blobs


def test_blobs_go_in_and_out_with_conditions_tags_and_metadata(blobs: ContainerClient) -> None:
    name = "records/Größe & 100%25/日本 a+b.json"
    blob = blobs.get_blob_client(name)
    made = blob.upload_blob(DATA, metadata={"revision": "3"}, tags={"hold": "yes"})
    assert blob.download_blob().readall() == DATA
    assert blob.download_blob(offset=4, length=8).readall() == DATA[4:12]
    assert blob.get_blob_properties().metadata == {"revision": "3"}
    assert blob.get_blob_tags() == {"hold": "yes"}
    with pytest.raises(ResourceExistsError):
        blob.upload_blob(b"other", overwrite=False)
    with pytest.raises(ResourceModifiedError):
        blob.upload_blob(b"other", overwrite=True, etag='"0x0"', match_condition=MatchConditions.IfNotModified)
    with pytest.raises(HttpResponseError, match="ConditionNotMet|condition"):
        blob.set_blob_tags({"a": "b"}, etag='"0x0"', match_condition=MatchConditions.IfNotModified)
    listed = [each for each in blobs.list_blobs(include=["tags", "metadata"]) if each.name == name]
    assert listed[0].etag == made["etag"].strip('"')
    assert listed[0].tags == {"hold": "yes"}
    assert listed[0].container == "acme-s2", "the caller's name of the container, not the backend's"
    blob.delete_blob(etag=made["etag"], match_condition=MatchConditions.IfNotModified)
    assert not blob.exists()


def test_a_copy_within_the_sandbox_reads_its_source_as_who_the_token_says(
    azure: AzureServer, home: Home, blobs: ContainerClient
) -> None:
    other = azure.account(home.group, "acmeother")
    container = f"{other['id']}/blobServices/default/containers/acme-s1"
    azure.arm("PUT", container, {"properties": {}}, api=STORAGE_API)
    reader = azure.identity(home.group, "copier")
    writer = azure.identity(home.group, "importer")
    azure.assign(container, BLOB_OWNER, writer["principalId"], "11")
    source = azure.container(other, "acme-s1", azure.acting_as(writer["clientId"])).get_blob_client("a b/ü.json")
    etag = settled(lambda: source.upload_blob(DATA, tags={"x": "y"}, overwrite=True), "PermissionMismatch")["etag"]
    target = blobs.get_blob_client("a b/ü.json")

    def copy(client_id: str, source_etag: str = etag, **more: Any) -> Any:
        token = azure.acting_as(client_id).get_token("https://storage.azure.com/.default").token
        return target.start_copy_from_url(
            source.url,
            requires_sync=True,
            source_authorization=f"Bearer {token}",
            source_etag=source_etag,
            source_match_condition=MatchConditions.IfNotModified,
            **more,
        )

    assert code_of(lambda: copy(reader["clientId"])) == "CannotVerifyCopySource"
    assert code_of(lambda: target.start_copy_from_url(source.url, requires_sync=True)) == "CannotVerifyCopySource"
    copy(writer["clientId"], tags="COPY")
    assert target.download_blob().readall() == DATA
    assert target.get_blob_tags() == {"x": "y"}
    with pytest.raises(HttpResponseError):
        copy(writer["clientId"], '"0x0"')
    token = azure.acting_as(writer["clientId"]).get_token("https://storage.azure.com/.default").token
    blocks = blobs.get_blob_client("blocks")
    blocks.stage_block_from_url("AAAA", source.url, source_offset=0, source_length=len(DATA), source_authorization=f"Bearer {token}")
    blocks.commit_block_list(["AAAA"])
    assert blocks.download_blob().readall() == DATA


def test_calls_that_azurite_would_take_for_others_never_reach_it(
    azure: AzureServer, home: Home, blobs: ContainerClient
) -> None:
    import httpx

    blob = blobs.get_blob_client("precious")
    blob.upload_blob(DATA, overwrite=True)
    token = azure.acting_as(home.runner["clientId"]).get_token("https://storage.azure.com/.default").token
    headers = {"Authorization": f"Bearer {token}", "x-ms-version": "2025-11-05"}
    for method, query in (("DELETE", "comp=madeup"), ("PUT", "comp=madeup"), ("DELETE", "versionid=2020"), ("POST", "comp=query")):
        answer = httpx.request(method, f"{blob.url}?{query}", headers=headers)
        assert answer.status_code == 501, f"{method} {query}"
    put = {**headers, "x-ms-blob-type": "BlockBlob"}
    for name in ("x-ms-legal-hold", "x-ms-encryption-scope"):
        assert httpx.put(blob.url, headers={**put, name: "true"}).status_code == 501, "a promise that nothing keeps"
    assert httpx.put(f"{blob.url}%00", headers=put).status_code == 400
    assert httpx.put(f"{blob.url}{'x' * 1100}", headers=put).status_code == 400
    assert httpx.get(blob.url).status_code == 401
    assert httpx.get(blob.url, headers={"Authorization": "SharedKey acmes2:xyz"}).status_code == 403
    assert blob.download_blob().readall() == DATA


def test_a_forged_token_and_one_for_another_audience_open_nothing(
    azure: AzureServer, home: Home, blobs: ContainerClient
) -> None:
    import httpx
    import jwt

    good = azure.acting_as(home.runner["clientId"])
    claims = jwt.decode(good.get_token("https://storage.azure.com/.default").token, options={"verify_signature": False})
    forged = jwt.encode(claims, rsa.generate_private_key(public_exponent=65537, key_size=2048), algorithm="RS256")
    url = blobs.get_blob_client("precious").url
    for token in (forged, good.get_token("https://management.azure.com/.default").token):
        answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401
        assert answer.headers["x-ms-error-code"] == "InvalidAuthenticationInfo"


def test_a_role_is_gone_only_after_its_lag(azure: AzureServer, home: Home) -> None:
    guest = azure.identity(home.group, "guest")
    container = f"{home.account['id']}/blobServices/default/containers/acme-s2"
    assignment = azure.assign(container, BLOB_READER, guest["principalId"], "12")
    client = azure.container(home.account, "acme-s2", azure.acting_as(guest["clientId"]))
    settled(lambda: list(client.list_blobs()), "AuthorizationPermissionMismatch")
    assert code_of(lambda: client.upload_blob("x", b"1")) == "AuthorizationPermissionMismatch", "a reader writes nothing"
    azure.settings(role_lag_seconds=60)
    try:
        azure.arm("DELETE", assignment)
        list(client.list_blobs())  # it goes on for a while, as in Azure
        azure.settings(role_lag_seconds=LAG)

        def is_refused() -> bool:
            try:
                list(client.list_blobs())
            except HttpResponseError as error:
                return error.error_code == "AuthorizationPermissionMismatch"
            return False

        until(is_refused, "the role is gone", 20)
    finally:
        azure.settings(role_lag_seconds=LAG)


def test_a_closed_account_refuses_everybody(azure: AzureServer, home: Home, blobs: ContainerClient) -> None:
    more = {"encryption": home.encryption(), "identity": home.attached}
    azure.account(home.group, "acmes2", properties={"publicNetworkAccess": "Disabled"}, **more)
    try:
        assert code_of(lambda: blobs.get_blob_client("precious").download_blob()) == "AuthorizationFailure"
        assert code_of(lambda: list(blobs.list_blobs())) == "AuthorizationFailure"
    finally:
        azure.account(home.group, "acmes2", **more)


def _lost(blobs: ContainerClient, code: str) -> None:
    """Under a lost key Azure refuses what reads or writes data, and goes on listing and deleting."""
    blob = blobs.get_blob_client("precious")
    for call in (
        lambda: blob.download_blob(),
        lambda: blob.get_blob_properties(),
        lambda: blob.upload_blob(b"x", overwrite=True),
        lambda: blob.set_blob_metadata({"a": "b"}),
        lambda: blob.stage_block("AAAA", b"x"),
        lambda: list(blobs.list_blobs(include=["metadata"])),
    ):
        assert code_of(call) == code
    assert "precious" in [each.name for each in blobs.list_blobs()], "names stay readable"
    blobs.get_blob_client("expendable").delete_blob()


@pytest.fixture
def precious(blobs: ContainerClient) -> None:
    for name in ("precious", "expendable"):
        blobs.get_blob_client(name).upload_blob(DATA, overwrite=True)


@pytest.mark.usefixtures("precious")
def test_a_disabled_key_makes_the_blobs_unreadable_until_it_is_back(
    azure: AzureServer, home: Home, blobs: ContainerClient
) -> None:
    keys = azure.keys(home.vault)
    version = home.imported.properties.version
    keys.update_key_properties("acme", version, enabled=False)
    _lost(blobs, "KeyVaultEncryptionKeyNotFound")
    keys.update_key_properties("acme", version, enabled=True)
    assert blobs.get_blob_client("precious").download_blob().readall() == DATA


@pytest.mark.usefixtures("precious")
def test_a_vault_that_is_gone_makes_the_blobs_unreadable(azure: AzureServer, home: Home, blobs: ContainerClient) -> None:
    azure.arm("DELETE", home.vault["id"], api="2024-11-01")
    _lost(blobs, "KeyVaultVaultNotFound")
    with pytest.raises(Refused, match="HttpResourceNotFound"):
        azure.account(home.group, "acmes2", encryption=home.encryption("next"), identity=home.attached)
    azure.vault(home.group, "keyshift-home", createMode="recover")
    assert code_of(lambda: blobs.get_blob_client("precious").download_blob()) == "KeyVaultEncryptionKeyNotFound", (
        "a vault comes back without its role assignments"
    )
    azure.assign(f"{home.vault['id']}/keys/acme", ENCRYPTION_USER, home.identity["principalId"], "2")
    azure.assign(home.vault["id"], CRYPTO_OFFICER, azure.person()["object_id"], "1")
    again = settled(lambda: blobs.get_blob_client("precious").download_blob(), "KeyVaultEncryptionKeyNotFound")
    assert again.readall() == DATA


# Events


def _topic(azure: AzureServer, home: Home, name: str) -> dict[str, Any]:
    body = {
        "identity": {"type": "SystemAssigned"},
        "location": LOCATION,
        "properties": {"source": home.account["id"], "topicType": "Microsoft.Storage.StorageAccounts"},
    }
    return azure.arm("PUT", f"{home.group}/providers/Microsoft.EventGrid/systemTopics/{name}", body, api="2025-02-15")


def test_a_change_of_a_blob_reaches_the_queue_that_subscribes_and_no_other(
    azure: AzureServer, home: Home, blobs: ContainerClient
) -> None:
    topic = _topic(azure, home, "acmes2")
    with pytest.raises(Refused, match="Only one system topic is allowed per source"):
        _topic(azure, home, "second")
    shared = azure.account(home.group, "vendorqueues")
    receiver = azure.identity(home.group, "pipeline")
    for index, (queue, prefix) in enumerate((("near", "acme-s2/"), ("far", "another/"))):
        scope = f"{shared['id']}/queueServices/default/queues/{queue}"
        azure.arm("PUT", scope, {"properties": {}}, api=STORAGE_API)
        destination = {"endpointType": "StorageQueue", "properties": {"queueName": queue, "resourceId": shared["id"]}}
        properties = {
            "deliveryWithResourceIdentity": {"destination": destination, "identity": {"type": "SystemAssigned"}},
            "filter": {"subjectBeginsWith": f"/blobServices/default/containers/{prefix}"},
        }
        azure.arm("PUT", f"{topic['id']}/eventSubscriptions/{queue}", {"properties": properties}, api="2025-02-15")
        azure.assign(scope, "974c5e8b-45b9-4653-ba55-5f855dd0fad8", receiver["principalId"], f"2{index}")
    near = f"{shared['id']}/queueServices/default/queues/near"
    queues = {name: azure.queue(shared, name, azure.acting_as(receiver["clientId"])) for name in ("near", "far")}
    settled(lambda: list(queues["far"].receive_messages()), "AuthorizationPermissionMismatch")
    blobs.get_blob_client("told/ä.json").upload_blob(DATA, overwrite=True)
    threading.Event().wait(0.5)
    assert not list(queues["near"].receive_messages()), "the topic's identity may not send yet"
    azure.assign(near, "c6a89b2d-59bc-44d0-9896-0f6e12d7b80a", topic["identity"]["principalId"], "30")
    blobs.get_blob_client("told/ä.json").delete_blob()
    seen: list[tuple[str, str]] = []

    def both() -> bool:
        for message in queues["near"].receive_messages():
            event = json.loads(base64.b64decode(message.content))
            seen.append((event["eventType"], event["subject"]))
            queues["near"].delete_message(message)
        return len(seen) >= 2

    until(both, "both events arrive, the first by being tried again", 30)
    subject = "/blobServices/default/containers/acme-s2/blobs/told/ä.json"
    assert sorted(seen) == [("Microsoft.Storage.BlobCreated", subject), ("Microsoft.Storage.BlobDeleted", subject)]
    assert not list(queues["far"].receive_messages())

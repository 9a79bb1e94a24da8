"""The parts of the sandbox's Azure half that need no server."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding

from sandbox.azure import refusals
from sandbox.azure.arm.place import parse
from sandbox.azure.authority import Authority
from sandbox.azure.blob.table import TABLE
from sandbox.azure.directory import Directory
from sandbox.azure.rbac import BUILT_IN, Rbac
from sandbox.azure.refusals import AzureError, Refusal
from sandbox.azure.store import Store
from sandbox.azure.tokens import Signer, TokenError, unverified
from sandbox.azure.vault import byok
from sandbox.azure.vault.byok import BlobError
from sandbox.azure.world import STORAGE, TOKEN_EXCHANGE, VENDOR_TENANT, Settings, World

GROUP = "/subscriptions/s/resourceGroups/g"
CONTAINER = f"{GROUP}/providers/Microsoft.Storage/storageAccounts/a/blobServices/default/containers/c"
READ = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read"
READER = "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, 20000, Store(tmp_path / "azure.sqlite"), blob_port=20001, queue_port=20002)
    yield made
    made.store.close()


# Paths


@pytest.mark.parametrize(
    ("path", "type_", "scope"),
    [
        (GROUP, "Microsoft.Resources/resourceGroups", ""),
        (CONTAINER, "Microsoft.Storage/storageAccounts/blobServices/containers", ""),
        (
            f"{CONTAINER}/providers/Microsoft.Authorization/roleAssignments/r",
            "Microsoft.Authorization/roleAssignments",
            CONTAINER,
        ),
    ],
)
def test_a_path_names_a_resource_and_its_id_is_the_path(path: str, type_: str, scope: str) -> None:
    place = parse(tuple(path.strip("/").split("/")))
    assert place is not None
    assert (place.type, place.scope, place.id) == (type_, scope, path)


@pytest.mark.parametrize(
    "path", ["subscriptions", "subscriptions/s", "subscriptions/s/resourceGroups/g/providers/X", "x/y"]
)
def test_what_is_no_resource_is_no_place(path: str) -> None:
    assert parse(tuple(path.split("/"))) is None


# Documents


def test_ids_are_compared_without_case_and_a_copy_changes_nothing(world: World) -> None:
    world.store.put("uami", "/A/B", {"names": ["x"]})
    found = world.store.get("uami", "/a/b")
    assert found is not None
    assert found == {"names": ["x"]}
    found["names"].append("y")
    assert world.store.get("uami", "/A/b") == {"names": ["x"]}


def test_what_was_put_is_there_in_the_next_process(tmp_path: Path) -> None:
    store = Store(tmp_path / "x.sqlite")
    store.put("key", "V/K", {"a": 1})
    store.put("key", "V/L", {"a": 2})
    store.delete("key", "v/l")
    store.close()
    again = Store(tmp_path / "x.sqlite")
    assert again.all("key", "v/") == [("v/k", {"a": 1})]
    again.close()


# Roles


def assign(world: World, scope: str, **more: Any) -> None:
    document = {"id": f"{scope}/r", "made": world.now() - 10, "principal": "p", "role": READER, "scope": scope, **more}
    world.store.put("assignment", document["id"], document)


def test_a_role_holds_at_its_scope_and_below_and_nowhere_else(world: World) -> None:
    rbac = Rbac(world)
    assert not rbac.is_allowed("p", READ, CONTAINER, is_data=True)
    assign(world, CONTAINER)
    assert rbac.is_allowed("p", READ, CONTAINER.upper(), is_data=True), "ids are compared without case"
    assert not rbac.is_allowed("p", READ, f"{CONTAINER}2", is_data=True), "a name that begins alike is another's"
    assert not rbac.is_allowed("p", READ, GROUP, is_data=True)
    assert not rbac.is_allowed("q", READ, CONTAINER, is_data=True)
    assert not rbac.is_allowed("p", READ.replace("read", "write"), CONTAINER, is_data=True)
    assert not rbac.is_allowed("p", READ, CONTAINER, is_data=False), "data actions are not management's"


def test_an_assignment_holds_and_ends_after_the_lag(world: World) -> None:
    rbac = Rbac(world)
    world.settings.role_lag_seconds = 5
    assign(world, CONTAINER, made=world.now())
    assert not rbac.is_allowed("p", READ, CONTAINER, is_data=True), "not yet"
    assign(world, CONTAINER, ended=world.now() - 1)
    assert rbac.is_allowed("p", READ, CONTAINER, is_data=True), "not yet gone"
    assign(world, CONTAINER, ended=world.now() - 6)
    assert not rbac.is_allowed("p", READ, CONTAINER, is_data=True)


def test_an_owner_holds_no_data_rights_and_a_contributor_assigns_no_roles() -> None:
    roles = {role.name: role for role in BUILT_IN.values()}
    assert roles["Owner"].allows("Microsoft.Authorization/roleAssignments/write", is_data=False)
    assert not roles["Owner"].allows(READ, is_data=True)
    assert roles["Contributor"].allows("Microsoft.Storage/storageAccounts/write", is_data=False)
    assert not roles["Contributor"].allows("Microsoft.Authorization/roleAssignments/write", is_data=False)


# Tokens


def test_a_token_is_believed_only_from_the_key_that_signed_it(tmp_path: Path) -> None:
    own, other = Signer(tmp_path / "own.pem"), Signer(tmp_path / "other.pem")
    own.ensure()
    other.ensure()
    claims = {"aud": "a", "iss": "i", "sub": "s", "exp": 4_000_000_000}
    assert own.verify(own.sign(claims)) == claims
    with pytest.raises(TokenError):
        own.verify(other.sign(claims))
    header, body, _ = own.sign(claims).split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    for forged in (f"{none}.{body}.", f"{header}.{body}.AAAA", "nonsense"):
        with pytest.raises(TokenError):
            own.verify(forged)
    with pytest.raises(TokenError, match="time is over"):
        own.verify(own.sign(claims | {"exp": 1}))
    assert (tmp_path / "own.pem").stat().st_mode & 0o077 == 0


def test_an_assertion_counts_only_as_the_federated_credential_says(world: World) -> None:
    directory = Directory(world)
    application = directory.add_application(VENDOR_TENANT, "app", "AzureADMyOrg")
    directory.add_principal(VENDOR_TENANT, application["appId"])
    form = {
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_id": application["appId"],
        "grant_type": "client_credentials",
        "scope": f"{STORAGE}/.default",
    }
    assertion = directory.workload_token("runner", 60)

    def code(**changes: str) -> str:
        try:
            directory.token(VENDOR_TENANT, form | {"client_assertion": assertion} | changes)
        except AzureError as error:
            return error.message.split(":")[0]
        return "a token"

    assert code() == "AADSTS70021", "nobody is trusted yet"
    trust = {"audiences": [TOKEN_EXCHANGE], "issuer": world.workload_issuer, "subject": "runner"}
    for wrong in ({"subject": "Runner"}, {"issuer": "https://elsewhere"}, {"audiences": ["api://other"]}):
        application["federations"] = {"x": trust | wrong}
        world.store.put("application", application["appId"], application)
        assert code() == "AADSTS70021", wrong
    application["federations"] = {"x": trust}
    world.store.put("application", application["appId"], application)
    assert code() == "a token"
    assert code(scope="https://nowhere.example/.default") == "AADSTS500011"
    assert code(client_assertion=directory.workload_token("runner", -60)) == "AADSTS700024"
    header, body, signature = assertion.split(".")
    assert code(client_assertion=f"{header}.{body}.{signature[::-1]}") == "AADSTS700027"
    claims = unverified(directory.token(VENDOR_TENANT, form | {"client_assertion": assertion})["access_token"])
    assert (claims["aud"], claims["tid"]) == (STORAGE, VENDOR_TENANT)


def test_a_settings_change_is_taken_whole_or_not_at_all() -> None:
    settings = Settings()
    before = settings.state()
    for bad in ({"role_lag_seconds": 1, "unknown": 1}, {"role_lag_seconds": -1}, {"role_lag_seconds": "1"}):
        with pytest.raises(ValueError, match="no such setting"):
            settings.update(bad)
    assert settings.state() == before
    settings.update({"lose_events": 2, "role_lag_seconds": 0})
    assert (settings.lose_events, settings.role_lag_seconds) == (2, 0.0)


# Transfer blobs


@pytest.fixture(scope="module")
def kek() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize("size", [2048, 3072])
def test_a_transfer_blob_gives_the_key_back(kek: rsa.RSAPrivateKey, size: int) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=size)
    sha1 = hashes.SHA1()
    aes = os.urandom(32)
    first = kek.public_key().encrypt(aes, padding.OAEP(mgf=padding.MGF1(sha1), algorithm=sha1, label=None))
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    document = {"ciphertext": byok.encode(first + aes_key_wrap_with_padding(aes, der))}
    assert byok.unwrapped(document, kek).private_numbers() == key.private_numbers()
    with pytest.raises(BlobError, match="key exchange key"):
        byok.unwrapped(document, rsa.generate_private_key(public_exponent=65537, key_size=2048))
    with pytest.raises(BlobError, match="base64url"):
        byok.unwrapped({"ciphertext": "!"}, kek)


@pytest.mark.parametrize("changed", ["schema_version", "alg", "enc", "kid", "ciphertext"])
def test_a_transfer_blob_of_another_form_is_refused(changed: str) -> None:
    header: dict[str, Any] = {"alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP", "kid": "k"}
    good: dict[str, Any] = {"ciphertext": "AAAA", "header": header, "schema_version": "1.0.0"}
    byok.parsed(json.dumps(good).encode())
    place = header if changed in header else good
    place[changed] = 7
    with pytest.raises(BlobError):
        byok.parsed(json.dumps(good).encode())
    del place[changed]
    with pytest.raises(BlobError):
        byok.parsed(json.dumps(good).encode())


# The rest


def test_the_authority_certifies_this_machine_and_nothing_else(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "azure")
    authority.ensure()
    before = authority.server.read_bytes()
    authority.ensure()
    assert authority.server.read_bytes() == before, "made once"
    _, begin, last = authority.bundle.read_bytes().rpartition(b"-----BEGIN CERTIFICATE-----")
    root = x509.load_pem_x509_certificate(begin + last)
    limits = root.extensions.get_extension_for_class(x509.NameConstraints)
    assert limits.critical
    assert [str(each.value) for each in limits.value.permitted_subtrees or ()] == ["127.0.0.0/8", "localhost"]
    assert b"PRIVATE" not in authority.bundle.read_bytes(), "the authority's key is not kept"
    assert authority.server.stat().st_mode & 0o077 == 0


def test_every_refusal_says_where_it_is_known_from() -> None:
    table = {name: each for name, each in vars(refusals).items() if isinstance(each, Refusal)}
    assert len(table) > 60
    for name, refusal in table.items():
        assert refusal.source, name
        assert 400 <= refusal.status <= 599, name


def test_what_needs_the_key_is_what_azure_lists() -> None:
    """Docs, customer-managed-keys-overview: revoke access. Everything that is not listed may proceed."""
    needing = {operation.name for operation in TABLE.values() if operation.needs_key}
    assert needing == {
        "AppendBlock",
        "GetBlob",
        "GetBlobMetadata",
        "GetBlobProperties",
        "PutBlob",
        "PutBlock",
        "PutPage",
        "SetBlobMetadata",
        "SetBlobTier",
    }
    assert {"DeleteBlob", "ListBlobs"} <= {operation.name for operation in TABLE.values()} - needing

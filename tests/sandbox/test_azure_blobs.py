"""The blob and queue endpoints as Azure's SDKs find them, under roles and under a key that can be lost."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any

import httpx
import jwt
import pytest
from aws_server import until
from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
)
from azure.storage.blob import ContainerClient
from azure_lab import DATA, LAG, Home, code_of, settled
from azure_server import (
    BLOB_OWNER,
    BLOB_READER,
    CRYPTO_OFFICER,
    ENCRYPTION_USER,
    LOCATION,
    STORAGE_API,
    AzureServer,
    Refused,
)
from cryptography.hazmat.primitives.asymmetric import rsa

pytestmark = pytest.mark.sandbox


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
    with pytest.raises(HttpResponseError, match=r"ConditionNotMet|condition"):
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
    blocks.stage_block_from_url(
        "AAAA", source.url, source_offset=0, source_length=len(DATA), source_authorization=f"Bearer {token}"
    )
    blocks.commit_block_list(["AAAA"])
    assert blocks.download_blob().readall() == DATA


def test_calls_that_azurite_would_take_for_others_never_reach_it(
    azure: AzureServer, home: Home, blobs: ContainerClient
) -> None:
    blob = blobs.get_blob_client("precious")
    blob.upload_blob(DATA, overwrite=True)
    token = azure.acting_as(home.runner["clientId"]).get_token("https://storage.azure.com/.default").token
    headers = {"Authorization": f"Bearer {token}", "x-ms-version": "2025-11-05"}
    for method, query in (
        ("DELETE", "comp=madeup"),
        ("PUT", "comp=madeup"),
        ("DELETE", "versionid=2020"),
        ("POST", "comp=query"),
    ):
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
    assert code_of(lambda: client.upload_blob("x", b"1")) == "AuthorizationPermissionMismatch", (
        "a reader writes nothing"
    )
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
        blob.download_blob,
        blob.get_blob_properties,
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
def test_a_vault_that_is_gone_makes_the_blobs_unreadable(
    azure: AzureServer, home: Home, blobs: ContainerClient
) -> None:
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

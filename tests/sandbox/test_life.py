"""One tenant under its customer's key, moved back to the vendor's, and then deleted; watched all the way.

Secrets are where they belong and nowhere else: the customer's key, its wrapped form and the import token, the
searches' passwords and API keys, Elastic Cloud's key, the passphrase, the operator's AWS secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import moved
import pytest
from cloud import ATTACHMENTS, Cloud, Done, Key, Tenant, records
from haystack import Haystack, Needles, Watch, files_with, forms_of, search_secrets, secrets_of
from moved import Home

from migrate.copy.s3 import list_uploads, list_versions
from sandbox.demo import STAMP

SEES_PROCESSES = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are seen in /proc")


@dataclass(frozen=True)
class Removed:
    tenant: Tenant
    key: Key
    home: Home
    done: Done
    needles: Needles
    haystack: Haystack
    tokens_before_upload: Mapping[str, int]
    """Files that held the import token while the customer's key was awaited -> their mode."""


@pytest.fixture(scope="module")
def removed(cloud: Cloud) -> Iterator[Removed]:
    """A byok tenant made by a plain `pulumi up`, filled, and moved back, with the log as loud as it goes."""
    temporary = cloud.folder / "temporary"
    temporary.mkdir(exist_ok=True)
    loud = cloud.with_environment(KEYSHIFT_LOG="DEBUG", TMPDIR=str(temporary))
    watch = Watch(loud.project, temporary)
    tenant = Tenant(loud, loud.new_name("life"))
    with watch():
        loud.pulumi("stack", "init", tenant.stack)
        for name, value in {"customer": "life-corp", "stamp": STAMP, "keyMode": "byok"}.items():
            tenant.pulumi("config", "set", f"keyshift:{name}", value)
        loud.up(tenant.stack)
        assert len(moved.resources(tenant)["keys"]) == 1
        assert moved.resources(tenant)["deployments"] == [], "nothing but its key until that key is in"
        asked = loud.request_key(tenant.name)
        token = next((tenant.folder / "key-requests").rglob("ImportToken*")).read_bytes()
        holders = files_with(Haystack(loud, watch), Needles({"token": forms_of(token)}))
        key = loud.upload_key(tenant.name, loud.wrap_key(tenant.name, asked))
        assert key.next == f"keyshift resume {tenant.name}"
        tenant.keyshift("resume")
        old = search_secrets(tenant, "e1")
        loaded = tenant.import_(records=records(10), attachments=ATTACHMENTS)
        tenant.wait_until_indexed(loaded["records"] + loaded["attachments"])
        home = moved.home_of(tenant)
        done = tenant.keyshift("remove", "--json")
        for words in (("status",), ("search", "Boeing"), ("verdict", "list"), ("tenant", "show"), ("key", "list")):
            tenant.keyshift(*words)
        tenant.pulumi("preview", "--diff", "--expect-no-changes")
    secrets = secrets_of(tenant, key, old | search_secrets(tenant, "e2"))
    needles = Needles({name: forms_of(secret) for name, secret in secrets.items()})
    yield Removed(tenant, key, home, done, needles, Haystack(loud, watch), holders)
    tenant.shut_down()


def test_everything_is_under_the_vendors_key_again_and_nothing_is_left_behind(removed: Removed) -> None:
    tenant, cloud = removed.tenant, removed.tenant.cloud
    report = removed.done.json()
    assert (report["state"], report["left_behind"]) == ("done", 0)
    layout = tenant.layout()
    assert (layout["mode"], layout["serves"]) == ("standard", {"storage": "s2", "search": "e2", "pipeline": "p2"})
    assert [(key["id"], key["state"]) for key in layout["keys"]] == [("k1", "archived")]
    now = moved.contents(tenant.storage("s2", "runner"))
    assert {name: [v.kept for v in versions] for name, versions in now.items()} == {
        name: [v.kept for v in versions] for name, versions in removed.home.contents.items()
    }
    vendor = cloud.pulumi("stack", "output", "vendor_key_arn", "-s", STAMP).out.strip()
    stored = {v.key_arn for versions in now.values() for v in versions if not v.is_delete_marker}
    assert stored == {vendor}
    assert removed.home.prefix == "", "it came from a bucket of its own"
    found = moved.resources(tenant)
    assert (found["buckets"], found["deployments"]) == ([], [f"{tenant.name}-e2"])
    moved.assert_documents(tenant)


def test_no_secret_is_in_state_files_logs_processes_or_output(removed: Removed) -> None:
    assert len(removed.needles.forms) == 16, "6 of ours, 5 of each search with both halves of the API keys"
    assert removed.haystack.holds(removed.needles) == {}


@SEES_PROCESSES
def test_the_watch_saw_the_runner_the_engine_the_program_and_the_plugins(removed: Removed) -> None:
    commands = [command.replace(b"\0", b" ").decode(errors="replace") for command in removed.haystack.watch.arguments]
    programs = [done.command[:2] for done in removed.haystack.cloud.history]
    assert ("keyshift", "remove") in programs
    assert ("keyshift", "key") in programs
    for part in ("keyshift remove", " up --yes", "engine.language_host", "engine.run_program", "sandbox.provider ec"):
        assert any(part in command for command in commands), part
    assert removed.haystack.watch.files.get("plan.json"), "the plan that constrains an up"


def test_the_import_token_lies_in_one_private_file_until_the_key_is_in(removed: Removed) -> None:
    (name, mode), *others = removed.tokens_before_upload.items()
    assert not others
    assert name.startswith("ImportToken")
    assert mode == 0o600


def test_what_holds_a_secret_of_ours_is_private(removed: Removed) -> None:
    folder = removed.tenant.folder
    assert (folder / "signing-key.pem").stat().st_mode & 0o777 == 0o600
    assert (folder / "log.jsonl").stat().st_mode & 0o777 == 0o600


def test_there_is_nothing_more_to_remove(removed: Removed) -> None:
    again = removed.tenant.keyshift("remove", "--json", check=False)
    assert (again.code, again.json()["error"]["code"]) == (2, "no-customer-key")


def test_at_its_end_nothing_of_the_tenant_is_left_but_its_proofs(removed: Removed) -> None:
    tenant, cloud = removed.tenant, removed.tenant.cloud
    unconfirmed = tenant.keyshift("delete", "--json", check=False)
    assert (unconfirmed.code, unconfirmed.json()["error"]["code"]) == (2, "not-confirmed")
    side = tenant.storage("s2", "runner")
    upload = {"Bucket": side.storage.bucket, "Key": f"{side.storage.prefix}attachments/half"}
    side.s3.create_multipart_upload(**upload)

    ended = tenant.keyshift("delete", "--confirm", tenant.name, "--json").json()

    assert (ended["state"], ended["left_behind"]) == ("done", 0)
    operator = type(side)(cloud.client("s3"), side.storage)
    assert list(list_versions(operator)) == []
    assert list(list_uploads(operator)) == []
    assert cloud.deployments(tenant.name) == {}
    assert tenant.stack not in cloud.pulumi("stack", "ls", "--json").out
    assert not (cloud.project / f"Pulumi.{tenant.stack}.yaml").exists()
    state = cloud.client("kms").describe_key(KeyId=removed.key.arn)["KeyMetadata"]["KeyState"]
    assert state == "PendingDeletion", "for whoever deleted the wrong tenant: KMS waits a week or more"
    proofs = [path.name for path in (cloud.home / "tenants" / tenant.name / "verdicts").glob("*.json")]
    assert {f"{tenant.name}-delete-1-inventory.json", f"{tenant.name}-delete-1-purge.json"} <= set(proofs)
    gone = tenant.keyshift("tenant", "show", check=False)
    assert gone.code == 2
    again = tenant.keyshift("tenant", "create", "--customer", "life-corp", check=False)
    assert again.code == 2, "a name used again would find old proofs and old events"
    assert removed.haystack.holds(removed.needles) == {}

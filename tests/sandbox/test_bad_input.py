"""Input that cannot be used, typed into the real command: one clear error, the next command, nothing changed."""

from __future__ import annotations

import base64
import json
import secrets
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cloud import Cloud, Done, Tenant, records, until
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

NOTHING_LISTENS = "http://127.0.0.1:9"
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
OAEP_SHA1 = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)


def refused(done: Done, *said: str, code: int = 2) -> None:
    """One error, in one line with its kind, and one line with what to do; each of `said` stands in it."""
    assert done.code == code, done.text
    kind = {1: "error", 2: "refused", 3: "waiting"}[code]
    told = [line for line in done.err.splitlines() if line.startswith("keyshift: ")]
    assert [line.split(": ")[1] for line in told] == [kind, "hint"], done.text
    assert "Traceback" not in done.err
    for text in said:
        assert text in done.err, done.text


def refused_as_json(done: Done, error_code: str, *said: str, code: int = 2) -> None:
    """The same for a machine: one object on stdout."""
    assert done.code == code, done.text
    error = done.json()["error"]
    assert error["code"] == error_code
    assert error["hint"], "a machine's user wants to know what to do as well"
    for text in said:
        assert text in error["message"] + error["hint"]
    assert "keyshift: " not in done.err


def state_of(cloud: Cloud) -> dict[str, Any]:
    """Everything that a refused command could have changed, except whose turn it was last."""
    with sqlite3.connect(cloud.home / "keyshift.db") as database:
        database.row_factory = sqlite3.Row
        tenants = [dict(row) for row in database.execute("SELECT * FROM tenants ORDER BY name")]
        operations = [tuple(row) for row in database.execute("SELECT id, state, step, results FROM operations")]
    for tenant in tenants:
        del tenant["lease_fence"]
    kms = cloud.client("kms")
    keys = [kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"] for key in kms.list_keys()["Keys"]]
    stacks = cloud.home / "pulumi" / ".pulumi" / "stacks" / "keyshift"
    return {
        "tenants": tenants,
        "operations": operations,
        "keys": {key["KeyId"]: (key["KeyState"], key.get("CurrentKeyMaterialId")) for key in keys},
        "resources": {path.stem: resources(path) for path in stacks.glob("*.json")},
        "stack files": {path.name: path.read_bytes() for path in cloud.project.glob("Pulumi.*.yaml")},
    }


def resources(state: Path) -> list[dict[str, Any]]:
    """A stack's resources by URN, less what every run writes anew: times and ciphertexts.

    In which order the engine holds them depends on what it registered first, and says nothing.
    """

    def lasting(held: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in held.items() if name not in {"modified", "ciphertext"}}

    latest = json.loads(state.read_text(), object_hook=lasting)["checkpoint"]["latest"] or {}
    return sorted(latest.get("resources", []), key=lambda held: held["urn"])


@dataclass(frozen=True)
class Asked:
    """A byok tenant that waits for its key, and the public key that the customer got."""

    tenant: Tenant
    key_id: str
    public_key: Path
    folder: Path

    def wrapped_with(self, how: padding.AsymmetricPadding, material: bytes) -> Path:
        """A file as a customer makes it who does something else than we ask."""
        public = serialization.load_der_public_key(self.public_key.read_bytes())
        assert isinstance(public, rsa.RSAPublicKey)
        return self.file(public.encrypt(material, how))

    def file(self, content: bytes) -> Path:
        file = self.folder / f"{secrets.token_hex(4)}.bin"
        file.write_bytes(content)
        return file

    def upload(self, file: Path, *words: str, digest: str | None = None) -> Done:
        digest = digest or sha256(file.read_bytes()).hexdigest()
        return self.tenant.keyshift("key", "upload", str(file), "--sha256", digest, *words, check=False)

    @property
    def request(self) -> Path:
        """The vendor's own note of the request."""
        (found,) = (self.tenant.folder / "key-requests").rglob("request.json")
        return found


def ask(cloud: Cloud, base: str, folder: Path) -> Asked:
    tenant = Tenant(cloud, cloud.new_name(base))
    created = tenant.keyshift("tenant", "create", "--customer", "bad-corp", "--mode", "byok", check=False)
    refused(created, f"tenant {tenant.name} waits for the customer's wrapped key for k1", code=3)
    asked = tenant.keyshift("key", "request", "--out", str(folder), "--json").json()
    (listed,) = tenant.keyshift("key", "list", "--json").json()
    return Asked(tenant, listed["arn"], Path(asked["public_key"]), folder)


@pytest.fixture(scope="module")
def asked(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """Nothing that these tests do may give its key any material."""
    return ask(cloud, "asked", tmp_path_factory.mktemp("asked"))


@pytest.fixture(scope="module")
def named(cloud: Cloud) -> Tenant:
    """A standard tenant whose record and stack file exist, with nothing brought up."""
    tenant = Tenant(cloud, cloud.new_name("named"))
    tenant.keyshift("tenant", "create", "--customer", "bad-corp", "--no-up")
    return tenant


@pytest.fixture
def unchanged(cloud: Cloud) -> Iterator[None]:
    """Whatever the test types, the records, the keys, the stacks and their files are the same afterwards."""
    before = state_of(cloud)
    yield
    assert state_of(cloud) == before


# the customer's key ---------------------------------------------------------------------------


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda wrapped: wrapped[:-1], "511 bytes long, not 512"),
        (base64.encodebytes, "it is base64 text, which has to be decoded first"),
        (lambda wrapped: wrapped[:32], "it may be the key itself, which must never leave you"),
    ],
)
def test_a_wrapped_key_of_the_wrong_length_is_refused(asked: Asked, spoil: Callable[[bytes], bytes], said: str) -> None:
    file = asked.file(spoil(secrets.token_bytes(512)))
    refused(asked.upload(file), str(file), said, "upload the file that `keyshift key wrap`")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("how", "material"),
    [
        (padding.PKCS1v15(), secrets.token_bytes(32)),
        (OAEP_SHA1, secrets.token_bytes(32)),
        (OAEP, secrets.token_bytes(31)),
        (OAEP, secrets.token_bytes(33)),
        (OAEP, secrets.token_hex(32).encode()),
    ],
    ids=["PKCS1v15", "OAEP over SHA-1", "31 bytes", "33 bytes", "hexadecimal text"],
)
def test_what_kms_cannot_unwrap_to_32_bytes_is_refused_by_kms_and_explained(
    asked: Asked, how: padding.AsymmetricPadding, material: bytes
) -> None:
    file = asked.wrapped_with(how, material)
    refused(
        asked.upload(file),
        str(file),
        "KMS could not unwrap the file to a 256-bit key",
        "PKCS#1 v1.5",
        "not 32 raw bytes",
        f"keyshift key request {asked.tenant.name}",
    )
    refused_as_json(asked.upload(file, "--json"), "key-not-unwrapped", "KMS could not unwrap")


@pytest.mark.usefixtures("unchanged")
def test_a_key_wrapped_for_another_public_key_is_refused(asked: Asked) -> None:
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=4096).public_key()
    file = asked.file(stranger.encrypt(secrets.token_bytes(32), OAEP))
    refused(asked.upload(file), str(file), "with another public key than this request's")


@pytest.mark.usefixtures("unchanged")
def test_a_file_that_is_not_the_one_that_was_hashed_is_refused(asked: Asked) -> None:
    file = asked.wrapped_with(OAEP, secrets.token_bytes(32))
    other = sha256(b"another file").hexdigest()
    refused(asked.upload(file, digest=other), str(file), other[:12], "the hash is taken over the wrapped file")
    refused_as_json(asked.upload(file, "--json", digest=other), "wrapped-sha256", other[:12])
    refused(asked.upload(file, digest="abc"), "64 hexadecimal digits")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("path", ["does-not-exist.bin", "."])
def test_a_file_that_cannot_be_read_is_refused_by_its_name(asked: Asked, path: str) -> None:
    done = asked.tenant.keyshift("key", "upload", path, "--sha256", "0" * 64, check=False)
    refused(done, f"{path} cannot be read")


def test_an_expired_token_is_refused_with_the_command_for_a_new_one(cloud: Cloud, asked: Asked) -> None:
    file = asked.wrapped_with(OAEP, secrets.token_bytes(32))
    kept = asked.request.read_text()
    past = datetime.now(UTC) - timedelta(seconds=1)
    asked.request.write_text(json.dumps({**json.loads(kept), "valid_to": past.isoformat()}))
    before = state_of(cloud)
    hint = f"keyshift key request {asked.tenant.name}, then have the same key wrapped with its new public key"
    refused(asked.upload(file), str(file), "expired at", "KMS issues it for 24 hours", hint)
    refused_as_json(asked.upload(file, "--json"), "import-token-expired", "expired at")
    assert state_of(cloud) == before
    asked.request.write_text(kept)


def test_a_key_uploaded_twice_says_so_and_another_one_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    asked = ask(cloud, "twice", tmp_path)
    first, other = (asked.wrapped_with(OAEP, secrets.token_bytes(32)) for _ in "12")
    done = asked.upload(first, "--json")
    assert done.code == 0, done.text
    assert done.json()["state"] == "imported"
    before = state_of(cloud)

    again = asked.upload(first, "--json")
    assert again.code == 0, again.text
    assert again.json()["state"] == "imported before; nothing was changed"
    assert again.json()["fingerprint"] == done.json()["fingerprint"]
    refused(asked.upload(other), str(other), "already holds a customer's key", "and this is another file")
    refused_as_json(asked.upload(other, "--json"), "key-already-imported", f"keyshift key list {asked.tenant.name}")
    refused(asked.tenant.keyshift("key", "request", check=False), "already holds the customer's key")
    assert state_of(cloud) == before


@pytest.mark.usefixtures("unchanged")
def test_an_upload_before_a_request_is_refused(named: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "wrapped.bin"
    file.write_bytes(secrets.token_bytes(512))
    done = named.keyshift("key", "upload", str(file), "--sha256", "0" * 64, check=False)
    refused(done, f"tenant {named.name} has no key to import into", f"keyshift key request {named.name}")


# tenants and modes ----------------------------------------------------------------------------


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("words", [("enable",), ("status",), ("key", "list")])
def test_an_unknown_tenant_is_refused_with_the_known_ones(cloud: Cloud, named: Tenant, words: tuple[str, ...]) -> None:
    stranger = Tenant(cloud, "stranger")
    refused(stranger.keyshift(*words, check=False), "no tenant stranger", named.name, "keyshift tenant create stranger")
    refused_as_json(stranger.keyshift(*words, "--json", check=False), "unknown-tenant")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", ["Acme", "acme.eu", "a", "a" * 40, "acme-"])
def test_a_tenants_name_that_a_bucket_cannot_have_is_refused(cloud: Cloud, name: str) -> None:
    done = cloud.keyshift("tenant", "create", name, "--customer", "bad-corp", check=False)
    refused(done, repr(name), "bucket")


@pytest.mark.usefixtures("unchanged")
def test_a_tenants_name_that_was_used_is_refused(cloud: Cloud, named: Tenant) -> None:
    done = cloud.keyshift("tenant", "create", named.name, "--customer", "bad-corp", check=False)
    refused(done, f"the tenant name {named.name} is taken", "keyshift tenant list")


@pytest.mark.usefixtures("unchanged")
def test_a_tenant_on_a_stamp_that_was_never_brought_up_is_refused(cloud: Cloud) -> None:
    stamp = "stamp-aws-eu-west-1-99"
    done = cloud.keyshift("tenant", "create", "stampless", "--customer", "bad-corp", "--stamp", stamp, check=False)
    refused(done, f"should sit on {stamp}, which has not been brought up", f"pulumi up -s {stamp}")


@pytest.mark.usefixtures("unchanged")
def test_a_mode_that_the_cloud_does_not_offer_is_refused(cloud: Cloud, named: Tenant) -> None:
    for words in (("byokv",), ("byokv", "--dry-run"), ("nonsense",)):
        done = named.keyshift("enable", "--mode", *words, check=False)
        refused(done, f"is on aws, which does not offer the mode {words[0]}", "byok, byokms")
    refused_as_json(named.keyshift("enable", "--mode", "byokv", "--json", check=False), "mode-not-offered")
    created = cloud.keyshift("tenant", "create", "offered", "--customer", "bad-corp", "--mode", "byokv", check=False)
    refused(created, "keyMode byokv is not offered on aws; choose one of: byok, byokms, standard")


@pytest.mark.usefixtures("unchanged")
def test_a_second_operation_is_refused_by_the_name_of_the_unfinished_one(asked: Asked) -> None:
    name = asked.tenant.name
    done = asked.tenant.keyshift("enable", check=False)
    refused(done, f"in the middle of {name}-create-1 (waiting, step key/1-key-material)", f"keyshift resume {name}")
    refused_as_json(asked.tenant.keyshift("enable", "--json", check=False), "operation-unfinished")


# stack files ----------------------------------------------------------------------------------


def test_a_layout_edited_by_hand_is_refused_with_the_command_that_mends_it(cloud: Cloud, asked: Asked) -> None:
    tenant = asked.tenant
    file = cloud.project / f"Pulumi.{tenant.stack}.yaml"
    right, before = file.read_bytes(), state_of(cloud)
    for command in (("preview",), ("up", "--yes", "--skip-preview")):
        file.write_bytes(right.replace(b"state: pending", b"state: active"))
        assert file.read_bytes() != right
        done = tenant.pulumi(*command, check=False)
        assert done.code != 0
        assert f"the layout in the stack file of tenant {tenant.name} was edited by hand" in done.text
        assert f"(keyshift stack render {tenant.name})" in done.text
        tenant.keyshift("stack", "render")
        assert state_of(cloud) == before, "the rendered file is the right one again, and nothing else is different"


@pytest.mark.usefixtures("unchanged")
def test_another_mode_in_the_stack_file_is_a_wish_that_needs_an_operation(cloud: Cloud, asked: Asked) -> None:
    file = cloud.project / f"Pulumi.{asked.tenant.stack}.yaml"
    right = file.read_bytes()
    file.write_bytes(right.replace(b"keyMode: byok", b"keyMode: standard"))
    done = asked.tenant.pulumi("preview", check=False)
    file.write_bytes(right)
    assert done.code != 0
    assert f"keyshift:keyMode is standard, but tenant {asked.tenant.name} is in mode byok" in done.text


def test_an_old_copy_of_the_stack_file_is_refused_and_the_live_bucket_stays(cloud: Cloud, moved: Moved) -> None:
    """The file of before the move: to its layout the bucket that serves is one too many."""
    tenant = moved.tenant
    file = cloud.project / f"Pulumi.{tenant.stack}.yaml"
    right, before = file.read_bytes(), state_of(cloud)
    file.write_bytes(moved.old_stack_file)
    done = cloud.up(tenant.stack, check=False)
    assert done.code != 0
    assert f"the stack file of tenant {tenant.name} is at generation 1 (" in done.text
    assert f"(keyshift stack render {tenant.name})" in done.text
    tenant.keyshift("stack", "render")
    assert file.read_bytes() == right
    assert state_of(cloud) == before
    tenant.pulumi("preview", "--expect-no-changes")
    assert tenant.keyshift("search", "Boeing", "--json").json()["total"] == 3


@pytest.mark.usefixtures("unchanged")
def test_a_stack_file_that_is_no_yaml_is_refused_by_its_name(cloud: Cloud, asked: Asked) -> None:
    file = cloud.project / f"Pulumi.{asked.tenant.stack}.yaml"
    right = file.read_bytes()
    file.write_text("config: [")
    done = asked.tenant.keyshift("stack", "render", check=False)
    file.write_bytes(right)
    refused(done, f"{file.name} is not YAML", f"keyshift stack render {asked.tenant.name}")


# a key that is disabled half-way --------------------------------------------------------------


@dataclass(frozen=True)
class Moved:
    """A tenant whose key was disabled in the middle of its move, and what was seen of that."""

    tenant: Tenant
    old_stack_file: bytes
    stopped: Done
    stopped_status: dict[str, Any]
    second: Done
    waited_status: dict[str, Any]
    resumed: Done


@pytest.fixture(scope="module")
def moved(cloud: Cloud) -> Iterator[Moved]:
    tenant = cloud.tenant("halfway", records=records(6), attachments={"a.txt": b"a"})
    old = (cloud.project / f"Pulumi.{tenant.stack}.yaml").read_bytes()
    key = cloud.give_key(tenant.name)
    kms = cloud.client("kms")

    enable = cloud.start("keyshift", "enable", tenant.name, "--wait", "0")
    until(lambda: operation(tenant)["step"] == "freeze/up", "the freeze", 120)
    kms.disable_key(KeyId=key.arn)
    stopped = ended(enable)
    stopped_status = tenant.keyshift("status", "--json").json()
    second = tenant.keyshift("enable", check=False)

    resume = cloud.start("keyshift", "resume", tenant.name)
    for state in ("running", "waiting"):  # it tries, and then waits by itself
        until(lambda state=state: operation(tenant)["state"] == state, f"the resumed operation to be {state}", 60)
    waited_status = tenant.keyshift("status", "--json").json()
    kms.enable_key(KeyId=key.arn)
    yield Moved(tenant, old, stopped, stopped_status, second, waited_status, ended(resume))
    tenant.shut_down()


def operation(tenant: Tenant) -> dict[str, Any]:
    """Step and state of the tenant's last operation, as the record has them at this moment."""
    with sqlite3.connect(tenant.cloud.home / "keyshift.db") as database:
        database.row_factory = sqlite3.Row
        found = database.execute(
            "SELECT step, state FROM operations WHERE tenant = ? ORDER BY started_at DESC",
            [tenant.name],
        ).fetchone()
    return dict(found) if found else {"step": None, "state": None}


def ended(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=300)
    return Done(("keyshift",), process.returncode, out, err, 0.0)


def test_a_move_whose_key_is_disabled_half_way_stops_in_a_named_wait(moved: Moved) -> None:
    name = moved.tenant.name
    said = f"the key k1 of tenant {name} cannot be used: KMS answered DisabledException"
    refused(moved.stopped, said, f"have it enabled, then: keyshift resume {name}", code=3)
    status = moved.stopped_status
    assert (status["operation"]["state"], status["worked_on_by"]) == ("waiting", None)
    assert said in status["operation"]["message"]
    assert status["operation"]["hint"] == f"have it enabled, then: keyshift resume {name}"
    assert status["mode"] == "standard", "nothing serves under a key that cannot be used"
    refused(moved.second, f"in the middle of {name}-enable-1 (waiting, step freeze/", f"keyshift resume {name}")


def test_a_move_waits_for_its_key_and_goes_on_by_itself_when_it_is_back(moved: Moved) -> None:
    waiting = moved.waited_status
    assert waiting["operation"]["state"] == "waiting"
    assert waiting["worked_on_by"] is not None, "the runner is there, and waits"
    assert "KMS answered DisabledException" in waiting["operation"]["message"]
    assert moved.resumed.code == 0, moved.resumed.text
    status = moved.tenant.keyshift("status", "--json").json()
    assert (status["mode"], status["jobs"]) == ("byok", "open")
    assert (status["operation"]["state"], status["operation"]["message"]) == ("done", None)
    assert moved.tenant.keyshift("search", "Boeing", "--json").json()["total"] == 3


@pytest.mark.usefixtures("unchanged")
def test_enabling_a_tenant_that_is_byok_already_is_refused(moved: Moved) -> None:
    tenant = moved.tenant
    for words in (("enable",), ("enable", "--dry-run"), ("enable", "--mode", "byok")):
        done = tenant.keyshift(*words, check=False)
        refused(done, f"tenant {tenant.name} is already in mode byok", f"keyshift tenant show {tenant.name}")
    refused_as_json(tenant.keyshift("enable", "--json", check=False), "not-standard")
    refused(tenant.keyshift("resume", check=False), "has no unfinished operation")


# records --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchanged")
def test_a_broken_record_is_reported_by_line_and_nothing_is_loaded(moved: Moved, tmp_path: Path) -> None:
    (tmp_path / "people.ndjson").write_text('{"id": "new"}\n{"id": "torn"\n[1]\n{"id": "new", "other": 1}\n')
    (tmp_path / "planes.csv").write_text("id,name\n1,Boeing,737\n")
    (tmp_path / "attachments").mkdir()
    (tmp_path / "attachments" / "fine.txt").write_text("fine")
    before = objects(moved.tenant)
    done = moved.tenant.keyshift("archive", "import", str(tmp_path), check=False)
    refused(done, "nothing was loaded", "people.ndjson:2: ", "people.ndjson:3: ", "people.ndjson:4: ", "planes.csv:2: ")
    refused_as_json(
        moved.tenant.keyshift("archive", "import", str(tmp_path), "--json", check=False),
        "broken-records",
        "planes.csv:2",
    )
    assert objects(moved.tenant) == before
    missing = moved.tenant.keyshift("archive", "import", str(tmp_path / "none"), check=False)
    refused(missing, f"{tmp_path / 'none'} does not exist")


def objects(tenant: Tenant) -> list[tuple[str, str]]:
    side = tenant.storage(tenant.layout()["serves"]["storage"])
    found = side.s3.list_object_versions(Bucket=side.storage.bucket)["Versions"]
    return [(one["Key"], one["VersionId"]) for one in found]


# nobody answers -------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("words", [("key", "list"), ("search", "Boeing"), ("archive", "import", "input")])
def test_a_cloud_that_is_down_is_one_readable_error(
    cloud: Cloud, moved: Moved, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "people.ndjson").write_text('{"id": "1"}\n')
    words = tuple(str(tmp_path) if word == "input" else word for word in words)
    down = Tenant(cloud.with_environment(AWS_ENDPOINT_URL=NOTHING_LISTENS), moved.tenant.name)
    refused(
        down.keyshift(*words, check=False),
        "AWS cannot be reached",
        NOTHING_LISTENS,
        "then run the same command again",
        code=1,
    )
    refused_as_json(down.keyshift(*words, "--json", check=False), "unreachable", NOTHING_LISTENS, code=1)


def test_a_tenant_whose_creation_met_a_cloud_that_was_down_is_finished_later(cloud: Cloud) -> None:
    name = cloud.new_name("down")
    down = cloud.with_environment(AWS_ENDPOINT_URL=NOTHING_LISTENS)
    failed = down.keyshift("tenant", "create", name, "--customer", "bad-corp", "--mode", "byok", check=False)
    refused(failed, f"preview of tenant-{name} failed", NOTHING_LISTENS, f"keyshift resume {name}", code=1)
    assert Tenant(cloud, name).keyshift("status", "--json").json()["operation"]["state"] == "failed"
    resumed = cloud.keyshift("resume", name, check=False)
    refused(resumed, "waits for the customer's wrapped key for k1", code=3)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("variable", "value", "code", "said"),
    [
        ("AWS_PROFILE", "nobody", 1, "The config profile (nobody) could not be found"),
        ("AWS_PROFILE", "customer", 1, "AWS answered AccessDenied"),
        ("KEYSHIFT_DATABASE_URL", "sqlite:////nowhere/keyshift.db", 1, "the record database cannot be used"),
        ("KEYSHIFT_DATABASE_URL", "nonsense", 1, "the record database cannot be used"),
        ("KEYSHIFT_PROJECT", "/", 2, "no Pulumi.yaml in / or above it"),
    ],
)
def test_a_shell_that_is_set_up_wrong_is_told_what_is_wrong(  # noqa: PLR0917 - a table's columns
    cloud: Cloud, moved: Moved, variable: str, value: str, code: int, said: str
) -> None:
    wrong = cloud.with_environment(**{variable: value})
    refused(wrong.keyshift("search", moved.tenant.name, "x", check=False), said, code=code)


@pytest.mark.usefixtures("unchanged")
def test_a_new_tenant_without_the_passphrase_of_its_secrets_is_not_made(cloud: Cloud) -> None:
    wrong = cloud.with_environment(PULUMI_CONFIG_PASSPHRASE_FILE="")
    done = wrong.keyshift("tenant", "create", cloud.new_name("secretless"), "--customer", "bad-corp", check=False)
    refused(done, "passphrase", "set PULUMI_CONFIG_PASSPHRASE_FILE")

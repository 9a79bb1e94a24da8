"""Web apps of the Azure half, and that its state outlives its process."""

from __future__ import annotations

import json
import os
import signal
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aws_server import until
from azure.keyvault.keys import JsonWebKey
from azure_lab import DATA, LAG, current, settled, wrapped
from azure_server import (
    BLOB_OWNER,
    CRYPTO_OFFICER,
    ENCRYPTION_USER,
    LOCATION,
    STORAGE_API,
    AzureServer,
    running_azure,
    start,
)
from cryptography.hazmat.primitives.asymmetric import rsa

pytestmark = pytest.mark.sandbox

WEB_API = "2024-04-01"
PROBE = """
    import json, os, sys, time
    from azure.identity import ManagedIdentityCredential

    said = {"name": os.environ["WHO"], "pid": os.getpid()}
    for which in ("OWN", "FOREIGN"):
        try:
            token = ManagedIdentityCredential(client_id=os.environ[which]).get_token("https://storage.azure.com/.default")
            said[which] = len(token.token) > 100
        except Exception as error:
            said[which] = type(error).__name__
    with open(os.environ["SAYS"] + ".new", "w") as file:
        json.dump(said, file)
    os.replace(os.environ["SAYS"] + ".new", os.environ["SAYS"])
    while not os.path.exists(os.environ["SAYS"] + ".stop"):
        time.sleep(0.05)
"""


def _app(azure: AzureServer, group: str, identity: dict[str, Any], settings: dict[str, str], *, enabled: bool) -> None:
    plan = f"{group}/providers/Microsoft.Web/serverfarms/plan"
    azure.arm("PUT", plan, {"location": LOCATION, "sku": {"name": "P0v3"}}, api=WEB_API)
    body = {
        "identity": {"type": "UserAssigned", "userAssignedIdentities": {identity["id"]: {}}},
        "location": LOCATION,
        "properties": {
            "enabled": enabled,
            "serverFarmId": plan,
            "siteConfig": {
                "appCommandLine": "python -m probe",
                "appSettings": [{"name": name, "value": value} for name, value in settings.items()],
            },
        },
    }
    azure.arm("PUT", f"{group}/providers/Microsoft.Web/sites/probe", body, api=WEB_API)


def _is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
def test_an_app_runs_as_its_own_identity_until_it_is_disabled(azure: AzureServer, tmp_path: Path) -> None:
    group = azure.group("apps")
    own, foreign = azure.identity(group, "own"), azure.identity(group, "foreign")
    (tmp_path / "probe.py").write_text(textwrap.dedent(PROBE))
    says = tmp_path / "says.json"
    settings = {
        "FOREIGN": foreign["clientId"],
        "OWN": own["clientId"],
        "PYTHONPATH": os.pathsep.join((str(tmp_path), str(Path(__file__).parents[2]))),
        "SAYS": str(says),
        "WHO": "first",
    }
    _app(azure, group, own, settings, enabled=True)
    until(says.exists, "the app runs")
    first = json.loads(says.read_text())
    assert first["OWN"] is True, "a token of its own identity"
    assert first["FOREIGN"] == "CredentialUnavailableError", "another's identity is not attached to it"
    says.unlink()
    (tmp_path / "says.json.stop").touch()  # it ends by itself, and is started again
    until(says.exists, "the app is started again")
    (tmp_path / "says.json.stop").unlink()
    until(lambda: says.exists() and _is_running(json.loads(says.read_text())["pid"]), "the app stays")
    second = json.loads(says.read_text())
    assert second["pid"] != first["pid"]
    _app(azure, group, own, settings, enabled=False)
    assert not _is_running(json.loads(says.read_text())["pid"]), "a disabled app does not run"
    shown = azure.arm("GET", f"{group}/providers/Microsoft.Web/sites/probe", api=WEB_API)
    assert shown["properties"]["state"] == "Stopped"
    assert "appSettings" not in shown["properties"]["siteConfig"], "settings are read by a call of their own"


def test_keys_roles_and_blobs_outlive_a_killed_process(tmp_path: Path) -> None:
    with running_azure(tmp_path, role_lag_seconds=LAG) as azure:
        group = azure.group("kept")
        vault = azure.vault(group, "keyshift-kept")
        azure.assign(vault["id"], CRYPTO_OFFICER, azure.person()["object_id"], "1")
        keys = azure.keys(vault)
        make = partial(keys.create_rsa_key, "kek", size=2048, hardware_protected=True, key_operations=["import"])
        kek = settled(make, "ForbiddenByRbac")
        own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        keys.import_key("acme", JsonWebKey(kty="RSA-HSM", t=wrapped(kek, own)), hardware_protected=True)
        identity, runner = azure.identity(group, "key"), azure.identity(group, "runner")
        azure.assign(f"{vault['id']}/keys/acme", ENCRYPTION_USER, identity["principalId"], "2")
        encryption = {
            "identity": {"userAssignedIdentity": identity["id"]},
            "keySource": "Microsoft.Keyvault",
            "keyvaultproperties": {"keyname": "acme", "keyvaulturi": vault["properties"]["vaultUri"]},
        }
        attached = {"type": "UserAssigned", "userAssignedIdentities": {identity["id"]: {}}}
        create = partial(azure.account, group, "kept", encryption=encryption, identity=attached)
        account = settled(create, "KeyVaultAuthenticationFailure")
        container = f"{account['id']}/blobServices/default/containers/kept-s1"
        azure.arm("PUT", container, {"properties": {}}, api=STORAGE_API)
        azure.assign(container, BLOB_OWNER, runner["principalId"], "3")
        blobs = azure.container(account, "kept-s1", azure.acting_as(runner["clientId"]))
        settled(lambda: blobs.upload_blob("record", DATA), "AuthorizationPermissionMismatch")
        azure.process.send_signal(signal.SIGKILL)  # Azurite then ends by itself, cleanly
        azure.process.wait()
        azure.process = start(tmp_path, azure.port).process
        assert blobs.get_blob_client("record").download_blob().readall() == DATA
        again = azure.arm("GET", account["id"], api=STORAGE_API)
        assert current(again) == current(account)
        keys.update_key_properties("acme", enabled=False)
        with pytest.raises(Exception, match=r"KeyVaultEncryptionKeyNotFound|unwrap the encryption key"):
            blobs.get_blob_client("record").download_blob()

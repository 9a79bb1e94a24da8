"""What Azure's side refuses to begin with, and how long it waits for a role."""

from __future__ import annotations

from pathlib import Path

import azure_graph
import layouts
import pulumi
import pytest
import yaml

from components.azure import access, lag
from components.routes import Route
from components.vault import VaultKey, is_of_the_same_cloud
from migrate import bindings
from migrate.errors import RefusedInput
from migrate.keys import vault_onboarding
from migrate.records import Records
from migrate.stack import Project, Stack
from stacks.config import OF_AN_AZURE_STAMP, StampSettings, parse
from stacks.errors import ConfigError
from stacks.record import connect

OURS = azure_graph.VAULT_URI
THEIRS = "https://acme-archive.vault.azure.net/"


def stamp(**changes: str) -> StampSettings:
    settings = parse(azure_graph.STAMP, {**azure_graph.STAMP_CONFIG, **changes})
    assert isinstance(settings, StampSettings)
    return settings


def test_a_stamp_on_azure_says_what_azure_does_not():
    assert stamp().azure is not None
    for name in azure_graph.STAMP_CONFIG:
        said = {key: value for key, value in azure_graph.STAMP_CONFIG.items() if key != name}
        with pytest.raises(ConfigError, match=f"does not say: {name}"):
            parse(azure_graph.STAMP, said)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("operatorPrincipal", "operator"),
        ("operatorIssuer", "http://oidc.example.com"),
        ("vaultPrefix", "Keyshift"),
        ("vaultPrefix", "far-too-long-a-prefix"),
        ("entraIssuer", "login.microsoftonline.com"),
    ],
)
def test_a_stamps_configuration_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name.lower()[:5]):
        stamp(**{name: value})


def test_what_belongs_to_azure_is_unknown_elsewhere():
    with pytest.raises(ConfigError, match="keyshift:workerImage"):
        parse("stamp-aws-eu-west-1-01", {"workerImage": "x"})
    with pytest.raises(ConfigError, match="keyshift:workerImage"):
        parse("tenant-acme", {"customer": "acme-corp", "region": "westeurope", "cloud": "azure", "workerImage": "x"})


def test_a_tenant_whose_name_no_container_can_have_is_refused_on_azure_alone():
    said = {"customer": "acme-corp", "region": "westeurope"}
    with pytest.raises(ConfigError, match="two hyphens in a row"):
        parse("tenant-ac--me", {**said, "cloud": "azure"})
    assert parse("tenant-ac--me", {"customer": "acme-corp", "region": "eu-west-1"})


# a key in a vault -----------------------------------------------------------------------------


@pytest.mark.parametrize("vault", [THEIRS, THEIRS.rstrip("/"), THEIRS.replace("acme", "ACME"), f"{THEIRS[:-1]}:443/"])
def test_a_vault_is_known_however_it_is_written(vault):
    assert VaultKey.of(vault, "archive").id == f"{THEIRS}keys/archive"


@pytest.mark.parametrize(
    ("vault", "key", "says"),
    [
        ("acme-archive", "archive", "no vault's address"),
        ("http://acme-archive.vault.azure.net/", "archive", "no vault's address"),
        ("https://me@acme-archive.vault.azure.net/", "archive", "no vault's address"),
        (f"{THEIRS}keys/archive", "archive", "names more than the vault"),
        (THEIRS, "archive/0123456789abcdef", "names a version"),
        (THEIRS, "arch ive", "no key's name"),
        (THEIRS, "", "no key's name"),
    ],
)
def test_what_names_no_key_of_a_vault_is_refused(vault, key, says):
    with pytest.raises(ValueError, match=says):
        VaultKey.of(vault, key)


def test_a_vault_of_another_cloud_is_told_by_its_name():
    assert is_of_the_same_cloud(THEIRS, OURS)
    assert is_of_the_same_cloud("https://acme.managedhsm.azure.net/", OURS)
    assert not is_of_the_same_cloud("https://acme.vault.azure.cn/", OURS)
    assert not is_of_the_same_cloud("https://vault.azure.net.example.com/", OURS)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    monkeypatch.delenv("AZURE_AUTHORITY_HOST", raising=False)
    outputs = {"stamp": {"vault_uri": OURS, "app_client_id": "app-1"}}
    monkeypatch.setattr(Stack, "outputs", lambda _: outputs)
    monkeypatch.setattr(Stack, "__init__", lambda self, *_: None)
    monkeypatch.setattr(vault_onboarding, "directory_of", lambda _: layouts.CUSTOMER_DIRECTORY)
    made = Project(root=tmp_path, home=tmp_path / ".keyshift")
    Records(connect(made.home)).create(layouts.on_azure(layouts.standard()))
    return made


def onboarded(project: Project, **changes: str) -> dict:
    said = {"vault": THEIRS, "key": "archive", "directory": layouts.CUSTOMER_DIRECTORY, **changes}
    bound: list[dict] = []
    found = vault_onboarding.onboard(project, "acme", **said, on_rotation=None, bind=bound.append)
    return {**found, "asked": bound}


def test_a_key_is_bound_by_vault_name_and_directory_and_the_customers_part_is_printed(project):
    found = onboarded(project)
    (asked,) = found["asked"]
    assert (asked["key"]["arn"], asked["key"]["directory"], asked["key"]["state"]) == (
        f"{THEIRS}keys/archive", layouts.CUSTOMER_DIRECTORY, "pending",
    )  # fmt: skip
    assert found["consent"] == (
        f"https://login.microsoftonline.com/{layouts.CUSTOMER_DIRECTORY}/adminconsent?client_id=app-1"
    )
    assert "--role 'Key Vault Crypto Service Encryption User'" in found["commands"][1]
    assert "/keys/archive" in found["commands"][1], "at the one key, not at the vault"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"vault": "acme-archive"}, "vault-key-form"),
        ({"key": "archive/0123456789abcdef"}, "vault-key-form"),
        ({"vault": "https://acme.vault.azure.cn/"}, "vault-of-another-cloud"),
        ({"vault": OURS}, "vault-is-ours"),
        ({"directory": "acme.onmicrosoft.com"}, "directory-form"),
        ({"directory": azure_graph.DIRECTORY}, "vault-of-another-directory"),
    ],
)
def test_what_speaks_against_a_binding_changes_nothing(project, changes, code):
    with pytest.raises(RefusedInput) as refused:
        onboarded(project, **changes)
    assert refused.value.code == code
    assert refused.value.hint
    assert Records(connect(project.home)).tenant("acme").layout.keys == ()


@pytest.mark.parametrize("key", ["archive", "another"])
def test_a_vault_that_is_another_customers_is_refused_whatever_its_key_is_called(project, key):
    other = layouts.changed(layouts.on_azure(layouts.byokms_active()), tenant="other", customer="other-corp")
    with connect(project.home).begin() as connection:
        bindings.bind(connection, other)  # as the record does with each layout that an operation reaches
    with pytest.raises(RefusedInput) as refused:
        onboarded(project, key=key)
    assert refused.value.code == "key-of-another-customer"
    assert "other-corp" not in str(refused.value)


def test_a_vault_that_cannot_be_reached_is_bound_and_said_to_be_unproved(project, monkeypatch):
    monkeypatch.setattr(vault_onboarding, "directory_of", lambda _: None)
    assert onboarded(project)["directory_is_proved"] is False


def test_byokv_is_refused_on_aws(tmp_path, project):
    Records(connect(project.home)).create(layouts.changed(layouts.standard(), tenant="onaws"))
    with pytest.raises(RefusedInput, match="where there is no mode byokv"):
        vault_onboarding.onboard(
            project, "onaws", vault=THEIRS, key="a", directory=layouts.CUSTOMER_DIRECTORY, on_rotation=None, bind=print
        )


# rights and roles -----------------------------------------------------------------------------


def tenancy(*, are_jobs_open: bool = True, is_access_open: bool = True) -> access.Tenancy:
    return access.Tenancy(
        tenant="acme",
        storages=["s1", "s2"],
        searches=["e1", "e2"],
        routes=[
            Route(id="p1", storage="s1", search="e1", is_attached=True, takes_edits=True),
            Route(id="p2", storage="s2", search="e2", is_attached=False),
        ],
        serving_storage="s1",
        serving_search="e1",
        are_jobs_open=are_jobs_open,
        is_access_open=is_access_open,
    )


def test_archive_and_the_worker_reach_only_what_serves():
    given = {(g.audience, g.unit, g.right) for g in access.grants(tenancy()) if g.audience != access.RUNNER}
    assert {unit for _, unit, right in given if right in access.BLOB_RIGHTS} == {"s1"}
    assert {unit for _, unit, right in given if right not in access.QUEUE_RIGHTS} == {"s1", "e1"}


def test_who_writes_loses_it_while_jobs_are_closed_and_the_runner_keeps_all():
    opened, closed = (set(access.grants(tenancy(are_jobs_open=is_open))) for is_open in (True, False))
    assert {g.right for g in opened - closed} == access.CLOSED_BY_JOBS
    sealed = set(access.grants(tenancy(is_access_open=False)))
    assert {g.audience for g in sealed} == {access.RUNNER}
    assert sealed == {g for g in opened if g.audience == access.RUNNER}


def test_every_right_has_a_name_of_its_own():
    names = [grant.logical for grant in access.grants(tenancy())]
    assert len(names) == len(set(names)) > 10


def failed(message: str, *, tries: int = 1, operation: str = "create") -> pulumi.ErrorHookArgs:
    return pulumi.ErrorHookArgs(
        urn="urn", id="", name="s2-account", type="account", failed_operation=operation, errors=[message] * tries
    )


def test_a_role_that_has_not_spread_is_waited_for_and_not_for_ever():
    now, pauses = [0.0], []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    waits, tries = lag.RoleLag(clock=lambda: now[0], pause=pause), 0
    while waits.again(failed("Code=KeyVaultAuthenticationFailure", tries=tries + 1)):
        tries += 1
    assert pauses[:4] == [1, 2, 4, 8]
    assert max(pauses) == lag.LONGEST_PAUSE_SECONDS
    assert lag.LIMIT_SECONDS <= now[0] < lag.LIMIT_SECONDS + lag.LONGEST_PAUSE_SECONDS
    assert tries < 100, "the engine tries no more often"


@pytest.mark.parametrize(
    "args", [failed("StorageAccountAlreadyTaken"), failed("PrincipalNotFound", operation="delete")]
)
def test_what_no_waiting_mends_fails_at_once(args):
    assert not lag.RoleLag(pause=lambda _: pytest.fail("nothing to wait for")).again(args)


def test_a_default_of_the_project_reaches_every_stack_so_what_is_azures_has_none():
    declared = yaml.safe_load((Path(__file__).parents[2] / "Pulumi.yaml").read_text())["config"]
    for name in OF_AN_AZURE_STAMP:
        assert declared[f"keyshift:{name}"]["default"] == "", f"{name} would be refused in every other stack"

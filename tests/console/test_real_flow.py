"""A customer's whole way by the page, on the sandbox: a key asked for, wrapped, uploaded; the plan; the move; a revocation.

Nothing is played: the worker runs the real operations in the real engine, and the API is killed in the middle.
KEYSHIFT_TEST_CONSOLE names a folder that `python -m sandbox.console --prepare --folder …` has made, to save minutes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from browser import Reader
from browser import chromium as started
from conftest import chromium, free_ports
from playwright.sync_api import Browser, expect

from console.orders import Orders
from console.store import open_store
from migrate import tenants
from migrate.keys import wrap
from migrate.log import Log
from migrate.stack import Project
from sandbox.console import TENANT, ConsoleHouse, running

PATH = chromium()
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(PATH is None, reason="no Chromium here: apt-get install chromium, or KEYSHIFT_CHROMIUM"),
]
LONG = 400_000
"""Milliseconds that a move may take on a busy machine."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleHouse]:
    named = os.environ.get("KEYSHIFT_TEST_CONSOLE")
    folder = Path(named) if named else tmp_path_factory.mktemp("console-sandbox")
    data = tmp_path_factory.mktemp("records") / "flights.ndjson"
    data.write_text("".join(json.dumps({"id": number, "carrier": "Boeing"}) + "\n" for number in range(40)))
    with running(folder, free_ports(), data) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started(str(PATH)) as made:
        yield made


def test_a_customer_enables_their_own_key_by_the_page(house: ConsoleHouse, browser: Browser, tmp_path: Path) -> None:
    project = Project.find()
    orders = Orders(open_store(project.home))
    ada = Reader.of(browser, house.url).sign_in("ada", to=f"/tenants/{TENANT}")
    page = ada.page

    page.get_by_role("link", name="Set up a key that you upload").click()
    page.get_by_role("button", name="Make an empty key").click()
    expect(page.locator("#state")).to_have_text("Done", timeout=LONG)
    page.get_by_role("link", name="Go on: wrap your key").click()

    with page.expect_download() as download:
        page.get_by_role("link", name="Download the public key").click()
    der = Path(download.value.path()).read_bytes()
    assert hashlib.sha256(der).hexdigest() in page.content(), "the page has to tell the hash of what it hands out"
    made = wrap.wrap(der)
    wrapped = tmp_path / "wrapped-key.bin"
    wrapped.write_bytes(made.wrapped)
    ada.shot("real-1-wrap")

    page.get_by_label("The wrapped key").set_input_files(wrapped)
    page.get_by_label("The SHA-256").fill(made.wrapped_sha256)
    expect(page.locator("#sha-note")).to_have_text("It fits the file.")
    page.get_by_role("button", name="Upload and validate").click()
    expect(page.get_by_role("status").filter(has_text="fingerprint")).to_be_visible(timeout=LONG)
    ada.shot("real-2-uploaded")

    page.get_by_role("link", name="See the plan, then activate").click()
    page.get_by_role("button", name="Make the plan").click()
    expect(page.locator("#state")).to_have_text("Done", timeout=LONG)
    page.get_by_role("link", name="See the plan").click()
    expect(page.get_by_text("can be undone").first).to_be_visible()
    assert ada.violations() == []
    ada.shot("real-3-plan")

    page.get_by_role("button", name="Begin: enable to byok").click()
    address = page.url
    expect(page.locator("#phase")).to_contain_text(re.compile(r"Phase [2-7] of 7"), timeout=LONG)
    ada.shot("real-4-moving")
    api = house.children[-1]
    api.kill()
    api.wait()
    house.children.remove(api)
    house.start_api({"KEYSHIFT_PROJECT": str(project.root)})
    house.wait_until_ready()
    # The page comes back by itself: its stream goes on, and its last event loads it again.
    expect(page.locator("#state")).to_have_text("Done", timeout=LONG)
    assert page.url == address
    ada.shot("real-5-done")

    status = tenants.status(project, TENANT)
    assert (status["mode"], status["jobs"], status["operation"]["state"]) == ("byok", "open", "done")
    order = next(one for one in orders.of(TENANT) if one.kind == "enable")
    assert order.attempts == 1, "the death of the API must not have touched the move"
    assert order.result is not None
    assert order.result["left_behind"] == 0
    assert order.result["storage"]["verified"] == order.result["storage"]["versions"] > 0
    numbers = [number for number, _, _ in orders.events(order.id, 0)]
    assert numbers == list(range(1, len(numbers) + 1))
    asked = [line["event"] for line in Log(tenants.folder(project, TENANT)).events()]
    assert {"asked-in-console", "key-uploaded"} <= {one["event"] for one in asked}
    assert all(one["by"] == "acme-corp/ada" for one in asked if one["event"] in {"asked-in-console", "key-uploaded"})


def test_what_was_moved_is_shown_with_its_proofs(house: ConsoleHouse, browser: Browser) -> None:
    ada = Reader.of(browser, house.url).sign_in("ada", to=f"/tenants/{TENANT}")
    page = ada.page
    keys = page.locator("section", has=page.get_by_role("heading", name="Keys", exact=True))
    expect(keys).to_contain_text("active")
    expect(keys).not_to_contain_text("cannot be asked")
    ada.shot("real-6-overview")
    ada.open(f"/tenants/{TENANT}/verdicts")
    with page.expect_download() as download:
        page.locator("tbody a").first.click()
    assert b'"signature"' in Path(download.value.path()).read_bytes()
    ada.open(f"/tenants/{TENANT}/archive?q=Boeing")
    expect(page.get_by_role("status")).to_contain_text("found in e2")
    ada.shot("real-7-archive")
    ada.open(f"/tenants/{TENANT}/log")
    ada.shot("real-8-log")


def test_a_customer_revokes_by_the_page_and_sees_it_measured(house: ConsoleHouse, browser: Browser) -> None:
    project = Project.find()
    ada = Reader.of(browser, house.url).sign_in("ada", to=f"/tenants/{TENANT}/close?kind=revoke")
    page = ada.page
    page.get_by_label("Why?").fill("a device was lost")
    page.get_by_label("To go on type").fill(f"revoke {TENANT}")
    page.get_by_role("button", name="Revoke now").click()
    expect(page.locator("#state")).to_have_text("Done", timeout=LONG)
    expect(page.get_by_text("every path was refused")).to_be_visible()
    ada.shot("real-9-revoked")
    assert tenants.status(project, TENANT)["sealed"] is not None
    ada.open(f"/tenants/{TENANT}/archive?q=Boeing")
    expect(page.get_by_role("alert").filter(has_text="closed").first).to_be_visible()
    ada.shot("real-10-archive-closed")

    ada.open(f"/tenants/{TENANT}/close?kind=restore")
    page.get_by_label("Why?").fill("it was found")
    page.get_by_label("To go on type").fill(f"restore {TENANT}")
    page.get_by_role("button", name="Restore").click()
    expect(page.locator("#state")).to_have_text("Done", timeout=LONG)
    ada.shot("real-11-restored")
    assert tenants.status(project, TENANT)["sealed"] is None


def test_a_key_in_the_customers_account_is_checked_by_the_page(house: ConsoleHouse, browser: Browser) -> None:
    """The page's own policy, attached in the customer's account, makes the key fit; one statement less is named."""
    kms = boto3.Session(profile_name="customer").client("kms")
    account = boto3.Session(profile_name="customer").client("sts").get_caller_identity()["Account"]
    ada = Reader.of(browser, house.url).sign_in("ada", to=f"/tenants/{TENANT}/byokms")
    page = ada.page
    page.get_by_label("Your AWS account").fill(account)
    page.get_by_role("button", name="Show the policy").click()
    document = json.loads(page.locator("pre.tall").inner_text())
    ada.shot("real-12-policy")

    less = {**document, "Statement": document["Statement"][:-1]}
    key = kms.create_key(Policy=json.dumps(less))["KeyMetadata"]
    kms.create_alias(AliasName="alias/console-test", TargetKeyId=key["KeyId"])
    alias = f"{key['Arn'].partition(':key/')[0]}:alias/console-test"
    page.get_by_label("The ARN of the alias").fill(alias)
    page.get_by_role("button", name="Check it").click()
    expect(page.get_by_text("not fit yet")).to_be_visible(timeout=LONG)
    expect(page.get_by_role("button", name="Bind this key")).to_have_count(0)
    ada.shot("real-13-unfit")
    assert ada.violations() == []

    kms.put_key_policy(KeyId=key["KeyId"], PolicyName="default", Policy=json.dumps(document))
    page.get_by_label("The ARN of the alias").fill(alias)
    page.get_by_role("button", name="Check it").click()
    expect(page.get_by_text("Everything that can be tried now works")).to_be_visible(timeout=LONG)
    expect(page.get_by_role("button", name="Bind this key")).to_be_visible()
    ada.shot("real-14-fit")

"""The pages in a real Chromium: every page read by axe, light, dark and narrow; what needs no cloud is done on them.

Screenshots stay in build/console-screenshots. Skipped only where no Chromium is to be had (KEYSHIFT_CHROMIUM names one).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import layouts
import pytest
from conftest import Running, chromium

from console.callers import Caller, Role
from console.orders import QUEUED, Kind, Wanted
from migrate.log import Log
from migrate.operations import OperationKind
from stacks.layout import Gate, Key, KeyState

PATH = chromium()
pytestmark = pytest.mark.skipif(PATH is None, reason="no Chromium here: apt-get install chromium, or KEYSHIFT_CHROMIUM")

if PATH is not None:
    from browser import Reader
    from browser import chromium as started
    from playwright.sync_api import Browser, expect

PLAN = {
    "phases": [
        {"name": "key", "title": "+ k1, empty", "layout": {"gate": {"jobs": "open", "access": "open"}}, "reversible": True,
         "waits": [{"kind": "key-material", "subject": "k1", "person": True, "reason": "the customer's wrapped key for k1"}],
         "moves": []},
        {"name": "freeze", "title": "close the gate; copy what changed; prove both copies",
         "layout": {"gate": {"jobs": "closed", "access": "open"}}, "reversible": True, "waits": [],
         "moves": [{"kind": "copy", "title": "copy s1 to s2"}, {"kind": "verify-storage", "title": "compare s1 and s2"}]},
        {"name": "serve", "title": "s2 and e2 serve", "layout": {"gate": {"jobs": "open", "access": "open"}},
         "reversible": False, "waits": [], "moves": []},
    ],
    "previews": None, "preflight": None,
    "price": {"bytes_copied": 50_000_000, "expected_minutes": 2, "dollars": 0.0123, "storages": {"s1": {"versions": 2000}},
              "requests": [{"kind": "COPY", "count": 2000, "dollars": 0.01}], "assumed": ["jobs write nothing meanwhile"],
              "standing": {"second_copy_per_hour": 0.0001, "new_keys_per_month": 1}, "not_priced": []},
}  # fmt: skip


@pytest.fixture(scope="module")
def browser(running: Running) -> Iterator[Browser]:
    _furnish(running)
    with started(str(PATH)) as made:
        yield made


def _furnish(running: Running) -> None:
    """What the pages need to have something to show: a plan, an operation under way, a rotation, a log."""
    orders = running.orders
    ada = Caller(subject="ada", name="Ada", role=Role.CUSTOMER_ADMIN, customer="acme-corp", auth_time=0)

    def put(tenant: str, kind: Kind, values: dict) -> str:
        wanted = Wanted(tenant=tenant, customer="acme-corp", kind=kind, values=values)
        return orders.put(wanted, ada, state=QUEUED, repeat=f"{tenant}-{kind}-furnished").id

    plan = put("acme", Kind.PLAN, {"of": "enable", "mode": "byok", "previews": False})
    orders.handed_over(plan)
    orders.start(plan)
    orders.end(plan, "done", result=PLAN)
    enable = put("acme", Kind.ENABLE, {"mode": "byok"})
    orders.handed_over(enable)
    orders.start(enable)
    where = {
        "phase": "build", "phase_title": "make s2, e2 and p2 under k1; copy while jobs run", "phase_number": 2, "phases": 7,
        "step": "build/3-copy", "step_title": "copy s1 to s2", "step_number": 4, "steps": 7,
    }  # fmt: skip
    orders.tell(enable, "step", where)
    orders.tell(enable, "step-done", {**where, "seconds": 12.5})
    orders.tell(
        enable, "progress", {**where, "move": "copy", "objects": 500, "objects_total": 2000, "remaining_seconds": 90}
    )
    running.enable = enable  # type: ignore[attr-defined] # for the tests of this file
    records = running.records
    key = Key(id="k1", state=KeyState.ACTIVE, arn=layouts.CUSTOMER_KEY, alias=layouts.CUSTOMER_ALIAS, material="m-1")
    gate = Gate(
        jobs="closed",
        reason="the customer's key was rotated",
        warnings=("the key of acme-corp was rotated: nothing is archived until it is confirmed",),
    )
    with records.lease("acme-two") as fence:
        records.advance(layouts.changed(records.tenant("acme-two").layout, keys=(key,), gate=gate), fence)
    with records.lease("globex-one") as fence:
        byok = layouts.changed(layouts.byok_active(), tenant="globex-one", customer="globex")
        records.advance(byok, fence)
    operation = records.begin(
        records.tenant("acme-two"), OperationKind.ROTATE, None, asked={"key": key.model_dump(mode="json")}
    )
    records.note(operation.id, state="waiting", message="waits for the customer's confirmation")
    log = Log(running.project.home / "tenants" / "acme")
    log.append({"event": "operation-begun", "operation": "acme-enable-1", "kind": "enable", "mode": "byok"})


PAGES = {
    "tenants": "/",
    "overview": "/tenants/acme",
    "paused": "/tenants/acme-two",
    "byok": "/tenants/acme/byok",
    "byokms": "/tenants/acme/byokms",
    "byokv": "/tenants/acme/byokv",
    "plan": "/tenants/acme/plan?of=enable&mode=byok",
    "operations": "/tenants/acme/operations",
    "verdicts": "/tenants/acme/verdicts",
    "log": "/tenants/acme/log",
    "archive": "/tenants/acme/archive",
    "revoke": "/tenants/acme/close?kind=revoke",
    "missing": "/tenants/nothing-here",
}


@pytest.mark.parametrize("look", ["light", pytest.param("dark", marks=pytest.mark.every), "narrow"])
def test_every_page_is_clean_to_axe(running: Running, browser: Browser, look: str) -> None:
    reader = Reader.of(browser, running.url, dark=look == "dark", narrow=look == "narrow")
    reader.open("/")
    assert reader.violations() == [], "the welcome page"
    reader.sign_in("ada")
    for name, path in {**PAGES, "operation": f"/tenants/acme/operations/{running.enable}"}.items():  # type: ignore[attr-defined]
        reader.open(path)
        assert reader.violations() == [], name
        reader.shot(f"{name}-{look}")
        wide = reader.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} is wider than the window at {look}: it would have to be scrolled sideways"


def test_axe_sees_what_is_wrong(running: Running, browser: Browser) -> None:
    reader = Reader.of(browser, running.url).open("/")
    reader.page.evaluate("document.querySelector('main').innerHTML += '<input><img src=\"/static/mark.svg\">'")
    found = " ".join(reader.violations())
    assert "image-alt" in found
    assert "label" in found


def test_the_pages_can_be_read_without_scripts(running: Running, browser: Browser) -> None:
    reader = Reader.of(browser, running.url, scripts=False).sign_in("ada")
    reader.open(f"/tenants/acme/operations/{running.enable}")  # type: ignore[attr-defined]
    expect(reader.page.locator("#phase")).to_contain_text("Phase 2 of 7")
    expect(reader.page.locator("#figures")).to_contain_text("500 of 2,000")
    reader.open("/tenants/acme-two")
    expect(reader.page.get_by_role("alert")).to_contain_text("paused until you confirm")
    reader.shot("paused-without-scripts")


def test_a_page_can_be_walked_by_the_keyboard_alone(running: Running, browser: Browser) -> None:
    reader = Reader.of(browser, running.url).sign_in("ada").open("/tenants/acme")
    reader.page.keyboard.press("Tab")
    expect(reader.page.get_by_text("Skip to the content")).to_be_focused()
    reader.page.keyboard.press("Enter")
    seen = set()
    for _ in range(40):
        reader.page.keyboard.press("Tab")
        seen.add(reader.page.evaluate("document.activeElement.textContent.trim()"))
    assert "Set up a key that you upload (BYOK)" in seen
    assert "Revoke" not in seen, "a standard tenant has no key to revoke"


def test_progress_comes_alive_without_loading_the_page_again(running: Running, browser: Browser) -> None:
    reader = Reader.of(browser, running.url).sign_in("ada")
    reader.open(f"/tenants/acme/operations/{running.enable}")  # type: ignore[attr-defined]
    where = {
        "phase_title": "close the gate",
        "phase_number": 3,
        "phases": 7,
        "step": "freeze/2-settle",
        "step_title": "wait until every write is refused",
    }
    running.orders.tell(running.enable, "step", where)  # type: ignore[attr-defined]
    expect(reader.page.locator("#phase")).to_contain_text("Phase 3 of 7")
    running.orders.tell(running.enable, "wait", {**where, "reason": "archive's writes to s1 to be refused"})  # type: ignore[attr-defined]
    expect(reader.page.locator("#wait")).to_contain_text("Waits: archive's writes")
    reader.shot("operation-waits")


def test_the_warning_of_a_rotation_stands_until_it_is_confirmed(running: Running, browser: Browser) -> None:
    viewer = Reader.of(browser, running.url).sign_in("vivian").open("/tenants/acme-two/archive")
    expect(viewer.page.get_by_role("alert")).to_contain_text("paused until you confirm")
    expect(viewer.page.get_by_role("button", name="confirm")).to_have_count(0)
    admin = Reader.of(browser, running.url).sign_in("ada").open("/tenants/acme-two")
    admin.page.get_by_role("button", name="Yes, we rotated it: confirm").click()
    expect(admin.page.locator("#state")).to_have_text("Queued")
    viewer.open("/tenants/acme-two")
    expect(viewer.page.get_by_role("alert")).to_be_visible()  # asking is not yet confirming
    order = next(one for one in running.orders.of("acme-two") if one.kind is Kind.CONFIRM)
    assert (order.state, order.asked_by["name"]) == ("queued", "Ada")
    running.orders.end(order.id, "refused", said={"code": "x", "message": "played by a test", "hint": None})


def test_a_revocation_takes_the_phrase_and_a_fresh_sign_in(running: Running, browser: Browser) -> None:
    reader = Reader.of(browser, running.url).sign_in("grace", to="/tenants/globex-one/close?kind=revoke")
    button = reader.page.get_by_role("button", name="Revoke now")
    reader.page.get_by_label("Why?").fill("a leak")
    expect(button).to_be_disabled()
    reader.page.get_by_label("To go on type").fill("revoke globex-one")
    expect(button).to_be_enabled()
    reader.shot("revoke-typed")
    assert reader.violations() == []
    button.click()
    expect(reader.page.locator("#state")).to_have_text("Queued")
    order = running.orders.of("globex-one")[-1]
    assert json.dumps(order.wanted) == '{"reason": "a leak"}', "the phrase is asked for and not kept"
    running.orders.end(order.id, "refused", said={"code": "x", "message": "played by a test", "hint": None})


def test_the_hash_of_the_chosen_file_is_compared_in_the_browser(running: Running, browser: Browser) -> None:
    reader = Reader.of(browser, running.url).sign_in("ada").open("/tenants/acme/byok")
    # Without a cloud there is no empty key; the form's own behaviour is what this looks at.
    reader.page.evaluate(
        """() => { const form = document.createElement('form'); form.dataset.upload = '';
        form.innerHTML = '<div class="drop"><input id="file" type="file"></div><input id="sha256"><p id="sha-note"></p>';
        document.querySelector('main').append(form); upload(form); }"""
    )
    reader.page.locator("#file").set_input_files(
        {"name": "w.bin", "mimeType": "application/octet-stream", "buffer": b"abc"}
    )
    reader.page.locator("#sha256").fill("0" * 64)
    expect(reader.page.locator("#sha-note")).to_have_text("It does not fit the file that you chose.")
    reader.page.locator("#sha256").fill("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    expect(reader.page.locator("#sha-note")).to_have_text("It fits the file.")

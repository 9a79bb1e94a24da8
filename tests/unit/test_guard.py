"""When a run may go on: the stack file against the tenant record."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import layouts
import pytest

from stacks import guard, record
from stacks.config import TenantSettings
from stacks.errors import GuardError
from stacks.guard import judge
from stacks.layout import Layout
from stacks.record import TenantRecord

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)


def recorded(layout: Layout, **values: object) -> TenantRecord:
    made = TenantRecord(name="acme", customer="acme-corp", generation=4, digest=layout.digest(), layout=layout)
    return dataclasses.replace(made, **values)


def rendered(layout: Layout, *, generation: int = 4, digest: str | None = None, **values: object) -> TenantSettings:
    held = {"generation": generation, "digest": digest or layout.digest(), "layout": layout.model_dump(mode="json")}
    return layouts.settings(**{"keyMode": str(layout.mode), "layout": held, **values})


def refused(settings: TenantSettings, held: TenantRecord | None, *, fence: int | None = None) -> GuardError:
    with pytest.raises(GuardError) as caught:
        judge(settings, held, fence=fence, now=NOW)
    return caught.value


def test_a_stack_file_that_agrees_with_the_record_is_built():
    layout = layouts.enable_done()
    admitted = judge(rendered(layout), recorded(layout), fence=None, now=NOW)
    assert (admitted.layout, admitted.generation, admitted.is_new) == (layout, 4, False)


def test_a_stale_generation_is_refused_with_the_command_that_mends_it():
    layout = layouts.enable_done()
    error = refused(rendered(layouts.standard(), generation=3), recorded(layout))
    assert "at generation 3" in error.message
    assert "the record at generation 4" in error.message
    assert error.hint == "keyshift stack render acme"


def test_a_layout_of_the_right_generation_but_another_content_is_refused():
    error = refused(rendered(layouts.enable_served()), recorded(layouts.enable_done()))
    assert "the record at generation 4" in error.message


def test_a_layout_edited_by_hand_is_refused():
    layout = layouts.enable_done()
    edited = layouts.changed(layout, storages=(*layout.storages, *layouts.standard().storages))
    error = refused(rendered(edited, digest=layout.digest()), recorded(layout))
    assert "edited by hand" in error.message
    assert error.hint == "keyshift stack render acme"


def test_the_layout_of_another_tenant_is_refused():
    other = layouts.changed(layouts.standard(), tenant="other")
    assert "holds the layout of tenant other" in refused(rendered(other), recorded(other)).message


def test_a_layout_without_a_record_is_refused():
    error = refused(rendered(layouts.standard()), None)
    assert "no record of that tenant" in error.message
    assert "KEYSHIFT_DATABASE_URL" in error.hint


def test_a_live_lease_of_somebody_else_is_refused_by_the_holders_name():
    layout = layouts.standard()
    held = recorded(layout, lease_owner="host-a:17", lease_fence=9, lease_until=NOW + timedelta(seconds=30))
    error = refused(rendered(layout), held)
    assert "being worked on by host-a:17" in error.message


def test_the_holder_of_the_lease_passes_and_so_does_a_person_once_it_has_run_out():
    layout = layouts.standard()
    held = recorded(layout, lease_owner="host-a:17", lease_fence=9, lease_until=NOW + timedelta(seconds=30))
    assert judge(rendered(layout), held, fence=9, now=NOW)
    assert judge(rendered(layout), held, fence=None, now=NOW + timedelta(seconds=31))


def test_a_runner_whose_lease_went_on_is_refused_even_when_no_lease_lives():
    layout = layouts.standard()
    error = refused(rendered(layout), recorded(layout, lease_fence=9), fence=8)
    assert "under fence 8" in error.message


def test_a_sealed_tenant_is_not_opened_by_an_up_but_may_be_closed_by_one():
    layout = layouts.standard()
    assert "is sealed" in refused(rendered(layout), recorded(layout, sealed=True)).message
    closed = layouts.sealed(layout)
    assert judge(rendered(closed), recorded(closed, sealed=True), fence=None, now=NOW)


def test_the_name_of_a_deleted_tenant_is_refused():
    layout = layouts.standard()
    assert "its name is not used again" in refused(layouts.settings(), recorded(layout, archived=True)).message


def test_a_tenant_that_is_only_words_gets_its_first_layout():
    admitted = judge(layouts.settings(), None, fence=None, now=NOW)
    assert (admitted.layout, admitted.generation, admitted.is_new) == (layouts.standard(), 1, True)


def test_words_that_still_describe_an_existing_tenant_are_fine():
    admitted = judge(layouts.settings(), recorded(layouts.standard()), fence=None, now=NOW)
    assert (admitted.generation, admitted.is_new) == (4, False)


def test_another_key_mode_for_an_existing_tenant_is_refused_without_a_layout_in_the_file():
    error = refused(layouts.settings(keyMode="byok"), recorded(layouts.standard()))
    assert (
        "describes a new tenant in mode byok, but the tenant exists at generation 4 in mode standard" in error.message
    )


def test_another_key_mode_for_an_existing_tenant_is_refused_beside_a_layout():
    layout = layouts.standard()
    error = refused(rendered(layout, keyMode="byok"), recorded(layout))
    assert "changes its mode by an operation" in error.message
    assert "keyshift enable acme --mode byok" in error.hint


def test_another_customer_beside_a_layout_is_refused():
    layout = layouts.standard()
    assert "keyshift:customer is evil-corp" in refused(rendered(layout, customer="evil-corp"), recorded(layout)).message


def test_a_preview_of_a_new_tenant_writes_nothing_and_an_up_makes_the_record(tmp_path, monkeypatch):
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    monkeypatch.delenv(guard.FENCE_VARIABLE, raising=False)
    engine = record.connect(tmp_path)
    assert guard.admit(layouts.settings(), engine, is_preview=True).is_new
    assert record.find(engine, "acme") is None
    guard.admit(layouts.settings(), engine, is_preview=False)
    made = record.find(engine, "acme")
    assert made is not None
    assert (made.generation, made.layout, made.digest) == (1, layouts.standard(), layouts.standard().digest())
    again = guard.admit(layouts.settings(), engine, is_preview=False)
    assert (again.generation, again.is_new) == (1, False), "the second up of the same words is an ordinary one"


def test_of_two_first_ups_at_once_one_is_refused(tmp_path):
    engine = record.connect(tmp_path)
    record.insert(engine, layouts.standard())
    with pytest.raises(record.NameTaken):
        record.insert(engine, layouts.standard())


def test_a_record_reads_back_as_it_was_written(tmp_path):
    engine = record.connect(tmp_path)
    layout = layouts.enable_frozen()
    record.insert(engine, layout)
    with engine.begin() as connection:
        connection.execute(
            record.TENANTS.update().values(lease_owner="host-a:17", lease_fence=3, lease_until=NOW.isoformat())
        )
    found = record.find(engine, "acme")
    assert found is not None
    assert found.layout.digest() == layout.digest() == found.digest
    assert (found.lease_owner, found.lease_fence, found.lease_until) == ("host-a:17", 3, NOW)


def test_a_fence_that_is_no_number_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(guard.FENCE_VARIABLE, "many")
    with pytest.raises(GuardError, match="must be a whole number"):
        guard.admit(layouts.settings(), record.connect(tmp_path), is_preview=True)

"""Outages: what passes by itself is told from what does not, and is not waited for without end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fake_s3 import error

from migrate import outage
from migrate.aws import explained
from migrate.aws_cloud import AwsCloud
from migrate.errors import CloudError, KeyshiftError, KeyUnavailable, VerificationFailed
from migrate.moves import KeyLost, Moves
from migrate.outage import Window, passes_by_itself


@pytest.mark.parametrize("code", ["SlowDown", "ThrottlingException", "ServiceUnavailable", "503", "unreachable", "429"])
def test_throttling_and_a_service_that_is_down_pass_by_themselves(code: str) -> None:
    assert passes_by_itself(CloudError("no", cloud_code=code))


@pytest.mark.parametrize(
    "error",
    [
        CloudError("no", cloud_code="AccessDenied"),
        CloudError("no", cloud_code="RequestTimeTooSkewed"),
        KeyUnavailable("no", cloud_code="503"),
        VerificationFailed("no"),
        KeyshiftError("no"),
    ],
    ids=["denied", "clock", "key", "verification", "ours"],
)
def test_what_somebody_has_to_mend_does_not(error: KeyshiftError) -> None:
    assert not passes_by_itself(error), "waiting for it would only hide it"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    fake = SimpleNamespace(now=1000.0)
    fake.monotonic = lambda: fake.now
    monkeypatch.setattr(outage, "time", fake)
    return fake


def test_an_outage_is_waited_for_from_its_own_beginning_not_from_the_steps(clock: SimpleNamespace) -> None:
    window = Window(600.0, limit=180.0)
    clock.now += 36_000  # a copy that has run for ten hours
    assert window.allows_another_look()
    clock.now += 179
    assert window.allows_another_look()


def test_an_outage_that_does_not_end_is_not_waited_for_longer_than_its_limit(clock: SimpleNamespace) -> None:
    window, looks = Window(600.0, limit=180.0), 0
    while window.allows_another_look():
        looks += 1
        clock.now += 2
    assert looks == 90


def test_an_outage_after_a_while_of_quiet_is_a_new_one(clock: SimpleNamespace) -> None:
    window = Window(600.0, limit=180.0)
    assert window.allows_another_look()
    clock.now += 1000
    assert window.allows_another_look()


def test_who_has_no_patience_does_not_wait(clock: SimpleNamespace) -> None:
    assert not Window(0.0).allows_another_look()


# a key under a throttled KMS --------------------------------------------------------------------


def moves_under(code: str, status: int) -> Moves:
    def generate_data_key(**_: object) -> None:
        raise error(code, status, operation="GenerateDataKey")

    unit = SimpleNamespace(key="k1")
    live = SimpleNamespace(
        client=lambda *_: SimpleNamespace(generate_data_key=generate_data_key),
        key_arn=lambda key: f"arn:{key}",
        layout=SimpleNamespace(tenant="acme", storages=(unit,), searches=()),
        outputs={"keys": {"k1": {}}},
    )
    live.cloud = AwsCloud(live)
    operation = SimpleNamespace(request=SimpleNamespace(ended=()))
    return Moves(live=live, operation=operation, folder=None, verdicts=None, log=None, report=lambda _: None)


def test_a_throttled_kms_says_nothing_about_a_key() -> None:
    moves = moves_under("ThrottlingException", 400)
    assert moves.lost_key() is None
    with pytest.raises(CloudError) as failed:
        moves.key_refusal("k1")
    assert passes_by_itself(failed.value), "it is waited for as an outage, not as a customer's key"


def test_a_clock_that_is_off_says_nothing_about_a_key() -> None:
    moves = moves_under("RequestTimeTooSkewed", 403)
    assert moves.lost_key() is None
    with pytest.raises(CloudError) as failed:
        moves.key_refusal("k1")
    assert failed.value.code == "clock"


def test_a_disabled_key_is_lost() -> None:
    lost = moves_under("DisabledException", 400).lost_key()
    assert isinstance(lost, KeyLost)
    assert "DisabledException" in lost.message


def test_an_answer_that_broke_off_is_asked_for_again_but_a_head_never_says_more() -> None:
    assert passes_by_itself(explained(error("400", 400, "Bad Request", operation="GetObject"), "reading"))
    assert not passes_by_itself(explained(error("400", 400, "Bad Request", operation="HeadObject"), "reading"))


# a clock that is off ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
        ("SignatureDoesNotMatch", "Signature expired: 20260102T030405Z is now earlier than 20260102T030905Z"),
        ("InvalidSignatureException", "Signature not yet current: 20260102T030405Z is still later than"),
    ],
)
def test_a_clock_that_is_off_is_named_and_is_no_outage(code: str, said: str) -> None:
    failed = explained(error(code, 403, said), "copying")
    assert (failed.code, "clock" in failed.hint) == ("clock", True)
    assert not passes_by_itself(failed)


def test_a_wrong_signature_is_not_blamed_on_the_clock() -> None:
    failed = explained(
        error("SignatureDoesNotMatch", 403, "The request signature we calculated does not match"), "copying"
    )
    assert failed.code != "clock"

"""A process of an engine's run that was killed is told apart from a refusal, which is never repeated."""

from __future__ import annotations

import pytest
from pulumi.automation import CommandResult
from pulumi.automation.errors import create_command_error

from migrate.errors import CloudError
from migrate.stack import EngineDied, _told

DEATHS = {
    "the engine": (-9, ""),
    "a plugin at work": (255, "error: rpc error: code = Unavailable desc = error reading from server: EOF"),
    "a plugin that was starting": (
        255,
        "Detected that /x/aws exited prematurely.\nerror: could not read plugin [/x/aws]: exit status -1",
    ),
    "the program": (255, "error: an unhandled error occurred: program exited with non-zero exit code: -9"),
}


@pytest.mark.parametrize(("code", "said"), DEATHS.values(), ids=DEATHS)
def test_a_death_is_told_apart(code: int, said: str) -> None:
    with pytest.raises(EngineDied), _told("up", "tenant-acme"):
        raise create_command_error(CommandResult(stdout="", stderr=said, code=code))


@pytest.mark.parametrize(
    "said",
    [
        "error: creating S3 Bucket: AccessDenied: no identity-based policy allows it",
        "error: no resource plugin 'pulumi-resource-aws' found in the workspace or on your $PATH",
    ],
    ids=["the cloud", "a plugin that is not installed"],
)
def test_a_refusal_is_no_death(said: str) -> None:
    with pytest.raises(CloudError) as failed, _told("up", "tenant-acme"):
        raise create_command_error(CommandResult(stdout="", stderr=said, code=255))
    assert not isinstance(failed.value, EngineDied), "it would be tried again and again"

"""What can go wrong, sorted by what the operator can do about it.

Only the CLI turns an error into an exit code; everything below raises. `message` says what was
found and what would have happened, `hint` is the next thing to do, `code` is stable for machines.
Both texts begin small and end without a full stop: the CLI puts them into a line of its own.
"""

from __future__ import annotations

NEVER_MADE = frozenset({"NoSuchBucket", "ContainerNotFound", "ResourceNotFound"})
"""The clouds' words for a storage that does not exist."""
NOT_THERE = frozenset({"404", "NoSuchKey", "NoSuchVersion", "BlobNotFound"})
"""Their words for an object, or a version of it, that does not. A HEAD of S3's has no word but the status."""


class KeyshiftError(Exception):
    """The base of every error this product raises on purpose."""

    exit_code = 1
    default_code = "failed"

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.default_code

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class RefusedInput(KeyshiftError):
    """The operator gave something that cannot be used. Nothing was changed; give it again, mended."""

    exit_code = 2
    default_code = "refused-input"


class Waiting(KeyshiftError):
    """Nothing is wrong: a person, a key or a service has to act first. Run the command again then."""

    exit_code = 3
    default_code = "waiting"

    def __init__(self, message: str, *, waits_for: str, hint: str = "", code: str | None = None) -> None:
        super().__init__(message, hint=hint, code=code)
        self.waits_for = waits_for


class KeyLost(Waiting):
    """A customer's key that is in use cannot be used. It is waited for, and the step is done again."""

    def __init__(self, tenant: str, key: str, said: str) -> None:
        self.key, self.said = key, said
        super().__init__(
            f"the key {key} of tenant {tenant} cannot be used: KMS answered {said}",
            waits_for=f"the key {key}",
            hint=f"have it enabled, then: keyshift resume {tenant}",
            code="key-unusable",
        )


class CloudError(KeyshiftError):
    """A cloud refused or failed a call. `cloud_code` is the cloud's own word for it."""

    default_code = "cloud"

    def __init__(self, message: str, *, cloud_code: str = "", hint: str = "", code: str | None = None) -> None:
        super().__init__(message, hint=hint, code=code)
        self.cloud_code = cloud_code


class KeyUnavailable(CloudError):
    """Data could not be read or written because its key is disabled, gone, or no longer open to us."""

    default_code = "key-unavailable"


class VerificationFailed(KeyshiftError):
    """Two sides that must be equal are not, or there was nothing to compare. The source is untouched."""

    default_code = "verification-failed"


class Conflict(KeyshiftError):
    """Something else wrote where only this operation may. Nothing of it was overwritten or deleted."""

    default_code = "conflict"

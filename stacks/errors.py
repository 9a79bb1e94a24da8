"""What the program refuses. Texts begin small and end without a full stop: Pulumi puts them into a line."""

from __future__ import annotations


class StackRefused(Exception):
    """Nothing was changed. `message` says what was found, `hint` is the next thing to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(StackRefused):
    """The stack's configuration cannot be used as it is."""


class GuardError(StackRefused):
    """The tenant record does not allow this run."""

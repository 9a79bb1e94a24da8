"""What a call of the plugin can end with, other than a cloud's own error, which is passed on as it is."""

from __future__ import annotations


class ProviderError(Exception):
    """A refusal in the provider's own words."""


class GoneError(Exception):
    """What a call is about does not exist (any more)."""

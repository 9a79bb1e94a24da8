"""Whom a tenant's rights are given to: one role each. Plain names, for those who need no policies."""

from __future__ import annotations

ARCHIVE, PIPELINE, RUNNER = "archive", "pipeline", "runner"
AUDIENCES = (ARCHIVE, PIPELINE, RUNNER)
WRITERS = (ARCHIVE, PIPELINE)
"""Who writes to a serving storage, beside the runner: whom a freeze has to see refused. A test holds it to the policies."""

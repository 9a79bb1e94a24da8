"""The Pulumi program: reads the configuration, asks the guard, builds one stamp or one tenant."""

from pathlib import Path

import pulumi

import components.lean  # noqa: F401 - first: it decides how much of the SDKs the modules below import
from stacks import guard, stamp, tenant
from stacks.config import StampSettings, read_settings
from stacks.errors import StackRefused
from stacks.record import connect

try:
    settings = read_settings()
    records = connect(Path(pulumi.get_root_directory()) / ".keyshift")
    if isinstance(settings, StampSettings):
        generation, outputs = 1, stamp.build(settings, records)
    else:
        admitted = guard.admit(settings, records, is_preview=pulumi.runtime.is_dry_run())
        generation, outputs = admitted.generation, tenant.build(admitted.layout)
except StackRefused as refused:
    raise pulumi.RunError(str(refused)) from refused

for name, value in outputs.items():
    pulumi.export(name, value)
# The very last statement: its presence proves that the program came to its end.
pulumi.export("generation", generation)

"""What waits until it is used: that it waits, and that nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys
from engine.lazy import LATE, import_late
import_late()
import_late()
import pulumi
kinds = {name: type(sys.modules[name]).__name__ for name in LATE if name in sys.modules}
loaded = [name for name in ("dill._dill", "pulumi.automation._local_workspace", "yaml") if name in sys.modules]
from pulumi import automation
import dill
copy = dill.loads(dill.dumps(lambda value: value + 1))
print(json.dumps([kinds, loaded, automation.LocalWorkspace.__name__, copy(1)]))
"""


def test_what_a_program_seldom_uses_is_imported_when_it_is_used():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    kinds, loaded, name, value = json.loads(done.stdout)
    assert set(kinds.values()) == {"_LazyModule"}
    assert loaded == [], "the SDK alone must bring none of it"
    assert (name, value) == ("LocalWorkspace", 2), "and all of it is there once it is asked for"

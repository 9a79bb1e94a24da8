"""The program's imports: the same classes, fewer modules."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from components.lean import snake_case

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, sys
{first}
import pulumi_aws as aws
import stacks.guard, stacks.stamp, stacks.tenant
from pulumi_elasticstack import _utilities
told = lambda one: [type(one).__name__, one.__module__ if hasattr(one, "__module__") else "", one.__name__]
found = {{name: told(getattr(getattr(aws, name.split(".")[0]), name.split(".")[1])) for name in {names}}}
print(json.dumps({{
    "found": found,
    "modules": [name for name in sys.modules if name.startswith("pulumi_aws.")],
    "version": _utilities.get_version(),
    "pkg_resources": "pkg_resources" in sys.modules,
}}))
"""


def imported(first: str, names: list[str]) -> dict:
    """What a new process finds of the SDKs after importing the program's modules."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM.format(first=first, names=names)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def used() -> list[str]:
    """Every `aws.<service>.<Name>` of the program's source."""
    text = "\n".join(path.read_text() for folder in ("components", "stacks") for path in (ROOT / folder).rglob("*.py"))
    return sorted({f"{service}.{name}" for service, name in re.findall(r"\baws\.([a-z0-9_]+)\.([A-Z]\w+)", text)})


def test_everything_that_the_components_use_is_the_same_class_from_fewer_modules() -> None:
    names = used()
    assert "s3.BucketServerSideEncryptionConfigurationRuleArgs" in names
    plain, lean = imported("", names), imported("import components.lean", names)
    assert lean["found"] == plain["found"]
    assert lean["version"] == plain["version"], "the engine is asked for the plugin of this version"
    assert (plain["pkg_resources"], lean["pkg_resources"]) == (True, False)
    assert set(lean["modules"]) < set(plain["modules"])
    assert not [name for name in lean["modules"] if name.startswith("pulumi_aws.s3.bucket_v2")]


def test_a_name_that_no_module_of_its_own_holds_makes_the_package_whole() -> None:
    rare = ["s3.get_bucket", "s3.BucketV2", "iam.get_policy_document", "cloudwatch.MetricAlarm", "kms.outputs"]
    assert imported("import components.lean", rare)["found"] == imported("", rare)["found"]


def test_a_name_that_the_sdk_does_not_have_is_an_error_as_ever() -> None:
    code = "import components.lean, pulumi_aws as aws\ntry: aws.s3.Buckets\nexcept AttributeError as e: print(e)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "module 'pulumi_aws.s3' has no attribute 'Buckets'\n"


def test_the_program_imports_it_before_any_sdk() -> None:
    lines = (ROOT / "stacks" / "__main__.py").read_text().splitlines()
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert imports[2].startswith("import components.lean"), imports
    assert imports[:2] == ["from pathlib import Path", "import pulumi"], "neither is one of the SDKs"


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("Bucket", "bucket"),
        ("BucketPolicyArgs", "bucket_policy"),
        ("EventSourceMapping", "event_source_mapping"),
        ("BucketV2", "bucket_v2"),
        ("get_key", "get_key"),
    ],
)
def test_the_module_of_a_class_is_named_after_it(name: str, module: str) -> None:
    assert snake_case(name) == module

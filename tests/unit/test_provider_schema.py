"""The committed schema against the SDKs that are installed."""

from __future__ import annotations

import pytest

from sandbox.provider import introspect, schema
from sandbox.provider.kinds import kind_of

# the SDK's own deprecated classes warn as they are imported
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TOKENS = sorted(introspect.RESOURCES)


def test_the_committed_schema_is_the_installed_sdks() -> None:
    committed = schema.SCHEMA_FILE.read_text(encoding="utf-8")
    assert committed == introspect.render(introspect.generate()), (
        "an SDK has changed: run `python -m sandbox.provider.schema`, or Check refuses what the real provider takes"
    )


def test_names_are_the_wires_and_requirements_the_sdks() -> None:
    encryption = schema.load("aws").resources[
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration"
    ]
    assert encryption.inputs["bucket"] == schema.Property("string", is_required=True)
    assert encryption.inputs["expectedBucketOwner"] == schema.Property("string", is_required=False)
    rule = schema.load("aws").types["s3.BucketServerSideEncryptionConfigurationRule"]
    assert rule["applyServerSideEncryptionByDefault"].type.startswith("#"), "a nested object names its own type"


def test_an_output_that_the_service_fills_in_is_told_from_one_that_it_may_leave_out() -> None:
    outputs = schema.load("aws").resources["aws:kms/externalKey:ExternalKey"].outputs
    assert outputs["keyState"], "unknown in a preview"
    assert not outputs["description"], "absent in a preview, if the program says nothing"


@pytest.mark.parametrize("token", TOKENS)
def test_every_type_has_its_calls_and_speaks_of_properties_that_exist(token: str) -> None:
    kind = kind_of(token)
    described = schema.load(token.partition(":")[0]).resources[token]
    inputs = {
        *kind.defaults,
        *kind.force_new,
        *kind.policies,
        *kind.documents,
        *kind.sets,
        *kind.partial,
        *kind.same,
        *kind.unsupported,
    }
    if "expectedBucketOwner" not in described.inputs:
        inputs -= {"expectedBucketOwner"}  # said once for all parts of a bucket
    assert inputs <= described.inputs.keys(), "a misspelt name would have no effect"
    outputs = {*kind.secrets, *kind.computed, *kind.absent, *kind.volatile}
    assert outputs <= described.outputs.keys(), "a misspelt name would have no effect"
    if kind.autoname:
        assert kind.autoname.property in described.inputs

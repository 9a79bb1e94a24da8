"""Every name that a tenant can lead to is one that its vendor takes, and no two things share one."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from components import naming

ACCOUNT, REGION = "111122223333", "ap-southeast-2"

tenants = st.from_regex(r"[a-z][a-z0-9-]{1,30}[a-z0-9]", fullmatch=True)
numbers = st.integers(min_value=1, max_value=9999)


def bucket(tenant: str, storage: str) -> str:
    return naming.dedicated_bucket(tenant=tenant, storage=storage, account=ACCOUNT, region=REGION)


@given(tenants, numbers)
def test_every_tenant_name_that_is_accepted_fits_every_vendors_limit(tenant, number):
    assert naming.tenant_name(tenant) == tenant
    fits = {
        bucket(tenant, f"s{number}"): (naming.S3_BUCKET_NAME_LIMIT, r"[a-z0-9][a-z0-9-]*[a-z0-9]"),
        naming.role(tenant, "pipeline"): (naming.IAM_ROLE_NAME_LIMIT, r"[\w+=,.@-]+"),
        naming.dead_letter_queue(tenant, f"p{number}"): (naming.SQS_QUEUE_NAME_LIMIT, r"[A-Za-z0-9_-]+"),
        naming.pipeline(tenant, f"p{number}"): (
            min(naming.LAMBDA_FUNCTION_NAME_LIMIT, naming.EVENT_RULE_NAME_LIMIT),
            r"[A-Za-z0-9_-]+",
        ),
        naming.secret(tenant, f"e{number}", "pipeline"): (naming.SECRET_NAME_LIMIT, r"[A-Za-z0-9/_+=.@-]+"),
    }
    for name, (limit, pattern) in fits.items():
        assert len(name) <= limit, name
        assert re.fullmatch(pattern, name, re.ASCII), name
    assert not bucket(tenant, f"s{number}").endswith(("-s3alias", "--ol-s3", "--x-s3", "--table-s3")), (
        "S3 reserves these"
    )


@given(tenants, tenants, numbers, numbers)
def test_two_tenants_or_two_units_never_share_a_name(one, other, first, second):
    assume((one, first) != (other, second))
    assert bucket(one, f"s{first}") != bucket(other, f"s{second}")
    queues = {
        (t, n): {naming.pipeline(t, f"p{n}"), naming.dead_letter_queue(t, f"p{n}")}
        for t, n in ((one, first), (other, second))
    }
    assert not set.intersection(*queues.values())
    if one != other:
        assert naming.shared_prefix(one) != naming.shared_prefix(other)
        assert not naming.shared_prefix(one).startswith(naming.shared_prefix(other)), "one entity would hold another"


@given(tenants, tenants, numbers)
def test_the_pattern_of_a_tenants_buckets_matches_no_other_tenants(one, other, number):
    assume(one != other)
    pattern = re.compile(
        re.escape(naming.dedicated_bucket_pattern(tenant=one, account=ACCOUNT, region=REGION)).replace(r"\*", ".*")
    )
    assert pattern.fullmatch(bucket(one, f"s{number}"))
    assert not pattern.fullmatch(bucket(other, f"s{number}")), (
        "a key policy would open one tenant's key to another's bucket"
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ab", "has 2 characters"),
        ("a" * 33, "has 33 characters"),
        ("Acme", "lower-case"),
        ("acme_1", "lower-case"),
        ("1acme", "begin with a letter"),
        ("acme-", "end with a letter or digit"),
        ("acme.eu", "lower-case"),
        ("acmé", "lower-case"),
    ],
)
def test_a_tenant_name_that_a_bucket_cannot_carry_is_refused_with_the_reason(name, reason):
    with pytest.raises(ValueError, match=reason):
        naming.tenant_name(name)


def test_the_shared_bucket_of_the_longest_stamp_fits():
    stamp = naming.stamp_stack("aws", "ap-southeast-2", 99)
    name = naming.shared_bucket(stamp=stamp, account=ACCOUNT, region=REGION)
    assert len(name) <= naming.S3_BUCKET_NAME_LIMIT


@pytest.mark.parametrize(
    ("cloud", "region", "name"),
    [
        ("aws", "eu-west-1", "eu-west-1"),
        ("aws", "eu-central-1", "aws-eu-central-1"),
        ("azure", "westeurope", "azure-westeurope"),
    ],
)
def test_elastic_cloud_has_its_own_names_for_regions(cloud, region, name):
    assert naming.elastic_region(cloud, region) == name

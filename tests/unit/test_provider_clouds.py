"""A sandbox's plugin never reaches a real cloud, whatever the shell around it says."""

from __future__ import annotations

import pytest

from sandbox.provider.clouds import Clouds
from sandbox.provider.errors import ProviderError


@pytest.mark.parametrize("url", ["https://kms.eu-west-1.amazonaws.com", "http://127.0.0.1.example.com:4566"])
def test_aws_elsewhere_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(ProviderError, match="does not lead to the sandbox"):
        Clouds({}).client("kms", "eu-west-1")


def test_elastic_cloud_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EC_ENDPOINT", raising=False)
    with pytest.raises(ProviderError, match="EC_ENDPOINT"):
        Clouds({}).elastic_cloud()
    with pytest.raises(ProviderError, match="EC_ENDPOINT"):
        Clouds({"endpoint": "https://cloud.example.com"}).elastic_cloud()


def test_a_cluster_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ELASTICSEARCH_ENDPOINTS", raising=False)
    with pytest.raises(ProviderError, match=r"elasticsearch\.endpoints"):
        Clouds({}).elasticsearch(None)
    with pytest.raises(ProviderError, match=r"elasticsearch\.endpoints"):
        Clouds({}).elasticsearch({"endpoints": ["https://cluster.example.com"]})


def test_nested_configuration_arrives_as_text_and_is_read() -> None:
    clouds = Clouds({"region": "eu-west-1", "defaultTags": '{"tags": {"a": "b"}}'})
    assert clouds.region == "eu-west-1"
    assert clouds.default_tags == {"a": "b"}

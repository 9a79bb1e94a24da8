"""What a stack file may say, and the one sentence that refuses the rest."""

from __future__ import annotations

import json

import graph
import layouts
import pulumi
import pytest
from graph import STAMP

from stacks.config import Rendered, StampSettings, TenantSettings, parse, read_settings
from stacks.errors import ConfigError
from stacks.first import first_layout
from stacks.layout import Cloud, KeyState, Mode

CUSTOMER = {"customer": "acme-corp"}


def test_a_stamps_name_says_everything_about_it():
    assert parse(STAMP, {}) == StampSettings(name=STAMP, cloud=Cloud.AWS, region="eu-west-1", number=1)


def test_region_and_stamp_each_follow_from_the_other():
    by_region = parse("tenant-acme", {**CUSTOMER, "region": "eu-west-1"})
    by_stamp = parse("tenant-acme", {**CUSTOMER, "stamp": STAMP})
    assert by_region == by_stamp
    assert isinstance(by_stamp, TenantSettings)
    assert (by_stamp.cloud, by_stamp.key_mode) == (Cloud.AWS, Mode.STANDARD)


@pytest.mark.parametrize(
    ("stack", "values", "sentence"),
    [
        ("acme", CUSTOMER, "'acme' is neither a stamp nor a tenant"),
        ("stamp-gcp-europe-01", {}, "'stamp-gcp-europe-01' is not the name of a stamp"),
        ("tenant-acme", {"stamp": STAMP}, "names no customer"),
        ("tenant-acme", CUSTOMER, "names no region"),
        ("tenant-Acme", {**CUSTOMER, "stamp": STAMP}, "must be lower-case letters"),
        ("tenant-ab", {**CUSTOMER, "stamp": STAMP}, "has 2 characters"),
        (
            "tenant-acme",
            {**CUSTOMER, "stamp": STAMP, "bucket": "x"},
            "keys that Keyshift does not know: keyshift:bucket",
        ),
        (
            "tenant-acme",
            {**CUSTOMER, "stamp": STAMP, "keyMode": "byokv"},
            "keyMode byokv is not offered on aws; choose one of: byok, byokms, standard",
        ),
        (
            "tenant-acme",
            {**CUSTOMER, "cloud": "azure", "region": "westeurope", "keyMode": "byokms"},
            "keyMode byokms is not offered on azure; choose one of: byok, byokv, standard",
        ),
        ("tenant-acme", {**CUSTOMER, "stamp": STAMP, "keyMode": "own"}, "key_mode: Input should be 'standard'"),
        (
            "tenant-acme",
            {**CUSTOMER, "stamp": STAMP, "region": "us-east-1"},
            "is in eu-west-1 on aws, but the tenant should be in us-east-1 on aws",
        ),
        ("tenant-acme", {**CUSTOMER, "stamp": STAMP, "layout": {"generation": 1}}, "rendered.digest: Field required"),
        ("tenant-acme", {**CUSTOMER, "stamp": STAMP, "layout": None}, None),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(stack, values, sentence):
    if sentence is None:
        assert parse(stack, values)
        return
    with pytest.raises(ConfigError) as refused:
        parse(stack, values)
    assert sentence in str(refused.value)


def test_a_rendered_layout_is_read_back_as_it_was_written():
    layout = layouts.enable_frozen()
    rendered = {"generation": 7, "digest": layout.digest(), "layout": layout.model_dump(mode="json")}
    settings = parse("tenant-acme", {**CUSTOMER, "stamp": STAMP, "layout": rendered})
    assert isinstance(settings, TenantSettings)
    assert settings.rendered == Rendered(generation=7, digest=layout.digest(), layout=layout)
    assert settings.rendered.layout.digest() == layout.digest(), "a digest must survive JSON and back"


def test_the_running_stacks_configuration_is_read_with_its_defaults():
    layout = layouts.standard()
    text = json.dumps({"generation": 1, "digest": layout.digest(), "layout": layout.model_dump(mode="json")})
    settings = _settings_of(
        "tenant-acme",
        {"keyshift:stamp": STAMP, "keyshift:customer": "acme-corp", "keyshift:layout": text, "aws:profile": "x"},
    )
    assert isinstance(settings, TenantSettings)
    assert settings.rendered is not None
    assert settings.rendered.layout == layout


def test_the_providers_region_is_taken_when_none_is_said():
    settings = _settings_of(
        "tenant-acme", {"keyshift:stamp": "", "keyshift:customer": "acme-corp", "aws:region": "eu-central-1"}
    )
    assert isinstance(settings, TenantSettings)
    assert settings.stamp == "stamp-aws-eu-central-1-01"


def test_an_unknown_key_in_the_stack_file_is_refused_by_name():
    with pytest.raises(ConfigError, match="keyshift:keymode"):
        _settings_of(
            "tenant-acme", {"keyshift:stamp": STAMP, "keyshift:customer": "x-corp", "keyshift:keymode": "byok"}
        )


def test_the_defaults_of_the_project_do_not_disturb_a_stamp():
    config = {
        "keyshift:cloud": "aws",
        "keyshift:region": "us-east-1",
        "keyshift:stamp": "",
        "keyshift:keyMode": "standard",
    }
    assert _settings_of(STAMP, config) == StampSettings.parse(STAMP)


def test_a_standard_tenant_is_whole_at_once():
    layout = first_layout(layouts.settings())
    assert layout.serves is not None
    assert (layout.serves.storage, layout.serves.search, layout.serves.pipeline) == ("s1", "e1", "p1")
    assert layout.keys == ()


def test_a_byok_tenant_begins_with_an_empty_key_and_serves_nothing():
    layout = first_layout(layouts.settings(keyMode="byok"))
    assert [(key.id, key.state) for key in layout.keys] == [("k1", KeyState.PENDING)]
    assert (layout.storages, layout.searches, layout.pipelines, layout.serves) == ((), (), (), None)


def test_a_byokms_tenant_begins_without_a_key_of_ours():
    layout = first_layout(layouts.settings(keyMode="byokms"))
    assert (layout.keys, layout.storages, layout.serves) == ((), (), None)


def _settings_of(stack: str, config: dict[str, str]) -> StampSettings | TenantSettings:
    found = []

    def program() -> dict[str, object]:
        pulumi.runtime.set_all_config(config)
        found.append(read_settings())
        return {}

    try:
        graph.run(program, stack=stack)
    finally:
        pulumi.runtime.set_all_config({})
    return found[0]

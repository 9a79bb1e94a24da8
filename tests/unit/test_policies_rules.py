"""Every rule as a function: what Keyshift makes passes, and each thing broken is found by exactly its rule."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import graph
import pulumi
import pytest
from pulumi.runtime import rpc
from test_stacks_graph import build, build_stamp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "policies"))

import mutations
from mutations import AWS, LAYOUTS, STAMP, Mutation

from policies.catalogue import RULES
from policies.judge import Judge
from policies.resource import UNKNOWN, Resource
from policies.rule import OnUnknown, Undecided
from stacks import stamp
from stacks.config import StampSettings
from stacks.layout import OFFERED, Layout
from stacks.record import connect


def resources(built: graph.Graph, layout: Layout | None, *, stack: str) -> tuple[list[Resource], list[Resource]]:
    """What the engine would show: each resource alone, and all of them with outputs and origins."""
    alone, whole = [], []
    for one in built.resources.values():
        urn = f"urn:pulumi:{stack}::keyshift::{one.type}::{one.name}"
        deps = {name: tuple(f"urn::{d}" for d in found) for name, found in origins(one).items()}
        inputs = plain(one.inputs)
        alone.append(Resource(urn=urn, type=one.type, props=inputs, protect=one.protect))
        whole.append(Resource(urn=urn, type=one.type, props=inputs | outputs(one), deps=deps, protect=one.protect))
    type_ = "pulumi:pulumi:Stack"
    said = {"layout": layout.model_dump(mode="json")} if layout else {}
    whole.append(Resource(urn=f"urn:pulumi:{stack}::keyshift::{type_}::{stack}", type=type_, props=said))
    return alone, whole


def origins(one: graph.Registered) -> dict[str, list[str]]:
    """Every input may come from whatever the resource depends on: the mocks tell no more."""
    keys = [name for name in one.depends_on if name.endswith("-key") and "api-key" not in name]
    where = {
        "rules": keys,
        "encryptionKeyPath": keys,
        "policy": keys,
        "redrivePolicy": [n for n in one.depends_on if n.endswith("-dead-letters")],
        "eventSourceArn": [n for n in one.depends_on if n.endswith("-queue")],
        "elasticsearchConnection": [n for n in one.depends_on if n.endswith("-deployment")],
    }
    return {name: found for name, found in where.items() if found}


def outputs(one: graph.Registered) -> dict[str, Any]:
    known = {
        "aws:kms/externalKey:ExternalKey": f"arn:aws:kms:{graph.REGION}:{graph.ACCOUNT}:key/{one.name}",
        "aws:kms/key:Key": f"arn:aws:kms:{graph.REGION}:{graph.ACCOUNT}:key/{one.name}",
        "aws:sqs/queue:Queue": f"arn:aws:sqs:{graph.REGION}:{graph.ACCOUNT}:{one.inputs.get('name')}",
    }
    return {"arn": known[one.type]} if one.type in known else {}


def plain(value: Any) -> Any:
    match value:
        case pulumi.output.Unknown() | rpc.UNKNOWN:
            return UNKNOWN
        case {rpc._special_sig_key: rpc._special_secret_sig, "value": secret}:
            return plain(secret)
        case dict():
            return {key: plain(one) for key, one in value.items()}
        case list():
            return [plain(one) for one in value]
    return value


def judged(
    alone: list[Resource], whole: list[Resource], settings: Mapping[str, Mapping[str, Any]] = {}
) -> list[tuple[str, str]]:
    """(rule, resource) of everything that is found."""
    judge = Judge()
    found = []
    for one in alone:
        judge.remember(one)
        for rule in RULES:
            said = judge.found(rule, one, settings.get(rule.id, {}))
            found += [(rule.id, one.name) for what in said if not isinstance(what, Undecided)]
    program = judge.program(whole)
    for rule in RULES:
        for violation in judge.found_in(rule, program, settings.get(rule.id, {})):
            found.append((rule.id, violation.urn.rpartition("::")[2]))
    return found


def program_of(name: str, tmp_path: Path, *, is_preview: bool = False) -> tuple[list[Resource], list[Resource]]:
    if name == STAMP:
        return resources(build_stamp(tmp_path, is_preview=is_preview), None, stack=graph.STAMP)
    layout = LAYOUTS[name]()
    return resources(build(layout, is_preview=is_preview), layout, stack="tenant-acme")


def broken(mutation: Mutation, alone: list[Resource], whole: list[Resource]) -> tuple[list[Resource], list[Resource]]:
    """What the engine would show of the program with this one thing changed."""

    def change(one: Resource) -> Resource | None:
        if one.name != mutation.resource:
            if mutation.said and one.type == "pulumi:pulumi:Stack":
                said = mutation.said(dict(one.props["layout"]))
                return replace(one, props={"layout": said} if said is not None else {})
            return one
        if mutation.drop:
            return None
        props = copy.deepcopy(dict(one.props))
        if mutation.change:
            mutation.change(props)
        return replace(one, props=props, protect=one.protect and not mutation.unprotect)

    added = []
    if mutation.add:
        type_, props = mutation.add
        added = [Resource(urn=f"urn:pulumi:tenant-acme::keyshift::{type_}::added", type=type_, props=props)]
    kept = [[found for one in held if (found := change(one)) is not None] for held in (alone, whole)]
    return [*kept[0], *added], [*kept[1], *added]


@pytest.mark.parametrize("is_preview", [False, True], ids=["known", "preview"])
@pytest.mark.parametrize("name", [*LAYOUTS, STAMP])
def test_what_keyshift_makes_breaks_no_rule(name, is_preview, tmp_path):
    assert judged(*program_of(name, tmp_path, is_preview=is_preview)) == []


ROTATED = {
    "made": {"vendor_keys": 2},
    "redirected": {"vendor_keys": 2, "vendor_key": 2},
    "archived": {"vendor_keys": 3, "vendor_key": 3, "oldest_vendor_key": 3},
}


@pytest.mark.parametrize("is_preview", [False, True], ids=["known", "preview"])
@pytest.mark.parametrize("keys", ROTATED.values(), ids=ROTATED)
def test_a_stamp_under_any_of_its_own_keys_breaks_no_rule_and_under_another_it_does(keys, is_preview, tmp_path):
    engine = connect(tmp_path)
    built = graph.run(
        lambda: stamp.build(StampSettings.parse(graph.STAMP, **keys), engine), stack=graph.STAMP, is_preview=is_preview
    )
    assert judged(*resources(built, None, stack=graph.STAMP)) == []
    if not is_preview:
        default = built.resources["shared-bucket-encryption"].inputs["rules"][0]["applyServerSideEncryptionByDefault"]
        default["kmsMasterKeyId"] = f"arn:aws:kms:{graph.REGION}:{graph.ACCOUNT}:key/0123abcd"
        found = judged(*resources(built, None, stack=graph.STAMP))
        assert {rule for rule, _ in found} == {"storage-under-its-own-key"}, found


@pytest.mark.parametrize("mutation", AWS, ids=lambda one: f"{one.rule}: {one.what}")
def test_a_thing_that_is_broken_is_found_by_exactly_its_rule(mutation, tmp_path):
    alone, whole = broken(mutation, *program_of(mutation.layout, tmp_path))
    found = judged(alone, whole, mutation.settings)
    assert {rule for rule, _ in found} == {mutation.rule}, found
    if mutation.resource and not mutation.drop:
        assert {name for _, name in found} == {mutation.resource}


def test_every_rule_of_a_program_on_aws_has_a_thing_that_breaks_it():
    here = {rule.id for rule in RULES if rule.cloud == "aws" and rule.check_change is None}
    assert {mutation.rule for mutation in AWS} == here


# unknowns -------------------------------------------------------------------------------------


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield from paths(one, (*path, key))


def unknown_at(value: Any, path: tuple[Any, ...]) -> Any:
    if not path:
        return UNKNOWN
    held = copy.copy(value)
    held[path[0]] = unknown_at(held[path[0]], path[1:])
    return held


def test_no_rule_stumbles_over_an_unknown_wherever_it_stands(tmp_path):
    judge, tried = Judge(), 0
    for name in ("byok_active", "enable_frozen", STAMP):
        alone, _ = program_of(name, tmp_path)
        for one in alone:
            for path in paths(one.props):
                if not path:
                    continue
                part = replace(one, props=unknown_at(dict(one.props), path))
                for rule in RULES:
                    judge.found(rule, part, {})
                    tried += one.type in rule.types
    assert tried > 500, "else this would prove little"


@pytest.mark.parametrize("rule", [r for r in RULES if r.check], ids=lambda rule: rule.id)
def test_an_unknown_is_judged_as_the_rule_says_it_is(rule, tmp_path):
    """DENIED: some unknown is a violation. UPDATE: some unknown is undecided. Never both silent and passed."""
    verdicts = set()
    for name in ("byok_active", "standard", STAMP):
        for one in program_of(name, tmp_path)[0]:
            if one.type not in rule.types:
                continue
            for property_ in one.props:
                held = replace(one, props={**one.props, property_: UNKNOWN})
                verdicts |= {
                    "undecided" if isinstance(found, Undecided) else "denied" for found in Judge().found(rule, held, {})
                }
    if rule.cloud == "azure" or rule.id in {"search-no-open-filter", "access-no-forbidden-kind", "keys-no-material"}:
        return  # nothing that Keyshift makes is of their kind, or has the property; see the tests of their own
    match rule.unknown:
        case OnUnknown.DENIED:
            assert verdicts == {"denied"}
        case OnUnknown.UPDATE:
            assert verdicts == {"undecided"}
        case OnUnknown.NONE | OnUnknown.ORIGIN:
            assert "undecided" not in verdicts


def test_material_that_is_not_known_yet_is_material():
    rule = next(rule for rule in RULES if rule.id == "keys-no-material")
    key = Resource("urn::k1-key", "aws:kms/externalKey:ExternalKey", {"keyMaterialBase64": UNKNOWN})
    assert Judge().found(rule, key, {}), "a secret from somewhere else would be in the state all the same"


def test_a_filter_whose_sources_are_not_known_is_taken_for_an_open_one():
    rule = next(rule for rule in RULES if rule.id == "search-no-open-filter")
    for rules in (UNKNOWN, [{"source": UNKNOWN}], []):
        one = Resource("urn::f", "ec:index/deploymentTrafficFilter:DeploymentTrafficFilter", {"rules": rules})
        assert Judge().found(rule, one, {})
    closed = Resource(
        "urn::f", "ec:index/deploymentTrafficFilter:DeploymentTrafficFilter", {"rules": [{"source": "10.1.2.0/24"}]}
    )
    assert Judge().found(rule, closed, {}) == []


def test_the_key_of_a_bucket_that_is_only_being_made_has_to_come_from_its_own_key(tmp_path):
    alone, whole = program_of("byok_active", tmp_path, is_preview=True)
    at = next(i for i, one in enumerate(whole) if one.name == "s1-bucket-encryption")
    whole[at] = replace(whole[at], deps={"rules": ("urn::k2-key",)})
    assert judged(alone, whole) == [("storage-under-its-own-key", "s1-bucket-encryption")]


@pytest.mark.parametrize(
    ("endpoint", "is_safe"),
    [
        ("https://acme-e1.es.example.com:443", True),
        ("http://127.0.0.1:9243", True),
        ("http://localhost:9243/path", True),
        ("http://127.0.0.1.example.com:9243", False),
        ("http://localhost@example.com", False),
        ("http://acme-e1.example.com", False),
    ],
)
def test_only_the_machine_itself_is_reached_without_tls(endpoint, is_safe, tmp_path):
    alone, whole = program_of("standard", tmp_path)
    alone = [
        replace(one, props={**one.props, "elasticsearchConnection": {"endpoints": [endpoint]}})
        if one.name == "e1-index"
        else one
        for one in alone
    ]
    assert judged(alone, whole) == ([] if is_safe else [("search-tls-only", "e1-index")])


# settings -------------------------------------------------------------------------------------


def test_no_setting_of_a_site_goes_below_what_the_vendor_demands(tmp_path):
    alone, whole = program_of("byok_active", tmp_path)
    mutation = next(one for one in AWS if one.rule == "keys-deletion-window")
    alone, whole = broken(mutation, alone, whole)
    assert judged(alone, whole, {"keys-deletion-window": {"deletion_window_days": 7}}) == []
    short = [replace(o, props={**o.props, "deletionWindowInDays": 3}) if o.name == "k1-key" else o for o in alone]
    assert judged(short, whole, {"keys-deletion-window": {"deletion_window_days": 1}}) == [
        ("keys-deletion-window", "k1-key")
    ]


def test_no_rule_about_encryption_has_a_setting():
    about = [rule for rule in RULES if "encrypt" in rule.id or "under-" in rule.id or rule.id.endswith("-key")]
    assert about
    assert not any(rule.settings for rule in about)


# the catalogue --------------------------------------------------------------------------------


def test_every_rule_says_what_a_reviewer_needs():
    ids = [rule.id for rule in RULES]
    assert len(set(ids)) == len(ids)
    for rule in RULES:
        assert rule.sentence.endswith("."), rule.id
        assert rule.remediation.endswith("."), rule.id
        assert rule.url.startswith("https://"), rule.id
        assert rule.controls, rule.id
        assert sum(one is not None for one in (rule.check, rule.check_program, rule.check_change)) == 1, rule.id


def test_the_policies_and_the_layouts_agree_on_which_mode_a_cloud_offers():
    from policies.facts import OFFERED as SAID

    assert {str(cloud): {str(mode) for mode in modes} for cloud, modes in OFFERED.items()} == SAID


def test_the_table_of_things_to_break_names_layouts_that_exist():
    assert {one.layout for one in mutations.AWS} <= {*LAYOUTS, STAMP}

"""Condition blocks of a policy statement, with three answers: they hold, they do not, nobody can tell.

"Nobody can tell" is an operator, a condition key or a policy variable that this sandbox does not
know. The caller of `holds` must take it cautiously: such a Deny applies, such an Allow does not.
Source of the semantics: IAM User Guide, reference_policies_elements_condition_operators and
reference_policies_multi-value-conditions; keys: KMS Guide, conditions-kms.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

ContextValue = str | list[str]

ENCRYPTION_CONTEXT = "kms:encryptioncontext:"
_SINGLE_VALUED = frozenset(
    {
        "kms:viaservice",
        "kms:calleraccount",
        "kms:keyorigin",
        "kms:requestalias",
        "kms:grantisforawsresource",  # only grant operations carry it, and there are none here: always absent
        "aws:principalarn",
        "aws:principalaccount",
        "aws:principalisawsservice",
        "aws:requestedregion",
    }
)
_MULTI_VALUED = frozenset({"kms:encryptioncontextkeys", "aws:principalorgpaths"})
# What AWS accepts in a document; those without an entry in _TESTS are accepted and cannot be judged.
_KNOWN_OPERATORS = frozenset(
    {
        *(f"string{n}{kind}" for n in ("", "not") for kind in ("equals", "like", "equalsignorecase")),
        *(f"{kind}{n}{test}" for kind in ("numeric", "date") for n in ("", "not") for test in ("equals",)),
        *(f"{kind}{test}" for kind in ("numeric", "date") for test in ("lessthan", "lessthanequals")),
        *(f"{kind}{test}" for kind in ("numeric", "date") for test in ("greaterthan", "greaterthanequals")),
        *(f"arn{n}{test}" for n in ("", "not") for test in ("equals", "like")),
        *("bool", "null", "binaryequals", "ipaddress", "notipaddress"),
    }
)
_SET_PREFIXES = ("forallvalues:", "foranyvalue:")


@lru_cache(maxsize=4096)
def pattern(text: str, *, ignore_case: bool = False) -> re.Pattern[str]:
    """`*` is any run of characters, `?` one character, everything else itself."""
    wild = {"*": ".*", "?": "."}
    body = "".join(wild.get(character) or re.escape(character) for character in text)
    return re.compile(body, re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def _like(value: str, wanted: str) -> bool:
    return pattern(wanted).fullmatch(value) is not None


def _arn_like(value: str, wanted: str) -> bool:
    """Each of the six colon-separated parts is matched by itself; ArnEquals is the same test."""
    value_parts, wanted_parts = value.split(":", 5), wanted.split(":", 5)
    if len(value_parts) != 6 or len(wanted_parts) != 6:
        return False
    return all(_like(part, want) for part, want in zip(value_parts, wanted_parts, strict=True))


_TESTS: dict[str, Callable[[str, str], bool]] = {
    "stringequals": lambda value, wanted: value == wanted,
    "stringequalsignorecase": lambda value, wanted: value.casefold() == wanted.casefold(),
    "stringlike": _like,
    "arnequals": _arn_like,
    "arnlike": _arn_like,
    "bool": lambda value, wanted: value.lower() == wanted.lower(),
}


def _split(operator: str) -> tuple[str, str, bool]:
    """The set prefix (or ""), the bare operator, whether IfExists; all in lower case."""
    name = operator.lower()
    prefix = next((p for p in _SET_PREFIXES if name.startswith(p)), "")
    name = name.removeprefix(prefix)
    return prefix, name.removesuffix("ifexists"), name.endswith("ifexists")


def is_operator(operator: str) -> bool:
    """Whether AWS would accept it in a policy document. Null takes no IfExists."""
    _, name, if_exists = _split(operator)
    return name in _KNOWN_OPERATORS and not (name == "null" and if_exists)


def _negated(name: str) -> tuple[str, bool]:
    for kind in ("string", "arn"):
        if name.startswith(f"{kind}not"):
            return kind + name.removeprefix(f"{kind}not"), True
    return name, False


def _known(key: str) -> bool:
    return key in _SINGLE_VALUED or key in _MULTI_VALUED or key.startswith(ENCRYPTION_CONTEXT)


def _key_holds(operator: str, key: str, wanted: list[str], context: Mapping[str, ContextValue]) -> bool | None:
    prefix, name, if_exists = _split(operator)
    key = key.lower()
    if not _known(key) or any("${" in value for value in wanted):
        return None
    found = context.get(key)
    if name == "null":
        return any((value.lower() == "true") == (found is None) for value in wanted)
    positive, is_negated = _negated(name)
    test = _TESTS.get(positive)
    if test is None:
        return None

    def satisfies(value: str) -> bool:
        return any(test(value, want) for want in wanted) is not is_negated

    if found is None or found == []:
        return if_exists or prefix == "forallvalues:" or (is_negated and not prefix)
    if prefix:
        values = found if isinstance(found, list) else [found]
        return (all if prefix == "forallvalues:" else any)(satisfies(value) for value in values)
    if isinstance(found, list):
        return None  # a multi-valued key without ForAllValues or ForAnyValue: AWS leaves the outcome undefined
    return satisfies(found)


def holds(conditions: Mapping[str, Mapping[str, list[str]]], context: Mapping[str, ContextValue]) -> bool | None:
    """Whether every condition holds; None when that hangs on one that cannot be judged.

    `context` has lower-case keys: condition key names are not case-sensitive, their values are.
    """
    answers = [
        _key_holds(operator, key, wanted, context)
        for operator, keys in conditions.items()
        for key, wanted in keys.items()
    ]
    if False in answers:
        return False
    return None if None in answers else True

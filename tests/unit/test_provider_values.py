"""Values on the wire, and the archive of a function."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from sandbox.provider.archive import zipped
from sandbox.provider.errors import ProviderError
from sandbox.provider.values import UNKNOWN, Archive, Asset, decode, encode, has_unknown

CODE = Archive("h", members={"worker/handler.py": Asset("a", text="x = 1\n"), "lib": Archive("b", path="folder")})


@pytest.mark.parametrize(
    "value",
    ["text", "", 7, 0.5, True, [1, "two", [3]], {"a": {"b": []}}, UNKNOWN, [UNKNOWN], CODE, Asset("h", path="p")],
)
def test_a_value_survives_the_wire(value: object) -> None:
    properties, secrets = decode(encode({"it": value}))
    assert properties == {"it": value}
    assert not secrets


def test_nulls_are_left_out() -> None:
    assert decode(encode({"a": None, "b": {"c": None}})) == ({"b": {}}, frozenset())


def test_a_secret_is_opened_on_the_way_in_and_its_name_is_kept() -> None:
    properties, secrets = decode(encode({"password": "hush", "name": "n"}, {"password"}))
    assert properties == {"password": "hush", "name": "n"}
    assert secrets == {"password"}


def test_a_secret_deep_inside_marks_the_property_that_holds_it() -> None:
    wire = encode({"connection": {"user": "u"}})
    hidden = encode({"password": "hush"}, {"password"})
    wire.fields["connection"].struct_value.fields["password"].CopyFrom(hidden.fields["password"])
    properties, secrets = decode(wire)
    assert properties == {"connection": {"user": "u", "password": "hush"}}
    assert secrets == {"connection"}


def test_something_unknown_is_seen_at_any_depth() -> None:
    assert has_unknown({"a": [1, {"b": UNKNOWN}]})
    assert not has_unknown({"a": [1, {"b": "known"}]})


def test_the_same_content_is_the_same_zip(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    once = zipped(Archive("h", members={"b": Asset("", text="b"), "a": Asset("", path=str(tmp_path / "a.py"))}))
    (tmp_path / "a.py").touch()
    again = zipped(Archive("h", members={"a": Asset("", text="x = 1\n"), "b": Asset("", text="b")}))
    assert once == again, "times and orders would change a function's hash at every up"


def test_folders_and_archives_within_archives_keep_their_paths(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "m.py").write_text("")
    archive = Archive("", members={"lib": Archive("", path=str(tmp_path)), "top.py": Asset("", text="")})
    assert zipfile.ZipFile(io.BytesIO(zipped(archive))).namelist() == ["lib/inner/m.py", "top.py"]


def test_a_zip_file_is_passed_on_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "code.zip"
    path.write_bytes(b"PK")
    assert zipped(Archive("h", path=str(path))) == b"PK"


def test_an_archive_of_nothing_that_exists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="must name its members"):
        zipped(Archive("h", path=str(tmp_path / "nowhere")))

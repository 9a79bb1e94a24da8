"""An import loads all or nothing, keeps every name and byte, and done twice changes nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import unicodedata
import zipfile
from pathlib import Path
from urllib.parse import unquote

import pytest
from fake_s3 import SOURCE, error, two_storages

from migrate.archive import delete_record, import_path, read, write_record
from migrate.errors import CloudError, Conflict, RefusedInput
from migrate.intake import Ids
from migrate.progress import unwatched

CSV = "id,name\n1,Ann\n2,Bo\n"


@pytest.fixture
def cloud():
    s3, source, _ = two_storages()
    return s3, source


def load(cloud, path: Path, **ids):
    return import_path(cloud[1], path, Ids(**ids), unwatched, threads=2)


def objects(cloud) -> dict[str, bytes]:
    s3, side = cloud
    return {
        key.removeprefix(SOURCE.prefix): versions[-1]
        for key, versions in s3.bodies(side.storage.bucket).items()
        if versions[-1] is not None
    }


def record(cloud, key: str) -> dict:
    return json.loads(objects(cloud)[key])


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_csv_becomes_records_with_type_id_time_and_revision(cloud, tmp_path):
    done = load(cloud, write(tmp_path / "People.csv", CSV))
    assert (done.records, done.created, done.by_type) == (2, 2, {"people": 2})
    found = record(cloud, "records/people/1.json")
    assert found["data"] == {"id": "1", "name": "Ann"}
    assert (found["type"], found["id"], found["revision"]) == ("people", "1", 1)
    assert found["archived_at"].endswith("Z")
    assert len(found["archived_at"]) == len("2026-01-01T00:00:00.000Z")
    stored = cloud[0].current("shared", "t/acme/records/people/1.json")
    assert stored.metadata == {"archived-at": found["archived_at"], "revision": "1", "type": "people", "id": "1"}
    assert stored.checksum == "SHA256:" + base64.b64encode(hashlib.sha256(stored.body).digest()).decode()


def test_ndjson_keeps_its_values_as_they_are(cloud, tmp_path):
    load(
        cloud, write(tmp_path / "a.ndjson", '\ufeff{"id": 7, "n": 1.5, "deep": {"x": [null, true]}}\n\n{"id": "ü/1"}\n')
    )
    assert record(cloud, "records/a/7.json")["data"] == {"id": 7, "n": 1.5, "deep": {"x": [None, True]}}
    metadata = cloud[0].current("shared", "t/acme/records/a/ü/1.json").metadata
    assert unquote(metadata["id"]) == "ü/1"
    assert metadata["id"].isascii(), "S3 takes ASCII in metadata"


def test_the_same_import_twice_changes_nothing_and_a_changed_record_is_its_next_revision(cloud, tmp_path):
    file = write(tmp_path / "people.csv", CSV)
    load(cloud, file)
    before = objects(cloud)
    again = load(cloud, file)
    assert (again.created, again.updated, again.unchanged, again.bytes) == (0, 0, 2, 0)
    assert objects(cloud) == before
    changed = load(cloud, write(file, CSV.replace("Bo", "Bob")))
    assert (changed.updated, changed.unchanged) == (1, 1)
    assert record(cloud, "records/people/2.json")["revision"] == 2
    assert objects(cloud)["records/people/1.json"] == before["records/people/1.json"]


def test_an_import_that_was_cut_off_is_finished_by_another(cloud, tmp_path):
    file = write(tmp_path / "people.csv", "id\n" + "".join(f"{n}\n" for n in range(40)))
    left = iter(range(17))

    def cut_off(name, _):
        if name == "put_object" and next(left, None) is None:
            raise KeyboardInterrupt

    cloud[0].before = cut_off
    with pytest.raises(KeyboardInterrupt):
        load(cloud, file)
    assert 0 < len(objects(cloud)) < 40, "the test has to stop it half way"
    cloud[0].before = lambda *_: None
    load(cloud, file)
    assert len(objects(cloud)) == 40
    assert {json.loads(body)["revision"] for body in objects(cloud).values()} == {1}


def test_a_write_whose_answer_was_lost_is_not_a_second_revision(cloud, tmp_path):
    lost = iter([True])

    def lose(name, parameters):
        if name == "put_object" and next(lost, False):
            # The client repeats the request that had been carried out.
            cloud[0]._do_put_object(**parameters)

    cloud[0].before = lose
    assert load(cloud, write(tmp_path / "p.csv", "id\n1\n")).unchanged == 1
    assert record(cloud, "records/p/1.json")["revision"] == 1


def test_revisions_go_on_counting_over_a_delete(cloud, tmp_path):
    file = write(tmp_path / "people.csv", CSV)
    load(cloud, file)
    write_record(cloud[1], "people", "1", {"name": "Anna"})
    delete_record(cloud[1], "people", "1")
    assert read(cloud[1], "records/people/1.json") is None
    load(cloud, file)
    assert record(cloud, "records/people/1.json")["revision"] == 3, "the search would keep a lower one hidden for ever"


def test_a_job_writes_a_record_once_and_then_its_next_revision(cloud):
    outcomes = [write_record(cloud[1], "jobs", "1", {"n": n}) for n in (1, 1, 2)]
    assert [(stored.outcome, stored.revision) for stored in outcomes] == [
        ("created", 1), ("unchanged", 1), ("updated", 2),
    ]  # fmt: skip


def test_a_key_that_others_keep_changing_is_a_conflict_and_not_a_loss(cloud):
    write_record(cloud[1], "jobs", "1", {"n": 0})
    busy = iter(range(100))

    def another_first(name, _):
        if name == "put_object":
            metadata = {"revision": "1"}
            body = json.dumps({"data": {"other": next(busy)}}).encode()
            cloud[0]._do_put_object("shared", "t/acme/records/jobs/1.json", body, Metadata=metadata)

    cloud[0].before = another_first
    with pytest.raises(Conflict, match="changed by someone else"):
        write_record(cloud[1], "jobs", "1", {"n": 1})


def test_a_denied_write_names_the_object(cloud):
    def deny(name, _):
        if name == "put_object":
            raise error("AccessDenied", 403)

    cloud[0].before = deny
    with pytest.raises(CloudError, match=r"records/jobs/1\.json: AWS answered AccessDenied"):
        write_record(cloud[1], "jobs", "1", {})


# refused --------------------------------------------------------------------------------------

BROKEN = {
    "no JSON": ("a.ndjson", '{"id": 1}\n{"id": 2\n', r"a\.ndjson:2: "),
    "no object": ("a.ndjson", '{"id": 1}\n[2]\n', r"a\.ndjson:2: a record has to be a JSON object"),
    "not a number": ("a.ndjson", '{"id": 1, "n": NaN}\n', r"a\.ndjson:1: "),
    "not UTF-8": ("a.ndjson", b'{"id": "\xff"}\n', r"a\.ndjson:1: "),
    "a value too few": ("a.csv", "id,name\n1,Ann\n2\n", r"a\.csv:3: 1 values, but the header has 2"),
    "a value too many": ("a.csv", "id\n1,2\n", r"a\.csv:2: 2 values"),
    "counted over lines in quotes": ("a.csv", 'id,n\n1,"x\ny"\n2\n', r"a\.csv:4: "),
    "an open quote": ("a.csv", 'id\n"1\n', r"a\.csv:2: "),
    "CSV not UTF-8": ("a.csv", b"id\n\xff\n", r"a\.csv:"),
    "no header": ("a.csv", "", r"a\.csv: empty"),
    "a column twice": ("a.csv", "id,id\n1,2\n", r"a\.csv:1: "),
    "no id": ("a.csv", "id,name\n,Ann\n", r"a\.csv:2: the column id, which names the record, holds ''"),
    "an id that is no name": ("a.ndjson", '{"id": null}\n', r"a\.ndjson:1: .* holds None"),
    "an id of dots": ("a.ndjson", '{"id": "../x"}\n', r"a\.ndjson:1: .*only dots"),
    "an id with a control character": ("a.ndjson", '{"id": "a\\u0007"}\n', r"a\.ndjson:1: .*control character"),
    "an id too long": ("a.ndjson", json.dumps({"id": "ü" * 300}) + "\n", r"a\.ndjson:1: the id has more than 512"),
    "two records of one id": ("a.csv", "id,n\n1,a\n2,b\n1,c\n", r"a\.csv:4: the id '1' is also at a\.csv:2"),
    "a type that is no name": ("%.csv", "id\n1\n", "has to name the record type"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_one_broken_record_is_named_by_line_and_nothing_is_loaded(cloud, tmp_path, broken):
    name, text, said = BROKEN[broken]
    write(tmp_path / "in" / "0-good.csv", CSV)
    write(tmp_path / "in" / name, text)
    with pytest.raises(RefusedInput, match=said) as refused:
        load(cloud, tmp_path / "in")
    assert "nothing was loaded" in refused.value.message
    assert objects(cloud) == {}


def test_all_broken_records_are_named_at_once_up_to_a_limit(cloud, tmp_path):
    rows = "".join("1\n" for _ in range(30))
    with pytest.raises(RefusedInput, match="and 10 more") as refused:
        load(cloud, write(tmp_path / "a.csv", f"id,b\n{rows}"))
    assert "a.csv:2:" in refused.value.message
    assert "a.csv:3:" in refused.value.message


def test_a_key_that_s3_would_not_take_is_refused_with_its_length(cloud, tmp_path):
    write(tmp_path / "in" / ("d" * 250) / ("e" * 250) / ("f" * 250) / ("g" * 250) / "h", b"1")
    write(tmp_path / "in" / ("d" * 250) / ("e" * 250) / ("f" * 250) / ("g" * 250) / ("h" * 9), b"1")
    with pytest.raises(RefusedInput, match="the key would have 1032 bytes, S3 takes 1024"):
        load(cloud, tmp_path / "in")


def test_an_input_that_changes_while_it_is_read_is_refused(cloud, tmp_path):
    file = write(tmp_path / "a.csv", CSV)

    def change(name, _):
        if name == "list_object_versions":
            write(file, CSV + "3,Cy\n")

    cloud[0].before = change
    with pytest.raises(RefusedInput, match="changed while it was read"):
        load(cloud, file)
    assert objects(cloud) == {}


def test_nothing_is_not_an_import(cloud, tmp_path):
    with pytest.raises(RefusedInput, match="nothing to archive"):
        load(cloud, tmp_path)
    with pytest.raises(RefusedInput, match="does not exist"):
        load(cloud, tmp_path / "missing")


# ids ------------------------------------------------------------------------------------------


def test_an_id_can_be_made_of_several_columns_without_two_becoming_one(cloud, tmp_path):
    load(cloud, write(tmp_path / "a.csv", "x,y\na~b,c\na,b~c\n"), default=("x", "y"))
    assert sorted(objects(cloud)) == ["records/a/a%7Eb~c.json", "records/a/a~b%7Ec.json"]


def test_a_default_id_column_counts_only_where_it_is(cloud, tmp_path):
    write(tmp_path / "in" / "a.csv", "tail,n\nN1,1\n")
    write(tmp_path / "in" / "b.csv", "id\n9\n")
    load(cloud, tmp_path / "in", default=("tail",))
    assert sorted(objects(cloud)) == ["records/a/N1.json", "records/b/9.json"]
    with pytest.raises(RefusedInput, match="no file has the column nowhere"):
        load(cloud, tmp_path / "in", default=("nowhere",))


def test_without_an_id_the_content_names_the_record_and_equal_rows_are_one(cloud, tmp_path):
    file = write(tmp_path / "a.csv", "x,y\n1,2\n1,2\n3,4\n")
    done = load(cloud, file)
    assert (done.records, len(objects(cloud))) == (2, 2)
    assert load(cloud, file).created == 0


def test_an_id_column_by_type_has_to_be_there(cloud, tmp_path):
    with pytest.raises(RefusedInput, match=r"a\.csv:2: the column nope"):
        load(cloud, write(tmp_path / "a.csv", CSV), by_type={"a": ("nope",)})


# attachments, folders, zips -------------------------------------------------------------------

AWKWARD = (
    "empty", "with space.txt", unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é"),
    "a+b%20&c=d", ".hidden", "deep/er/file.csv", "日本語.txt", "inner.zip",
)  # fmt: skip


def test_attachments_keep_their_names_and_bytes(cloud, tmp_path):
    for name in AWKWARD:
        write(tmp_path / "in" / "attachments" / name, b"" if name == "empty" else name.encode())
    write(tmp_path / "in" / "people.csv", CSV)
    done = load(cloud, tmp_path / "in")
    assert (done.records, done.attachments) == (2, len(AWKWARD))
    found = {k.removeprefix("attachments/"): v for k, v in objects(cloud).items() if k.startswith("attachments/")}
    assert found == {name: b"" if name == "empty" else name.encode() for name in AWKWARD}
    metadata = cloud[0].current("shared", "t/acme/attachments/empty").metadata
    assert sorted(metadata) == ["archived-at", "revision"]
    assert load(cloud, tmp_path / "in").unchanged == done.created


def test_a_changed_attachment_is_its_next_revision(cloud, tmp_path):
    file = write(tmp_path / "in" / "a.txt", b"one")
    load(cloud, tmp_path / "in")
    write(file, b"two")
    assert load(cloud, tmp_path / "in").updated == 1
    assert cloud[0].current("shared", "t/acme/attachments/a.txt").metadata["revision"] == "2"


def test_a_stored_hash_that_is_missing_is_computed(cloud, tmp_path):
    write(tmp_path / "in" / "a.txt", b"one")
    load(cloud, tmp_path / "in")
    cloud[0].current("shared", "t/acme/attachments/a.txt").checksum = None
    assert load(cloud, tmp_path / "in").unchanged == 1


def test_a_folder_without_records_is_attachments_throughout(cloud, tmp_path):
    write(tmp_path / "in" / "sub" / "rows.csv", CSV)
    write(tmp_path / "in" / "a.txt", b"a")
    load(cloud, tmp_path / "in")
    assert sorted(objects(cloud)) == ["attachments/a.txt", "attachments/sub/rows.csv"]


def test_what_is_neither_record_nor_attachment_is_refused(cloud, tmp_path):
    write(tmp_path / "in" / "people.csv", CSV)
    write(tmp_path / "in" / "notes.txt", b"?")
    with pytest.raises(RefusedInput, match=r"notes\.txt: neither a record file"):
        load(cloud, tmp_path / "in")


def test_a_zip_is_read_as_the_folder_that_was_packed(cloud, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("people.csv", CSV)
        packed.writestr("attachments/big file.bin", b"0123456789" * 100_000)
    done = load(cloud, tmp_path / "all.zip")
    assert (done.records, done.attachments) == (2, 1)
    assert objects(cloud)["attachments/big file.bin"] == b"0123456789" * 100_000
    assert load(cloud, tmp_path / "all.zip").created == 0


def test_a_zipped_csv_beside_others_is_a_record_file(cloud, tmp_path):
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "people.csv.zip", "w") as packed:
        packed.writestr("people.csv", CSV)
    assert load(cloud, tmp_path / "in").by_type == {"people": 2}


def test_a_zip_cannot_name_a_place_outside(cloud, tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as packed:
        packed.writestr("../../outside", b"x")
    with pytest.raises(RefusedInput, match="only dots"):
        load(cloud, tmp_path / "evil.zip")


def test_a_link_is_refused(cloud, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to("/etc/hostname")
    with pytest.raises(RefusedInput, match="not a plain file"):
        load(cloud, tmp_path / "in")

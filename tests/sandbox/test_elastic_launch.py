"""The message by which a node is started, in the encoding of Elasticsearch's streams, without a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.elastic import launch


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("", b"\x00"),
        ("abc", b"\x03abc"),
        ("ü", b"\x01\xc3\xbc"),
        # Two UTF-16 units, three bytes each: not UTF-8's four bytes.
        ("😀", b"\x02\xed\xa0\xbd\xed\xb8\x80"),
        ("x" * 200, b"\xc8\x01" + b"x" * 200),
    ],
)
def test_a_string_is_counted_in_utf_16_units_and_written_unit_by_unit(text, encoded):
    message = launch.first_message({"": text}, Path("f"))
    assert b"\x01\x00\x00" + encoded + b"\x08f/config\x06f/logs" in message


def test_the_message_names_the_keystores_class_and_every_setting():
    settings = launch.settings(Path("home"), Path("folder"), cluster="c", port=1)
    message = launch.first_message(settings, Path("folder"))
    assert message.startswith(b"\x00\x00\x00\x31org.elasticsearch.common.settings.KeyStoreWrapper")
    for name, value in settings.items():
        assert name.encode() + b"\x00" + bytes([len(value)]) + value.encode() in message, name


def test_a_node_answers_this_machine_only():
    settings = launch.settings(Path("home"), Path("folder"), cluster="c", port=1)
    assert (settings["http.host"], settings["transport.host"]) == ("127.0.0.1", "127.0.0.1")

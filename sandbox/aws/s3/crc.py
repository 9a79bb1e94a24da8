"""Cyclic redundancy checks that Python has no native code for, and the joining of two checks.

CRC64NVME is what S3 computes for an object that came without a checksum (AWS: "Checking object
integrity"). The tables take 16 bits at a time: about 20 MB/s, against 4 MB/s for a byte at a time.
"""

from __future__ import annotations

import functools
import struct

_POLYNOMIALS = {  # reflected; all three start from and end with all ones
    "CRC32": (0xEDB88320, 32),
    "CRC32C": (0x82F63B78, 32),
    "CRC64NVME": (0x9A6C9329AC4BC9B5, 64),
}
_ONES_64 = 0xFFFFFFFFFFFFFFFF


def _step(value: int, polynomial: int, bits: int) -> int:
    for _ in range(bits):
        value = (value >> 1) ^ polynomial if value & 1 else value >> 1
    return value


@functools.cache
def _crc64_tables() -> tuple[list[int], list[int], list[int], list[int]]:
    polynomial, _ = _POLYNOMIALS["CRC64NVME"]
    by_byte = [_step(value, polynomial, 8) for value in range(256)]
    last = []
    for value in range(1 << 16):
        once = by_byte[value & 0xFF] ^ (value >> 8)
        last.append(by_byte[once & 0xFF] ^ (once >> 8))
    tables = [last]
    for _ in range(3):
        previous = tables[-1]
        tables.append([last[value & 0xFFFF] ^ (value >> 16) for value in previous])
    return tables[3], tables[2], tables[1], tables[0]


def crc64nvme(data: bytes) -> int:
    """CRC-64/NVME of `data`; the published check value of b"123456789" is 0xAE8B14860A799888."""
    first, second, third, fourth = _crc64_tables()
    value = _ONES_64
    whole = len(data) & ~7
    for (word,) in struct.iter_unpack("<Q", memoryview(data)[:whole]):
        value ^= word
        value = (
            first[value & 0xFFFF] ^ second[(value >> 16) & 0xFFFF] ^ third[(value >> 32) & 0xFFFF] ^ fourth[value >> 48]
        )
    polynomial, _ = _POLYNOMIALS["CRC64NVME"]
    for byte in data[whole:]:
        value = _step((value ^ byte) & 0xFF, polynomial, 8) ^ (value >> 8)
    return value ^ _ONES_64


def _times(matrix: list[int], vector: int) -> int:
    total = 0
    row = 0
    while vector:
        if vector & 1:
            total ^= matrix[row]
        vector >>= 1
        row += 1
    return total


@functools.cache
def _zero_operator(algorithm: str, power: int) -> list[int]:
    """The matrix that carries a check over 2**power zero bytes."""
    if power == 0:
        polynomial, width = _POLYNOMIALS[algorithm]
        return [_step(1 << bit, polynomial, 8) for bit in range(width)]
    half = _zero_operator(algorithm, power - 1)
    return [_times(half, row) for row in half]


def joined(algorithm: str, first: int, second: int, second_length: int) -> int:
    """The check of two byte strings joined, from the check of each (zlib's crc32_combine)."""
    power = 0
    while second_length >> power:
        if (second_length >> power) & 1:
            first = _times(_zero_operator(algorithm, power), first)
        power += 1
    return first ^ second

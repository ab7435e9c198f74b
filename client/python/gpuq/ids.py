"""ids.py - job ids: 128 bits, 48 of UTC milliseconds and 80 random ones; as text a ULID (26 characters of Crockford's base 32).

Made by the client, so that a submit said twice makes one job. Inside the client an id is its 16 bytes.
"""
from __future__ import annotations

import os
import time

from .errors import UsageError

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_VALUES.update({digit.lower(): value for digit, value in list(_VALUES.items())})
_VALUES.update({"O": 0, "o": 0, "I": 1, "i": 1, "L": 1, "l": 1})
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]


class FreshId(str):
    """An id made for one call: nobody keeps it to say it again after a crash."""


def new_id() -> bytes:
    return (time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10)


def id_text(raw: bytes) -> str:
    number = int.from_bytes(raw, "big")
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])


def id_bytes(text: str, whose: str = "the id") -> bytes:
    """USAGE unless it is one."""
    number = 0
    try:
        for digit in text:
            number = number * 32 + _VALUES[digit]
    except (KeyError, TypeError):
        number = 1 << 128
    if len(text) != 26 or number >= 1 << 128 or number == 0:
        raise UsageError("USAGE", f"{whose} {text!r} is not a job id (26 characters, as submit returns them)", "gpuq list")
    return number.to_bytes(16, "big")


def new_job_id() -> str:
    """An id for `submit(id=…)`: keep it, and a submit that is said again after a crash of yours makes no second job."""
    return id_text(new_id())

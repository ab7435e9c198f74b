"""digests.py - blobs by the SHA-256 that is their name: what arrives is verified before anybody gets it."""
from __future__ import annotations

import hashlib
import os
from typing import Callable, Union

from .errors import UsageError, error_of
from .parts import Part
from .spec import BRIEF_NAME


def digest_of(part: Union[Part, str]) -> bytes:
    text = part.blob if isinstance(part, Part) else part
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise UsageError("USAGE", f"{text!r} is no blob digest", "a digest has 64 hexadecimal digits")
    return digest


def verify(blob: bytes, got: bytes) -> None:
    """What has a name instead of a digest is authenticated by the connection it came on."""
    if blob != got and not blob.startswith(BRIEF_NAME):
        raise error_of("INTERNAL", f"blob {blob.hex()} arrived with other content than its name says", "gpuq doctor; the broker's disk may be damaged")


class Hashed:
    """The digest of pieces, made while they come; they come in order, unless a link broke on the way."""

    def __init__(self) -> None:
        self._hash, self._next = hashlib.sha256(), 0

    def add(self, offset: int, piece: bytes) -> None:
        if offset == self._next:
            self._hash.update(piece)
            self._next += len(piece)

    def digest(self, size: int, whole: Callable[[], bytes]) -> bytes:
        return self._hash.digest() if self._next == size else whole()


def write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    try:
        while view:
            count = os.pwrite(fd, view, offset)
            view, offset = view[count:], offset + count
    except OSError as error:
        raise error_of("BAD_INPUT", f"cannot write a blob to its file: {error.strerror}", "free some room, then try again") from None


def hash_of(fd: int) -> bytes:
    hashed, at = hashlib.sha256(), 0
    while True:
        data = os.pread(fd, 1 << 20, at)
        if not data:
            return hashed.digest()
        hashed.update(data)
        at += len(data)

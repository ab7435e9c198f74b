"""parts.py - named pieces of data: what callers hand in, what results hold, and tensors (media type application/x-gpuq-tensor).

What becomes what:  bytes, bytearray, memoryview → application/octet-stream (or the image type their first bytes say);  str → text/plain;
pathlib.Path → the content of that file (of any size, read as it is sent);  numpy array → tensor;  Tensor → tensor;  Part → as it is;
dict, list, number, bool, None → application/json.
"""
from __future__ import annotations

import json
import os
import pathlib
import struct
from dataclasses import dataclass, field
from typing import Any, Iterable, List, Mapping, NamedTuple, Tuple, Union

from .errors import NotFoundError, UsageError, error_of

TENSOR_MEDIA = "application/x-gpuq-tensor"
JSON_MEDIA = "application/json"
BYTES_MEDIA = "application/octet-stream"
_DTYPES = ("u1", "i1", "i2", "i4", "i8", "f2", "bf16", "f4", "f8", "b1")
_ITEM_BYTES = (1, 1, 2, 4, 8, 2, 2, 4, 8, 1)
_RANK_MAX = 8

PartValue = Any   # see above: what may be handed in as a part
Parts = Union[Mapping[str, PartValue], Iterable["Part"]]


class Tensor(NamedTuple):
    """A tensor without numpy: dtype is one of u1 i1 i2 i4 i8 f2 bf16 f4 f8 b1, data is row-major and little endian."""

    dtype: str
    shape: Tuple[int, ...]
    data: bytes

    def encode(self) -> bytes:
        if self.dtype not in _DTYPES or len(self.shape) > _RANK_MAX:
            raise UsageError("BAD_INPUT", f"a tensor of dtype {self.dtype} and rank {len(self.shape)} cannot be sent",
                             f"dtypes: {' '.join(_DTYPES)}; at most {_RANK_MAX} dimensions")
        want = _ITEM_BYTES[_DTYPES.index(self.dtype)]
        for length in self.shape:
            want *= length
        if want != len(self.data):
            raise UsageError("BAD_INPUT", f"a tensor of shape {self.shape} holds {len(self.data)} bytes, not {want}", "")
        return (b"GQT1" + struct.pack("<BBH", _DTYPES.index(self.dtype), len(self.shape), 0)
                + struct.pack(f"<{len(self.shape)}Q", *self.shape) + self.data)

    @staticmethod
    def decode(data: bytes) -> "Tensor":
        def broken(why: str) -> Exception:
            return error_of("BAD_INPUT", f"a part is no tensor: {why}", "look at it: gpuq result JOB -d DIR")
        if len(data) < 8 or data[:4] != b"GQT1" or data[6:8] != b"\0\0":
            raise broken("it does not begin with GQT1")
        dtype, rank = data[4], data[5]
        if dtype >= len(_DTYPES) or rank > _RANK_MAX or len(data) < 8 + 8 * rank:
            raise broken(f"dtype {dtype}, rank {rank}, {len(data)} bytes")
        shape = struct.unpack_from(f"<{rank}Q", data, 8)
        want = _ITEM_BYTES[dtype]
        for length in shape:
            want *= length
        if want != len(data) - 8 - 8 * rank:
            raise broken(f"it holds {len(data) - 8 - 8 * rank} bytes, its shape says {want}")
        return Tensor(_DTYPES[dtype], tuple(shape), data[8 + 8 * rank:])

    def array(self) -> Any:
        """As a numpy array (its own copy, writable). bf16, which numpy does not know, becomes float32."""
        import numpy
        if self.dtype == "bf16":
            wide = numpy.frombuffer(self.data, "<u2").astype("<u4") << 16
            return wide.view("<f4").reshape(self.shape)
        return numpy.frombuffer(self.data, numpy.dtype(self.dtype).newbyteorder("<")).reshape(self.shape).copy()

    @staticmethod
    def of_array(array: Any) -> "Tensor":
        import numpy
        array = numpy.asarray(array)
        kind = array.dtype.kind + str(array.dtype.itemsize)
        if kind not in _DTYPES:
            raise UsageError("BAD_INPUT", f"an array of {array.dtype} cannot be sent as a tensor", f"array.astype(…) to one of: {' '.join(_DTYPES)}")
        little = numpy.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        return Tensor(kind, tuple(array.shape), little.tobytes())


@dataclass
class Part:
    """A named piece of data of a job or a result. `data` is None while it lies in the blob store (`blob`) or on a share: fetch() it."""

    name: str
    data: Union[bytes, None] = None
    media: str = BYTES_MEDIA
    blob: str = ""           # hex digest, when it lies in the blob store
    size: int = 0
    share: str = ""          # NAME/path on a share that worker and submitter see
    path: Union[pathlib.Path, None] = field(default=None, repr=False)   # an input read from a file

    def bytes(self) -> bytes:
        if self.data is None:
            raise NotFoundError("NOT_FOUND", f"part {self.name!r} is large and was not fetched", "client.fetch(part)")
        return self.data

    def text(self) -> str:
        return self.bytes().decode("utf-8", "replace")

    def json(self) -> Any:
        try:
            return json.loads(self.bytes())
        except ValueError as error:
            raise error_of("BAD_INPUT", f"part {self.name!r} is no JSON: {error}", "") from None

    def tensor(self) -> Tensor:
        return Tensor.decode(self.bytes())

    def value(self) -> Any:
        """A numpy array (a Tensor without numpy), what the JSON says, or the bytes: by its media type."""
        if self.media == TENSOR_MEDIA:
            tensor = self.tensor()
            try:
                return tensor.array()
            except ImportError:
                return tensor
        return self.json() if self.media == JSON_MEDIA else self.bytes()


def media_of(data: bytes) -> str:
    return "image/png" if data.startswith(b"\x89PNG") else "image/jpeg" if data.startswith(b"\xFF\xD8") else BYTES_MEDIA


def part_of(name: str, value: PartValue) -> Part:
    if isinstance(value, Part):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        return Part(name, data, media_of(data), size=len(data))
    if isinstance(value, str):
        data = value.encode()
        return Part(name, data, "text/plain", size=len(data))
    if isinstance(value, os.PathLike):
        return _part_of_file(name, pathlib.Path(value))
    if isinstance(value, Tensor) or hasattr(value, "__array_interface__"):
        data = (value if isinstance(value, Tensor) else Tensor.of_array(value)).encode()
        return Part(name, data, TENSOR_MEDIA, size=len(data))
    try:
        data = json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError("BAD_INPUT", f"part {name!r} cannot be sent: {error}",
                         "hand in bytes, text, a pathlib.Path, a numpy array, or what JSON can hold") from None
    return Part(name, data, JSON_MEDIA, size=len(data))


def _part_of_file(name: str, path: pathlib.Path) -> Part:
    try:
        with open(path, "rb") as file:
            first, size = file.read(4), os.fstat(file.fileno()).st_size
    except OSError as error:
        code = "NOT_FOUND" if isinstance(error, FileNotFoundError) else "BAD_INPUT"
        raise error_of(code, f"cannot read {path}: {error.strerror}", "check the path and its permissions") from None
    return Part(name, None, media_of(first), size=size, path=path)


def parts_of(parts: Parts) -> List[Part]:
    if isinstance(parts, Mapping):
        return [part_of(name, value) for name, value in parts.items()]
    return [part_of(part.name, part) for part in parts]

"""wire.py - messages as dictionaries, and their bytes, after PROTOCOL.md. Needs msgpack.

A message in memory is a dict with every field of its kind: what the sender left out stands there with its default, what this client
does not know is gone. Ids and digests are bytes, b"" = none. Decoding is bounded and raises WireError, nothing else.
"""
from __future__ import annotations

import struct
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import msgpack

from ._schema import SCHEMA

__all__ = ["WireError", "Struct", "STRUCTS", "encode", "decode", "encode_body", "decode_body", "pack_items", "PROTOCOL_VERSION"]

PROTOCOL_VERSION = 1
OLDEST_READER = 1

# Limits of PROTOCOL.md, section 2.
FRAME_BYTES_MAX = 1 << 20
FRAME_BYTES_HARD = 4 << 20
ITEMS_MAX = 256
ELEMENTS_MAX = 16_384
TEXT_BYTES_MAX = 64 << 10
EXT_BYTES_MAX = 1 << 10

Fields = Dict[str, Any]
Read = Callable[[Any], Any]


class WireError(Exception):
    """Bytes that are no message of ours."""

    def __init__(self, why: str, code: str = "BAD_MESSAGE") -> None:
        super().__init__(why)
        self.code = code


class Field(NamedTuple):
    name: str
    type: str
    default: Any          # None = absent unless given
    read: Read
    write: Optional[Callable[[Any], Any]]   # None = packed as it is


class Struct:
    """One kind of message or piece: how its fields lie on the wire."""

    def __init__(self, name: str, number: Optional[int], form: str) -> None:
        self.name = name
        self.number = number
        self.array = form == "array"
        self.fields: List[Field] = []
        self.by_name: Dict[str, Field] = {}
        self._rows: List[Tuple[str, Any, Read, Optional[Callable[[Any], Any]]]] = []    # of `fields`, unpacked faster

    def sealed(self) -> "Struct":
        self.by_name = {field.name: field for field in self.fields}
        self._rows = [(field.name, field.default, field.read, field.write) for field in self.fields]
        return self

    def read(self, raw: Any) -> Fields:
        out: Fields = {}
        if self.array:
            if type(raw) is not list:
                raise WireError(f"{self.name} is no array")
            present = len(raw)
            for at, (name, default, read, _) in enumerate(self._rows):
                value = raw[at] if at < present else None
                out[name] = (default.copy() if type(default) in _MUTABLE else default) if value is None else read(value)
            return out
        if type(raw) is not dict:
            raise WireError(f"{self.name} is no map")
        for name, default, read, _ in self._rows:
            value = raw.get(name)
            out[name] = (default.copy() if type(default) in _MUTABLE else default) if value is None else read(value)
        return out

    def write(self, value: Fields) -> Any:
        if not value.keys() <= self.by_name.keys():
            raise WireError(f"{self.name} has no field {min(value.keys() - self.by_name.keys())!r}")
        if not self.array:
            out = {}
            for name, default, _, write in self._rows:
                here = value.get(name)
                if here is not None and here != default:
                    out[name] = write(here) if write else here
            return out
        row: List[Any] = []
        said = 0
        for name, default, _, write in self._rows:
            here = value.get(name)
            if here is None or here == default:
                row.append(write(default) if write and default is not None else default)
            else:
                row.append(write(here) if write else here)
                said = len(row)
        del row[said:]      # trailing defaults are left out
        return row


_MUTABLE = (list, dict)


STRUCTS: Dict[str, Struct] = {}
BY_NUMBER: Dict[int, Struct] = {}


def _integer(low: int, high: int) -> Read:
    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise WireError(f"not an integer of {low}..{high}")
        return value
    return read


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise WireError("not a bool")
    return value


def _str(value: Any) -> str:
    if type(value) is not str:
        raise WireError("not a text")
    return value


def _float(value: Any) -> float:
    if type(value) not in (int, float):
        raise WireError("not a number")
    return float(value)


def _bytes(size: int) -> Read:
    def read(value: Any) -> bytes:
        if type(value) is not bytes or (size and len(value) not in (0, size)):
            raise WireError(f"not a bin {size or ''}")
        return value if value != bytes(size) or not size else b""
    return read


def _write_bytes(value: Any) -> Any:
    return bytes(value) if value else None


_LEAVES: Dict[str, Tuple[Any, Read, Optional[Callable[[Any], Any]]]] = {
    "u8": (0, _integer(0, 0xFF), None), "u16": (0, _integer(0, 0xFFFF), None), "u32": (0, _integer(0, 0xFFFF_FFFF), None),
    "u64": (0, _integer(0, (1 << 64) - 1), None), "i16": (0, _integer(-(1 << 15), (1 << 15) - 1), None),
    "i32": (0, _integer(-(1 << 31), (1 << 31) - 1), None), "i64": (0, _integer(-(1 << 63), (1 << 63) - 1), None),
    "bool": (False, _bool, None), "str": ("", _str, None), "float": (0.0, _float, None),
    "bin": (b"", _bytes(0), _write_bytes), "bin16": (b"", _bytes(16), _write_bytes), "bin32": (b"", _bytes(32), _write_bytes),
}


def _type(text: str) -> Tuple[Any, Read, Optional[Callable[[Any], Any]]]:
    """(default, read, write) of a type of the schema."""
    if text.startswith("["):
        _, read_one, write_one = _type(text[1:-1])

        def read_list(value: Any) -> List[Any]:
            if type(value) is not list:
                raise WireError("not a list")
            return [read_one(one) for one in value]
        write = write_one
        return [], read_list, (lambda value: [write(one) for one in value]) if write else list
    if text.startswith("{"):
        _, read_value, _unused = _type(text[1:-1])

        def read_map(value: Any) -> Dict[str, Any]:
            if type(value) is not dict:
                raise WireError("not a map")
            return {_str(key): read_value(one) for key, one in value.items()}
        return {}, read_map, lambda value: {key: value[key] for key in sorted(value)}
    if text in _LEAVES:
        return _LEAVES[text]
    # a piece may stand before its own line: it is looked up when it is used
    return None, lambda value: STRUCTS[text].read(value), lambda value: STRUCTS[text].write(value)


def _literal(text: str) -> Any:
    return {"true": True, "false": False}[text] if text in ("true", "false") else int(text)


def _load() -> None:
    for line in SCHEMA.replace("\n    ", " ").splitlines():
        number, name, form, *fields = line.split()
        made = Struct(name, None if number == "-" else int(number), form)
        for text in fields:
            field_name, _, rest = text.partition(":")
            kind, _, given = rest.partition("=")
            absent = kind.startswith("?")
            default, read, write = _type(kind.lstrip("?"))
            if given:
                default = _literal(given)
            elif absent:
                default = None
            made.fields.append(Field(field_name, kind, default, read, write))
        STRUCTS[name] = made.sealed()
        if made.number is not None:
            BY_NUMBER[made.number] = made
    for made in STRUCTS.values():   # a piece that is left out has the defaults of its own fields
        for at, field in enumerate(made.fields):
            if field.type in STRUCTS and field.default is None:
                empty = STRUCTS[field.type].read([] if STRUCTS[field.type].array else {})
                made.fields[at] = field._replace(default=empty)
        made.sealed()


_load()

# ---- frames



def pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def header(number: int, request: int, trace: str = "") -> bytes:
    return pack([PROTOCOL_VERSION, OLDEST_READER, number, request] + ([trace] if trace else []))


def encode(name: str, fields: Fields, request: int = 0, trace: str = "") -> bytes:
    """Frame 0 of a message."""
    made = STRUCTS[name]
    assert made.number is not None, f"{name} is a piece, not a message"
    return header(made.number, request, trace) + pack(made.write(fields))


def pack_items(name: str, request: int, items: List[bytes]) -> bytes:
    """Frame 0 of a message whose one field is a list of items that are packed already."""
    number = STRUCTS[name].number
    assert number is not None and len(items) <= ITEMS_MAX
    head = struct.pack(">BH", 0xDC, len(items)) if len(items) > 15 else bytes([0x90 | len(items)])
    return header(number, request) + b"\x91" + head + b"".join(items)


def _unpacker(frame: bytes) -> Any:
    unpacker = msgpack.Unpacker(
        raw=False, strict_map_key=False, unicode_errors="replace", max_buffer_size=FRAME_BYTES_HARD, max_str_len=FRAME_BYTES_HARD,
        max_bin_len=FRAME_BYTES_HARD, max_array_len=ELEMENTS_MAX, max_map_len=ELEMENTS_MAX, max_ext_len=EXT_BYTES_MAX,
        read_size=min(max(len(frame), 1), FRAME_BYTES_HARD))
    unpacker.feed(frame)
    return unpacker


class Message(NamedTuple):
    name: str
    request: int
    fields: Fields


def decode(frame: bytes) -> Message:
    """Frame 0. WireError with PROTOCOL for a message that this client is too old to read, else with BAD_MESSAGE."""
    if len(frame) > FRAME_BYTES_HARD:
        raise WireError("a frame over 4 MiB")
    try:
        unpacker = _unpacker(frame)
        head, body = unpacker.unpack(), unpacker.unpack()
        if unpacker.tell() != len(frame):
            raise WireError("bytes behind the body")
    except WireError:
        raise
    except Exception as error:   # msgpack's own, ValueError, OverflowError, RecursionError
        raise WireError(f"no msgpack: {error}") from None
    if type(head) is not list or len(head) < 4 or any(type(one) is not int or one < 0 for one in head[:4]):
        raise WireError("no header")
    if head[1] > PROTOCOL_VERSION:
        raise WireError(f"the broker speaks a version that needs a reader of version {head[1]}", "PROTOCOL")
    made = BY_NUMBER.get(head[2])
    if made is None:
        raise WireError(f"a message of unknown type {head[2]}", "UNKNOWN_TYPE")
    return Message(made.name, head[3], made.read(body))


def encode_body(name: str, fields: Fields) -> bytes:
    """JobBody, ResultBody."""
    return pack(STRUCTS[name].write(fields))


def decode_body(name: str, body: bytes) -> Fields:
    made = STRUCTS[name]
    if not body:
        return made.read({})
    try:
        raw = msgpack.unpackb(body, raw=False, strict_map_key=False, unicode_errors="replace", max_array_len=ELEMENTS_MAX,
                              max_map_len=ELEMENTS_MAX, max_ext_len=EXT_BYTES_MAX)
    except Exception as error:
        raise WireError(f"no msgpack: {error}") from None
    return made.read(raw)


def split_payloads(items: List[Fields], body: bytes) -> List[bytes]:
    """Frame 1 cut into the payloads of its items."""
    out, at = [], 0
    for item in items:
        out.append(body[at:at + item["payload_bytes"]])
        at += item["payload_bytes"]
    if at != len(body):
        raise WireError("the payloads do not add up to the second frame")
    return out

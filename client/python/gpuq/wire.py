"""The wire protocol (common/wire/PROTOCOL.md), as much of it as a client speaks: plain dicts and lists to bytes and back.

A message is one or two frames: header and body in msgpack, then payload bytes. Bodies in array form are lists here, in the order of the
page; bodies in map form are dicts. Values that have their default may be left out.
"""
import os
import threading
import time
from hashlib import blake2b
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import msgpack

from . import errors
from ._types import CLASSES, KINDS, ON_PREEMPT, JobSpec, Part, as_text

VERSION = 1
INLINE_BYTES_MAX = 64 << 10
ITEMS_MAX = 256
FRAME_BYTES_MAX = 1 << 20

CLIENT_HELLO, CLIENT_WELCOME, BEAT, BEAT_REPLY, GOODBYE, FAILURE = 1, 2, 5, 6, 7, 8
SUBMIT, SUBMITTED, WATCH, WATCHED, NOTIFY, FETCHED, CANCEL_JOBS, CANCEL_REPLY = 10, 11, 12, 13, 14, 15, 16, 17
RETRY, RETRY_REPLY, STATUS_QUERY, STATUS_REPLY, LIST_QUERY, LIST_REPLY, WORKERS_QUERY, WORKERS_REPLY = 18, 19, 20, 21, 22, 23, 24, 25
LOG_QUERY, LOG_REPLY, MODEL_PUSH, MODEL_REMOVE, MODEL_REPLY, MODELS_QUERY, MODELS_REPLY = 26, 27, 28, 29, 30, 31, 32
RESULT_QUERY, RESULT_REPLY, TOP_QUERY, TOP_REPLY, EXPLAIN_QUERY, EXPLAIN_REPLY = 33, 34, 35, 36, 40, 41
BLOB_PUT, BLOB_PUT_REPLY, BLOB_GET, BLOB_GET_REPLY = 80, 81, 82, 83

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUE = {c: i for i, c in enumerate(_CROCKFORD)}
_NIL_ID = bytes(16)


class ProtocolError(Exception):
    """Bytes that are no message."""


# ---- frames

_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack
_pack_lock = threading.Lock()


def _packed(value: Any) -> bytes:
    with _pack_lock:
        return bytes(_pack(value))


def encode(kind: int, ident: int, body: Any) -> bytes:
    """Frame 0."""
    return _packed([VERSION, 1, kind, ident]) + _packed(body)


def decode(frame: bytes) -> Tuple[int, int, Any]:
    """(type, request id, body) of frame 0. ProtocolError when it is none."""
    unpacker = msgpack.Unpacker(raw=False, unicode_errors="replace", strict_map_key=False, max_buffer_size=4 << 20)
    unpacker.feed(frame)
    try:
        header = unpacker.unpack()
        body = unpacker.unpack()
    except Exception as broken:
        raise ProtocolError(f"no header and body: {broken}") from None
    if not isinstance(header, list) or len(header) < 4 or not all(isinstance(v, int) for v in header[:4]) or unpacker.tell() != len(frame):
        raise ProtocolError("a header of another shape")
    if header[1] > VERSION:
        raise ProtocolError(f"the broker speaks version {header[0]} of the protocol, this client {VERSION}")
    return header[2], header[3], body


# ---- job ids (ULIDs)

_id_lock = threading.Lock()
_id_last = [0, 0]   # ms, the random part: ids made here in one millisecond grow


def make_job_id() -> bytes:
    ms = time.time_ns() // 1_000_000
    with _id_lock:
        if ms <= _id_last[0]:
            ms = _id_last[0]
            _id_last[1] = (_id_last[1] + 1) % (1 << 80)
        else:
            _id_last[0] = ms
            _id_last[1] = int.from_bytes(os.urandom(10), "big")
        return ms.to_bytes(6, "big") + _id_last[1].to_bytes(10, "big")


def id_text(value: Optional[bytes]) -> str:
    if not value or value == _NIL_ID:
        return ""
    number = int.from_bytes(value, "big")
    return "".join(_CROCKFORD[(number >> (5 * i)) & 31] for i in range(25, -1, -1))


def parse_id(text: str, whose: str = "job id") -> bytes:
    number = 0
    if len(text) != 26 or text[0] > "7":
        raise errors.make("USAGE", f"{whose} '{text}' is not 26 characters of Crockford base32", "use the id that submit returned")
    for c in text.upper():
        if c not in _VALUE:
            raise errors.make("USAGE", f"{whose} '{text}' is not 26 characters of Crockford base32", "use the id that submit returned")
        number = number << 5 | _VALUE[c]
    return number.to_bytes(16, "big")


# ---- payloads

def encode_part(part: Part) -> Dict[str, Any]:
    out: Dict[str, Any] = {"name": part.name, "media": part.media}
    if part.share:
        out["share"] = part.share
    elif part.blob:
        out["blob"] = bytes.fromhex(part.blob)
        out["blob_bytes"] = part.size
    else:
        out["bytes"] = part.bytes
    return out


def decode_part(raw: Mapping[str, Any]) -> Part:
    blob = raw.get("blob") or b""
    data = raw.get("bytes") or b""
    share = raw.get("share") or ""
    size = raw.get("share_bytes", 0) if share else raw.get("blob_bytes", 0) if blob else len(data)
    return Part(name=raw.get("name", ""), bytes=bytes(data), media=raw.get("media", ""), blob=blob.hex(), size=size, share=share)


def decode_result(payload: bytes) -> Tuple[Dict[str, str], Dict[str, Part]]:
    if not payload:
        return {}, {}
    body = msgpack.unpackb(payload, raw=False, unicode_errors="replace", strict_map_key=False)
    return dict(body.get("values") or {}), {p.name: p for p in map(decode_part, body.get("parts") or [])}


class Prepared:
    """A spec made ready: its item (payload length and digest filled in), its payload, and what has to be uploaded before."""

    def __init__(self, item: List[Any], payload: bytes, uploads: List[Tuple[bytes, bytes]]) -> None:
        self.item = item
        self.payload = payload
        self.uploads = uploads   # (digest, content)

    @property
    def id(self) -> bytes:
        return bytes(self.item[0])


def _usage(what: str, next: str = "") -> errors.Error:
    return errors.make("USAGE", what, next)


def prepare(spec: JobSpec, watch: bool) -> Prepared:
    """Judges a spec here, so that a mistake is a sentence and not a round trip."""
    from hashlib import sha256
    known = KINDS.get(spec.kind)
    if known is None:
        raise errors.make("UNKNOWN_KIND", f"there is no kind '{spec.kind}'", "use one of: " + ", ".join(KINDS))
    if spec.kind == "command" and not spec.argv:
        raise _usage("a command job needs argv", 'JobSpec("command", argv=["python3", "train.py"])')
    job_class = spec.job_class or known[0]
    on_preempt = spec.on_preempt or known[1]
    if job_class not in CLASSES:
        raise _usage(f"there is no class '{job_class}'", "use one of: " + ", ".join(CLASSES))
    if on_preempt not in ON_PREEMPT:
        raise _usage(f"there is no on_preempt '{on_preempt}'", "use one of: " + ", ".join(ON_PREEMPT))
    if not 0 <= spec.priority <= 9:
        raise errors.make("OVER_LIMIT", f"priority {spec.priority} is not 0..9", "9 is served first, 5 is the default")
    least, most = spec.vram_mib if isinstance(spec.vram_mib, tuple) else (spec.vram_mib, spec.vram_mib)
    if least < 0 or most < least:
        raise _usage(f"vram_mib {spec.vram_mib} is upside down", "(2048, 8192): at least 2 GiB, at most 8")
    for name, items in (("argv", spec.argv), ("where", spec.where), ("after", spec.after)):
        if isinstance(items, (str, bytes)):
            raise _usage(f"{name} is a list of texts, not one text", f"{name}=[…]")
    body: Dict[str, Any] = {}
    if spec.params:
        body["params"] = {str(k): as_text(v) for k, v in spec.params.items()}
    if spec.argv:
        body["argv"] = [str(a) for a in spec.argv]
    if spec.env:
        body["env"] = {str(k): str(v) for k, v in spec.env.items()}
    if spec.cwd:
        body["cwd"] = spec.cwd
    parts = [Part(**vars(p)) for p in spec.parts]
    fixed = len(_packed(body)) + sum(len(p.name) + len(p.media) + 64 for p in parts)
    if fixed > INLINE_BYTES_MAX:
        raise errors.make("TOO_LARGE", f"the job's parameters, command and environment are {fixed >> 10} KiB, more than {INLINE_BYTES_MAX >> 10} KiB", "pass large data as a part")
    where = list(spec.where)
    uploads: List[Tuple[bytes, bytes]] = []
    blobs = [bytes.fromhex(p.blob) for p in parts if p.blob]
    room = INLINE_BYTES_MAX - fixed - sum(len(p.bytes) for p in parts)
    for part in sorted(parts, key=lambda p: -len(p.bytes)):   # the largest leave first, until the rest fits inline
        if room >= 0:
            break
        digest = sha256(part.bytes).digest()
        uploads.append((digest, part.bytes))
        blobs.append(digest)
        room += len(part.bytes)
        part.blob, part.size, part.bytes = digest.hex(), len(part.bytes), b""
    for part in parts:
        if part.share:
            label = "share=" + part.share.split("/", 1)[0]
            if label not in where:
                where.append(label)
    if parts:
        body["parts"] = [encode_part(p) for p in parts]
    if spec.outputs:
        body["outputs"] = spec.outputs
        label = "share=" + spec.outputs.split("/", 1)[0]
        if label not in where:
            where.append(label)
    payload = _packed(body) if body else b""
    ident = parse_id(spec.id) if spec.id else make_job_id()
    tail = [spec.model, least, most, spec.devices, ON_PREEMPT.index(on_preempt), spec.exclusive, sorted(where), spec.not_before_ms, spec.deadline_ms,
            round(spec.timeout * 1_000_000), spec.retries, spec.unique, [parse_id(a, "after") for a in spec.after], blobs, spec.label, spec.strict]
    head = [spec.kind, CLASSES.index(job_class), spec.priority, len(payload)]
    digest = blake2b(_packed([head, tail[:-1]]) + payload, digest_size=16).digest()   # how it is judged at the door is no part of what it is
    return Prepared([ident, digest, *head, watch, *tail], payload, uploads)


def notices(body: Sequence[Any], payload: bytes) -> List[Tuple[List[Any], bytes]]:
    """The items of a Notify, each with its own bytes of frame 1."""
    out, at = [], 0
    for item in body[0] if body else []:
        item = list(item) + [0] * (13 - len(item))
        size = item[3] or 0
        out.append((item, payload[at:at + size]))
        at += size
    if at != len(payload):
        raise ProtocolError("payloads do not add up")
    return out

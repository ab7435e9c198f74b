"""spec.py - what is submitted, and its bytes: a spec is judged, encoded and hashed in the caller's thread, so that a mistake is an
exception there and no round trip."""
from __future__ import annotations

import dataclasses
import datetime
import hashlib
import io
import os
import re
import time
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from . import wire
from .errors import UsageError, error_of
from .ids import FreshId, id_bytes, new_id
from .parts import Part, Parts, parts_of
from .results import CLASSES, ON_PREEMPT

# kind: (class by default, on_preempt by default), as the C++ client's; a kind that is not here is sent as an inference job, and a
# broker that does not know it says so.
KINDS = {"detect": (0, 2), "infer": (0, 2), "train.detector": (1, 0), "train.gnn": (1, 0), "train.gan": (1, 0), "synthesize": (2, 2),
         "command": (1, 2), "echo": (0, 2), "sleep": (0, 2), "warm": (0, 2), "reserve": (1, 3)}
REST_OF_DEVICE_MIB = 1 << 40
RETRIES_MAX = 100
WHERE_MAX = 16
AFTER_MAX = 256
LABEL_BYTES_MAX = 256
BLOB_BYTES_MAX = 8 << 30
BRIEF_NAME = b"gpuqbrf1"
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(KiB|MiB|GiB|TiB|M|G|T)\s*\Z")
_SIZE_MIB = {"KiB": 1 / 1024, "MiB": 1, "GiB": 1024, "TiB": 1 << 20, "M": 1, "G": 1024, "T": 1 << 20}

Time = Union[None, float, int, datetime.datetime, datetime.timedelta]


@dataclass
class JobSpec:
    """A job to submit. Everything but `kind` may be left out."""

    kind: str
    job_class: str = ""                     # empty = the kind's own
    priority: int = 5                       # 0..9, 9 first
    model: str = ""                         # NAME or NAME@VERSION
    vram: Union[str, int, Tuple[int, int]] = 0   # MiB, (min, max) MiB, or "6GiB", "2GiB..8GiB", "2GiB..rest"; 0 = the kind's default
    devices: int = 1
    per_device: bool = False                # command: one process for each device, with RANK, WORLD_SIZE, … as torchrun sets them
    where: Sequence[str] = ()               # "key=value" labels a worker must have
    params: Mapping[str, Any] = field(default_factory=dict)   # sent as text
    argv: Sequence[str] = ()                # command
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    parts: Parts = ()                       # inputs: {"image": path, …}; gpuq.parts says what becomes what
    outputs: str = ""                       # NAME/path on a share: artefacts go there
    after: Sequence[str] = ()               # job ids that must succeed first
    not_before: Time = None                 # a datetime (with zone), a timedelta from now, or seconds since 1970
    deadline: Time = None                   # expires when it has not started by then
    timeout: float = 0                      # seconds of one attempt
    retries: int = 0
    on_preempt: str = ""                    # checkpoint|pause|restart|never; empty = the kind's own
    unique: str = ""                        # at most one unfinished job with this key
    id: str = ""                            # new_job_id(); empty = made here
    label: str = ""                         # for people
    exclusive: bool = False                 # stops itself when its worker loses the broker
    strict: bool = False                    # refuse it (NO_FIT) when no device known could ever hold it
    durability: str = ""                    # "none": never on disk, gone with the broker and once fetched; kinds that answer only. "always": on disk
                                            # before the answer. "" = as the policy of its class says, always without one
    watch: bool = True                      # the broker tells this client by itself when it is final; False for fire and forget


class Source:
    """Bytes on their way into the blob store: in memory, or a file that is read as it goes."""

    def __init__(self, digest: bytes, total: int, data: bytes = b"", file: Optional[io.FileIO] = None) -> None:
        self.digest, self.total, self._data, self._file = digest, total, data, file

    def read(self, offset: int, count: int) -> bytes:
        if self._file is None:
            return self._data[offset:offset + count]
        data = os.pread(self._file.fileno(), min(count, self.total - offset), offset)
        if not data:
            raise error_of("BAD_INPUT", "a file became shorter while it was uploaded", "leave the file alone until the call ends, then try again")
        return data

    @staticmethod
    def named(data: bytes) -> "Source":
        """With a name of its own instead of a digest: only jobs with durability none may name it, and nobody hashes it."""
        return Source(BRIEF_NAME + os.urandom(32 - len(BRIEF_NAME)), len(data), data)

    @property
    def in_memory(self) -> bool:
        return self._file is None

    @staticmethod
    def of_bytes(data: bytes) -> "Source":
        return Source(hashlib.sha256(data).digest(), len(data), data)

    @staticmethod
    def of_file(path: Any) -> "Source":
        try:
            file = open(path, "rb", buffering=0)
            total = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise error_of("NOT_FOUND" if isinstance(error, FileNotFoundError) else "BAD_INPUT", f"cannot read {path}: {error.strerror}",
                           "check the path and its permissions") from None
        if total > BLOB_BYTES_MAX:
            raise UsageError("TOO_LARGE", f"{path} is larger than 8 GiB", "")
        made, hashed = Source(b"", total, file=file), hashlib.sha256()
        for at in range(0, total, 1 << 20):
            hashed.update(made.read(at, 1 << 20))
        made.digest = hashed.digest()
        return made


class Prepared:
    """One job, ready for the wire."""

    __slots__ = ("id", "packed", "payload", "uploads", "undurable", "uploads_left", "sends", "batch", "index")

    def __init__(self, raw_id: bytes, packed: bytes, payload: bytes, uploads: List[Source]) -> None:
        self.id, self.packed, self.payload, self.uploads = raw_id, packed, payload, uploads
        self.undurable = False
        self.uploads_left = self.sends = self.index = 0
        self.batch: Any = None


def prepare(spec: JobSpec, inline_bytes_max: int = 64 << 10) -> Prepared:
    item = item_of(spec)
    body: Dict[str, Any] = {}
    if spec.params:
        body["params"] = {str(key): _text(value) for key, value in spec.params.items()}
    if spec.argv:
        body["argv"] = [os.fspath(word) for word in spec.argv]
    if spec.env:
        body["env"] = {str(key): str(value) for key, value in spec.env.items()}
    if spec.cwd:
        body["cwd"] = os.fspath(spec.cwd)
    if spec.per_device:
        body["per_device"] = True
    if spec.outputs:
        body["outputs"] = spec.outputs
        item["where"].append(_share_label(spec.outputs))
    uploads: List[Source] = []
    if spec.parts:
        parts = parts_of(spec.parts)
        item["where"] += [_share_label(part.share) for part in parts if part.share]
        body["parts"], uploads, item["blobs"] = _set_aside_large(parts, _fixed_bytes(body, parts), inline_bytes_max, item["durability"] == 1 and (not spec.id or isinstance(spec.id, FreshId)))
    item["where"] = sorted(set(item["where"]))
    if len(item["where"]) > WHERE_MAX:
        raise UsageError("OVER_LIMIT", f"labels and shares together are more than {WHERE_MAX}", "put the files on fewer shares")
    payload = wire.encode_body("JobBody", body)
    if len(payload) > inline_bytes_max:
        raise UsageError("TOO_LARGE", f"the job's parameters, command and environment are {len(payload) >> 10} KiB, more than "
                         f"{inline_bytes_max >> 10} KiB", "pass large data as a part")
    item["payload_bytes"] = len(payload)
    item["digest"] = _digest(item, payload)
    prepared = Prepared(item["id"], wire.pack(wire.STRUCTS["SubmitItem"].write(item)), payload, uploads)
    prepared.undurable = item["durability"] == 1
    return prepared


def item_of(spec: JobSpec) -> Dict[str, Any]:
    """The SubmitItem without what depends on the payload; USAGE, OVER_LIMIT."""
    _judge(spec)
    default_class, default_preempt = KINDS.get(spec.kind, (0, 2))
    low, high = vram_range(spec.vram)
    item = {"id": id_bytes(spec.id) if spec.id else new_id(), "kind": spec.kind,
            "job_class": _index(CLASSES, spec.job_class, "class") if spec.job_class else default_class,
            "on_preempt": _index(ON_PREEMPT, spec.on_preempt, "on_preempt") if spec.on_preempt else default_preempt,
            "priority": spec.priority, "model": spec.model, "budget_min_mib": low, "budget_max_mib": high, "devices": spec.devices,
            "exclusive": spec.exclusive, "strict": spec.strict, "watch": spec.watch, "where": sorted(set(spec.where)), "retries": spec.retries,
            "durability": {"none": 1, "always": 2}.get(spec.durability, 0), "unique": spec.unique, "label": spec.label, "timeout_us": int(spec.timeout * 1_000_000)}
    if spec.after:
        item["after"] = [id_bytes(one, "after") for one in spec.after]
    if spec.not_before is not None:
        item["not_before_ms"] = milliseconds(spec.not_before, "not_before")
    if spec.deadline is not None:
        item["deadline_ms"] = milliseconds(spec.deadline, "deadline")
    return item


def _judge(spec: JobSpec) -> None:
    if not spec.kind:
        raise UsageError("USAGE", "a job needs a kind", "one of: " + ", ".join(KINDS))
    if spec.per_device and spec.kind != "command":
        raise UsageError("USAGE", f"a process for each device is for commands, not for {spec.kind}", "leave per_device out")
    if spec.kind == "command" and not spec.argv:
        raise UsageError("USAGE", "a command job needs a command", 'argv=["python3", "train.py"]')
    if isinstance(spec.argv, (str, bytes)) or isinstance(spec.where, str) or isinstance(spec.after, str):
        raise UsageError("USAGE", "argv, where and after are lists, not text", 'argv=["python3", "train.py"]')
    if not 0 <= spec.priority <= 9:
        raise UsageError("OVER_LIMIT", f"priority {spec.priority} is not 0..9", "9 is served first, 5 is the default")
    if not 1 <= spec.devices <= 64:
        raise UsageError("OVER_LIMIT", f"devices {spec.devices} is not 1..64", "")
    if not 0 <= spec.retries <= RETRIES_MAX:
        raise UsageError("OVER_LIMIT", f"retries {spec.retries} is not 0..{RETRIES_MAX}", "")
    if spec.timeout < 0:
        raise UsageError("USAGE", f"timeout {spec.timeout} is negative", "seconds of one attempt; 0 = none")
    if spec.durability not in ("", "none", "always"):
        raise UsageError("USAGE", f"durability {spec.durability!r} is neither always nor none", "leave it out: on disk before the answer")
    if len(spec.where) > WHERE_MAX:
        raise UsageError("OVER_LIMIT", f"more than {WHERE_MAX} labels asked for", "")
    if len(spec.after) > AFTER_MAX:
        raise UsageError("OVER_LIMIT", f"a job may come after at most {AFTER_MAX} others", "")
    if len(spec.unique.encode()) > LABEL_BYTES_MAX or len(spec.label.encode()) > LABEL_BYTES_MAX:
        raise UsageError("OVER_LIMIT", f"unique key and label are at most {LABEL_BYTES_MAX} bytes", "")


def _share_label(reference: str) -> str:
    """The job goes only where this share is."""
    name, slash, below = reference.partition("/")
    if not name or not slash or not below or ".." in below.split("/"):
        raise UsageError("USAGE", f"{reference!r} names nothing on a share", "NAME/path, as in boards/a.png")
    return "share=" + name


def _index(words: Tuple[str, ...], given: str, what: str) -> int:
    if given not in words:
        raise UsageError("USAGE", f"there is no {what} {given!r}", "use one of: " + ", ".join(words))
    return words.index(given)


def vram_range(given: Union[str, int, Tuple[int, int]]) -> Tuple[int, int]:
    """(min, max) in MiB."""
    if isinstance(given, str):
        low_text, dots, high_text = given.partition("..")
        low = _size_mib(low_text)
        low, high = low, (low if not dots else REST_OF_DEVICE_MIB if high_text.strip() == "rest" else _size_mib(high_text))
    elif isinstance(given, tuple):
        low, high = given
    else:
        low = high = given
    if low < 0 or high < low:
        raise UsageError("USAGE", f"the memory range {given!r} is upside down", 'for example "2GiB..8GiB"')
    return low, min(high, REST_OF_DEVICE_MIB)


def _size_mib(text: str) -> int:
    found = _SIZE.match(text)
    if not found:
        raise UsageError("USAGE", f"{text!r} is no size of memory", 'for example "6GiB" or "8192MiB"')
    return -int(-float(found.group(1)) * _SIZE_MIB[found.group(2)])


def milliseconds(when: Time, what: str) -> int:
    if isinstance(when, datetime.timedelta):
        return int((time.time() + when.total_seconds()) * 1000)
    if isinstance(when, datetime.datetime):
        if when.tzinfo is None:
            raise UsageError("USAGE", f"{what} {when} has no time zone", "datetime.now(timezone.utc) + …, or a timedelta from now")
        return int(when.timestamp() * 1000)
    if isinstance(when, (int, float)) and when >= 1e9:
        return int(when * 1000)
    raise UsageError("USAGE", f"{what} {when!r} is no time", "a datetime with a zone, a timedelta from now, or seconds since 1970")


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _fixed_bytes(body: Dict[str, Any], parts: List[Part]) -> int:
    fixed = 64 + sum(len(part.name.encode()) + len(part.media) + 64 for part in parts)
    return fixed + (len(wire.encode_body("JobBody", body)) if body else 0)


def _set_aside_large(parts: List[Part], fixed: int, inline_max: int, brief: bool) -> Tuple[List[Dict[str, Any]], List[Source], List[bytes]]:
    """Moves the largest parts into the blob store until the rest fits inline. `brief`: nobody needs them again under a name that follows
    from their content (a job with an id of the caller's does: said again it must be the same job)."""
    held = {at: part.size for at, part in enumerate(parts) if not part.blob and not part.share}
    inline = sum(held.values())
    raw: List[Dict[str, Any]] = []
    uploads: List[Source] = []
    blobs: List[bytes] = []
    away = set()
    for at in sorted(held, key=lambda one: -held[one]):
        if inline + fixed <= inline_max:
            break
        inline -= held[at]
        away.add(at)
    for at, part in enumerate(parts):
        one: Dict[str, Any] = {"name": part.name, "media": part.media}
        if part.share:
            one["share"] = part.share
        elif part.blob:
            try:
                digest = bytes.fromhex(part.blob)
            except ValueError:
                digest = b""
            if len(digest) != 32:
                raise UsageError("USAGE", f"part {part.name!r} names a blob that is no digest", "a digest has 64 hexadecimal digits, as upload() returns")
            one.update(blob=digest, blob_bytes=part.size)
            blobs.append(digest)
        elif at in away:
            source = Source.of_file(part.path) if part.path is not None else Source.named(part.bytes()) if brief else Source.of_bytes(part.bytes())
            one.update(blob=source.digest, blob_bytes=source.total)
            blobs.append(source.digest)
            uploads.append(source)
        else:
            one["bytes"] = part.path.read_bytes() if part.path is not None else part.bytes()
        raw.append(one)
    return raw, uploads, blobs


_NOT_HASHED = {"id": b"", "digest": b"", "watch": True, "strict": False}


def _digest(item: Dict[str, Any], payload: bytes) -> bytes:
    """Equal specs have equal digests: neither the id nor how it is judged at the door and told of is part of it."""
    return hashlib.blake2b(wire.pack(wire.STRUCTS["SubmitItem"].write({**item, **_NOT_HASHED})) + payload, digest_size=16).digest()


def spec_of(kind: Union[str, JobSpec], fields: Mapping[str, Any]) -> JobSpec:
    """A kind with the fields of a JobSpec, or a JobSpec with some of its fields changed."""
    try:
        return JobSpec(kind, **fields) if isinstance(kind, str) else dataclasses.replace(kind, **fields)
    except TypeError:
        known = {one.name for one in dataclasses.fields(JobSpec)}
        wrong = ", ".join(sorted(set(fields) - known))
        raise UsageError("USAGE", f"a job has no field {wrong}", "one of: " + ", ".join(sorted(known))) from None

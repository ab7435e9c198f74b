"""results.py - what comes back: plain dataclasses, fields as in PROTOCOL.md. Times are UTC milliseconds, memory is in MiB."""
from __future__ import annotations

from dataclasses import dataclass, field, fields as fields_of
from typing import Any, Dict, List, Optional, Type, TypeVar

from . import wire
from .errors import JobError, error_of
from .ids import id_text
from .parts import Part

CLASSES = ("inference", "training", "synthesis")
STATES = ("blocked", "waiting", "ready", "running", "yielding", "succeeded", "failed", "cancelled", "expired", "quarantined")
FINAL = frozenset(STATES[5:])
ON_PREEMPT = ("checkpoint", "pause", "restart", "never")
CANCEL_RESULTS = ("cancelled", "asked", "already_final", "unknown", "refused")
DEVICE_KINDS = ("cpu", "cuda", "mps", "simulated")

T = TypeVar("T")


def word(words: Any, number: int) -> str:
    return str(words[number]) if number < len(words) else "unknown"


def _id(raw: bytes) -> str:
    return id_text(raw) if raw else ""


def _plain(cls: Type[T], raw: Dict[str, Any], **more: Any) -> T:
    """The dataclass from the fields of the same names; `more` for those that are said in other words."""
    names = {one.name for one in fields_of(cls)}   # type: ignore[arg-type]
    return cls(**{key: value for key, value in raw.items() if key in names and key not in more}, **more)


@dataclass
class Submitted:
    """What became of one submit: `ok`, or code, what and next. `existing`: it was here before."""

    id: str
    ok: bool = True
    existing: bool = False
    code: str = ""
    what: str = ""
    next: str = ""
    durable: bool = True            # False: kept in memory only, asked for or by its class's policy

    def check(self) -> "Submitted":
        if not self.ok:
            raise error_of(self.code, self.what, self.next)
        return self

    @staticmethod
    def read(raw: Dict[str, Any]) -> "Submitted":
        return _plain(Submitted, raw, id=_id(raw["id"]))


@dataclass
class JobResult:
    """A final job. `state` is succeeded, failed, cancelled, expired or quarantined."""

    id: str
    state: str
    code: str = ""
    what: str = ""
    attempt: int = 0
    worker: str = ""
    device: str = ""
    model_version: str = ""
    submitted_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    values: Dict[str, str] = field(default_factory=dict)     # small facts: exit_code, …
    parts: List[Part] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.state == "succeeded"

    def part(self, name: str) -> Optional[Part]:
        return next((part for part in self.parts if part.name == name), None)

    def check(self) -> "JobResult":
        """Itself when it succeeded, else JobError with its code."""
        if self.ok:
            return self
        code = self.code or "JOB_FAILED"
        error = JobError(code, self.what or f"job {self.id} is {self.state}", f"gpuq status {self.id}")
        error.result = self
        raise error

    @staticmethod
    def read(item: Dict[str, Any], payload: bytes) -> "JobResult":
        body = wire.decode_body("ResultBody", payload)
        parts = [_part(raw) for raw in body["parts"]]
        return _plain(JobResult, item, id=_id(item["id"]), state=word(STATES, item["state"]), values=body["values"], parts=parts)


def _part(raw: Dict[str, Any]) -> Part:
    away = bool(raw["blob"] or raw["share"])
    return Part(raw["name"], None if away else raw["bytes"], raw["media"], raw["blob"].hex(),
                raw["blob_bytes"] if raw["blob"] else raw.get("share_bytes", 0) if away else len(raw["bytes"]), raw["share"])


@dataclass
class Detection:
    """One box, in pixels of the submitted image."""

    x1: float
    y1: float
    x2: float
    y2: float
    score: float
    label: int = 0
    name: str = ""


class Detections(List[Detection]):
    """The boxes of one image; `model_version` and `result` say who answered."""

    def __init__(self, boxes: List[Detection], result: JobResult) -> None:
        super().__init__(boxes)
        self.result = result
        self.model_version = result.model_version

    @staticmethod
    def read(result: JobResult) -> "Detections":
        part = result.part("detections")
        if part is None:
            return Detections([], result)
        try:
            told = part.json()
            boxes = told["boxes"] if isinstance(told, dict) else told
            return Detections([Detection(float(box["x1"]), float(box["y1"]), float(box["x2"]), float(box["y2"]), float(box["score"]),
                                         int(box.get("label", 0)), str(box.get("name", ""))) for box in boxes], result)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise error_of("BAD_MESSAGE", f"the detections of job {result.id} cannot be read: {error!r}",
                           f"gpuq result {result.id} -d DIR, and look at the part 'detections'") from None


class Outputs(Dict[str, Any]):
    """The outputs of an infer job by name: numpy arrays, JSON values or bytes."""

    def __init__(self, values: Dict[str, Any], result: JobResult) -> None:
        super().__init__(values)
        self.result = result
        self.model_version = result.model_version


@dataclass
class JobStatus:
    id: str
    found: bool = False
    kind: str = ""
    job_class: str = ""
    state: str = ""
    priority: int = 0
    model: str = ""
    model_version: str = ""
    label: str = ""
    owner: str = ""
    worker: str = ""
    device: str = ""
    code: str = ""
    what: str = ""
    reason: str = ""
    on_preempt: str = ""
    budget_min_mib: int = 0
    budget_max_mib: int = 0
    granted_mib: int = 0
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    preemptions: int = 0
    retries: int = 0
    submitted_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    due_ms: int = 0
    deadline_ms: int = 0
    ahead: int = 0
    result_bytes: int = 0
    result_blobs: List[str] = field(default_factory=list)
    retry_of: str = ""
    after: List[str] = field(default_factory=list)
    cancel_asked: bool = False
    checkpoint_step: int = 0
    checkpoint: str = ""
    progress_step: int = 0
    progress_total: int = 0
    metrics: Dict[str, float] = field(default_factory=dict)
    last_lines: str = ""
    held: bool = False
    evictions: int = 0
    leave_reason: str = ""
    leave_for: str = ""
    durable: bool = True

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @staticmethod
    def read(raw: Dict[str, Any]) -> "JobStatus":
        found = raw["found"]
        return _plain(JobStatus, raw, id=_id(raw["id"]), job_class=word(CLASSES, raw["job_class"]) if found else "",
                      state=word(STATES, raw["state"]) if found else "", retry_of=_id(raw["retry_of"]), leave_for=_id(raw["leave_for"]), durable=raw["durability"] != 1,
                      after=[_id(one) for one in raw["after"]], checkpoint=raw["checkpoint"].hex(),
                      result_blobs=[one.hex() for one in raw["result_blobs"]])


@dataclass
class Progress:
    """How far a job is: total 0 = unknown."""

    step: int
    total: int
    metrics: Dict[str, float]
    state: str


@dataclass
class LogChunk:
    data: bytes
    offset: int     # of its first byte in the job's output; greater than asked = older output is only in the job's own log
    next: int
    end: bool


@dataclass
class Model:
    name: str
    version: str = ""
    runtime: str = ""
    metadata: str = ""
    owner: str = ""
    blob: str = ""
    bytes: int = 0
    budget_mib: int = 0
    pushed_ms: int = 0
    promoted: bool = False      # what its name means without a version
    promoted_ms: int = 0        # when it last came to be that; 0 = never, or a rollback left it

    @staticmethod
    def read(raw: Dict[str, Any]) -> "Model":
        return _plain(Model, raw, blob=raw["blob"].hex())


@dataclass
class Device:
    uuid: str
    name: str
    kind: str
    index: int
    healthy: bool
    total_mib: int
    driver_mib: int
    used_mib: int
    used_by_us_mib: int
    temperature_c: int
    utilization_pct: int
    headroom_mib: int
    foreign_mib: int
    granted_mib: int
    free_mib: int
    holders: List[str]
    warm: List[str]
    state: str
    reserved: List[str]

    @staticmethod
    def read(raw: Dict[str, Any]) -> "Device":
        inner = raw["device"]
        outer = {key: value for key, value in raw.items() if key != "device"}
        return _plain(Device, {**inner, **outer}, kind=word(DEVICE_KINDS, inner["kind"]))


@dataclass
class Worker:
    name: str
    host: str
    version: str
    state: str
    since_beat_ms: int
    labels: List[str]
    kinds: List[str]
    running: int
    devices: List[Device]

    @staticmethod
    def read(raw: Dict[str, Any]) -> "Worker":
        return _plain(Worker, raw, devices=[Device.read(one) for one in raw["devices"]])


@dataclass
class Top:
    broker_version: str
    store: str
    space: str
    term: int
    uptime_ms: int
    jobs: Dict[str, Dict[str, int]]     # [class][state]
    submitted: int
    succeeded: int
    failed: int
    lost: int
    stale: int
    assigned: int
    queued_bytes: int
    final_bytes: int
    broker_bytes: int
    commits: int
    commit_p50_ms: float
    commit_p99_ms: float
    jobs_per_commit: float
    preempted: int
    evicted_models: int
    plans_made: int
    plans_expired: int
    killed_at_deadline: int
    switches: List[str]

    @staticmethod
    def read(raw: Dict[str, Any]) -> "Top":
        jobs = {word(CLASSES, at): {word(STATES, state): count for state, count in enumerate(row)}
                for at, row in enumerate(raw["by_class_and_state"])}
        return _plain(Top, raw, jobs=jobs, jobs_per_commit=raw["jobs_per_commit_milli"] / 1000)


@dataclass
class CommandResult:
    """What became of an order about one job or target: `text`, or code, what and next."""

    ok: bool
    text: str = ""
    code: str = ""
    what: str = ""
    next: str = ""

    @staticmethod
    def read(raw: Dict[str, Any]) -> "CommandResult":
        return _plain(CommandResult, raw)


@dataclass
class Place:
    worker: str
    host: str
    device: str
    index: int
    warm: bool
    constraint: str      # the first that says no; empty = all hold
    sentence: str
    lacking_mib: int
    until_ms: int


@dataclass
class Remedy:
    kind: str
    text: str
    when_ms: int
    jobs: List[str]
    budget_mib: int


@dataclass
class Explanation:
    """Why a job waits and what would make it run: the scheduler's own constraints."""

    job: str
    state: str
    summary: str
    would_start: bool
    ahead: int
    never: bool
    places: List[Place]
    places_looked_at: int
    refusals: Dict[str, int]
    remedies: List[Remedy]

    @staticmethod
    def read(raw: Dict[str, Any]) -> "Explanation":
        return _plain(Explanation, raw, job=_id(raw["job"]), state=word(STATES, raw["state"]),
                      places=[_plain(Place, one) for one in raw["places"]],
                      refusals={one["constraint"]: one["count"] for one in raw["refusals"]},
                      remedies=[_plain(Remedy, one, jobs=[_id(job) for job in one["jobs"]]) for one in raw["remedies"]])

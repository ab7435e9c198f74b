"""What goes in and what comes back. Memory in MiB, times in UTC milliseconds since 1970 (0 = none), spans in seconds."""
import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

CLASSES = ("inference", "training", "synthesis")
STATES = ("blocked", "waiting", "ready", "running", "yielding", "succeeded", "failed", "cancelled", "expired", "quarantined")
ON_PREEMPT = ("checkpoint", "pause", "restart", "never")
FINAL = frozenset(STATES[5:])
REST = 1 << 40   # vram=(2048, REST): at least 2 GiB, as much as the device has left

# kind -> class and on_preempt when nothing is said (common/vocabulary/job.h)
KINDS: Dict[str, Tuple[str, str]] = {
    "detect": ("inference", "restart"), "infer": ("inference", "restart"), "synthesize": ("synthesis", "restart"),
    "train.detector": ("training", "checkpoint"), "train.gnn": ("training", "checkpoint"), "train.gan": ("training", "checkpoint"),
    "command": ("training", "restart"), "echo": ("inference", "restart"), "sleep": ("inference", "restart"), "reserve": ("training", "never"),
}


@dataclass
class Part:
    """A named piece of input or output. Larger than 64 KiB in all, it travels through the broker's blob store by itself."""
    name: str
    bytes: bytes = b""
    media: str = "application/octet-stream"
    blob: str = ""             # hex SHA-256 when it lies in the blob store; AsyncClient.fetch() reads it
    size: int = 0
    share: str = ""            # "NAME/path" when it lies on a folder that the worker sees, too

    @property
    def text(self) -> str:
        return self.bytes.decode("utf-8", "replace")

    def json(self) -> Any:
        return json.loads(self.bytes)


@dataclass
class JobSpec:
    """A job to submit. Only `kind` must be said; `command` needs argv, detect and infer need a model."""
    kind: str
    job_class: str = ""                     # empty = the kind's own
    priority: int = 5                       # 0..9, 9 first
    model: str = ""                         # NAME or NAME@VERSION
    vram_mib: Union[int, Tuple[int, int]] = 0   # a number, or (at least, at most): granted as large as fits; 0 = the kind's default
    devices: int = 1
    where: Sequence[str] = ()               # "key=value" labels the worker must have
    params: Mapping[str, Any] = field(default_factory=dict)
    argv: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    parts: Sequence[Part] = ()
    outputs: str = ""                       # "NAME/path" on a share for its artefacts
    after: Sequence[str] = ()
    not_before_ms: int = 0
    deadline_ms: int = 0
    timeout: float = 0.0                    # seconds, of one attempt
    retries: int = 0
    on_preempt: str = ""                    # checkpoint, pause, restart, never; empty = the kind's own
    unique: str = ""
    id: str = ""                            # 26 characters; empty = made here
    label: str = ""
    exclusive: bool = False
    strict: bool = False


@dataclass
class Submitted:
    id: str
    ok: bool = True
    existing: bool = False                  # it was here before: the same id was submitted again
    code: str = ""
    what: str = ""
    next: str = ""


@dataclass
class Detection:
    """A box in pixels of the submitted image."""
    x1: float
    y1: float
    x2: float
    y2: float
    score: float
    label: int
    name: str


@dataclass
class Result:
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
    values: Dict[str, str] = field(default_factory=dict)
    parts: Dict[str, Part] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.state == "succeeded"

    @property
    def detections(self) -> List[Detection]:
        """Boxes of a detect job. Raises KeyError when it has none."""
        boxes = self.parts["detections"].json()["boxes"]
        return [Detection(float(b["x1"]), float(b["y1"]), float(b["x2"]), float(b["y2"]), float(b["score"]), int(b["label"]), str(b.get("name", ""))) for b in boxes]


@dataclass
class JobStatus:
    """All that is known of one job; the fields are PROTOCOL.md's JobStatus."""
    id: str = ""
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

    @property
    def final(self) -> bool:
        return self.state in FINAL


@dataclass
class Progress:
    step: int
    total: int                              # 0 = unknown
    metrics: Dict[str, float]
    state: str


@dataclass
class LogChunk:
    bytes: bytes
    offset: int                             # of its first byte; greater than asked for = older output has left the broker
    next: int
    end: bool


@dataclass
class Model:
    name: str = ""
    version: str = ""
    runtime: str = ""
    metadata: str = ""
    owner: str = ""
    blob: str = ""
    bytes: int = 0
    budget_mib: int = 0
    pushed_ms: int = 0
    promoted: bool = False


@dataclass
class PlaceVerdict:
    worker: str = ""
    host: str = ""
    device: str = ""
    index: int = 0
    warm: bool = False
    constraint: str = ""                    # empty = every one holds
    sentence: str = ""
    lacking_mib: int = 0
    until_ms: int = 0


@dataclass
class Remedy:
    kind: str = ""
    text: str = ""
    when_ms: int = 0
    jobs: List[str] = field(default_factory=list)
    budget_mib: int = 0


@dataclass
class Explanation:
    """Why a job waits and what would make it run."""
    job: str = ""
    state: str = ""
    summary: str = ""
    would_start: bool = False
    ahead: int = 0
    never: bool = False
    places: List[PlaceVerdict] = field(default_factory=list)
    places_looked_at: int = 0
    remedies: List[Remedy] = field(default_factory=list)


def pick(cls: Any, fields: Mapping[str, Any]) -> Any:
    """A dataclass from a map of the wire: unknown keys are stepped over, missing ones keep their defaults."""
    known = {f.name for f in dataclasses.fields(cls)}
    return cls(**{k: v for k, v in fields.items() if k in known and v is not None})


def as_text(value: Any) -> str:
    """A parameter as the wire has it: everything is text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


__all__ = ["CLASSES", "Detection", "Explanation", "FINAL", "JobSpec", "JobStatus", "LogChunk", "Model", "ON_PREEMPT", "Optional", "Part",
           "PlaceVerdict", "Progress", "REST", "Remedy", "Result", "STATES", "Submitted"]

"""client.py - the blocking client: thread-safe, one connection and one thread of its own for all its callers.

    with gpuq.Client() as client:                       # address and key from the access file
        boxes = client.detect("boards", pathlib.Path("board.png"))
        job = client.submit("command", argv=["python3", "train.py"], retries=2)     # on disk when this returns
        result = client.wait(job, timeout=3600).check()

Every call has a deadline (`timeout`, else the client's, 30 s) and raises an Error with a stable code. aio.AsyncClient is the same in asyncio.
"""
from __future__ import annotations

import concurrent.futures
import os
import time
import weakref
from types import TracebackType
from typing import Any, Coroutine, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar, Union

from .calls import Calls, JobLike, Offload, Wait
from .errors import TimedOutError, error_of
from .log_stream import LogStream
from .parts import Part, PartValue
from .results import (FINAL, CommandResult, Detections, Explanation, JobResult, JobStatus, LogChunk, Model, Outputs, Progress, Submitted,
                      Top, Worker)
from .spec import JobSpec, Time, spec_of as _spec

T = TypeVar("T")


class Client:
    """`broker`: "tcp://host:7700", else from the access file; `access_file`: else $GPUQ_ACCESS_FILE, ~/.config/gpuq/client.json,
    /etc/gpuq/client.json; `insecure`: no keys, only to a broker started --insecure on this machine. `timeout`: seconds, of every call that
    names none (math.inf: for ever). A broker that never answered is given up on after `connect_timeout` (UNREACHABLE); one that did is waited for until each
    call's own deadline: a restart is no error. `acknowledge`: tell the broker which results arrived, so that it may drop them early."""

    def __init__(self, broker: str = "", *, access_file: Optional[str] = None, insecure: bool = False, name: str = "", timeout: float = 30.0,
                 connect_timeout: float = 10.0, acknowledge: bool = True) -> None:
        self._calls = Calls(broker, access_file, insecure, name, timeout, connect_timeout, acknowledge)
        weakref.finalize(self, self._calls.engine.stop)     # forgotten, or the program ends: its thread ends, too

    def close(self) -> None:
        """Fails what still waits (CANCELLED), says goodbye. Jobs go on."""
        self._calls.engine.stop()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        return self._calls.engine.connected

    def _drive(self, call: Coroutine[Any, Any, T]) -> T:
        """Runs a call of calls.py by blocking for each thing it waits for."""
        value: Any = None
        error: Optional[BaseException] = None
        while True:
            try:
                step = call.throw(error) if error is not None else call.send(value)
            except StopIteration as end:
                result: T = end.value
                return result
            value, error = None, None
            try:
                value = step.work() if isinstance(step, Offload) else _blocked(step)
            except BaseException as raised:
                error = raised

    def submit(self, kind: Union[str, JobSpec], *, submit_timeout: Optional[float] = None, **spec: Any) -> Submitted:
        """One job, by kind and the fields of JobSpec (`submit("echo", params={"n": 1})`) or as a JobSpec. On disk when this
        returns."""
        return self._drive(self._calls.submit(_spec(kind, spec), submit_timeout))

    def submit_many(self, specs: Iterable[JobSpec], *, timeout: Optional[float] = None) -> List[Submitted]:
        """Any number of jobs, in messages of up to 256. Answered one by one: a refused one has ok = False and does not harm the
        others."""
        return self._drive(self._calls.submit_many(specs, timeout))

    def command(self, argv: Sequence[str], *, submit_timeout: Optional[float] = None, **spec: Any) -> Submitted:
        """A command in its own process group: `command(["python3", "train.py"], cwd=…, env={…}, vram="6GiB")`."""
        return self._drive(self._calls.submit(JobSpec("command", argv=argv, **spec), submit_timeout))

    def wait(self, job: JobLike, timeout: Optional[float] = None, *, cancel_on_abandon: bool = False) -> JobResult:
        """The result when the job is final, whatever came of it (`.check()` raises unless it succeeded). Survives a broker that
        restarts."""
        return self._drive(self._calls.wait(job, timeout, cancel_on_abandon))

    def wait_many(self, jobs: Sequence[JobLike], timeout: Optional[float] = None) -> List[JobResult]:
        """All results, in the order asked."""
        return self._drive(self._calls.wait_many(jobs, timeout))

    def run(self, kind: Union[str, JobSpec], *, timeout: Optional[float] = None, cancel_on_abandon: bool = False,
            **spec: Any) -> JobResult:
        """submit, wait, check: JobError when it did not succeed."""
        return self._drive(self._calls.run(_spec(kind, spec), timeout, cancel_on_abandon))

    def result(self, job: JobLike) -> JobResult:
        """Of a job that is final; UNAVAILABLE while it is not, NOT_FOUND, RESULT_EXPIRED."""
        return self._drive(self._calls.result(job))

    def detect(self, model: str, image: PartValue, *, timeout: Optional[float] = None, cancel_on_abandon: bool = True,
               **spec: Any) -> Detections:
        """Boxes in one image (the bytes of a JPEG or PNG, or a pathlib.Path). The job is cancelled when the caller leaves before
        the answer."""
        return self._drive(self._calls.detect(model, image, spec, timeout, cancel_on_abandon))

    def infer(self, model: str, inputs: Mapping[str, PartValue], *, timeout: Optional[float] = None, cancel_on_abandon: bool = True,
              **spec: Any) -> Outputs:
        """Named parts in (numpy arrays, JSON, bytes, files), named values out."""
        return self._drive(self._calls.infer(model, inputs, spec, timeout, cancel_on_abandon))

    def synthesize(self, model: str, count: int = 1, *, seed: Optional[int] = None, timeout: Optional[float] = None,
                   cancel_on_abandon: bool = True, **spec: Any) -> List[bytes]:
        """Images of a generator, as PNG files."""
        return self._drive(self._calls.synthesize(model, count, seed, spec, timeout, cancel_on_abandon))

    def cancel(self, *jobs: JobLike) -> List[str]:
        """Of each: cancelled, asked (it runs; its worker was told), already_final, unknown or refused (another key's job; admins may)."""
        return self._drive(self._calls.cancel(jobs))

    def retry(self, job: JobLike) -> Submitted:
        """A new job from a final one."""
        return self._drive(self._calls.retry(job))

    def status(self, *jobs: JobLike) -> List[JobStatus]:
        """All that is known; `found` is False for one that is not here."""
        return self._drive(self._calls.status(jobs))

    def list(self, state: str = "", *, job_class: str = "", kind: str = "", active_only: bool = False, after: str = "",
             limit: int = 100) -> List[JobStatus]:
        """Jobs, newest first; the next page comes `after` the last id of this one."""
        return self._drive(self._calls.list(state, job_class, kind, active_only, after, limit))

    def progress_of(self, job: JobLike) -> Progress:
        """How far it is now."""
        return self._drive(self._calls.progress(job))

    def logs(self, job: JobLike, offset: int = 0) -> LogChunk:
        """What the broker keeps of its output, from `offset` on."""
        return self._drive(self._calls.logs(job, offset))

    def model_logs(self, model: str, offset: int = 0) -> LogChunk:
        """What the processes of a Python model print, NAME or NAME@VERSION; it never ends."""
        return self._drive(self._calls.model_logs(model, offset))

    def upload(self, content: "Union[bytes, bytearray, memoryview, os.PathLike[str]]") -> Part:
        """Into the blob store, once per content: a Part to use in any number of jobs. Kept while a job or model names it."""
        return self._drive(self._calls.upload(content))

    def fetch(self, part: Union[Part, str]) -> bytes:
        """The bytes of a part, or of a blob by its digest; verified."""
        return self._drive(self._calls.fetch(part))

    def fetch_to(self, part: Union[Part, str], path: "Union[str, os.PathLike[str]]") -> None:
        """Streamed to a file, which appears whole and verified or not at all."""
        self._drive(self._calls.fetch_to(part, path))

    def models(self) -> List[Model]:
        """All versions of all models."""
        return self._drive(self._calls.models())

    def push_model(self, name: str, content: "Union[bytes, Part, os.PathLike[str]]", *, runtime: str = "torchscript",
                   metadata: str = "", budget_mib: int = 0, promote: bool = True) -> Model:
        """Uploads one file and registers it as a version (a Python model's folder: gpuq model push); with `promote` its
        name means it from now on (the first one's always does). Admins only, as the next three."""
        return self._drive(self._calls.push_model(name, content, runtime, metadata, budget_mib, promote))

    def promote_model(self, name: str, version: str, condition: str = "") -> Model:
        """`name` means this version from now on; with a condition ("map50 > current and recall >= 0.9") only if it holds, else
        CONDITION_FALSE."""
        return self._drive(self._calls.order_model("promote", name, version, condition))

    def rollback_model(self, name: str) -> Model:
        """Back to the version promoted before; said again, the one before that."""
        return self._drive(self._calls.order_model("rollback", name, "", ""))

    def remove_model(self, name: str, version: str = "") -> Model:
        """One version, or all."""
        return self._drive(self._calls.remove_model(name, version))

    def workers(self) -> List[Worker]:
        """Workers and their devices as the broker sees them."""
        return self._drive(self._calls.workers())

    def top(self) -> Top:
        """Counts and rates of the broker."""
        return self._drive(self._calls.top())

    def explain(self, job: JobLike) -> Explanation:
        """Why it waits, device by device, and what would make it run."""
        return self._drive(self._calls.explain(job))

    def plan(self, kind: Union[str, JobSpec], **spec: Any) -> Explanation:
        """Where it would start if it were submitted now; nothing is."""
        return self._drive(self._calls.plan(_spec(kind, spec)))

    def update(self, job: JobLike, *, priority: Optional[int] = None, deadline: Time = None, not_before: Time = None,
               timeout: Optional[float] = None, retries: Optional[int] = None, job_class: Optional[str] = None, vram: Union[None, str,
               int, Tuple[int, int]] = None, on_preempt: Optional[str] = None, where: Optional[Sequence[str]] = None) -> str:
        """Changes an unfinished job; what is left out stays. A deadline or not_before of 0 is taken away."""
        return self._drive(self._calls.update(job, priority, deadline, not_before, timeout, retries, job_class, vram, on_preempt, where))

    def preempt(self, *jobs: JobLike, reason: str = "", deadline: float = 0) -> List[CommandResult]:
        """Asks running jobs to leave their devices within `deadline` seconds (0 = the grace of their class); they keep their
        place."""
        return self._drive(self._calls.order_jobs("preempt", jobs, reason, deadline))

    def hold(self, *jobs: JobLike, reason: str = "") -> List[CommandResult]:
        """Not started until released."""
        return self._drive(self._calls.order_jobs("hold", jobs, reason, 0))

    def release(self, *jobs: JobLike) -> List[CommandResult]:
        """Ends a hold."""
        return self._drive(self._calls.order_jobs("release", jobs, "", 0))

    def drain(self, target: str, *, reason: str = "", deadline: float = 0) -> str:
        """No new work for a worker or device (name, UUID, worker/index). Admins only, as the next three."""
        return self._drive(self._calls.order_target("drain", target, reason, deadline))

    def undrain(self, target: str) -> str:
        """Ends a drain."""
        return self._drive(self._calls.order_target("undrain", target, "", 0))

    def pause_class(self, job_class: str, *, reason: str = "") -> str:
        """Starts no job of this class."""
        return self._drive(self._calls.order_target("pause", job_class, reason, 0))

    def resume_class(self, job_class: str) -> str:
        """Ends a pause."""
        return self._drive(self._calls.order_target("resume", job_class, "", 0))

    # ---- streams

    def follow_logs(self, job: JobLike, offset: int = 0, *, timeout: Optional[float] = None) -> Iterator[LogChunk]:
        """The output as it comes, until the job is final; TIMED_OUT after `timeout` seconds of silence (None = patient)."""
        stream = LogStream(self._calls, job, offset)
        try:
            while True:
                chunk = self._drive(stream.next(timeout))
                if chunk is None:
                    return
                if chunk.data:
                    yield chunk
        finally:
            stream.close()

    def progress(self, job: JobLike, interval: float = 0.5) -> Iterator[Progress]:
        """Each change of its progress or state, asked for every `interval` seconds, the final one last."""
        last: Optional[Progress] = None
        while True:
            now = self._drive(self._calls.progress(job))
            if now != last:
                yield now
            if now.state in FINAL:
                return
            last = now
            time.sleep(interval)


def _blocked(step: Wait[Any]) -> Any:
    try:
        return step.future.result(step.timeout)
    except concurrent.futures.TimeoutError:
        if step.future.done():
            return step.future.result()
        raise (step.late() if step.late is not None else TimedOutError("TIMED_OUT", "the call was not answered in time", "")) from None
    except concurrent.futures.CancelledError:
        raise error_of("CANCELLED", "the call was given up", "") from None

"""aio.py - the asyncio client: the calls of client.Client as coroutines, on any event loop.

    async with gpuq.AsyncClient() as client:
        boxes = await client.detect("boards", image_bytes, timeout=5)
        async for chunk in client.follow_logs(job):
            print(chunk.data.decode(), end="")

A coroutine that is cancelled gives its job up: detect, infer and synthesize cancel it at the broker (cancel_on_abandon=False leaves it),
run and wait leave it unless told cancel_on_abandon=True. unless_disconnected() does that for a web request whose client hangs up.
"""
from __future__ import annotations

import asyncio
import os
import weakref
from types import TracebackType
from typing import (Any, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, List, Mapping, MutableMapping, Optional, Sequence, Tuple,
                    Type, TypeVar, Union)

from .calls import Calls, JobLike, Offload, Wait
from .errors import TimedOutError, error_of
from .log_stream import LogStream
from .parts import Part, PartValue
from .results import (FINAL, CommandResult, Detections, Explanation, JobResult, JobStatus, LogChunk, Model, Outputs, Progress, Submitted,
                      Top, Worker)
from .spec import JobSpec, Time, spec_of as _spec

T = TypeVar("T")


class AsyncClient:
    """Options as of Client. May be made outside an event loop and used from several."""

    def __init__(self, broker: str = "", *, access_file: Optional[str] = None, insecure: bool = False, name: str = "", timeout: float = 30.0,
                 connect_timeout: float = 10.0, acknowledge: bool = True) -> None:
        self._calls = Calls(broker, access_file, insecure, name, timeout, connect_timeout, acknowledge)
        weakref.finalize(self, self._calls.engine.stop)     # forgotten, or the program ends: its thread ends, too

    async def close(self) -> None:
        """Fails what still waits (CANCELLED), says goodbye. Jobs go on."""
        await asyncio.get_running_loop().run_in_executor(None, self._calls.engine.stop)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        return self._calls.engine.connected

    async def submit(self, kind: Union[str, JobSpec], *, submit_timeout: Optional[float] = None, **spec: Any) -> Submitted:
        """One job, by kind and the fields of JobSpec (`submit("echo", params={"n": 1})`) or as a JobSpec. On disk when this
        returns."""
        return await _drive(self._calls.submit(_spec(kind, spec), submit_timeout))

    async def submit_many(self, specs: Iterable[JobSpec], *, timeout: Optional[float] = None) -> List[Submitted]:
        """Any number of jobs, in messages of up to 256. Answered one by one: a refused one has ok = False and does not harm the
        others."""
        return await _drive(self._calls.submit_many(specs, timeout))

    async def command(self, argv: Sequence[str], *, submit_timeout: Optional[float] = None, **spec: Any) -> Submitted:
        """A command in its own process group: `command(["python3", "train.py"], cwd=…, env={…}, vram="6GiB")`."""
        return await _drive(self._calls.submit(JobSpec("command", argv=argv, **spec), submit_timeout))

    async def wait(self, job: JobLike, timeout: Optional[float] = None, *, cancel_on_abandon: bool = False) -> JobResult:
        """The result when the job is final, whatever came of it (`.check()` raises unless it succeeded). Survives a broker that
        restarts."""
        return await _drive(self._calls.wait(job, timeout, cancel_on_abandon))

    async def wait_many(self, jobs: Sequence[JobLike], timeout: Optional[float] = None) -> List[JobResult]:
        """All results, in the order asked."""
        return await _drive(self._calls.wait_many(jobs, timeout))

    async def run(self, kind: Union[str, JobSpec], *, timeout: Optional[float] = None, cancel_on_abandon: bool = False,
                  **spec: Any) -> JobResult:
        """submit, wait, check: JobError when it did not succeed."""
        return await _drive(self._calls.run(_spec(kind, spec), timeout, cancel_on_abandon))

    async def result(self, job: JobLike) -> JobResult:
        """Of a job that is final; UNAVAILABLE while it is not, NOT_FOUND, RESULT_EXPIRED."""
        return await _drive(self._calls.result(job))

    async def detect(self, model: str, image: PartValue, *, timeout: Optional[float] = None, cancel_on_abandon: bool = True,
                     **spec: Any) -> Detections:
        """Boxes in one image (the bytes of a JPEG or PNG, or a pathlib.Path). The job is cancelled when the caller leaves before
        the answer."""
        return await _drive(self._calls.detect(model, image, spec, timeout, cancel_on_abandon))

    async def infer(self, model: str, inputs: Mapping[str, PartValue], *, timeout: Optional[float] = None,
                    cancel_on_abandon: bool = True, **spec: Any) -> Outputs:
        """Named parts in (numpy arrays, JSON, bytes, files), named values out."""
        return await _drive(self._calls.infer(model, inputs, spec, timeout, cancel_on_abandon))

    async def synthesize(self, model: str, count: int = 1, *, seed: Optional[int] = None, timeout: Optional[float] = None,
                         cancel_on_abandon: bool = True, **spec: Any) -> List[bytes]:
        """Images of a generator, as PNG files."""
        return await _drive(self._calls.synthesize(model, count, seed, spec, timeout, cancel_on_abandon))

    async def cancel(self, *jobs: JobLike) -> List[str]:
        """Of each: cancelled, asked (it runs; its worker was told), already_final, unknown or refused (another key's job; admins may)."""
        return await _drive(self._calls.cancel(jobs))

    async def retry(self, job: JobLike) -> Submitted:
        """A new job from a final one."""
        return await _drive(self._calls.retry(job))

    async def status(self, *jobs: JobLike) -> List[JobStatus]:
        """All that is known; `found` is False for one that is not here."""
        return await _drive(self._calls.status(jobs))

    async def list(self, state: str = "", *, job_class: str = "", kind: str = "", active_only: bool = False, after: str = "",
                   limit: int = 100) -> List[JobStatus]:
        """Jobs, newest first; the next page comes `after` the last id of this one."""
        return await _drive(self._calls.list(state, job_class, kind, active_only, after, limit))

    async def progress_of(self, job: JobLike) -> Progress:
        """How far it is now."""
        return await _drive(self._calls.progress(job))

    async def logs(self, job: JobLike, offset: int = 0) -> LogChunk:
        """What the broker keeps of its output, from `offset` on."""
        return await _drive(self._calls.logs(job, offset))

    async def model_logs(self, model: str, offset: int = 0) -> LogChunk:
        """What the processes of a Python model print, NAME or NAME@VERSION; it never ends."""
        return await _drive(self._calls.model_logs(model, offset))

    async def upload(self, content: "Union[bytes, bytearray, memoryview, os.PathLike[str]]") -> Part:
        """Into the blob store, once per content: a Part to use in any number of jobs. Kept while a job or model names it."""
        return await _drive(self._calls.upload(content))

    async def fetch(self, part: Union[Part, str]) -> bytes:
        """The bytes of a part, or of a blob by its digest; verified."""
        return await _drive(self._calls.fetch(part))

    async def fetch_to(self, part: Union[Part, str], path: "Union[str, os.PathLike[str]]") -> None:
        """Streamed to a file, which appears whole and verified or not at all."""
        await _drive(self._calls.fetch_to(part, path))

    async def models(self) -> List[Model]:
        """All versions of all models."""
        return await _drive(self._calls.models())

    async def push_model(self, name: str, content: "Union[bytes, Part, os.PathLike[str]]", *, runtime: str = "torchscript",
                         metadata: str = "", budget_mib: int = 0, promote: bool = True) -> Model:
        """Uploads one file and registers it as a version (a Python model's folder: gpuq model push); with `promote` its
        name means it from now on (the first one's always does). Admins only, as the next three."""
        return await _drive(self._calls.push_model(name, content, runtime, metadata, budget_mib, promote))

    async def promote_model(self, name: str, version: str, condition: str = "") -> Model:
        """`name` means this version from now on; with a condition ("map50 > current and recall >= 0.9") only if it holds, else
        CONDITION_FALSE."""
        return await _drive(self._calls.order_model("promote", name, version, condition))

    async def rollback_model(self, name: str) -> Model:
        """Back to the version promoted before; said again, the one before that."""
        return await _drive(self._calls.order_model("rollback", name, "", ""))

    async def remove_model(self, name: str, version: str = "") -> Model:
        """One version, or all."""
        return await _drive(self._calls.remove_model(name, version))

    async def workers(self) -> List[Worker]:
        """Workers and their devices as the broker sees them."""
        return await _drive(self._calls.workers())

    async def top(self) -> Top:
        """Counts and rates of the broker."""
        return await _drive(self._calls.top())

    async def explain(self, job: JobLike) -> Explanation:
        """Why it waits, device by device, and what would make it run."""
        return await _drive(self._calls.explain(job))

    async def plan(self, kind: Union[str, JobSpec], **spec: Any) -> Explanation:
        """Where it would start if it were submitted now; nothing is."""
        return await _drive(self._calls.plan(_spec(kind, spec)))

    async def update(self, job: JobLike, *, priority: Optional[int] = None, deadline: Time = None, not_before: Time = None,
                     timeout: Optional[float] = None, retries: Optional[int] = None, job_class: Optional[str] = None,
                     vram: Union[None, str, int, Tuple[int, int]] = None, on_preempt: Optional[str] = None,
                     where: Optional[Sequence[str]] = None) -> str:
        """Changes an unfinished job; what is left out stays. A deadline or not_before of 0 is taken away."""
        return await _drive(self._calls.update(job, priority, deadline, not_before, timeout, retries, job_class, vram, on_preempt, where))

    async def preempt(self, *jobs: JobLike, reason: str = "", deadline: float = 0) -> List[CommandResult]:
        """Asks running jobs to leave their devices within `deadline` seconds (0 = the grace of their class); they keep their
        place."""
        return await _drive(self._calls.order_jobs("preempt", jobs, reason, deadline))

    async def hold(self, *jobs: JobLike, reason: str = "") -> List[CommandResult]:
        """Not started until released."""
        return await _drive(self._calls.order_jobs("hold", jobs, reason, 0))

    async def release(self, *jobs: JobLike) -> List[CommandResult]:
        """Ends a hold."""
        return await _drive(self._calls.order_jobs("release", jobs, "", 0))

    async def drain(self, target: str, *, reason: str = "", deadline: float = 0) -> str:
        """No new work for a worker or device (name, UUID, worker/index). Admins only, as the next three."""
        return await _drive(self._calls.order_target("drain", target, reason, deadline))

    async def undrain(self, target: str) -> str:
        """Ends a drain."""
        return await _drive(self._calls.order_target("undrain", target, "", 0))

    async def pause_class(self, job_class: str, *, reason: str = "") -> str:
        """Starts no job of this class."""
        return await _drive(self._calls.order_target("pause", job_class, reason, 0))

    async def resume_class(self, job_class: str) -> str:
        """Ends a pause."""
        return await _drive(self._calls.order_target("resume", job_class, "", 0))

    # ---- streams

    async def follow_logs(self, job: JobLike, offset: int = 0, *, timeout: Optional[float] = None) -> AsyncIterator[LogChunk]:
        """The output as it comes, until the job is final; TIMED_OUT after `timeout` seconds of silence (None = patient)."""
        stream = LogStream(self._calls, job, offset)
        try:
            while True:
                chunk = await _drive(stream.next(timeout))
                if chunk is None:
                    return
                if chunk.data:
                    yield chunk
        finally:
            stream.close()

    async def progress(self, job: JobLike, interval: float = 0.5) -> AsyncIterator[Progress]:
        """Each change of its progress or state, asked for every `interval` seconds, the final one last."""
        last: Optional[Progress] = None
        while True:
            now = await _drive(self._calls.progress(job))
            if now != last:
                yield now
            if now.state in FINAL:
                return
            last = now
            await asyncio.sleep(interval)


async def _drive(call: Coroutine[Any, Any, T]) -> T:
    """Runs a call of calls.py: what it waits for, the event loop waits for. A cancellation reaches the call, which gives its job up."""
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
            if isinstance(step, Offload):
                value = await asyncio.get_running_loop().run_in_executor(None, step.work)
            else:
                value = await _awaited(step)
        except BaseException as raised:
            error = raised


async def _awaited(step: Wait[Any]) -> Any:
    waiting: "asyncio.Future[Any]" = asyncio.wrap_future(step.future)
    try:
        done, _ = await asyncio.wait({waiting}, timeout=step.timeout)
    except BaseException:
        waiting.cancel()
        raise
    if done:
        return waiting.result()
    waiting.cancel()
    raise step.late() if step.late is not None else TimedOutError("TIMED_OUT", "the call was not answered in time", "")


async def unless_disconnected(receive: Callable[[], Awaitable[MutableMapping[str, Any]]], work: Awaitable[T]) -> T:
    """Awaits `work`, but cancels it when the HTTP client hangs up: in FastAPI and Starlette
    `await unless_disconnected(request.receive, client.detect(…))`, once the body was read. Raises CANCELLED then."""
    async def hung_up() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            raise error_of("CANCELLED", "the HTTP client hung up before the answer", "")
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()

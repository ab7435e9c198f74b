"""calls.py - what a client can be asked, written once for both faces.

Each call is a coroutine that waits for nothing but `Wait` (a future that the engine's thread fills, at most so long) and `Offload` (work
that reads files or hashes megabytes). client.py drives it by blocking, aio.py in an event loop.
"""
from __future__ import annotations

import datetime
import hashlib
import os
import pathlib
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Callable, Dict, Generator, Generic, Iterable, List, Mapping, Optional, Sequence, Tuple, TypeVar, Union

from .access import find_access
from .digests import Hashed, digest_of, hash_of, verify, write_all
from .engine import Answer, Engine
from .errors import Error, TimedOutError, UsageError, error_of
from .ids import FreshId, id_bytes, id_text, new_id
from .jobs import Batch, Jobs, settle
from .parts import Part, part_of
from .results import (CANCEL_RESULTS, CLASSES, ON_PREEMPT, CommandResult, Detections, Explanation, JobResult, JobStatus, LogChunk, Model,
                      Outputs, Progress, Submitted, Top, Worker, word)
from .spec import JobSpec, Prepared, Source, Time, item_of, prepare, vram_range, milliseconds
from .transfers import Transfers
from . import wire

T = TypeVar("T")
PAGE = wire.ITEMS_MAX
_OFFLOAD_BYTES = 1 << 20
_YEAR = 365 * 86400.0
_CLOCKS_DIFFER = 60.0   # seconds that our clock and the broker's may be apart before a call's job expires under it


class Wait(Generic[T]):
    """TIMED_OUT (`late`) when the future is not filled in time; None = its own deadline ends it."""

    def __init__(self, future: "Future[T]", timeout: Optional[float] = None, late: Optional[Callable[[], Error]] = None) -> None:
        self.future, self.late = future, late
        self.timeout = timeout if timeout is None or timeout < _YEAR else None     # math.inf: for ever

    def __await__(self) -> Generator["Wait[T]", T, T]:
        value: T = yield self
        return value


class Offload(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work

    def __await__(self) -> Generator["Offload[T]", T, T]:
        value: T = yield self
        return value


JobLike = Union[str, Submitted, JobStatus, JobResult]


def id_of(job: JobLike) -> bytes:
    return id_bytes(job if isinstance(job, str) else job.id)


class Calls:
    def __init__(self, broker: str, access_file: Optional[str], insecure: bool, name: str, timeout: float, connect_timeout: float,
                 acknowledge: bool) -> None:
        if timeout <= 0 or connect_timeout <= 0:
            raise UsageError("USAGE", "timeout and connect_timeout are seconds above 0", "")
        self.engine = Engine(find_access(broker, access_file, insecure, name), timeout, connect_timeout)
        self.transfers = Transfers(self.engine)
        self.jobs = Jobs(self.engine, self.transfers, acknowledge)
        self.engine.start(self.jobs)

    # ---- one question

    async def ask(self, name: str, fields: Dict[str, Any], expect: str, patient: bool = True,
                  posted: Optional[Callable[[], None]] = None) -> Answer:
        future: "Future[Answer]" = Future()

        def post() -> None:
            self.engine.ask(name, fields, lambda answer, error: settle(future, answer, error), patient=patient)
            if posted is not None:
                posted()
        self.engine.post(post)
        answer = await Wait(future)
        if answer.name != expect:
            raise error_of("PROTOCOL", f"the broker answered {name} with {answer.name}", "update gpuq on both sides")
        return answer

    async def pages(self, name: str, jobs: Sequence[JobLike], expect: str, answers: str, **more: Any) -> List[Any]:
        ids = [id_of(job) for job in jobs]
        out: List[Any] = []
        for at in range(0, len(ids), PAGE):
            answer = await self.ask(name, {"jobs": ids[at:at + PAGE], **more}, expect)
            out += answer.fields[answers]
        return out

    # ---- submitting and waiting

    async def submit_many(self, specs: Iterable[JobSpec], timeout: Optional[float]) -> List[Submitted]:
        listed = list(specs)
        inline_max = self.engine.inline_bytes_max
        if any(spec.parts for spec in listed) and _heavy(listed):
            prepared = await Offload(lambda: _prepare_all(listed, inline_max))
        else:
            prepared = _prepare_all(listed, inline_max)
        return await self._submit(listed, prepared, timeout)

    async def _submit(self, specs: List[JobSpec], prepared: List[Union[Prepared, Error]], timeout: Optional[float]) -> List[Submitted]:
        batch = Batch(len(specs))
        watched: List[Prepared] = []
        others: List[Prepared] = []
        for index, (spec, one) in enumerate(zip(specs, prepared)):
            if isinstance(one, Error):
                batch.refuse(index, spec.id, one)
                continue
            one.index = index
            (watched if spec.watch else others).append(one)
        limit = self.engine.timeout if timeout is None else timeout

        def post() -> None:
            self.jobs.submit(batch, watched, True, limit)
            if others:
                self.jobs.submit(batch, others, False, limit)
        self.engine.post(post)
        answers: List[Submitted] = await Wait(batch.future)
        return answers

    async def submit(self, spec: JobSpec, timeout: Optional[float]) -> Submitted:
        return (await self.submit_many([spec], timeout))[0].check()

    async def wait(self, job: JobLike, timeout: Optional[float], cancel_on_abandon: bool = False) -> JobResult:
        raw = id_of(job)
        future: "Future[JobResult]" = Future()

        def sink(result: Optional[JobResult], error: Optional[Error]) -> None:
            settle(future, result, error)
        self.engine.post(lambda: self.jobs.claim(raw, sink))
        limit = self.engine.timeout if timeout is None else timeout
        try:
            result: JobResult = await Wait(future, limit, lambda: self._not_final(raw, limit, cancel_on_abandon))
            return result
        except BaseException as error:
            if cancel_on_abandon and not _is_about_the_job(error):
                self._abandon(raw)
            else:
                self.quietly(lambda: self.jobs.unclaim(raw, sink))
            raise

    def _not_final(self, raw: bytes, limit: float, cancels: bool) -> Error:
        if not self.engine.connected:
            return self.engine.late(f"job {id_text(raw)}")
        return TimedOutError("TIMED_OUT", f"job {id_text(raw)} is not final after {limit:g} s; " + ("it was cancelled" if cancels else "it goes on"),
                             f"gpuq status {id_text(raw)}   or wait longer")

    def _abandon(self, raw: bytes) -> None:
        self.quietly(lambda: self.jobs.abandon(raw))

    def quietly(self, work: Callable[[], None]) -> None:
        try:
            self.engine.post(work)
        except Error:
            pass    # closed: nothing to give up any more

    async def wait_many(self, jobs: Sequence[JobLike], timeout: Optional[float]) -> List[JobResult]:
        ids = [id_of(job) for job in jobs]
        found: Dict[bytes, JobResult] = {}
        future: "Future[None]" = Future()
        left = len(set(ids))
        sinks: Dict[bytes, Any] = {}

        def sink_for(raw: bytes) -> Any:
            def sink(result: Optional[JobResult], error: Optional[Error]) -> None:
                nonlocal left
                if error is not None or result is None:
                    return settle(future, error=error)
                found[raw] = result
                left -= 1
                if left == 0:
                    settle(future, None)
            return sink

        def post() -> None:
            for raw in dict.fromkeys(ids):
                sinks[raw] = sink_for(raw)
                self.jobs.claim(raw, sinks[raw])
            if not ids:
                settle(future, None)
        self.engine.post(post)
        limit = self.engine.timeout if timeout is None else timeout
        try:
            await Wait(future, limit, lambda: self._not_final(next(raw for raw in ids if raw not in found), limit, False))
        except BaseException:
            def unclaim() -> None:
                for raw, sink in sinks.items():
                    self.jobs.unclaim(raw, sink)
            self.quietly(unclaim)
            raise
        return [found[raw] for raw in ids]

    async def run(self, spec: JobSpec, timeout: Optional[float], cancel_on_abandon: bool) -> JobResult:
        """Submit, wait, check. With cancel_on_abandon the job has a deadline, too: it never starts long after a caller who died."""
        limit = self.engine.timeout if timeout is None else timeout
        raw = id_bytes(spec.id) if spec.id else new_id()
        spec = replace(spec, id=spec.id or FreshId(id_text(raw)), watch=True)
        if cancel_on_abandon and spec.deadline is None and limit < _YEAR:
            spec.deadline = datetime.timedelta(seconds=limit + _CLOCKS_DIFFER)
        try:
            await self.submit(spec, timeout)
            result = await self.wait(spec.id, timeout, False)
        except BaseException as error:
            if cancel_on_abandon and not _is_about_the_job(error):
                self._abandon(raw)
            raise
        return result.check()

    async def result(self, job: JobLike) -> JobResult:
        answer = await self.ask("ResultQuery", {"job": id_of(job)}, "ResultReply", patient=False)
        return _decoded(lambda: JobResult.read(answer.fields["item"], answer.body))

    # ---- the three that answer

    async def detect(self, model: str, image: Any, spec: Dict[str, Any], timeout: Optional[float], cancel_on_abandon: bool) -> Detections:
        job = JobSpec("detect", model=model, parts=[part_of("image", image)], **spec)
        return Detections.read(await self.run(job, timeout, cancel_on_abandon))

    async def infer(self, model: str, inputs: Mapping[str, Any], spec: Dict[str, Any], timeout: Optional[float],
                    cancel_on_abandon: bool) -> Outputs:
        result = await self.run(JobSpec("infer", model=model, parts=inputs, **spec), timeout, cancel_on_abandon)
        return Outputs({part.name: (await self.filled(part)).value() for part in result.parts}, result)

    async def synthesize(self, model: str, count: int, seed: Optional[int], spec: Dict[str, Any], timeout: Optional[float],
                         cancel_on_abandon: bool) -> List[bytes]:
        params = {"count": count, **({} if seed is None else {"seed": seed}), **spec.pop("params", {})}
        result = await self.run(JobSpec("synthesize", model=model, params=params, **spec), timeout, cancel_on_abandon)
        return [(await self.filled(part)).bytes() for part in result.parts if part.media.startswith("image/")]

    # ---- blobs

    async def upload(self, content: Union[bytes, bytearray, memoryview, "os.PathLike[str]"]) -> Part:
        if isinstance(content, (bytes, bytearray, memoryview)):
            data = bytes(content)
            source = await Offload(lambda: Source.of_bytes(data))
        else:
            path = pathlib.Path(content)
            source = await Offload(lambda: Source.of_file(path))
        future: "Future[None]" = Future()
        self.engine.post(lambda: self.transfers.upload(source, lambda error: settle(future, None, error)))
        await Wait(future)
        return Part("", None, blob=source.digest.hex(), size=source.total)

    async def fetch(self, part: Union[Part, str]) -> bytes:
        """The bytes of a part, or of a blob by its digest; verified."""
        if isinstance(part, Part) and part.data is not None:
            return part.data
        if isinstance(part, Part) and part.share and not part.blob:
            raise error_of("NOT_HERE", f"part {part.name!r} lies on share {part.share}", "read it there")
        blob = digest_of(part)
        pieces: Dict[int, bytes] = {}
        hashed = Hashed()

        def take(total: int, offset: int, piece: bytes) -> None:
            pieces[offset] = piece
            hashed.add(offset, piece)
        await self._download(blob, take)
        data = b"".join([pieces[offset] for offset in sorted(pieces)])
        verify(blob, await Offload(lambda: hashed.digest(len(data), lambda: hashlib.sha256(data).digest())))
        return data

    async def fetch_to(self, part: Union[Part, str], path: "os.PathLike[str] | str") -> None:
        """Streamed to a file: written beside it, verified, then renamed."""
        target = os.fspath(path)
        temporary = f"{target}.part"
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            if isinstance(part, Part) and part.data is not None:
                write_all(fd, part.data, 0)
            else:
                blob = digest_of(part)
                hashed = Hashed()

                def take(total: int, offset: int, piece: bytes) -> None:
                    write_all(fd, piece, offset)
                    hashed.add(offset, piece)
                await self._download(blob, take)
                size = os.fstat(fd).st_size
                verify(blob, await Offload(lambda: hashed.digest(size, lambda: hash_of(fd))))
            os.rename(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)

    async def filled(self, part: Part) -> Part:
        if part.data is None:
            part.data = await self.fetch(part)
        return part

    async def _download(self, blob: bytes, take: Callable[[int, int, bytes], None]) -> None:
        future: "Future[None]" = Future()

        def done(error: Optional[Error]) -> None:
            if error is None:
                self.jobs.blob_read(blob)
            settle(future, None, error)
        self.engine.post(lambda: self.transfers.download(blob, take, done))
        await Wait(future)

    # ---- questions and orders

    async def cancel(self, jobs: Sequence[JobLike]) -> List[str]:
        return [word(CANCEL_RESULTS, one) for one in await self.pages("CancelJobs", jobs, "CancelReply", "items")]

    async def status(self, jobs: Sequence[JobLike]) -> List[JobStatus]:
        return [JobStatus.read(one) for one in await self.pages("StatusQuery", jobs, "StatusReply", "jobs")]

    async def list(self, state: str, job_class: str, kind: str, active_only: bool, after: str, limit: int) -> List[JobStatus]:
        answer = await self.ask("ListQuery", {"state": state, "job_class": job_class, "kind": kind, "active_only": active_only,
                                              "after": id_bytes(after) if after else b"", "limit": limit}, "ListReply")
        return [JobStatus.read(one) for one in answer.fields["jobs"]]

    async def retry(self, job: JobLike) -> Submitted:
        made = new_id()
        answer = await self.ask("Retry", {"job": id_of(job), "new_id": made, "watch": True}, "RetryReply", posted=lambda: self.jobs.expect(made))
        return Submitted.read(answer.fields["item"]).check()

    async def workers(self) -> List[Worker]:
        return [Worker.read(one) for one in (await self.ask("WorkersQuery", {}, "WorkersReply")).fields["workers"]]

    async def top(self) -> Top:
        return Top.read((await self.ask("TopQuery", {}, "TopReply")).fields)

    async def explain(self, job: JobLike) -> Explanation:
        return Explanation.read((await self.ask("ExplainQuery", {"job": id_of(job)}, "ExplainReply")).fields["explanation"])

    async def plan(self, spec: JobSpec) -> Explanation:
        return Explanation.read((await self.ask("PlanSubmit", {"item": item_of(spec)}, "ExplainReply")).fields["explanation"])

    async def order_jobs(self, verb: str, jobs: Sequence[JobLike], reason: str, deadline: float) -> List[CommandResult]:
        more = {"verb": verb, "reason": reason, "deadline_ms": int(deadline * 1000)}
        return [CommandResult.read(one) for one in await self.pages("Command", jobs, "CommandReply", "items", **more)]

    async def order_target(self, verb: str, target: str, reason: str, deadline: float) -> str:
        answer = await self.ask("Command", {"verb": verb, "target": target, "reason": reason, "deadline_ms": int(deadline * 1000)}, "CommandReply")
        return _text_of(answer)

    async def update(self, job: JobLike, priority: Optional[int], deadline: Time, not_before: Time, timeout: Optional[float],
                     retries: Optional[int], job_class: Optional[str], vram: Union[None, str, int, Tuple[int, int]],
                     on_preempt: Optional[str], where: Optional[Sequence[str]]) -> str:
        change: Dict[str, Any] = {"job": id_of(job), "priority": priority, "retries": retries,
                                  "where": None if where is None else list(where)}
        if deadline is not None:
            change["deadline_ms"] = 0 if deadline == 0 else milliseconds(deadline, "deadline")
        if not_before is not None:
            change["not_before_ms"] = 0 if not_before == 0 else milliseconds(not_before, "not_before")
        if timeout is not None:
            change["timeout_ms"] = int(timeout * 1000)
        for name, given, words in (("job_class", job_class, CLASSES), ("on_preempt", on_preempt, ON_PREEMPT)):
            if given is not None:
                if given not in words:
                    raise UsageError("USAGE", f"there is no {name} {given!r}", "use one of: " + ", ".join(words))
                change[name] = words.index(given)
        if vram is not None:
            change["budget_min_mib"], change["budget_max_mib"] = vram_range(vram)
        return _text_of(await self.ask("UpdateJob", change, "CommandReply"))

    # ---- models

    async def models(self) -> List[Model]:
        return [Model.read(one) for one in (await self.ask("ModelsQuery", {}, "ModelsReply")).fields["models"]]

    async def push_model(self, name: str, content: Union[bytes, Part, "os.PathLike[str]"], runtime: str, metadata: str, budget_mib: int,
                         promote: bool) -> Model:
        blob = content if isinstance(content, Part) else await self.upload(content)
        model = {"name": name, "runtime": runtime, "metadata": metadata, "blob": digest_of(blob), "bytes": blob.size, "budget_mib": budget_mib}
        return Model.read((await self.ask("ModelPush", {"model": model, "promote": promote}, "ModelReply")).fields["model"])

    async def remove_model(self, name: str, version: str) -> Model:
        return Model.read((await self.ask("ModelRemove", {"name": name, "version": version}, "ModelReply")).fields["model"])

    async def order_model(self, verb: str, name: str, version: str, condition: str) -> Model:
        fields = {"verb": verb, "name": name, "version": version, "condition": condition}
        return Model.read((await self.ask("ModelCommand", fields, "ModelReply")).fields["model"])

    # ---- streams

    async def logs(self, job: JobLike, offset: int) -> LogChunk:
        return await self._log({"job": id_of(job)}, offset)

    async def model_logs(self, model: str, offset: int) -> LogChunk:
        return await self._log({"model": model}, offset)

    async def _log(self, whose: Dict[str, Any], offset: int) -> LogChunk:
        answer = await self.ask("LogQuery", {**whose, "offset": offset, "follow": False}, "LogReply")
        return LogChunk(answer.body, answer.fields["offset"], answer.fields["next"], answer.fields["end"])

    async def progress(self, job: JobLike) -> Progress:
        found = (await self.status([job]))[0]
        if not found.found:
            raise error_of("NOT_FOUND", f"there is no job {id_text(id_of(job))}", "gpuq list")
        return Progress(found.progress_step, found.progress_total, found.metrics, found.state)


def _prepare_all(specs: List[JobSpec], inline_max: int) -> List[Union[Prepared, Error]]:
    out: List[Union[Prepared, Error]] = []
    for spec in specs:
        try:
            out.append(prepare(spec, inline_max))
        except Error as error:
            out.append(error)
    return out


def _heavy(specs: List[JobSpec]) -> bool:
    """Reads files or hashes megabytes."""
    size = 0
    for spec in specs:
        for value in spec.parts.values() if isinstance(spec.parts, Mapping) else spec.parts:
            if isinstance(value, os.PathLike) or (isinstance(value, Part) and value.path is not None):
                return True
            size += value.size if isinstance(value, Part) else getattr(value, "nbytes", 0) or (len(value) if hasattr(value, "__len__") else 0)
    return size > _OFFLOAD_BYTES


def _is_about_the_job(error: BaseException) -> bool:
    """The broker has answered: there is nothing left to cancel."""
    return isinstance(error, Error) and error.code not in ("TIMED_OUT", "UNREACHABLE", "UNAVAILABLE")


def _decoded(read: Callable[[], T]) -> T:
    try:
        return read()
    except wire.WireError as error:
        raise error_of("BAD_MESSAGE", f"the broker's answer cannot be read: {error}", "update gpuq on both sides") from None


def _text_of(answer: Answer) -> str:
    items = [CommandResult.read(one) for one in answer.fields["items"]]
    if len(items) != 1:
        raise error_of("PROTOCOL", "the broker answered an order with something else", "update gpuq on both sides")
    if not items[0].ok:
        raise error_of(items[0].code, items[0].what, items[0].next)
    return items[0].text

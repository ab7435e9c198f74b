"""jobs.py - submits on their way and jobs being watched. The engine's thread only.

Invariant: every job that someone here cares for is in exactly one of: a submit not yet answered (said again on a new link), watched
(asked for again on a new link or term), or unclaimed (final, kept until asked for; the oldest are forgotten and come again from the
broker when asked for). An abandoned job is cancelled as soon as the broker is known to have it, or never sent.
"""
from __future__ import annotations

import struct
import time
import weakref
from collections import OrderedDict, deque
from concurrent.futures import Future, InvalidStateError
from typing import Any, Callable, Deque, Dict, List, Optional, Sequence, Set

from . import wire
from .engine import Answer, Engine, Hooks
from .errors import Error, NotFoundError, error_of
from .ids import id_text
from .results import JobResult, Submitted
from .spec import Prepared
from .transfers import Transfers

_SUBMITS_IN_FLIGHT = 32            # messages: bounds memory, lets items gather under load
_FRAME_BYTES = (1 << 20) - 4096
_UNCLAIMED_MAX = 100_000
_UNCLAIMED_BYTES_MAX = 32 << 20
_UNREAD_MAX = 10_000
_FETCHED_DELAY = 0.05
_UPLOADS_AGAIN_MAX = 3

Sink = Callable[[Optional[JobResult], Optional[Error]], None]


def settle(future: "Future[Any]", value: Any = None, error: Optional[BaseException] = None) -> None:
    """Nobody may wait any more: then it is dropped."""
    try:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
    except InvalidStateError:
        pass


class Batch:
    """One call of submit: answered as a whole."""

    def __init__(self, count: int) -> None:
        self.answers: List[Optional[Submitted]] = [None] * count
        self.left = count
        self.future: "Future[List[Submitted]]" = Future()
        self.jobs: List[bytes] = []
        self.done = False
        self.last: Optional[Error] = None      # why it is not answered yet, for the one who times out

    def refuse(self, index: int, job_id: str, error: Error) -> None:
        self.answers[index] = Submitted(job_id, False, False, error.code, error.what, error.next)
        self.left -= 1


class _Watched:
    __slots__ = ("submitting", "watching", "doubted", "undurable", "sinks")

    def __init__(self) -> None:
        self.submitting = self.watching = self.doubted = self.undurable = False
        self.sinks: List[Sink] = []


class Jobs(Hooks):
    def __init__(self, engine: Engine, transfers: Transfers, acknowledge: bool) -> None:
        self._engine, self._transfers, self._acknowledges = engine, transfers, acknowledge
        self._queue: Deque[Prepared] = deque()
        self._in_flight = 0
        self._batches: Set[Batch] = set()
        self._watched: Dict[bytes, _Watched] = {}
        self._to_watch: List[bytes] = []
        self._watch_questions: Set[int] = set()
        self._watch_round = 0                   # what was to be asked later in an earlier round is asked by the new one
        self._unclaimed: "OrderedDict[bytes, JobResult]" = OrderedDict()
        self._unclaimed_bytes = 0
        self._fetched: List[bytes] = []
        self._fetched_due = 0.0
        self._unread: Dict[str, List[List[Any]]] = {}     # blob: [job, blobs left] each
        self._abandoned: Set[bytes] = set()

    # ---- submitting

    def submit(self, batch: Batch, items: Sequence[Prepared], watch: bool, timeout: float) -> None:
        if batch.left == 0:
            return settle(batch.future, batch.answers)
        if batch not in self._batches:
            self._batches.add(batch)
            known = weakref.ref(batch)      # its deadline may be an hour away: that must not keep ten thousand answers
            self._engine.later(timeout, lambda: self._late(known()))
        for item in items:
            item.batch = batch
            batch.jobs.append(item.id)
            if watch:
                watched = self._watched.setdefault(item.id, _Watched())
                watched.submitting = watched.watching = True
                watched.undurable = item.undurable
            self._upload_then_queue(item)

    def _upload_then_queue(self, item: Prepared) -> None:
        item.uploads_left = len(item.uploads)
        if not item.uploads:
            self._queue.append(item)

        def uploaded(error: Optional[Error]) -> None:
            if item.batch.done:
                return
            if error is not None:
                return self._settle(item, None, error)
            item.uploads_left -= 1
            if item.uploads_left == 0:
                self._queue.append(item)
        for source in item.uploads:
            self._transfers.upload(source, uploaded, item.undurable)

    def flush(self) -> None:
        while self._queue and self._in_flight < _SUBMITS_IN_FLIGHT:
            self._send_submit()
        while self._to_watch and self._engine.connected:
            some, self._to_watch = self._to_watch[:wire.ITEMS_MAX], self._to_watch[wire.ITEMS_MAX:]
            self._send_watch(some)
        if self._fetched and (len(self._fetched) >= wire.ITEMS_MAX or time.monotonic() >= self._fetched_due) and self._engine.connected:
            self._engine.tell("Fetched", {"jobs": self._fetched[:wire.ELEMENTS_MAX]})
            del self._fetched[:wire.ELEMENTS_MAX]

    def _send_submit(self) -> None:
        items: List[Prepared] = []
        size = 0
        while self._queue and len(items) < wire.ITEMS_MAX:
            item = self._queue[0]
            if item.batch.done or item.id in self._abandoned:
                self._queue.popleft()
                if not item.batch.done:
                    self._settle(item, None, error_of("CANCELLED", f"job {id_text(item.id)} was given up before it was sent", ""))
                continue
            more = len(item.packed) + len(item.payload)
            if items and size + more > _FRAME_BYTES:
                break       # one item alone always goes: its size was judged when it was made
            size += more
            items.append(self._queue.popleft())
        if not items:
            return
        for item in items:
            item.sends += 1
        self._in_flight += 1

        def answered(answer: Optional[Answer], error: Optional[Error]) -> None:
            self._in_flight -= 1
            self._submit_answered(items, answer, error)
        request = self._engine.next_id()
        self._engine.ask_packed(request, wire.pack_items("Submit", request, [item.packed for item in items]),
                                b"".join([item.payload for item in items]), answered, patient=False)

    def _submit_answered(self, items: List[Prepared], answer: Optional[Answer], error: Optional[Error]) -> None:
        if answer is not None and answer.name == "Submitted" and len(answer.fields["items"]) == len(items):
            for item, told in zip(items, answer.fields["items"]):
                refused = None if told["ok"] else error_of(told["code"], told["what"], told["next"])
                if refused is None or not self._try_again(item, refused):
                    self._settle(item, told, refused)
            return
        why = error or error_of("PROTOCOL", "the broker answered a submit with something else", "update gpuq on both sides")
        for item in items:
            if not self._try_again(item, why):
                self._settle(item, None, why)

    def _try_again(self, item: Prepared, why: Error) -> bool:
        """UNAVAILABLE passes by itself (the store is away for a moment), a blob that was collected is sent again."""
        if item.batch.done:
            return True
        item.batch.last = why
        if why.code == "UNAVAILABLE":
            self._engine.later(min(1.0, 0.05 * 2 ** min(item.sends, 5)), lambda: self._queue.append(item))
            return True
        if why.code == "UNKNOWN_BLOB" and item.uploads and item.sends <= _UPLOADS_AGAIN_MAX:
            self._upload_then_queue(item)
            return True
        return False

    def _settle(self, item: Prepared, told: Optional[Dict[str, Any]], error: Optional[Error]) -> None:
        batch: Batch = item.batch
        if error is None and item.id in self._abandoned:
            self._abandoned.discard(item.id)
            self._cancel(item.id)
        if batch.done:
            return
        if error is not None:
            self._abandoned.discard(item.id)
            batch.refuse(item.index, id_text(item.id), error)
            self._give_up(item.id, error)
        else:
            assert told is not None
            batch.answers[item.index] = Submitted(id_text(item.id), True, told["existing"], durable=told["durability"] != 1)
            batch.left -= 1
            watched = self._watched.get(item.id)
            if watched is not None:
                watched.submitting = watched.doubted = False
                watched.undurable = watched.undurable or told["durability"] == 1
        if batch.left == 0:
            self._end(batch)
            settle(batch.future, batch.answers)

    def _end(self, batch: Batch) -> None:
        batch.done = True
        self._batches.discard(batch)

    def _late(self, batch: Optional[Batch]) -> None:
        if batch is None or batch.done:
            return
        self._end(batch)
        error = batch.last if batch.last is not None and self._engine.connected else self._engine.late("the submit")
        settle(batch.future, error=error)
        for job in batch.jobs:      # perhaps made, perhaps not: whoever waits for one asks the broker
            watched = self._watched.get(job)
            if watched is not None and watched.submitting:
                watched.submitting = False
                if watched.sinks:
                    self._to_watch.append(job)
                else:
                    del self._watched[job]

    # ---- giving up

    def abandon(self, job: bytes) -> None:
        """Nobody wants its result any more: cancelled at the broker, or dropped before it is sent. Never waits."""
        watched = self._watched.get(job)
        if watched is not None and watched.submitting:
            self._abandoned.add(job)    # decided when its submit is answered, or before it is sent
            watched.sinks.clear()
            return
        self._watched.pop(job, None)
        self._cancel(job)

    def _cancel(self, job: bytes) -> None:
        self._watched.pop(job, None)
        self._engine.ask("CancelJobs", {"jobs": [job]}, lambda answer, error: None)

    # ---- watching

    def expect(self, job: bytes) -> None:
        """A job made by other means (retry) that this client has asked to watch."""
        self._watched.setdefault(job, _Watched()).watching = True

    def claim(self, job: bytes, sink: Sink) -> None:
        kept = self._unclaimed.pop(job, None)
        if kept is not None:
            self._unclaimed_bytes -= _bytes_of(kept)
            self._acknowledge(job, kept)
            return sink(kept, None)
        known = self._watched.get(job)
        if known is None:
            known = self._watched[job] = _Watched()
            self._to_watch.append(job)
        elif not known.watching and not known.submitting:
            self._to_watch.append(job)
        known.sinks.append(sink)

    def unclaim(self, job: bytes, sink: Sink) -> None:
        watched = self._watched.get(job)
        if watched is not None and sink in watched.sinks:
            watched.sinks.remove(sink)

    def _send_watch(self, jobs: List[bytes]) -> None:
        for job in jobs:
            if job in self._watched:
                self._watched[job].watching = True
        request = 0

        def answered(answer: Optional[Answer], error: Optional[Error]) -> None:
            self._watch_questions.discard(request)
            if answer is None or answer.name != "Watched":
                return self._watch_later(0.5, jobs)    # whoever waits has a deadline of their own
            for job in answer.fields["unknown"]:
                watched = self._watched.get(job)
                if watched is None or watched.submitting:
                    continue
                if not watched.doubted:     # perhaps asked before its submit arrived
                    watched.doubted = True
                    self._watch_later(0.2, [job])
                elif watched.undurable:
                    self._give_up(job, error_of("UNAVAILABLE", f"the broker that held job {id_text(job)} is gone, and with durability none so is the job", "submit it again"))
                else:
                    self._give_up(job, NotFoundError("NOT_FOUND", f"there is no job {id_text(job)}", "gpuq list"))
        request = self._engine.ask("Watch", {"jobs": jobs}, answered)
        self._watch_questions.add(request)

    def _watch_later(self, seconds: float, jobs: List[bytes]) -> None:
        this_round = self._watch_round
        for job in jobs:
            if job in self._watched:
                self._watched[job].watching = False

        def again() -> None:
            if self._watch_round == this_round:
                self._to_watch.extend(job for job in jobs if job in self._watched and not self._watched[job].watching)
        self._engine.later(seconds, again)

    def resumed(self) -> None:
        for request in self._watch_questions:
            self._engine.forget(request)
        self._watch_questions.clear()
        self._watch_round += 1
        self._to_watch = [job for job, watched in self._watched.items() if not watched.submitting]

    def notify(self, items: List[Dict[str, Any]], body: bytes) -> None:
        try:
            payloads = wire.split_payloads(items, body)
        except wire.WireError:
            return      # the jobs stay watched and are asked for again on the next link
        for item, payload in zip(items, payloads):
            watched = self._watched.pop(item["id"], None)
            if watched is None:
                continue    # told twice, or never asked
            try:
                result = JobResult.read(item, payload)
            except (wire.WireError, struct.error) as error:
                bad = error_of("BAD_MESSAGE", f"the result of job {id_text(item['id'])} cannot be read: {error}", "update gpuq on both sides")
                for sink in watched.sinks:
                    sink(None, bad)
                continue
            self._abandoned.discard(item["id"])
            if not watched.sinks:
                self._keep(item["id"], result)
                continue
            self._acknowledge(item["id"], result)
            for sink in watched.sinks:
                sink(result, None)

    def _keep(self, job: bytes, result: JobResult) -> None:
        self._unclaimed[job] = result
        self._unclaimed_bytes += _bytes_of(result)
        while len(self._unclaimed) > _UNCLAIMED_MAX or self._unclaimed_bytes > _UNCLAIMED_BYTES_MAX:
            _, forgotten = self._unclaimed.popitem(last=False)
            self._unclaimed_bytes -= _bytes_of(forgotten)

    def _give_up(self, job: bytes, error: Error) -> None:
        watched = self._watched.pop(job, None)
        for sink in watched.sinks if watched is not None else ():
            sink(None, error)

    def failed(self, error: Error) -> None:
        self._fetched_due = 0.0     # when it ends: the flush before the goodbye says what it has
        for batch in list(self._batches):
            self._end(batch)
            settle(batch.future, error=error)
        self._queue.clear()
        self._abandoned.clear()
        self._to_watch.clear()
        self._watch_round += 1
        watched, self._watched = self._watched, {}
        for one in watched.values():
            for sink in one.sinks:
                sink(None, error)

    # ---- fetched

    def _acknowledge(self, job: bytes, result: JobResult) -> None:
        """A result with blobs counts as fetched when all of them were read."""
        if not self._acknowledges:
            return
        blobs = {part.blob for part in result.parts if part.blob}
        if not blobs:
            return self._fetch(job)
        if len(self._unread) > _UNREAD_MAX:
            return      # never read: they leave by age
        entry = [job, len(blobs)]
        for blob in blobs:
            self._unread.setdefault(blob, []).append(entry)

    def blob_read(self, blob: bytes) -> None:
        for entry in self._unread.pop(blob.hex(), []):
            entry[1] -= 1
            if entry[1] == 0:
                self._fetch(entry[0])

    def _fetch(self, job: bytes) -> None:
        if not self._fetched:
            self._fetched_due = time.monotonic() + _FETCHED_DELAY
            self._engine.at(self._fetched_due, lambda: None)    # a turn then, so that flush() sees it
        self._fetched.append(job)


def _bytes_of(result: JobResult) -> int:
    return 256 + sum(160 + len(part.data or b"") for part in result.parts)

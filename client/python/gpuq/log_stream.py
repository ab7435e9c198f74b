"""log_stream.py - one job's output as it comes."""
from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Dict, List, Optional

from .calls import Calls, JobLike, Wait, id_of
from .engine import Answer
from .errors import Error, TimedOutError, error_of
from .ids import id_text
from .jobs import settle
from .results import LogChunk


class LogStream:
    """The output of a job as it comes, across reconnects; no byte twice."""

    def __init__(self, calls: Calls, job: JobLike, offset: int) -> None:
        self._calls, self._job, self._next = calls, id_of(job), offset
        self._stream = 0
        self._chunks: List[LogChunk] = []
        self._error: Optional[Error] = None
        self._waiter: "Optional[Future[None]]" = None
        self._ended = False
        calls.engine.post(self._begin)

    def _query(self) -> Dict[str, Any]:
        return {"job": self._job, "offset": self._next, "follow": True}

    def _begin(self) -> None:
        self._stream = self._calls.engine.ask_stream("LogQuery", self._query(), self._told)

    def _told(self, answer: Optional[Answer], error: Optional[Error]) -> None:
        if answer is None or answer.name != "LogReply":
            self._error = error or error_of("PROTOCOL", "the broker answered a log query with something else", "update gpuq on both sides")
        else:
            offset, next_offset, end = answer.fields["offset"], answer.fields["next"], answer.fields["end"]
            body = answer.body
            if offset < self._next:     # said twice around a reconnect
                body, offset = body[self._next - offset:], self._next
            if body or end:
                self._chunks.append(LogChunk(body, offset, max(next_offset, self._next), end))
            self._next = max(self._next, next_offset)
            self._calls.engine.renew(self._stream, "LogQuery", self._query())
            if end:
                self._calls.engine.forget(self._stream)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and (self._chunks or self._error):
            settle(self._waiter, None)
            self._waiter = None

    async def next(self, timeout: Optional[float] = None) -> Optional[LogChunk]:
        """The next piece; None at the end. TIMED_OUT when nothing came for so long."""
        if self._ended:
            return None
        future: "Future[None]" = Future()

        def wait() -> None:
            self._waiter = future
            self._wake()
        self._calls.engine.post(wait)
        await Wait(future, timeout, lambda: TimedOutError("TIMED_OUT", f"job {id_text(self._job)} wrote nothing for {timeout:g} s", "wait longer"))
        if not self._chunks and self._error is not None:
            self._ended = True
            raise self._error
        chunk = self._chunks.pop(0)
        self._ended = chunk.end
        return chunk

    def close(self) -> None:
        self._ended = True
        self._calls.quietly(lambda: self._calls.engine.forget(self._stream))

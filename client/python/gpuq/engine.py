"""engine.py - the client's one thread: it owns the socket, the link, and the table of questions not yet answered.

Callers on any thread post() work; what is below "the engine's thread only" is called from that work. A question keeps its bytes until
it is answered or its deadline passes, and goes out again, unchanged, on every new link: all of them are idempotent (submits and
retries carry the ids they will make). A broker that never answered is given up on after connect_timeout; one that did is waited for
until each question's own deadline. UNAVAILABLE is asked again with back-off, unless the asker wants to hear it.
"""
from __future__ import annotations

import heapq
import itertools
import os
import socket as sockets
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Tuple

import zmq

from . import wire
from .access import Access
from .errors import Error, TimedOutError, UnavailableError, UsageError, error_of
from .link import Action, Link
from .version import VERSION

_EVENTS = (zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
           | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_SILENT_REFUSALS = 2        # NO_DETAIL once may be a broker that dies; again on the same socket it is the wrong key
_SILENT_REFUSALS_PLAIN = 10  # without CURVE: somebody accepts, and always hangs up at once
_TURN_MESSAGES = 256        # read at most this many before timers and callers get their turn
_RETRY_MIN, _RETRY_MAX = 0.05, 1.0


def _on_this_machine(endpoint: str) -> bool:
    return endpoint.startswith(("tcp://127.", "tcp://localhost:", "tcp://[::1]:", "ipc://"))


class Answer(NamedTuple):
    name: str
    fields: Dict[str, Any]
    body: bytes


Reply = Callable[[Optional[Answer], Optional[Error]], None]


class _Asked:
    __slots__ = ("head", "body", "deadline", "reply", "stream", "patient", "tries", "last")

    def __init__(self, head: bytes, body: bytes, deadline: float, reply: Reply, stream: bool, patient: bool) -> None:
        self.head, self.body, self.deadline, self.reply = head, body, deadline, reply
        self.stream, self.patient, self.tries = stream, patient, 0
        self.last: Optional[Error] = None


class Hooks:
    """What the parts that sit on the engine want to hear, on the engine's thread."""

    def notify(self, items: List[Dict[str, Any]], body: bytes) -> None: ...
    def resumed(self) -> None: ...
    def failed(self, error: Error) -> None: ...
    def flush(self) -> None: ...


class Engine:
    def __init__(self, access: Access, timeout: float, connect_timeout: float) -> None:
        self.access = access
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.hooks = Hooks()
        self.chunk_bytes = 256 << 10
        self.near_folder = ""                # the broker's, for content handed over as files; empty: another machine, or it did not work
        self.inline_bytes_max = 64 << 10
        self.welcome: Dict[str, Any] = {}
        self._link = Link()
        self._asked: Dict[int, _Asked] = {}        # by id = in the order they were asked
        self._ids = itertools.count(1)
        self._hello_id = 0
        self._timers: List[Tuple[float, int, Callable[[], None]]] = []
        self._timer_ids = itertools.count()
        self._outbox: Deque[List[bytes]] = deque()
        self._trying_since = 0.0
        self._inbox: Deque[Callable[[], None]] = deque()
        self._inbox_lock = threading.Lock()
        self._closed = False
        self._stopping = False
        self._wake_read, self._wake_write = sockets.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._context = zmq.Context()
        self._socket: Optional[Any] = None
        self._monitor: Optional[Any] = None
        self._was_up = False
        self._silent_refusals = 0
        self._poller = zmq.Poller()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="gpuq-client", daemon=True)

    # ---- any thread

    def start(self, hooks: Hooks) -> None:
        self.hooks = hooks
        self._thread.start()

    @property
    def connected(self) -> bool:
        return self._link.up

    def post(self, work: Callable[[], None]) -> None:
        """`work` runs on the engine's thread. Raises when the client is closed."""
        if os.getpid() != self._pid:
            raise UsageError("USAGE", "this client was made before a fork(): its connection belongs to the parent process",
                             "make a Client in each process, after the fork")
        with self._inbox_lock:
            if self._closed:
                raise error_of("CANCELLED", "the client is closed", "make another one")
            first = not self._inbox
            self._inbox.append(work)
        if first:
            self._wake()

    def stop(self) -> None:
        """Fails all that waits, says goodbye, joins the thread. Idempotent."""
        if os.getpid() != self._pid:
            return
        with self._inbox_lock:
            if not self._closed:
                self._closed = True
                self._inbox.append(self._say_goodbye)
        self._wake()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _wake(self) -> None:
        try:
            self._wake_write.send(b"\0")
        except (BlockingIOError, OSError):
            pass    # full: it wakes anyway; closed: nobody to wake

    # ---- the engine's thread only

    def ask(self, name: str, fields: Dict[str, Any], reply: Reply, body: bytes = b"", timeout: Optional[float] = None,
            patient: bool = True) -> int:
        request = next(self._ids)
        self.ask_packed(request, wire.encode(name, fields, request), body, reply, timeout, patient)
        return request

    def next_id(self) -> int:
        return next(self._ids)

    def ask_packed(self, request: int, head: bytes, body: bytes, reply: Reply, timeout: Optional[float] = None, patient: bool = True) -> None:
        now = time.monotonic()
        asked = _Asked(head, body, now + (self.timeout if timeout is None else timeout), reply, False, patient)
        self._asked[request] = asked
        if self._link.up:
            self._send(head, body)
        due = asked.deadline if self._link.ever_welcomed else min(asked.deadline, now + self.connect_timeout)
        self.at(due, lambda: self._expire(request))

    def ask_stream(self, name: str, fields: Dict[str, Any], reply: Reply) -> int:
        """Many answers to one question, until forget()."""
        request = next(self._ids)
        asked = _Asked(wire.encode(name, fields, request), b"", float("inf"), reply, True, True)
        self._asked[request] = asked
        if self._link.up:
            self._send(asked.head, b"")
        return request

    def renew(self, request: int, name: str, fields: Dict[str, Any]) -> None:
        """What is said for a stream after a reconnect."""
        if request in self._asked:
            self._asked[request].head = wire.encode(name, fields, request)

    def forget(self, request: int) -> None:
        self._asked.pop(request, None)

    def tell(self, name: str, fields: Dict[str, Any]) -> None:
        if self._link.up:
            self._send(wire.encode(name, fields), b"")

    def at(self, due: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (due, next(self._timer_ids), work))

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        self.at(time.monotonic() + seconds, work)

    def late(self, what: str) -> Error:
        """The error of one whose deadline passed: UNREACHABLE without a link, TIMED_OUT with one."""
        if self._link.up:
            return TimedOutError("TIMED_OUT", f"{what} was not answered in time", "gpuq status; a longer timeout")
        if self._link.last_refusal is not None:
            return self._link.last_refusal
        return UnavailableError("UNREACHABLE", f"no broker answers at {self.access.endpoint}",
                                "start one with: gpuq up   (or check the address: gpuq doctor)")

    # ---- the loop

    def _run(self) -> None:
        try:
            self._trying_since = time.monotonic()
            self._poller.register(self._wake_read, zmq.POLLIN)
            self._perform(self._link.start(self._trying_since))
            while not self._stopping:
                self._turn()
        except BaseException as error:   # a mistake of ours must not leave callers waiting for ever
            self._fail_everything(error_of("INTERNAL", f"the client's thread ended: {error!r}", "report it with the traceback above"))
            with self._inbox_lock:
                self._closed = True
            raise
        finally:
            self._close_socket()
            self._context.destroy(linger=200)
            self._wake_read.close()
            self._wake_write.close()

    def _turn(self) -> None:
        now = time.monotonic()
        due = now + (0.2 if self._link.up else 0.025)
        if self._timers:
            due = min(due, self._timers[0][0])
        events = dict(self._poller.poll(max(0, int((due - now) * 1000 + 0.999))))
        if self._wake_read in events or self._wake_read.fileno() in events:
            try:
                while len(self._wake_read.recv(4096)) == 4096:
                    pass
            except BlockingIOError:
                pass
        self._drain_inbox()
        if self._monitor is not None and self._monitor in events:
            self._read_monitor()
        if self._socket is not None:
            if events.get(self._socket, 0) & zmq.POLLOUT and self._outbox:
                self._flush_outbox()
            self._read_socket()
        self._tick()
        self.hooks.flush()

    def _drain_inbox(self) -> None:
        with self._inbox_lock:
            work, self._inbox = self._inbox, deque()
        for one in work:
            one()

    def _tick(self) -> None:
        now = time.monotonic()
        self._perform(self._link.tick(now))
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        if not self._link.ever_welcomed and now - self._trying_since >= self.connect_timeout:
            self._trying_since = now
            self.hooks.failed(self.late("connecting"))

    def _expire(self, request: int) -> None:
        asked = self._asked.get(request)
        if asked is None:
            return
        if self._link.ever_welcomed and asked.deadline > time.monotonic():
            self.at(asked.deadline, lambda: self._expire(request))
            return
        del self._asked[request]
        asked.reply(None, asked.last if asked.last is not None and self._link.up else self.late("the request"))

    def _perform(self, actions: List[Action]) -> None:
        for action in actions:
            if action.kind == "open":
                self._open_socket()
            elif action.kind == "close":
                self._close_socket()
            elif action.kind == "hello":
                self._hello_id = next(self._ids)
                self._send(wire.encode("ClientHello", {"name": self.access.name, "version": VERSION, "protocol": wire.PROTOCOL_VERSION, "near": _on_this_machine(self.access.endpoint)},
                                       self._hello_id), b"")
            elif action.kind == "beat":
                self._send(wire.encode("Beat", {"sent_us": time.monotonic_ns() // 1000}, next(self._ids)), b"")
            elif action.kind == "resume":
                self.hooks.resumed()    # first: it forgets the questions that it will ask anew
                for asked in list(self._asked.values()):
                    self._send(asked.head, asked.body)
            elif action.kind == "rewatch":
                self.hooks.resumed()
            elif action.kind == "fail_all" and action.error is not None:
                self._fail_everything(action.error)

    def _fail_everything(self, error: Error) -> None:
        asked, self._asked = self._asked, {}
        for one in asked.values():
            one.reply(None, error)
        self.hooks.failed(error)

    def _say_goodbye(self) -> None:
        self._fail_everything(error_of("CANCELLED", "the client was closed", ""))
        self.hooks.flush()
        if self._link.up:
            self._send(wire.encode("Goodbye", {"reason": "closing"}), b"")
        self._stopping = True

    # ---- the socket

    def _open_socket(self) -> None:
        made: Any = self._context.socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 200), (zmq.IMMEDIATE, 1), (zmq.MAXMSGSIZE, wire.FRAME_BYTES_HARD), (zmq.HEARTBEAT_IVL, 1000),
                              (zmq.HEARTBEAT_TIMEOUT, 5000), (zmq.HANDSHAKE_IVL, 5000), (zmq.RECONNECT_IVL, 100),
                              (zmq.RECONNECT_IVL_MAX, 1000), (zmq.IPV6, int("[" in self.access.endpoint))):
            made.setsockopt(option, value)
        try:
            if self.access.server:
                made.curve_serverkey = self.access.server.encode()
                made.curve_publickey = self.access.public.encode()
                made.curve_secretkey = self.access.secret.encode()
            self._monitor = made.get_monitor_socket(_EVENTS)
            made.connect(self.access.endpoint)
        except zmq.ZMQError as error:
            if self._monitor is not None:
                made.disable_monitor()
                self._monitor.close(linger=0)
                self._monitor = None
            made.close(linger=0)
            self._perform(self._link.refused(time.monotonic(), UsageError(
                "USAGE", f"cannot connect to {self.access.endpoint}: {error}", "an endpoint looks like tcp://host:7700, a key has 40 characters")))
            return
        self._socket = made
        self._was_up, self._silent_refusals = False, 0
        self._poller.register(made, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    def _close_socket(self) -> None:
        self._outbox.clear()
        if self._socket is None:
            return
        self._poller.unregister(self._socket)
        self._socket.disable_monitor()
        if self._monitor is not None:
            self._poller.unregister(self._monitor)
            self._monitor.close(linger=0)
        self._socket.close()
        self._socket = self._monitor = None

    def _send(self, head: bytes, body: bytes) -> None:
        if self._socket is None:
            return
        self._link.sent = time.monotonic()
        frames = [head, body] if body else [head]
        if self._outbox or not self._send_now(frames):
            if not self._outbox:
                self._poller.modify(self._socket, zmq.POLLIN | zmq.POLLOUT)
            self._outbox.append(frames)

    def _send_now(self, frames: List[bytes]) -> bool:
        assert self._socket is not None
        try:
            self._socket.send_multipart(frames, zmq.DONTWAIT, copy=len(frames[-1]) < 1 << 16)
        except zmq.Again:
            return False
        return True

    def _flush_outbox(self) -> None:
        while self._outbox and self._send_now(self._outbox[0]):
            self._outbox.popleft()
        if not self._outbox and self._socket is not None:
            self._poller.modify(self._socket, zmq.POLLIN)

    def _read_socket(self) -> None:
        for _ in range(_TURN_MESSAGES):
            if self._socket is None:
                return
            try:
                frames = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            if len(frames) <= 2:   # no broker of ours says more
                self._received(frames[0], frames[1] if len(frames) == 2 else b"")

    def _read_monitor(self) -> None:
        while self._monitor is not None:
            try:
                frames = self._monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            self._on_event(int.from_bytes(frames[0][:2], "little"))

    def _on_event(self, event: int) -> None:
        now, endpoint, name = time.monotonic(), self.access.endpoint, self.access.name
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._was_up, self._silent_refusals = True, 0
            self._perform(self._link.connected(now))
        elif event == zmq.EVENT_DISCONNECTED:
            was, self._was_up = self._was_up, False
            if was:
                self._perform(self._link.disconnected(now))
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._refused(error_of("KEY_REFUSED", f"the broker at {endpoint} refused key {name or '(none)'}",
                                   f"on the broker's host look at: gpuq keys list; a new key: gpuq keys issue --role client --name {name or 'NAME'}"))
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and self.access.server:
            self._silent_refusals += 1
            if self._silent_refusals >= _SILENT_REFUSALS:
                self._refused(error_of("KEY_REFUSED", f"wrong server key: {endpoint} is not the broker this access file was made for, or its "
                                       "keys were made anew", "take a new access file from the broker's host: gpuq keys issue"))
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:   # it may hang up before its greeting is read, which would tell why
            self._silent_refusals += 1
            if self._silent_refusals >= _SILENT_REFUSALS_PLAIN:
                self._on_event(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            secured = bool(self.access.server)
            self._refused(error_of("PROTOCOL", f"one side speaks no CURVE: {endpoint} " + ("does not encrypt, we do" if secured else "may encrypt, we do not"),
                                   "the broker was started --insecure: start it with keys, or pass insecure=True" if secured
                                   else "drop insecure=True and name an access file (made by: gpuq keys issue)"))

    def _refused(self, error: Error) -> None:
        self._perform(self._link.refused(time.monotonic(), error))

    # ---- what the broker says

    def _received(self, frame: bytes, body: bytes) -> None:
        now = time.monotonic()
        self._link.heard = now
        try:
            message = wire.decode(frame)
        except wire.WireError as error:
            if error.code == "PROTOCOL":
                self._refused(error_of("PROTOCOL", str(error), "pip install --upgrade gpuq"))
            return   # a broken message is dropped: whoever waits for it has a deadline, or is watched again
        fields = message.fields
        if message.name == "Notify":
            return self.hooks.notify(fields["items"], body)
        if message.name == "ClientWelcome":
            self.welcome = fields
            self.inline_bytes_max = fields["inline_bytes_max"] or self.inline_bytes_max
            self.near_folder = fields["near"]
            self.chunk_bytes = min(max(fields["blob_chunk_bytes"] or self.chunk_bytes, 4096), wire.FRAME_BYTES_MAX)
            return self._perform(self._link.welcomed(now, fields["term"], fields["beat_ms"] / 1000))
        if message.name == "BeatReply":
            return self._perform(self._link.term_seen(fields["term"]))
        asked = self._asked.get(message.request)
        if message.name == "Failure":
            return self._failed(message.request, asked, error_of(fields["code"], fields["what"], fields["next"]))
        if asked is None:
            return   # answered before, or its asker has left
        if not asked.stream:
            del self._asked[message.request]
        asked.reply(Answer(message.name, fields, body), None)

    def _failed(self, request: int, asked: Optional[_Asked], error: Error) -> None:
        now = time.monotonic()
        if request == self._hello_id and error.code == "UNAVAILABLE":   # it still reads what it stored: back-off
            return self._perform(self._link.disconnected(now))
        if request == self._hello_id or error.code == "KEY_REFUSED":
            return self._refused(error)
        if asked is None:
            return
        if error.code == "UNAVAILABLE" and asked.patient and now < asked.deadline:
            asked.last = error
            asked.tries += 1
            return self.later(min(_RETRY_MAX, _RETRY_MIN * 2 ** min(asked.tries, 6)), lambda: self._again(request, asked))
        del self._asked[request]
        asked.reply(None, error)

    def _again(self, request: int, asked: _Asked) -> None:
        if self._asked.get(request) is asked and self._link.up:
            self._send(asked.head, asked.body)

"""Several processes of one model on one device (`instances` in model.toml): each request goes to the least busy of them.

They are started like the process that the worker started, speak the same protocol with it over a socket each, and share its process group, its
log and its budget. When one of them dies this process dies in the same way, and the others with it: the worker sees one model, blames the
requests that had begun, and starts it again as a whole.
"""
import os
import signal
import socket
import sys
import threading
from typing import Any, Dict, List, Optional, Set

from . import frames
from .frames import Frame, Link

CHANNEL = 3


class LoadFailed(Exception):
    """The `failed` frame of the instance that could not be set up."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(str(frame.get("what")))
        self.frame = frame


class Instance:
    def __init__(self, number: int, program: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.pid = os.posix_spawn(sys.executable, [sys.executable, "-u", program], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), CHANNEL)])
        finally:
            theirs.close()
        self.number, self.link, self.busy = number, Link(ours), 0


class Fleet:
    """Made and loaded by the main thread: when that ends, the kernel ends them."""

    def __init__(self, upward: Link, program: str, count: int) -> None:
        self._upward = upward
        self._lock = threading.Condition()
        self._holders: Dict[int, Instance] = {}              # of requests that are with an instance
        self._pings: Dict[int, Set[int]] = {}                # who has not answered yet
        self._loaded: Dict[int, Frame] = {}
        self._failed: Optional[Frame] = None
        self._load_id = 0
        self._leaving = False
        self._all = [Instance(number, program) for number in range(1, count + 1)]

    # ---- the main thread

    def load(self, hello: Frame, order: Frame) -> List[Frame]:
        """What each said when it was set up. LoadFailed: of the first that was not; none is left then."""
        count = len(self._all)
        share = {"vram_mib": count, "budget_mib": count, "threads": count}
        self._load_id = order.ident
        for instance in self._all:
            for kind, frame in ((frames.HELLO, hello), (frames.LOAD, order)):
                instance.link.send(kind, frame.ident, [(key, self._share(key, value, share)) for key, value in frame.fields])
            threading.Thread(target=self._listen, args=(instance,), name=f"instance-{instance.number}", daemon=True).start()
        with self._lock:
            while self._failed is None and len(self._loaded) < count:
                self._lock.wait()
        if self._failed is not None:
            self._end(signal.SIGKILL)
            raise LoadFailed(self._failed)
        return [self._loaded[instance.number] for instance in self._all]

    @staticmethod
    def _share(key: str, value: Any, among: Dict[str, int]) -> Any:
        if key == "instances":
            return 1
        return max(1, value // among[key]) if key in among and value > 0 else value

    def leave(self) -> None:
        """All have ended when this returns."""
        with self._lock:
            self._leaving = True
        for instance in self._all:
            try:
                instance.link.send(frames.STOP)
            except OSError:
                pass
        self._end()

    def _end(self, how: int = 0) -> None:
        with self._lock:
            self._leaving = True
        for instance in self._all:
            try:
                if how:
                    os.kill(instance.pid, how)
                os.waitpid(instance.pid, 0)
            except (ChildProcessError, ProcessLookupError):  # its own thread saw it end first
                pass

    # ---- the thread that listens to the worker

    def run(self, ident: int, packet: bytes, descriptors: List[int]) -> None:
        with self._lock:
            instance = min(self._all, key=lambda one: one.busy)
            instance.busy += 1
            self._holders[ident] = instance
        self._pass_down(instance, packet, descriptors)

    def cancel(self, ident: int, packet: bytes) -> None:
        with self._lock:
            instance = self._holders.get(ident)
        if instance is not None:
            self._pass_down(instance, packet, [])

    def ping(self, ident: int, packet: bytes) -> None:
        """Answered when all have: one that hangs is noticed like a process that hangs alone."""
        with self._lock:
            self._pings[ident] = {instance.number for instance in self._all}
        for instance in self._all:
            self._pass_down(instance, packet, [])

    @staticmethod
    def _pass_down(instance: Instance, packet: bytes, descriptors: List[int]) -> None:
        try:
            instance.link.forward(packet, descriptors)
        except OSError:
            pass                                             # it is gone: its own thread says so

    # ---- one thread for each

    def _listen(self, instance: Instance) -> None:
        while True:
            received = instance.link.receive_raw()
            if received is None:
                return self._gone(instance)
            packet, descriptors = received
            kind, ident = frames.kind_of(packet)
            try:
                if kind == frames.LOADED or (kind == frames.FAILED and ident == self._load_id):
                    self._set_up(instance, kind, frames.decode(packet, descriptors))
                elif kind == frames.PONG:
                    self._pong(instance, ident)
                elif kind != frames.READY:
                    if kind in (frames.DONE, frames.FAILED, frames.YIELDED):
                        with self._lock:
                            if self._holders.pop(ident, None) is not None:
                                instance.busy -= 1
                    self._upward.forward(packet, descriptors)
            except OSError:
                os._exit(0)                                  # the worker is gone
            finally:
                for fd in descriptors:
                    os.close(fd)

    def _set_up(self, instance: Instance, kind: int, frame: Frame) -> None:
        with self._lock:
            if kind == frames.LOADED:
                self._loaded[instance.number] = frame
            elif self._failed is None:
                self._failed = frame
            self._lock.notify()

    def _pong(self, instance: Instance, ident: int) -> None:
        with self._lock:
            missing = self._pings.get(ident)
            if missing is None:
                return
            missing.discard(instance.number)
            if missing:
                return
            del self._pings[ident]
        self._upward.send(frames.PONG, ident)

    def _gone(self, instance: Instance) -> None:
        with self._lock:
            if self._leaving:
                return
        try:
            _, status = os.waitpid(instance.pid, 0)
        except ChildProcessError:                            # the main thread ends them just now
            return
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        how = f"was killed by signal {killed}" if killed else f"ended with code {os.WEXITSTATUS(status)}"
        print(f"instance {instance.number} of {len(self._all)} {how}", file=sys.stderr, flush=True)
        if killed:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {killed})
            os.kill(os.getpid(), killed)
        os._exit(os.WEXITSTATUS(status) or 1)

"""The process of one Python model on one device, started by the worker: INTERPRETER …/gpuq/serve/__main__.py, everything else by the socket.

The main thread runs the model; a second one listens, so that a ping is answered while a prediction computes. Requests that wait when a
prediction ends form the next batch, up to max_batch; nobody waits for a batch to fill.
"""
import os
import sys

# By path, not by -m: this folder's parent must be importable, and the folder itself must not shadow the model's own modules.
_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[0] = os.path.dirname(os.path.dirname(_HERE))

import collections      # noqa: E402
import ctypes           # noqa: E402
import importlib        # noqa: E402
import json             # noqa: E402
import signal           # noqa: E402
import socket           # noqa: E402
import threading        # noqa: E402
import time             # noqa: E402
import traceback        # noqa: E402
from typing import Any, Deque, Dict, List, Optional, Tuple  # noqa: E402

from gpuq.serve import frames, values  # noqa: E402
from gpuq.serve.frames import Frame, Link  # noqa: E402
from gpuq.serve.instances import Fleet, LoadFailed  # noqa: E402

CHANNEL = 3
WHAT_BYTES = 300          # of an error, as the broker keeps it; the whole traceback goes to the log


class Context:
    """What setup() is told."""

    def __init__(self, link: Link, hello: Frame, load: Frame) -> None:
        self._link = link
        self.name: str = load.get("name")
        self.version: str = str(load.get("model")).partition("@")[2]
        self.folder: str = load.get("path")                     # the model's files, read only
        self.metadata: str = load.get("metadata")
        self.device_kind: str = hello.get("device_kind")        # cuda, cpu, mps, simulated (which computes on the CPU)
        self.device: str = {"cuda": "cuda:0", "mps": "mps"}.get(self.device_kind, "cpu")   # as torch names it
        self.vram_mib: int = int(load.get("budget_mib", 0)) or int(hello.get("vram_mib", 0))
        self.threads: int = int(hello.get("threads", 1))
        self.scratch: str = hello.get("scratch")
        self.max_batch: int = max(1, int(load.get("max_batch", 1)))

    def log(self, text: object) -> None:
        self._link.send(frames.LOG, 0, [("text", str(text))])


class Server:
    def __init__(self, link: Link) -> None:
        self.link = link
        self.hello: Optional[Frame] = None
        self.model: Any = None
        self.fleet: Optional[Fleet] = None                   # instead of a model here, when there are several instances
        self.name = ""
        self.max_batch = 1
        self.lock = threading.Condition()
        self.orders: Deque[Frame] = collections.deque()      # load, unload, stop: in the order they came
        self.runs: Deque[Frame] = collections.deque()

    # ---- the listening thread

    def listen(self) -> None:
        while True:
            received = self.link.receive_raw()
            if received is None:
                os._exit(0)                                  # the worker is gone
            packet, descriptors = received
            try:
                fleet = self.fleet
                if fleet is None or not self.pass_on(fleet, packet, descriptors):
                    self.hear(frames.decode(packet, descriptors))
            finally:
                for fd in descriptors:
                    os.close(fd)

    @staticmethod
    def pass_on(fleet: Fleet, packet: bytes, descriptors: List[int]) -> bool:
        """What concerns the instances goes to them unopened."""
        kind, ident = frames.kind_of(packet)
        if kind == frames.RUN:
            fleet.run(ident, packet, descriptors)
        elif kind == frames.CANCEL:
            fleet.cancel(ident, packet)
        elif kind == frames.PING:
            fleet.ping(ident, packet)
        else:
            return False
        return True

    def hear(self, frame: Frame) -> None:
        if frame.kind == frames.PING:
            self.link.send(frames.PONG, frame.ident)
        elif frame.kind == frames.HELLO:
            self.hello = frame
            self.link.send(frames.READY, 0, [("protocol", 1), ("pid", os.getpid()), ("device_name", str(frame.get("device"))), ("context_mib", 0), ("kind", "infer"), ("kind", "detect")])
        elif frame.kind == frames.CANCEL:
            self.cancel(frame.ident)
        else:
            with self.lock:
                (self.runs if frame.kind == frames.RUN else self.orders).append(frame)
                self.lock.notify()

    def cancel(self, ident: int) -> None:
        with self.lock:
            waiting = [r for r in self.runs if r.ident == ident]
            for run in waiting:
                self.runs.remove(run)
        for run in waiting:
            self.fail(run.ident, "CANCELLED", "cancelled before it began")

    # ---- the main thread

    def serve(self) -> None:
        while True:
            with self.lock:
                while not self.runs and not self.orders:
                    self.lock.wait()
                # What waits is answered before an order to leave is followed.
                batch = [self.runs.popleft() for _ in range(min(len(self.runs), self.max_batch))] if self.model is not None else []
                order = None if batch else self.orders.popleft() if self.orders else None
                if not batch and order is None:              # runs without a model: it is still to be loaded, or was taken away
                    strays = list(self.runs)
                    self.runs.clear()
            if batch:
                self.run(batch)
            elif order is None:
                for run in strays:
                    self.fail(run.ident, "NOT_HERE", "the model is not loaded here")
            elif order.kind == frames.LOAD:
                self.load(order)
            elif order.kind == frames.UNLOAD:
                self.model = None
                self.send_home()
                self.link.send(frames.UNLOADED, order.ident)
            elif order.kind == frames.STOP:
                self.send_home()
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)                                  # not exit(): a model's atexit must not hold up the device

    def load(self, order: Frame) -> None:
        assert self.hello is not None
        if int(order.get("instances", 1)) > 1:
            return self.load_instances(self.hello, order, int(order.get("instances")))
        context = Context(self.link, self.hello, order)
        os.environ["GPUQ_VRAM_MIB"] = str(context.vram_mib)
        try:
            self.limit_memory()
            self.model = make(str(order.get("entry")), context.folder)
            self.limit_memory()                              # again: frameworks that the import has brought in
            self.max_batch, self.name = context.max_batch, str(order.get("model"))
            if hasattr(self.model, "setup"):
                self.model.setup(context)
                self.limit_memory()                          # and those that setup has
            if order.get("warmup", 1) and hasattr(self.model, "warmup"):
                self.model.warmup()
            metadata = json.dumps((self.model.metadata() if hasattr(self.model, "metadata") else None) or {})
        except BaseException as why:                         # SystemExit of a script, too
            self.model = None
            self.fail(order.ident, "BAD_MODEL", f"setup failed: {last_line(why)}", traceback.format_exc(), final=not isinstance(why, MemoryError))
            return
        self.link.send(frames.LOADED, order.ident, [("used_mib", resident_mib()), ("batch_max", self.max_batch), ("metadata", metadata)])

    def load_instances(self, hello: Frame, order: Frame, count: int) -> None:
        fleet = Fleet(self.link, os.path.abspath(__file__), count)
        try:
            said = fleet.load(hello, order)
        except LoadFailed as why:
            return self.link.send(frames.FAILED, order.ident, why.frame.fields)
        self.fleet = fleet
        self.link.send(frames.LOADED, order.ident, [("used_mib", sum(int(one.get("used_mib", 0)) for one in said)), ("batch_max", sum(int(one.get("batch_max", 1)) for one in said)),
                                                    ("metadata", str(said[0].get("metadata")))])

    def send_home(self) -> None:
        fleet, self.fleet = self.fleet, None
        if fleet is not None:
            fleet.leave()

    @staticmethod
    def limit_memory() -> None:
        try:
            from gpuq import job
            job.vram_mib = int(os.environ["GPUQ_VRAM_MIB"])
            job.limit_memory()
        except Exception:                                    # the budget is watched from outside as well
            traceback.print_exc()

    def run(self, batch: List[Frame]) -> None:
        began = time.monotonic()
        requests: List[Tuple[Frame, values.Request]] = []
        for frame in batch:
            self.link.send(frames.STARTED, frame.ident)      # before it computes: this decides whom a crash is blamed on
            try:
                requests.append((frame, request_of(frame)))
            except Exception as why:
                self.fail(frame.ident, "BAD_INPUT", str(why))
        if requests:
            self.predict(requests, began)

    def predict(self, requests: List[Tuple[Frame, values.Request]], began: float) -> None:
        try:
            answers = self.model.predict([r for _, r in requests])
            answers = list(answers) if answers is not None else []
        except BaseException as why:
            if len(requests) > 1:                            # who is it? the others must not fail with it
                for one in requests:
                    self.predict([one], began)
                return
            return self.fail_with(requests[0][0].ident, why)
        if len(answers) != len(requests):
            for frame, _ in requests:
                self.fail(frame.ident, "BAD_MODEL", f"predict returned {len(answers)} answers for {len(requests)} requests", final=True)
            return
        for (frame, request), answer in zip(requests, answers):
            if isinstance(answer, BaseException):
                self.fail_with(frame.ident, answer)
                continue
            try:
                fields: List[frames.Field] = []
                for name, raw, media in values.outputs(answer, request.kind):
                    fields += [("out." + name, raw), ("out_media." + name, media)]
                fields += [("value.model", self.name), ("value.batch", len(requests)), ("value.ms", round((time.monotonic() - began) * 1000, 3))]
                self.link.send(frames.DONE, frame.ident, fields)
            except (TypeError, ValueError, KeyError) as why:
                self.fail(frame.ident, "BAD_MODEL", f"the answer cannot be sent: {why}", final=True)

    def fail_with(self, ident: int, why: BaseException) -> None:
        if isinstance(why, values.BadInput):
            return self.fail(ident, "BAD_INPUT", str(why), final=True)
        whole = "".join(traceback.format_exception(type(why), why, why.__traceback__))
        code = "OOM" if isinstance(why, MemoryError) or type(why).__name__ in ("OutOfMemoryError", "ResourceExhaustedError") else "JOB_FAILED"
        self.fail(ident, code, last_line(why), whole, final=isinstance(why, (ValueError, TypeError, KeyError)))

    def fail(self, ident: int, code: str, what: str, whole: str = "", final: bool = False) -> None:
        if whole:
            self.link.send(frames.LOG, 0, [("text", whole[-30_000:])])
        self.link.send(frames.FAILED, ident, [("code", code), ("what", what[:WHAT_BYTES]), ("final", int(final))])


def last_line(why: BaseException) -> str:
    """Exception and where in the model it was raised: what a person looks for first."""
    text = "".join(traceback.format_exception_only(type(why), why)).strip().splitlines()[-1]
    where = traceback.extract_tb(why.__traceback__)
    place = next((f for f in reversed(where) if not f.filename.startswith((_HERE, "<frozen"))), None)
    return text + (f" ({os.path.basename(place.filename)}:{place.lineno} in {place.name})" if place else "")


def make(entry: str, folder: str) -> Any:
    """An object of the entry's class. "module:Class" from the model's folder, "gpuq:NAME" = one that gpuq brings."""
    module, colon, name = entry.partition(":")
    if not colon or not module or not name:
        raise ValueError(f"entry '{entry}' is not module:Class")
    if module == "gpuq":
        from gpuq.serve.entries import NAMES
        if name not in NAMES:
            raise ValueError(f"entry '{entry}': gpuq brings {', '.join(NAMES)}, and no '{name}'")
        module, name = "gpuq.serve.entries." + name, "Model"
    else:
        sys.path.insert(0, folder)
        os.chdir(folder)
    found = getattr(importlib.import_module(module), name, None)
    if found is None:
        raise ValueError(f"entry '{entry}': {module} has no '{name}'")
    model = found()
    if not callable(getattr(model, "predict", None)):
        raise ValueError(f"entry '{entry}': {name} has no predict(requests)")
    return model


def request_of(frame: Frame) -> values.Request:
    media: Dict[str, str] = frame.with_prefix("part_media.")
    parts = {name: values.decode(raw if isinstance(raw, bytes) else str(raw).encode(), media.get(name, "")) for name, raw in frame.with_prefix("part.").items()}
    return values.Request(str(frame.get("kind")), parts, frame.with_prefix("file."), frame.with_prefix("param."), str(frame.get("output_dir")), media)


def resident_mib() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)               # PR_SET_PDEATHSIG
    os.set_inheritable(CHANNEL, False)                       # what a model starts must not hold the socket
    signal.signal(signal.SIGINT, signal.SIG_IGN)             # ctrl-C at the worker's terminal: the worker decides
    link = Link(socket.socket(fileno=CHANNEL))
    server = Server(link)
    threading.Thread(target=server.listen, name="listen", daemon=True).start()
    try:
        server.serve()
    except (BrokenPipeError, ConnectionError):
        os._exit(0)


if __name__ == "__main__":
    main()

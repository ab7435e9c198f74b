"""gpuq.job - what a training script says to gpuq, and hears. One file, standard library only; outside gpuq all of it does nothing.

    from gpuq import job

    start = load(job.resume_from) if job.resume_from else 0        # a folder: what checkpoint_dir held when it last left
    for step in range(start, total):
        loss = train_one(step)
        job.progress(step + 1, total, loss=loss)                   # gpuq status, gpuq top
        if job.should_yield():                                     # a higher class needs the card
            save(job.checkpoint_dir, step + 1)
            job.yielded(step + 1)                                  # exit 75: kept, and resumed from there

Submit it with `--on-preempt checkpoint`. SIGTERM is the request to leave: from the first should_yield() on it sets a flag, a second one
ends the process. A script that never asks is ended by the first, as any program is. What lies in checkpoint_dir is stored when the
script leaves, and whenever checkpointed() is called: write to another name and rename, so that it is whole at any moment.
"""
import importlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Optional

__all__ = ["inside", "should_yield", "checkpoint_dir", "resume_from", "vram_mib", "output_dir", "input_dir", "progress", "checkpointed",
           "yielded", "limit_memory", "TorchLoop", "ultralytics", "lightning", "lightning_checkpoint"]

YIELDED = 75                # the exit code that says: left on request, everything is in checkpoint_dir (EX_TEMPFAIL)
PROGRESS_INTERVAL_S = 0.1   # a loop of thousands of steps a second reports ten times a second; its last step always
CONTEXT_MIB = 700           # of the memory granted: what a CUDA context takes beside the tensors

job_id = os.environ.get("GPUQ_JOB_ID")
attempt = int(os.environ.get("GPUQ_ATTEMPT") or 0)
resume_from = os.environ.get("GPUQ_RESUME_FROM") or None     # None: begin at the beginning
vram_mib = int(os.environ.get("GPUQ_VRAM_MIB") or 0)         # device memory granted; 0 = no limit known
input_dir = os.environ.get("GPUQ_INPUT_DIR") or None         # its parts as files; PARENT_ID/… is what a job it came after brought
output_dir = os.environ.get("GPUQ_OUTPUT_DIR") or "."        # files here become the job's artefacts; outside gpuq: the current folder

_asked = False              # to leave
_listens_in: Optional[int] = None          # the process whose SIGTERM sets the flag
_children_heard = False     # have had their time to
_last_report = 0.0
_progress_lock = threading.Lock()


def inside() -> bool:
    """Is this process a job of gpuq?"""
    return job_id is not None


def __getattr__(name: str) -> str:
    if name != "checkpoint_dir":
        raise AttributeError(f"module 'gpuq.job' has no attribute {name!r}")
    # Outside gpuq a script that saves still works: it saves below the current folder, and nothing resumes from there by itself.
    folder = os.environ.get("GPUQ_CHECKPOINT_DIR") or os.path.join(os.getcwd(), "checkpoints")
    os.makedirs(folder, exist_ok=True)
    return folder


# ---- being asked to leave

def should_yield() -> bool:
    """True once gpuq has asked this job to leave. Save into checkpoint_dir, then call yielded()."""
    if inside() and _listens_in is None:
        _listen()
    if _asked and not _children_heard:
        _let_children_hear()
    return _asked


def _listen() -> None:
    global _listens_in
    if threading.current_thread() is not threading.main_thread():
        return              # Python hears signals in its main thread only; asked from there it will work
    signal.signal(signal.SIGTERM, _on_sigterm)
    _listens_in = os.getpid()


def _on_sigterm(number: int, frame: Any) -> None:
    global _asked
    if _asked or os.getpid() != _listens_in:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        return
    _asked = True


def _shield_child() -> None:
    """In a process that multiprocessing started: the request goes to the whole process group, but a data loader must go on serving
    the batch at hand, or the training dies before it can save. Only its own parent may end it by SIGTERM."""
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while True:
            heard = signal.sigwaitinfo({signal.SIGTERM})
            if heard.si_pid == parent or os.getppid() != parent:
                os._exit(128 + signal.SIGTERM)
    threading.Thread(target=wait, name="gpuq-sigterm", daemon=True).start()


def _let_children_hear() -> None:
    """The request reached the shielded children too. One that has not run since still has it pending, and its parent's own SIGTERM (a pool's
    terminate()) would be merged into that one and be lost: the join behind it would never end. So: a moment, before the script goes on."""
    global _children_heard
    _children_heard = True
    children: Any = getattr(sys.modules.get("multiprocessing"), "active_children", list)()
    until = time.monotonic() + 2
    for child in children:
        while _has_sigterm_pending(child.pid) and time.monotonic() < until:
            time.sleep(0.001)


def _has_sigterm_pending(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            return any(line.startswith(b"ShdPnd:") and int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1 for line in status)
    except OSError:
        return False            # gone, or no Linux


# A fork happens with SIGTERM blocked, so that there is no moment at which the request could end the child.
_forking = threading.local()


def _before_fork() -> None:
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}) if _listens_in is not None else None


def _after_fork_in_parent() -> None:
    if _forking.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _after_fork_in_child() -> None:
    if _forking.mask is not None:
        _shield_child()


if inside() and hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
    _processes = sys.modules.get("multiprocessing.process")
    if _processes is not None and (_processes.parent_process() is not None or getattr(_processes.current_process(), "_inheriting", False)):
        _shield_child()     # a spawned one reads the main script, and this file, again; until it has, the request would end it


def yielded(step: Optional[int] = None) -> None:
    """Ends the process as one that left on request. Without a request: nothing."""
    if not _asked:
        return
    if step is not None:
        _say({"step": int(step)})
    sys.stdout.flush()
    sys.exit(YIELDED)


# ---- telling

def progress(step: int, total: Optional[int] = None, **metrics: Any) -> None:
    """Shown by gpuq status and top. Metrics are numbers; anything that float() takes (a tensor with one element, too)."""
    global _last_report
    now = time.monotonic()
    if not inside() or (now - _last_report < PROGRESS_INTERVAL_S and step != total):
        return
    _last_report = now
    line: Dict[str, Any] = {"step": int(step)}
    if total is not None:
        line["total"] = int(total)
    for name, value in metrics.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number) and name not in ("step", "total", "checkpoint"):
            line[name] = number
    _say(line)


def checkpointed(step: int) -> None:
    """What checkpoint_dir holds now is whole: gpuq stores it, and a job that is lost or killed goes on from there."""
    _say({"step": int(step), "checkpoint": 1})


def _say(line: Dict[str, Any]) -> None:
    where = os.environ.get("GPUQ_PROGRESS_FD")
    if where is None or not inside():
        return
    try:
        with _progress_lock:
            os.write(int(where), (json.dumps(line, separators=(",", ":")) + "\n").encode())
    except (OSError, ValueError):
        pass                # nobody listens: the work goes on


# ---- memory

def limit_memory() -> List[str]:
    """Tells the frameworks imported so far to stay below the memory granted; returns their names. Call it before the first tensor.
    Frameworks imported later are told by their environment variables where they have one."""
    if not vram_mib:
        return []
    room = max(vram_mib - CONTEXT_MIB, vram_mib // 2)
    told = []
    os.environ.setdefault("CUPY_GPU_MEMORY_LIMIT", str(room << 20))
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")   # else JAX takes three quarters of the card at once
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            total = torch.cuda.get_device_properties(index).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, (room << 20) / total), index)
        told.append("torch")
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:
        config = tensorflow.config
        for card in config.list_physical_devices("GPU"):
            config.set_logical_device_configuration(card, [config.LogicalDeviceConfiguration(memory_limit=room)])
            told.append("tensorflow")
    cupy = sys.modules.get("cupy")
    if cupy is not None:
        cupy.get_default_memory_pool().set_limit(size=room << 20)
        told.append("cupy")
    total = _card_mib()
    if total:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{min(1.0, room / total):.3f}")   # read when JAX first uses the card
        if "jax" in sys.modules:
            told.append("jax")
    return list(dict.fromkeys(told))


def _card_mib() -> Optional[int]:
    """The size of the first card that this job sees; None when nobody can tell."""
    card = (os.environ.get("CUDA_VISIBLE_DEVICES") or "").split(",")[0]
    tool = shutil.which("nvidia-smi")
    if not card or not tool:
        return None
    try:
        said = subprocess.run([tool, "-i", card, "--query-gpu=memory.total", "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=10)
        return int(said.stdout.split()[0])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


# ---- for those who write no loop of their own

def _replace(path: str, write: Callable[[str], Any]) -> None:
    """The file at `path` is either the old one or the whole new one, also when the machine stops in between."""
    temporary = f"{path}.{os.getpid()}.tmp"
    write(temporary)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class TorchLoop:
    """A plain PyTorch loop that saves, leaves and goes on. Whatever has state_dict() and load_state_dict() is kept by its name, and the
    random numbers of Python, NumPy (when imported), the CPU and the cards are, too:

        loop = job.TorchLoop(total, every=500, model=model, optimizer=optimizer)
        for step in range(loop.start, total):
            …
            loop.step(step + 1, loss=loss)
    """

    def __init__(self, total: Optional[int] = None, every: int = 0, **parts: Any) -> None:
        self.total, self.every, self.parts, self.start = total, every, parts, 0
        should_yield()
        path = os.path.join(resume_from, "loop.pt") if resume_from else ""
        if os.path.exists(path):
            self._load(path)

    def step(self, step: int, **metrics: Any) -> None:
        progress(step, self.total, **metrics)
        if should_yield():
            self.save(step)
            yielded(step)
        elif self.every and inside() and step % self.every == 0:
            self.save(step)
            checkpointed(step)

    def save(self, step: int) -> None:
        torch = importlib.import_module("torch")
        state = {"step": step, "parts": {name: part.state_dict() for name, part in self.parts.items()},
                 "python": random.getstate(), "torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        if "numpy" in sys.modules:
            state["numpy"] = sys.modules["numpy"].random.get_state()
        _replace(os.path.join(__getattr__("checkpoint_dir"), "loop.pt"), lambda path: torch.save(state, path))

    def _load(self, path: str) -> None:
        torch = importlib.import_module("torch")
        state = torch.load(path, map_location="cpu", weights_only=False)   # this job's own file, from this job's own folder
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        random.setstate(state["python"])
        torch.set_rng_state(state["torch"])
        if "cuda" in state and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
        if "numpy" in state and "numpy" in sys.modules:
            sys.modules["numpy"].random.set_state(state["numpy"])
        self.start = state["step"]


def ultralytics(model: Any) -> Any:
    """Ultralytics keeps last.pt by epoch; gpuq stores each, and the job leaves behind one:

        model = job.ultralytics(YOLO(f"{job.resume_from}/last.pt" if job.resume_from else "yolo11n.pt"))
        model.train(data="boards.yaml", epochs=100, resume=bool(job.resume_from))
    """
    def saved(trainer: Any) -> None:
        epoch, target = int(trainer.epoch) + 1, os.path.join(__getattr__("checkpoint_dir"), "last.pt")
        if not inside():
            return
        _replace(target, lambda path: shutil.copyfile(str(trainer.last), path))
        if should_yield():
            yielded(epoch)
        checkpointed(epoch)

    def ended_epoch(trainer: Any) -> None:
        progress(int(trainer.epoch) + 1, int(trainer.epochs), **{str(k): v for k, v in dict(trainer.metrics or {}).items()})

    should_yield()
    model.add_callback("on_fit_epoch_end", ended_epoch)
    model.add_callback("on_model_save", saved)
    return model


def lightning(every: int = 0) -> Any:
    """A Lightning callback: Trainer(callbacks=[job.lightning()]), then trainer.fit(model, ckpt_path=job.lightning_checkpoint())."""
    try:
        callbacks: Any = importlib.import_module("lightning.pytorch.callbacks")
    except ImportError:
        callbacks = importlib.import_module("pytorch_lightning.callbacks")

    class Leave(callbacks.Callback):   # type: ignore[misc]
        def on_train_start(self, trainer: Any, module: Any) -> None:
            should_yield()

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            step, total = int(trainer.global_step), trainer.estimated_stepping_batches
            progress(step, int(total) if total and math.isfinite(total) else None, **dict(trainer.callback_metrics))
            if should_yield():
                self._save(trainer)
                yielded(step)
            elif every and inside() and step % every == 0:
                self._save(trainer)
                checkpointed(step)

        @staticmethod
        def _save(trainer: Any) -> None:
            _replace(os.path.join(__getattr__("checkpoint_dir"), "lightning.ckpt"), trainer.save_checkpoint)

    return Leave()


def lightning_checkpoint() -> Optional[str]:
    """What trainer.fit(ckpt_path=…) goes on from; None at the beginning."""
    path = os.path.join(resume_from, "lightning.ckpt") if resume_from else ""
    return path if os.path.exists(path) else None

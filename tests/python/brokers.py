"""brokers.py - what Python tests share: the real broker and worker in a home of their own, ended by pid, on ephemeral ports.

Nothing sleeps for luck: until(condition, what) waits for it or fails with what was waited for.
"""
import contextlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

BIN = pathlib.Path(os.environ["GPUQ_BIN_DIR"])
SOURCE = pathlib.Path(os.environ["GPUQ_SOURCE_DIR"])
PATIENCE_S = 60


def until(holds, what, patience_s=PATIENCE_S):
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        value = holds()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {patience_s} s: {what}")


_ports = itertools.count(os.getpid() * 37)


def lasting_endpoint():
    """Still free when the broker is started again: below the range from which the kernel gives ports to other tests' connections."""
    for at in _ports:
        port = 20_000 + at % 12_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return f"tcp://127.0.0.1:{port}"
            except OSError:
                continue


class Home:
    """One broker with its own Redis (`gpuq-broker`, embedded), any number of workers, and access files."""

    def __init__(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="gpuq-python-"))
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("GPUQ_", "XDG_"))}
        self.env.update(HOME=str(self.root), NO_COLOR="1", PATH=f"{BIN}:{os.environ['PATH']}")
        self.broker = None
        self.workers = []
        self.ready = {}

    def start_broker(self, *options, binary=None):
        """Again: on the same ports, with what is on disk."""
        read, write = os.pipe()
        clients, workers = self.ready.get("clients") or lasting_endpoint(), self.ready.get("workers") or lasting_endpoint()
        words = [str(binary or BIN / "gpuq-broker"), "--data-dir", str(self.root / "data"), "--listen-clients", clients, "--listen-workers", workers,
                 "--listen-http", "127.0.0.1:0", "--ready-fd", str(write), *map(str, options)]
        with open(self.root / "broker.log", "a") as log:
            self.broker = subprocess.Popen(words, env=self.env, stdout=log, stderr=log, pass_fds=[write])
        os.close(write)
        with open(read) as ready:
            line = ready.readline()
        assert line, "the broker ended:\n" + self.log("broker")
        self.ready = json.loads(line)
        return self

    def access(self, name="ada", role="client"):
        """The path of an access file, made when it is not there."""
        path = self.root / f"{name}.json"
        if not path.exists():
            port = self.ready["workers" if role == "worker" else "clients"]
            made = subprocess.run([BIN / "gpuq", "keys", "--keys", self.root / "data/keys", "issue", "--role", role, "--name", name, "--broker", port],
                                  env=self.env, capture_output=True, text=True)
            assert made.returncode == 0, made.stderr
            path.write_text(made.stdout)
            path.chmod(0o600)
        return str(path)

    def start_worker(self, name="anna", *options, binary=None):
        access = self.access(name, "worker")
        with open(self.root / f"{name}.log", "a") as log:
            worker = subprocess.Popen([str(binary or BIN / "gpuq-worker"), "--access-file", access, "--scratch", str(self.root / name),
                                       "--devices", "cpu", *map(str, options)], env=self.env, stdout=log, stderr=log)
        self.workers.append(worker)
        return worker

    def gpuq(self, *words, timeout=PATIENCE_S * 3):
        """The command line as an admin; what it prints. It must succeed."""
        ran = subprocess.run([BIN / "gpuq", "--access-file", self.access("root", "admin"), *map(str, words)], env=self.env, capture_output=True, text=True,
                             timeout=timeout, cwd=self.root)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def push_python_model(self, name, source, kinds=("infer",)):
        """`source` has the class Model; it runs in this interpreter."""
        folder = self.root / f"model-{name}"
        folder.mkdir()
        (folder / "model.toml").write_text(f'interpreter = "{sys.executable}"\nentry = "{name}:Model"\nkinds = {json.dumps(list(kinds))}\n')
        (folder / f"{name}.py").write_text(source)
        self.gpuq("model", "push", name, folder)

    def http_token(self, name, role="client"):
        return self.gpuq("keys", "--keys", self.root / "data/keys", "issue", "--http", "--role", role, "--name", name, "--broker", self.ready["clients"]).strip()

    @contextlib.contextmanager
    def http_door(self, *options):
        """gpuq-http in front of this broker; its URL."""
        read, write = os.pipe()
        with open(self.root / "http.log", "a") as log:
            door = subprocess.Popen([BIN / "gpuq-http", "--listen", "127.0.0.1:0", "--tokens", self.root / "data/keys/http", "--ready-fd", str(write), *map(str, options)],
                                    env=self.env, stdout=log, stderr=log, pass_fds=[write])
        os.close(write)
        with open(read) as ready:
            line = ready.readline()
        assert line, "gpuq-http ended:\n" + self.log("http")
        try:
            yield "http://" + json.loads(line)["http"]
        finally:
            door.terminate()
            assert door.wait(PATIENCE_S) == 0, self.log("http")

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.remove()

    def log(self, name):
        return (self.root / f"{name}.log").read_text()[-4000:]

    def kill_broker(self):
        self.broker.send_signal(signal.SIGKILL)
        self.broker.wait(PATIENCE_S)

    def remove(self):
        for process in [*self.workers, self.broker]:
            if process is not None and process.poll() is None:
                process.terminate()
        for process in [*self.workers, self.broker]:
            if process is not None:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        shutil.rmtree(self.root, ignore_errors=True)

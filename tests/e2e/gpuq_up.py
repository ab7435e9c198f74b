"""What the command line's end-to-end tests share: `gpuq up` in a home of its own, and commands typed against it.

Each story is started as STORY.py BIN [unittest words]; BIN is where our programs lie.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

PATIENCE_S = 60
BIN = pathlib.Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else pathlib.Path.cwd()


class Home:
    """A home directory of its own; every program of ours is found in `bin_dir`."""

    def __init__(self, bin_dir=BIN):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="gpuq-e2e-"))
        self.bin = pathlib.Path(bin_dir)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("GPUQ_", "XDG_"))}
        self.env.update(HOME=str(self.root), NO_COLOR="1", PATH=f"{self.bin}:{os.environ['PATH']}")
        self.data = self.root / ".local/state/gpuq"
        self.up_process = None

    def gpuq(self, *words, timeout=PATIENCE_S, **more):
        return subprocess.run([self.bin / "gpuq", *map(str, words)], env=self.env, text=True, capture_output=True, timeout=timeout,
                              cwd=more.pop("cwd", self.root), **more)

    def start(self, *words):
        return subprocess.Popen([self.bin / "gpuq", *map(str, words)], env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.root)

    def up(self, *words, gpus="8GiB"):
        with open(self.root / "up.out", "w") as out:
            pretend = ["--simulate-gpus", gpus] if gpus else []
            self.up_process = subprocess.Popen([self.bin / "gpuq", "up", "--port", "0", *pretend, *map(str, words)], env=self.env,
                                               stdout=out, stderr=subprocess.STDOUT, cwd=self.root)
        until(lambda: "ctrl-C ends it all" in (self.root / "up.out").read_text() or self.up_process.poll() is not None, "gpuq up serves")
        if self.up_process.poll() is not None:
            raise AssertionError("gpuq up ended:\n" + (self.root / "up.out").read_text())

    def broker_pid(self):
        return next(pid for pid, name in children_of(self.up_process.pid) if name == "gpuq-broker")

    def address(self, role="client"):
        return json.loads((self.data / f"{role}.json").read_text())["broker"]

    def kill_broker(self):
        """kill -9; `gpuq up` then ends by itself, and another up() goes on with what was on disk."""
        os.kill(self.broker_pid(), signal.SIGKILL)
        self.up_process.wait(PATIENCE_S)

    def broker_again(self, log):
        """kill -9 under a living worker: `gpuq up` is stopped meanwhile, and a broker of our own serves the same data and ports."""
        broker = self.broker_pid()
        words = [w.decode() for w in pathlib.Path(f"/proc/{broker}/cmdline").read_bytes().split(b"\0") if w]
        words = words[:words.index("--ready-fd")]
        words[words.index("--listen-clients") + 1] = self.address("client")
        words[words.index("--listen-workers") + 1] = self.address("worker")
        os.kill(self.up_process.pid, signal.SIGSTOP)   # it would end everything when its broker dies
        os.kill(broker, signal.SIGKILL)
        with open(self.root / log, "w") as out:
            return subprocess.Popen(words, env=self.env, stdout=out, stderr=out)

    def down(self):
        if self.up_process and self.up_process.poll() is None:
            self.up_process.send_signal(signal.SIGINT)
            try:
                self.up_process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.up_process.kill()
                self.up_process.wait()
        return self.up_process.returncode if self.up_process else None

    def remove(self):
        self.down()
        shutil.rmtree(self.root, ignore_errors=True)


def until(holds, what, patience_s=PATIENCE_S):
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        value = holds()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {patience_s} s: {what}")


def children_of(pid):
    """(pid, name) of all processes below this one."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
                parents.setdefault(int(rest.split()[1]), []).append((int(entry.name), name))
            except (OSError, IndexError, ValueError):
                continue
    found, queue = [], [pid]
    while queue:
        for child in parents.get(queue.pop(), []):
            found.append(child)
            queue.append(child[0])
    return found


def alive(pid):
    try:
        return (pathlib.Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Story(unittest.TestCase):
    longMessage = True

    def assert_ran(self, ran, code=0):
        self.assertEqual(ran.returncode, code, f"{' '.join(map(str, ran.args))}\nstdout: {ran.stdout}\nstderr: {ran.stderr}")
        return ran

    def assert_error(self, ran, code, errc):
        self.assert_ran(ran, code)
        self.assertIn(f"error[{errc}]", ran.stderr)
        self.assertIn("try:", ran.stderr, "an error says what to do next")
        self.assertEqual(ran.stdout, "", "messages go to stderr")
        return ran

    @staticmethod
    def lines(ran):
        return [json.loads(line) for line in ran.stdout.splitlines()]


class UpStory(Story):
    """A story told against one `gpuq up`, shared by its tests."""
    up_words = ()
    gpus = "8GiB"
    policy = None   # the text of its gpuq.toml

    @classmethod
    def setUpClass(cls):
        cls.home = Home()
        try:
            cls.begin()
        except BaseException:
            cls.home.remove()
            raise
        cls.gpuq = cls.home.gpuq

    @classmethod
    def begin(cls):
        words = list(cls.up_words)
        if cls.policy is not None:
            cls.policy_file = cls.home.root / "gpuq.toml"
            cls.policy_file.write_text(cls.policy)
            words += ["--config", cls.policy_file]
        cls.home.up(*words, gpus=cls.gpus)

    @classmethod
    def tearDownClass(cls):
        cls.home.remove()

    def file(self, name, data):
        path = self.home.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def submitted(self, *words):
        return self.assert_ran(self.gpuq("submit", *words)).stdout.split()[0]

    def status(self, job):
        return self.lines(self.assert_ran(self.gpuq("status", job, "-o", "jsonl")))[0]

    def until_state(self, job, state, patience_s=PATIENCE_S):
        return until(lambda: (lambda s: s if s["state"] == state else None)(self.status(job)), f"job {job} is {state}", patience_s)

    def explained(self, job):
        return json.loads(self.assert_ran(self.gpuq("explain", job, "-o", "json")).stdout)["explanation"]

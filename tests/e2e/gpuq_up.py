"""What the command line's end-to-end tests share: `gpuq up` in a home of its own, and commands typed against it."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

PATIENCE_S = 60


class Home:
    """A home directory of its own; every program of ours is found in `bin_dir`."""

    def __init__(self, bin_dir):
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

    def up(self, *words):
        with open(self.root / "up.out", "w") as out:
            self.up_process = subprocess.Popen([self.bin / "gpuq", "up", "--port", "0", "--simulate-gpus", "8GiB", *words], env=self.env,
                                               stdout=out, stderr=subprocess.STDOUT, cwd=self.root)
        until(lambda: "ctrl-C ends it all" in (self.root / "up.out").read_text() or self.up_process.poll() is not None, "gpuq up serves")
        if self.up_process.poll() is not None:
            raise AssertionError("gpuq up ended:\n" + (self.root / "up.out").read_text())

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

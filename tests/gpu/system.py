#!/usr/bin/env python3
"""system.py BIN - all of gpuq on a real card: what NVML says, who holds how much, budgets, preemption, crashes. Standard library only.

Each story asserts what must hold and leaves figures, which are printed as one table at the end. BIN is where gpuq's programs lie; `python3`
must be one that imports torch with CUDA. Uses the first card that `nvidia-smi` lists, and leaves its settings alone.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from gpuq_up import UpStory, alive, children_of, until  # noqa: E402
from training_yields import draw_boards  # noqa: E402

CLIENT = pathlib.Path(__file__).resolve().parents[2] / "client/python"
FIGURES = []
SETTLED_MIB = 64          # two measurements of a card at rest differ by no more
SEEN_S = 5                # within which the once-a-second measurement has reached `gpuq workers`

# Argument: MiB to hold. Says how much, and holds it until its file is gone; LIMIT: as gpuq.job tells it to.
HOLD = """
import os, sys, time, torch
if len(sys.argv) > 2:
    from gpuq import job
    print("limits", job.limit_memory(), flush=True)
kept = []
try:
    for _ in range(int(sys.argv[1]) // 256):
        kept.append(torch.ones(256 << 18, device="cuda"))
except torch.OutOfMemoryError as e:
    print("OutOfMemoryError at", len(kept) * 256, "MiB", flush=True)
    sys.exit(3)
torch.cuda.synchronize()
print("holds", len(kept) * 256, "MiB", flush=True)
while not os.path.exists("let-go"):
    time.sleep(0.05)
"""
# Writes to an address that nobody owns: the driver reports an Xid of the program's own (31) and ends its context.
FAULT = """
import torch
code = 'extern "C" __global__ void wild(int* p) { *(volatile int*)((char*)p + (1ull << 44)) = 1; }'
x = torch.zeros(1, dtype=torch.int32, device="cuda")
torch.cuda._compile_kernel(code, "wild")((1, 1, 1), (1, 1, 1), (x,))
torch.cuda.synchronize()
"""
# Frameworks that gpuq keeps within the budget by their variables: each takes 1 GiB, then 8.
BY_VARIABLE = """
def tried(name, take):
    kept = [take(1 << 30)]
    try:
        kept.append(take(8 << 30))
        print(name, "took all it asked for", flush=True)
    except Exception as e:
        print(name, "stopped by", type(e).__name__, flush=True)
try:
    import cupy
    tried("cupy", lambda n: cupy.ones((n,), dtype="uint8"))
    cupy.get_default_memory_pool().free_all_blocks()
except ImportError:
    print("cupy not here", flush=True)
try:
    import jax.numpy
    tried("jax", lambda n: jax.numpy.ones((n,), dtype="uint8").block_until_ready())
except ImportError:
    print("jax not here", flush=True)
"""
PYTHON_MODEL = """
import torch
class Model:
    def setup(self, ctx):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.weights = torch.ones(64 << 18, device=self.device)
    def predict(self, items):
        return [{"sum": float(self.weights.sum()), "device": self.device} for _ in items]
"""


def smi(fields, query="gpu"):
    ran = subprocess.run(["nvidia-smi", f"--query-{query}={fields}", "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=60)
    return [[cell.strip() for cell in line.split(",")] for line in ran.stdout.splitlines() if line.strip()]


def by_process():
    return {int(pid): int(mib) for pid, mib in smi("pid,used_memory", "compute-apps") if pid.isdigit() and mib.isdigit()}


def figure(name, value):
    FIGURES.append((name, value))
    print(f"  {name:<44} {value}", flush=True)


class OnTheCard(UpStory):
    gpus = None           # whatever is there
    policy = '[policy]\nmodel_idle_min = "200ms"\n[class.training]\nmin_run = "0s"\n'

    @classmethod
    def begin(cls):
        cls.home.env["GPUQ_PYTHON_DIR"] = str(CLIENT)
        super().begin()

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.uuid, cls.name, total, cls.driver = smi("uuid,name,memory.total,driver_version")[0]
        cls.total = int(total)
        cls.free_at_rest = None

    def setUp(self):
        print(f"\n{self._testMethodName[len('test_01_'):].replace('_', ' ')}", flush=True)

    def tearDown(self):
        if self.home.up_process.poll() is not None:
            return
        for job in self.lines(self.gpuq("list", "--active", "-o", "jsonl")):
            self.gpuq("cancel", job["id"])
        until(lambda: self.gpuq("list", "--active", "-o", "jsonl").stdout == "", "nothing is left")
        (self.home.root / "let-go").unlink(missing_ok=True)

    def card(self):
        workers = json.loads(self.assert_ran(self.gpuq("workers", "-o", "json")).stdout)["workers"]
        return next(d for w in workers for d in w["devices"] if d["uuid"] == self.uuid)

    def until_card(self, holds, what, patience_s=SEEN_S):
        seen = []
        try:
            return until(lambda: seen.insert(0, self.card()) or (seen[0] if holds(seen[0]) else None), what, patience_s)
        except AssertionError as late:
            raise AssertionError(f"{late}: {seen[0]}") from None

    def python(self, *words, text, vram, more=()):
        file = self.file(f"{self._testMethodName}.py", text)
        return self.submitted("--class", "training", "--vram", vram, "--env", f"PYTHONPATH={CLIENT}", *more, "--", "python3", str(file), *words)

    def logs_say(self, job, word, patience_s=60):
        return until(lambda: (lambda t: t if word in t else None)(self.gpuq("logs", job).stdout), f"{word} in the log of {job}", patience_s)

    def model(self):
        """The detector that test_03 trained."""
        if not hasattr(type(self), "trained"):
            self.skipTest("nothing was trained")
        return type(self).trained

    def test_01_the_card_is_what_nvidia_smi_says(self):
        card = self.card()
        self.assertEqual((card["kind"], card["healthy"], card["state"], card["name"]), ("cuda", True, "ok", self.name))
        self.assertLessEqual(abs(card["total_mib"] - self.total), 1)
        self.assertEqual(card["foreign_mib"], 0, "nobody else is here")
        self.assertGreater(card["temperature_c"], 0)
        figure("card", f"{self.name}, driver {self.driver}, {self.total} MiB, {card['driver_mib']} MiB of them the driver's, {card['temperature_c']} C")
        figure("ledger at rest", f"free {card['free_mib']} MiB, headroom {card['headroom_mib']} MiB, used {card['used_mib']} MiB")
        type(self).free_at_rest = card["free_mib"]
        findings = {f["check"]: f for f in self.lines(self.gpuq("doctor", "-o", "jsonl"))}
        self.assertEqual(findings["cuda"]["grade"], "ok", findings["cuda"])
        figure("doctor", findings["cuda"]["what"])

    def test_02_what_others_hold_is_charged_and_given_back(self):
        before = self.card()["free_mib"]
        file = self.file("hold.py", HOLD)
        other = subprocess.Popen(["python3", str(file), "4096"], cwd=self.home.root, stdout=subprocess.PIPE, text=True)
        try:
            other.stdout.readline()
            began = time.monotonic()
            held = by_process().get(other.pid, 0)
            self.assertGreater(held, 4096, "nvidia-smi tells what each process holds")
            card = self.until_card(lambda c: c["foreign_mib"] >= held - SETTLED_MIB, "foreign use is seen")
            figure("foreign process seen after", f"{time.monotonic() - began:.2f} s: {card['foreign_mib']} MiB (nvidia-smi: {held} MiB)")
            self.assertLessEqual(abs(card["foreign_mib"] - held), SETTLED_MIB)
            self.assertEqual(card["free_mib"], before - card["foreign_mib"])
            job = self.python("256", text=HOLD, vram=f"{card['free_mib'] + 1}MiB")
            why = until(lambda: (lambda e: e if e["places"] else None)(self.explained(job)), "it is looked at")
            self.assertEqual(why["places"][0]["lacking_mib"], 1, "one MiB more than fits does not fit")
        finally:
            (self.home.root / "let-go").touch()
            other.wait(60)
        (self.home.root / "let-go").unlink()
        self.until_card(lambda c: c["foreign_mib"] == 0 and c["granted_mib"] > 0, "it fits once the other is gone")
        self.until_state(job, "running")
        self.logs_say(job, "holds")

    def test_03_a_detector_is_trained_on_it_and_detects(self):
        boards = self.home.root / "boards"
        draw_boards(boards, 32, 640)
        began = time.monotonic()
        job = self.submitted("--vram", "8GiB", "--set", "steps=600", "train.detector", boards)
        running = self.until_state(job, "running")
        self.assertEqual(running["device"], self.uuid)
        peak = 0
        while self.status(job)["state"] == "running":
            peak = max(peak, self.card()["used_by_gpuq_mib"])
            time.sleep(0.2)
        done = self.until_state(job, "succeeded")
        figure("training, 600 steps", f"{time.monotonic() - began:.1f} s, up to {peak} MiB of 8192 MiB, {json.dumps(done['metrics'])}")
        self.assertLessEqual(peak, 8192)
        self.assertGreater(peak, 500, "it ran on the card")
        self.assert_ran(self.gpuq("model", "push", "boards", "--from", job))
        type(self).trained, type(self).boards = job, sorted(boards.glob("*_test.png"))
        self.until_card(lambda c: c["used_by_gpuq_mib"] < SETTLED_MIB, "its memory is free")
        began = time.monotonic()
        self.assert_ran(self.gpuq("submit", "--wait", "--model", "boards", "detect", self.boards[0]))
        figure("first detection (host started, model loaded)", f"{time.monotonic() - began:.2f} s")
        card = self.until_card(lambda c: c["warm"], "the model is warm")
        hosts = {pid: name for pid, name in children_of(self.home.up_process.pid) if name == "gpuq-modelhost"}
        card = self.until_card(lambda c: c["used_by_gpuq_mib"] > 0, "its memory is measured")
        figure("a warm detector", f"charged {card['granted_mib']} MiB, measured {card['used_by_gpuq_mib']} MiB (nvidia-smi: {sum(m for p, m in by_process().items() if p in hosts)} MiB)")
        self.assertLessEqual(card["used_by_gpuq_mib"], card["granted_mib"], "no more than what was granted")
        began = time.monotonic()
        ran = self.assert_ran(self.gpuq("submit", "--wait", "--model", "boards", "detect", *(self.boards * 16)[:512], "-o", "jsonl"))
        figure("512 detections by one command", f"{512 / (time.monotonic() - began):.0f} images/s")
        self.assertEqual(len(ran.stdout.splitlines()), 512)

    def test_04_inference_takes_the_card_from_a_training_which_goes_on_afterwards(self):
        self.model()
        job = self.submitted("--vram", f"{self.free_at_rest - 512}MiB", "--on-preempt", "checkpoint", "--set", "steps=3000", "train.detector", self.home.root / "boards")
        until(lambda: self.status(job)["progress_step"] >= 200, "it trains")
        began = time.monotonic()
        self.assert_ran(self.gpuq("submit", "--wait", "--model", "boards", "detect", self.boards[1]))
        waited = time.monotonic() - began
        left = self.status(job)
        self.assertEqual((left["preemptions"], left["failures"], left["losses"]), (1, 0, 0), left)
        done = self.until_state(job, "succeeded", 120)
        self.assertEqual((done["preemptions"], done["attempt"], done["progress_step"]), (1, 2, 3000), done)
        figure("detection that had to preempt a training", f"{waited:.2f} s from submit to answer (model host started anew); the training left at step {left['checkpoint_step']} and finished")

    def test_05_a_script_that_limits_itself_fails_alone(self):
        good = self.python("1024", "limit", text=HOLD, vram="3GiB")
        self.logs_say(good, "holds 1024 MiB")
        bad = self.python("8192", "limit", text=HOLD, vram="3GiB")
        failed = self.until_state(bad, "failed", 60)
        said = self.gpuq("logs", bad).stdout
        self.assertIn("OutOfMemoryError", said)
        figure("script that limits itself, 3072 MiB granted", said.strip().splitlines()[-1] + f"; job {failed['code']}")
        self.assertEqual(self.status(good)["state"], "running", "its neighbour runs on")

    def test_06_a_script_over_its_budget_is_sent_away(self):
        good = self.python("1024", text=HOLD, vram="3GiB")
        self.logs_say(good, "holds 1024 MiB")
        bad = self.python("8192", text=HOLD, vram="3GiB")
        self.logs_say(bad, "holds 8192 MiB")
        began = time.monotonic()
        failed = self.until_state(bad, "failed", 15)
        figure("script over its budget sent away after", f"{time.monotonic() - began:.1f} s: {failed['code']}: {failed['what']}")
        self.assertEqual(failed["code"], "OOM", failed)
        self.assertEqual(self.status(good)["state"], "running", "its neighbour runs on")

    def test_07_a_killed_model_host_loses_no_detection(self):
        self.model()
        self.assert_ran(self.gpuq("submit", "--wait", "--model", "boards", "detect", self.boards[0]))
        host = until(lambda: next((p for p, n in children_of(self.home.up_process.pid) if n == "gpuq-modelhost"), None), "a model host")
        batch = subprocess.Popen([self.home.bin / "gpuq", "submit", "--wait", "--model", "boards", "detect", *map(str, (self.boards * 64)[:2048]), "-o", "jsonl"],
                                 env=self.home.env, cwd=self.home.root, stdout=subprocess.PIPE, text=True)
        until(lambda: any(w["running"] for w in json.loads(self.gpuq("workers", "-o", "json").stdout)["workers"]), "some run")
        os.kill(host, signal.SIGKILL)
        began = time.monotonic()
        said, _ = batch.communicate(timeout=120)
        answers = [json.loads(line) for line in said.splitlines()]
        self.assertEqual((batch.returncode, len(answers)), (0, 2048), said[-2000:])
        again = sum(json.loads(line)["attempt"] > 1 for line in self.assert_ran(self.gpuq("list", "-o", "jsonl", "-n", "2048")).stdout.splitlines())
        figure("2048 detections, model host killed meanwhile", f"all answered {time.monotonic() - began:.1f} s after the kill; {again} of them by a second attempt")

    def test_075_detections_one_at_a_time_are_quick(self):
        self.model()
        sys.path.insert(0, str(CLIENT))
        try:
            import gpuq
            client = gpuq.Client
        except ImportError as why:
            self.skipTest(str(why))
        image = self.boards[0].read_bytes()
        with client(access_file=str(self.home.data / "client.json")) as door:
            for durability in ("always", "none"):
                took = []
                for _ in range(220):
                    began = time.perf_counter()
                    door.detect("boards", image, durability=durability)
                    took.append((time.perf_counter() - began) * 1000)
                took = sorted(took[20:])
                figure(f"one detection after another, durability {durability}", f"p50 {took[100]:.2f} ms, p99 {took[198]:.2f} ms from bytes to boxes")

    def test_08_a_programs_own_fault_leaves_the_card_in_service(self):
        job = self.python(text=FAULT, vram="2GiB")
        failed = self.until_state(job, "failed", 60)
        time.sleep(2.5)   # two measurements: an Xid, if one came, has been read
        card = self.card()
        self.assertTrue(card["healthy"], card)
        self.assertIn("CUDA error", failed["last_lines"])
        figure("after a program's illegal access", f"job {failed['code']}, card {card['state']}: {failed['last_lines'].strip().splitlines()[-1][:90]}")

    def test_09_two_workers_that_report_one_card_share_one_ledger(self):
        key = self.assert_ran(self.gpuq("keys", "--keys", self.home.data / "keys", "issue", "--role", "worker", "--name", "second", "--broker", self.home.address("worker"))).stdout
        access = self.file("second.json", key)
        access.chmod(0o600)
        with open(self.home.root / "second.log", "w") as log:
            second = subprocess.Popen([self.home.bin / "gpuq-worker", "--access-file", access, "--scratch", self.home.root / "second"],
                                      env=self.home.env, stdout=log, stderr=log)
        try:
            until(lambda: len(json.loads(self.gpuq("workers", "-o", "json").stdout)["workers"]) == 2, "two workers")
            half = self.free_at_rest // 2 + 1   # also when idle models leave
            jobs = [self.python("256", text=HOLD, vram=f"{half}MiB") for _ in range(2)]
            until(lambda: sorted(self.status(j)["state"] for j in jobs) == ["ready", "running"], "one of two halves and a bit runs")
            self.logs_say(next(j for j in jobs if self.status(j)["state"] == "running"), "holds")
            time.sleep(2.5)
            cards = [d for w in json.loads(self.gpuq("workers", "-o", "json").stdout)["workers"] for d in w["devices"]]
            figure("two workers, one card", f"foreign {[c['foreign_mib'] for c in cards]} MiB, granted {[c['granted_mib'] for c in cards]} MiB")
            self.assertLessEqual(max(c["foreign_mib"] for c in cards), SETTLED_MIB, "what the other worker's children hold is not foreign")
            self.assertEqual(sorted(self.status(j)["state"] for j in jobs), ["ready", "running"])
        finally:
            second.terminate()
            second.wait(60)

    def test_093_frameworks_that_read_variables_stay_within_the_budget(self):
        job = self.python(text=BY_VARIABLE, vram="4GiB")
        done = until(lambda: (lambda s: s if s["state"] in ("succeeded", "failed") else None)(self.status(job)), "it ends", 120)
        said = [line for line in self.gpuq("logs", job).stdout.splitlines() if line.startswith(("cupy", "jax"))]
        figure("by variables, 4096 MiB granted", "; ".join(said))
        self.assertFalse([line for line in said if "took all" in line])
        self.assertEqual(done["state"], "succeeded", done)

    def test_092_a_python_model_computes_on_the_card_within_its_budget(self):
        folder = self.home.root / "sums"
        folder.mkdir()
        (folder / "model.toml").write_text(f'interpreter = "{shutil.which("python3")}"\nentry = "sums:Model"\nkinds = ["infer"]\nvram = "2GiB"\n')
        (folder / "sums.py").write_text(PYTHON_MODEL)
        self.assert_ran(self.gpuq("model", "push", "sums", folder))
        began = time.monotonic()
        self.assert_ran(self.gpuq("submit", "--wait", "--model", "sums", "--part", f"x={self.file('x.bin', b'x')}", "infer"))
        figure("first answer of a Python model", f"{time.monotonic() - began:.1f} s (interpreter, torch, context)")
        card = self.until_card(lambda c: any(w.startswith("sums") for w in c["warm"]) and c["used_by_gpuq_mib"] > 256, "it is warm and measured")
        figure("a warm Python model", f"measured {sum(m for p, m in by_process().items() if p in [pid for pid, _ in children_of(self.home.up_process.pid)])} MiB of the 2048 MiB granted")
        self.assertLessEqual(card["used_by_gpuq_mib"], card["granted_mib"])

    def test_99_nothing_stays_on_the_card(self):
        (self.home.root / "let-go").touch()
        pids = [pid for pid, _ in children_of(self.home.up_process.pid)]
        self.home.down()
        until(lambda: not any(alive(pid) for pid in pids), "all children are gone")
        until(lambda: int(smi("memory.used")[0][0]) < SETTLED_MIB + int(smi("memory.reserved")[0][0]), "the card is empty")
        figure("card at the end", f"{smi('memory.used')[0][0]} MiB used")

    @classmethod
    def tearDownClass(cls):
        for name in ("broker.log", "worker.log", "second.log"):
            for path in (cls.home.data / name, cls.home.root / name):
                if path.exists() and os.environ.get("OUT"):
                    (pathlib.Path(os.environ["OUT"]) / name).write_bytes(path.read_bytes())
        super().tearDownClass()
        width = max((len(name) for name, _ in FIGURES), default=0)
        print("\n" + "\n".join(f"{name:<{width}}  {value}" for name, value in FIGURES), flush=True)


if __name__ == "__main__":
    if shutil.which("nvidia-smi") is None or not smi("uuid"):
        sys.exit("gpu-test: nvidia-smi shows no card here; ./dev gpu-test without --system runs the CPU half")
    unittest.main(verbosity=0, failfast=False)

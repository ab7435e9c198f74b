#!/usr/bin/env python3
"""scripts.py BIN - the example scripts of client/python/examples as jobs: unmodified, and with five lines of gpuq.job."""
import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import unittest

from gpuq_up import UpStory, alive, children_of, until

CLIENT = pathlib.Path(__file__).resolve().parents[2] / "client/python"
EXAMPLES = CLIENT / "examples"


class Scripts(UpStory):
    policy = '[class.training]\nmin_run = "0s"\n'
    steps = 30000   # a few seconds: long enough to be asked to leave three times

    def script(self, name, *words, options=()):
        return self.submitted("--env", f"PYTHONPATH={CLIENT}", *options, "--", sys.executable, EXAMPLES / name, *map(str, words))

    def finished(self, job):
        self.assert_ran(self.gpuq("wait", job, "--timeout", "120s", timeout=150))
        return self.status(job)

    def undisturbed(self, name="train_plain.py", steps=None):
        """The weights that the script alone comes to, without gpuq."""
        path = self.home.root / f"alone-{name}.json"
        subprocess.run([sys.executable, EXAMPLES / name, "--steps", str(steps or self.steps), "--weights", path], env={"PYTHONPATH": str(CLIENT)}, check=True, capture_output=True, cwd=self.home.root)
        return path.read_bytes()

    def test_a_script_with_five_lines_leaves_at_three_random_points_and_comes_to_the_same_weights_bit_by_bit(self):
        alone = self.undisturbed("train_five_lines.py", 2 * self.steps)
        self.assertEqual(alone, self.undisturbed(steps=2 * self.steps), "outside gpuq the five lines change nothing")
        seed = random.randrange(1 << 30)
        print(f"seed {seed}", file=sys.stderr)
        steps = 2 * self.steps
        points = sorted(random.Random(seed).sample(range(steps // 40, steps // 4), 3))
        weights = self.home.root / "five.json"
        job = self.script("train_five_lines.py", "--steps", steps, "--weights", weights, options=["--on-preempt", "checkpoint"])
        left = []
        for point in points:
            until(lambda: (lambda s: s["attempt"] == len(left) + 1 and s["progress_step"] > max([point, *left]))(self.status(job)), f"step {point} is reached")
            self.assert_ran(self.gpuq("preempt", job))
            left.append(until(lambda: (lambda s: s["checkpoint_step"] if s["preemptions"] == len(left) + 1 else 0)(self.status(job)), "it left"))
        done = self.finished(job)
        self.assertEqual((done["state"], done["attempt"], done["preemptions"], done["failures"], done["losses"]), ("succeeded", 4, 3, 0, 0), done)
        self.assertEqual(sorted(set(left)), left, "each attempt went on where the one before had left")
        self.assertLess(left[-1], steps)
        self.assertEqual(weights.read_bytes(), alone, f"seed {seed}")

    def test_a_script_that_knows_nothing_of_gpuq_starts_over_and_loses_nothing_but_time(self):
        weights = self.home.root / "plain.json"
        job = self.script("train_plain.py", "--steps", self.steps, "--weights", weights)
        until(lambda: "step 1000 " in self.gpuq("logs", job).stdout, "it trains")
        self.assert_ran(self.gpuq("preempt", job))
        done = self.finished(job)
        self.assertEqual((done["state"], done["attempt"], done["preemptions"], done["checkpoint_step"]), ("succeeded", 2, 1, 0), done)
        self.assertEqual(weights.read_bytes(), self.undisturbed())


    def process_of(self, name):
        """(pid, state) of the running script, as the kernel tells."""
        for pid, _ in children_of(self.home.up_process.pid):
            try:
                proc = pathlib.Path(f"/proc/{pid}")
                if name.encode() in (proc / "cmdline").read_bytes():
                    return pid, (proc / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
        return None, None

    def paused(self, *words):
        """train_plain.py, held by an inference job that runs until the file `served` is there."""
        job = self.script("train_plain.py", *words, options=["--on-preempt", "pause", "--vram", "1GiB"])   # room for both
        until(lambda: "step 100 " in self.gpuq("logs", job).stdout, "it trains")
        serving = self.submitted("--class", "inference", "--vram", "1GiB", "--", "sh", "-c", "while [ ! -e served ]; do sleep 0.02; done")
        until(lambda: self.process_of("train_plain.py")[1] == "T", "the group is stopped")
        return job, serving

    def tearDown(self):
        for job in self.lines(self.gpuq("list", "--active", "-o", "jsonl")):
            self.gpuq("cancel", job["id"])
        until(lambda: self.gpuq("list", "--active", "-o", "jsonl").stdout == "", "nothing is left")
        (self.home.root / "served").unlink(missing_ok=True)

    def test_a_script_that_knows_nothing_of_gpuq_stands_still_beside_inference_then_goes_on_and_loses_nothing(self):
        weights = self.home.root / "paused.json"
        job, serving = self.paused("--steps", self.steps, "--weights", weights)
        pid, _ = self.process_of("train_plain.py")
        shown = until(lambda: (lambda m: m if m.get("paused_s", 0) > 0 else None)(self.status(job)["metrics"]), "status tells how long")
        self.assertIn("paused", shown)
        until(lambda: self.process_of("train_plain.py")[1] not in ("T", None), "it runs a slice all the same")
        until(lambda: self.process_of("train_plain.py")[1] == "T", "and stands still again")
        self.assertEqual(self.status(serving)["state"], "running")
        (self.home.root / "served").touch()
        until(lambda: self.process_of("train_plain.py")[1] != "T", "the inference has ended")
        done = self.finished(job)
        self.assertEqual((done["state"], done["attempt"], done["preemptions"]), ("succeeded", 1, 0), done)
        self.assertEqual(weights.read_bytes(), self.undisturbed())
        self.assertFalse(alive(pid))

    def test_a_paused_script_that_is_cancelled_or_must_give_its_memory_hears_it(self):
        job, _ = self.paused("--steps", 10**9)
        self.assert_ran(self.gpuq("preempt", job))
        again = until(lambda: (lambda s: s if s["attempt"] == 2 else None)(self.status(job)), "a pause frees no memory: it started over")
        self.assertEqual((again["preemptions"], again["failures"], again["losses"]), (1, 0, 0))
        until(lambda: self.process_of("train_plain.py")[1] == "T", "and is held again")
        pid, _ = self.process_of("train_plain.py")
        self.assert_ran(self.gpuq("cancel", job))
        self.until_state(job, "cancelled")
        until(lambda: not alive(pid), "it is gone")

    def test_a_worker_that_dies_leaves_nothing_stopped_behind(self):
        job, _ = self.paused("--steps", 10**9)
        script, _ = self.process_of("train_plain.py")
        worker = next(pid for pid, name in children_of(self.home.up_process.pid) if name == "gpuq-worker")
        os.kill(worker, signal.SIGKILL)
        until(lambda: not alive(script), "what was stopped is dead")
        self.assertIn(job, [j["id"] for j in self.lines(self.gpuq("list", "--active", "-o", "jsonl"))], "it is not lost with it")


class Places(UpStory):
    """Where a command runs: in the submitter's own folder, in a copy that came along, or not at all."""

    def folder(self, name, **files):
        folder = self.home.root / name
        folder.mkdir()
        for file, text in files.items():
            (folder / file.replace("_", ".", 1)).write_text(text)
        return folder

    def ran(self, *words, code=0, **more):
        return self.assert_ran(self.gpuq("submit", "--follow", *words, **more), code)

    def test_who_has_not_chosen_what_happens_on_preemption_is_told_once(self):
        (self.home.data / "told-on-preempt").unlink(missing_ok=True)   # other tests submit, too
        first = self.submitted_words("--", "true")
        self.assertIn("starts over from nothing; --on-preempt checkpoint", first.stderr)
        self.assertNotIn("starts over", self.submitted_words("--", "true").stderr)

    def submitted_words(self, *words):
        return self.assert_ran(self.gpuq("submit", *words))

    def test_a_script_that_promised_a_checkpoint_and_left_without_one_reads_it_in_its_log(self):
        job = self.submitted("--on-preempt", "checkpoint", "--", "sh", "-c", "[ $GPUQ_ATTEMPT = 2 ] || { echo ready; exec sleep 600; }")
        until(lambda: "ready" in self.gpuq("logs", job).stdout, "it runs")
        self.assert_ran(self.gpuq("preempt", job))
        self.assert_ran(self.gpuq("wait", job, "--timeout", "60s"))
        self.assertIn("[gpuq] it left without a checkpoint", self.gpuq("logs", job).stdout)

    def test_where_the_worker_sees_the_folder_it_runs_in_it_also_with_workdir(self):
        here = self.folder("here", train_py="print('trained')")
        for words in ((), ("--workdir", ".")):
            ran = self.ran(*words, "--", "sh", "-c", "pwd; python3 train.py; touch made", cwd=here)
            self.assertEqual(ran.stdout.split(), [str(here), "trained"])
            self.assertTrue((here / "made").exists(), "what it makes is there at once")

    def while_it_waits(self, change, *words, cwd):
        """Submitted, then something happens to the folder, then the worker gets to it."""
        self.assert_ran(self.gpuq("queue", "pause", "training"))
        job = self.assert_ran(self.gpuq("submit", *words, cwd=cwd)).stdout.split()[0]
        change()
        self.assert_ran(self.gpuq("queue", "resume", "training"))
        return job, self.gpuq("wait", job, "--timeout", "60s")

    def test_a_folder_that_the_worker_does_not_have_is_named_with_what_to_do(self):
        gone = self.folder("gone", train_py="print('trained')")
        _, ran = self.while_it_waits(lambda: (gone / "train.py").unlink() or gone.rmdir(), "--", "python3", "train.py", cwd=gone)
        self.assert_ran(ran, 1)
        self.assertIn(f"{gone}, where it was submitted, is not on this worker", ran.stdout + ran.stderr)
        self.assertIn(f"gpuq submit --workdir {gone}", ran.stdout + ran.stderr)
        other = self.folder("other", train_py="print('trained')")
        job, ran = self.while_it_waits(lambda: (other.rename(self.home.root / "elsewhere"), self.folder("other", train_py="print('another')")), "--", "python3", "train.py", cwd=other)
        self.assert_ran(ran, 1)
        self.assertIn("is another folder here", ran.stdout + ran.stderr)
        self.assertEqual(self.status(job)["error"]["code"] if "error" in self.status(job) else self.status(job)["code"], "NOT_HERE")

    def test_a_copy_sent_along_is_run_instead_as_it_was_when_it_was_submitted(self):
        sent = self.folder("sent", train_py="import other; print(open('data.txt').read().strip(), other.word, __file__)", other_py="word = 'imported'", data_txt="as it was", _gpuqignore="*.bin\n")
        (sent / "large.bin").write_text("stays")
        (sent / "run.sh").write_text("#!/bin/sh\nls\npython3 train.py\n")
        (sent / "run.sh").chmod(0o755)
        (sent / "loop").symlink_to("loop")
        job, ran = self.while_it_waits(lambda: (sent.rename(self.home.root / "moved"), self.folder("sent", data_txt="changed")), "--workdir", ".", "--", "./run.sh", cwd=sent)
        self.assert_ran(ran)
        log = self.gpuq("logs", job).stdout
        self.assertIn("as it was imported ", log)
        self.assertNotIn("large.bin", log)
        self.assertNotIn("loop", log)
        self.assertNotIn(str(sent), log, "it runs in the attempt's own folder")

    def test_only_what_was_asked_for_comes_along(self):
        here = self.folder("environment")
        (here / "print.py").write_text("import os; print(*sorted(k for k in os.environ if not k.startswith(('GPUQ_', 'CUDA_', 'LC_'))))")
        self.home.env.update(SECRET="s", VIRTUAL_ENV="/venv", TOKEN="t")
        ran = self.ran("--env", "TOKEN", "--env", "SEED=7", "--", "python3", "print.py", cwd=here)
        self.assertEqual([k for k in ran.stdout.split() if k not in ("LANG", "CONDA_PREFIX")], ["PATH", "SEED", "TOKEN", "VIRTUAL_ENV"])

    def test_a_missing_interpreter_says_where_it_was_looked_for(self):
        ran = self.ran("--", "python9", "train.py", code=1)
        self.assertIn("no such program: python9", ran.stdout + ran.stderr)
        self.assertIn("PATH=", ran.stdout + ran.stderr)

    def test_a_script_that_fails_shows_its_last_lines_and_its_whole_log_is_kept(self):
        job = self.submitted("--", "python3", "-c", "print('x\\n' * 20000)\nraise ValueError('no such layer')")
        self.assert_ran(self.gpuq("wait", job), 1)
        self.assertIn("ValueError: no such layer", self.assert_ran(self.gpuq("status", job)).stdout)
        self.assert_ran(self.gpuq("result", job, "-d", self.home.root / "whole"), 1)
        kept, = (p for p in (self.home.root / "whole").rglob("*") if "ValueError" in p.read_text())
        self.assertGreater(len(kept.read_text().splitlines()), 20000)

    def test_a_folder_of_10_gb_is_refused_before_a_job_is_made(self):
        large = self.folder("large", train_py="")
        (large / "data").mkdir()
        with open(large / "data/all.bin", "wb") as file:
            file.truncate(10 << 30)
        ran = self.assert_error(self.gpuq("submit", "--workdir", large, "--", "python3", "train.py"), 2, "TOO_LARGE")
        self.assertIn("the biggest: data/ 10.0 GiB", ran.stderr)

    def test_an_upload_that_was_cut_goes_on_where_it_stopped(self):
        deep = self.folder("deep", train_py="import hashlib; print(hashlib.sha256(open('model.bin', 'rb').read()).hexdigest())")
        data = random.Random(5).randbytes(200 << 20)
        (deep / "model.bin").write_bytes(data)
        cut = self.home.start("submit", "--workdir", deep, "--", "python3", "train.py")
        blobs = self.home.data
        until(lambda: any(p.stat().st_size > 20 << 20 for p in blobs.rglob("*") if p.is_file() and "blob" in str(p)), "some of it is there")
        cut.kill()
        cut.communicate()
        there = max(p.stat().st_size for p in blobs.rglob("*") if p.is_file() and "blob" in str(p))
        self.assertLess(there, 200 << 20, "it was cut in the middle")
        job, ran = self.while_it_waits(lambda: deep.rename(self.home.root / "away"), "--workdir", ".", "--", "python3", "train.py", cwd=deep)
        self.assert_ran(ran)
        self.assertEqual(self.gpuq("logs", job).stdout.strip(), hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    unittest.main(verbosity=2)

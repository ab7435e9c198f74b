#!/usr/bin/env python3
"""scripts.py BIN - the example scripts of client/python/examples as jobs: unmodified, and with five lines of gpuq.job."""
import pathlib
import random
import subprocess
import sys
import unittest

from gpuq_up import UpStory, until

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

    def undisturbed(self, name="train_plain.py"):
        """The weights that the script alone comes to, without gpuq."""
        path = self.home.root / f"alone-{name}.json"
        subprocess.run([sys.executable, EXAMPLES / name, "--steps", str(self.steps), "--weights", path], env={"PYTHONPATH": str(CLIENT)}, check=True, capture_output=True, cwd=self.home.root)
        return path.read_bytes()

    def test_a_script_with_five_lines_leaves_at_three_random_points_and_comes_to_the_same_weights_bit_by_bit(self):
        alone = self.undisturbed("train_five_lines.py")
        self.assertEqual(alone, self.undisturbed(), "outside gpuq the five lines change nothing")
        seed = random.randrange(1 << 30)
        print(f"seed {seed}", file=sys.stderr)
        points = sorted(random.Random(seed).sample(range(self.steps // 20, self.steps // 2), 3))
        weights = self.home.root / "five.json"
        job = self.script("train_five_lines.py", "--steps", self.steps, "--weights", weights, options=["--on-preempt", "checkpoint"])
        left = []
        for point in points:
            until(lambda: (lambda s: s["state"] == "running" and s["progress_step"] >= max([point, *left]))(self.status(job)), f"step {point} is reached")
            self.assert_ran(self.gpuq("preempt", job))
            left.append(until(lambda: (lambda s: s["checkpoint_step"] if s["preemptions"] == len(left) + 1 else 0)(self.status(job)), "it left"))
        done = self.finished(job)
        self.assertEqual((done["state"], done["attempt"], done["preemptions"], done["failures"], done["losses"]), ("succeeded", 4, 3, 0, 0), done)
        self.assertEqual(sorted(set(left)), left, "each attempt went on where the one before had left")
        self.assertLess(left[-1], self.steps)
        self.assertEqual(weights.read_bytes(), alone, f"seed {seed}")

    def test_a_script_that_knows_nothing_of_gpuq_starts_over_and_loses_nothing_but_time(self):
        weights = self.home.root / "plain.json"
        job = self.script("train_plain.py", "--steps", self.steps, "--weights", weights)
        until(lambda: "step 1000 " in self.gpuq("logs", job).stdout, "it trains")
        self.assert_ran(self.gpuq("preempt", job))
        done = self.finished(job)
        self.assertEqual((done["state"], done["attempt"], done["preemptions"], done["checkpoint_step"]), ("succeeded", 2, 1, 0), done)
        self.assertEqual(weights.read_bytes(), self.undisturbed())


if __name__ == "__main__":
    unittest.main(verbosity=2)

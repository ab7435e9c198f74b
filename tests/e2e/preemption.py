#!/usr/bin/env python3
"""preemption.py BIN - a burst of inference takes the large card from a training, and both finish; real processes, pretend cards."""
import json
import unittest

from gpuq_up import UpStory, until

# Counts steps, writes its number when asked to leave (exit 75 = left with its state saved), and goes on from there.
TRAIN = """
step=0
[ -n "$GPUQ_RESUME_FROM" ] && step=$(cat "$GPUQ_RESUME_FROM/step") && echo "resumed at $step"
trap 'echo $step > "$GPUQ_CHECKPOINT_DIR/step"; echo "left at $step"; exit 75' TERM
while [ ! -e trained ]; do
  step=$((step + 1))
  echo "step=$step total=100000" >&3
  sleep 0.05
done
echo "finished at $step"
"""
SERVE = 'while [ ! -e served ]; do sleep 0.05; done; echo "served"'
POLICY = '[class.training]\nmin_run = "0s"\n'


class Burst(UpStory):
    gpus = "24GiB,8GiB"
    policy = POLICY

    def tearDown(self):   # the tests leave marks in their home
        for job in self.lines(self.gpuq("list", "--active", "-o", "jsonl")):
            self.gpuq("cancel", job["id"])
        until(lambda: self.gpuq("list", "--active", "-o", "jsonl").stdout == "", "nothing is left")
        for mark in ("served", "trained"):
            (self.home.root / mark).unlink(missing_ok=True)

    def training(self, on_preempt="checkpoint"):
        job = self.submitted("--class", "training", "--vram", "20GiB", "--on-preempt", on_preempt, "--", "sh", "-c", TRAIN)
        until(lambda: self.status(job)["progress_step"] >= 3, "it trains")
        return job

    def burst(self, count):
        return [self.submitted("--class", "inference", "--vram", "10GiB", "--", "sh", "-c", SERVE) for _ in range(count)]

    def test_inference_gets_the_card_at_once_the_training_resumes_and_both_finish(self):
        training = self.training()
        card = self.status(training)["device"]
        asked = json.loads(self.assert_ran(self.gpuq("plan", "submit", "--class", "inference", "--vram", "10GiB", "-o", "json", "--", "sh")).stdout)["explanation"]
        self.assertIn([training], [r["jobs"] for r in asked["remedies"] if r["kind"] == "victims"], "who would have to leave is said before")
        burst = self.burst(2)
        for job in burst:
            self.assertEqual(self.until_state(job, "running")["device"], card)
        left = self.until_state(training, "ready")   # its memory is free first, its checkpoint on disk a moment later
        self.assertEqual((left["preemptions"], left["evictions"]), (1, 1))
        self.assertIn(left["leave_for"], burst, "status says for whom")
        self.assertTrue(left["leave_reason"], "and why")
        shown = self.gpuq("status", training).stdout
        self.assertIn(left["leave_for"], shown)
        why = self.explained(training)
        self.assertFalse(why["would_start"])
        self.assertTrue(any(p["lacking_mib"] > 0 for p in why["places"]), why)
        (self.home.root / "served").touch()
        for job in burst:
            self.assertEqual(self.assert_ran(self.gpuq("wait", job)).returncode, 0)
        self.until_state(training, "running")
        logs = until(lambda: (lambda text: text if "resumed at" in text else None)(self.gpuq("logs", training).stdout), "it goes on where it was")
        step = int(logs.split("left at ")[1].split()[0])
        self.assertEqual(int(logs.split("resumed at ")[1].split()[0]), step, "no step is lost")
        self.assertGreaterEqual(step, 3)
        (self.home.root / "trained").touch()
        self.assert_ran(self.gpuq("wait", training))
        done = self.status(training)
        self.assertEqual((done["state"], done["attempt"], done["preemptions"], done["failures"], done["losses"]), ("succeeded", 2, 1, 0, 0))
        screen = self.gpuq("status").stdout
        self.assertRegex(screen, r"\npreempted [1-9]")

    def test_what_fits_beside_it_takes_nothing_from_it(self):
        training = self.training()
        small = self.submitted("--class", "inference", "--vram", "6GiB", "--", "sh", "-c", SERVE)
        self.assertNotEqual(self.until_state(small, "running")["device"], self.status(training)["device"])
        (self.home.root / "served").touch()
        self.assert_ran(self.gpuq("wait", small))
        self.assertEqual((self.status(training)["state"], self.status(training)["preemptions"]), ("running", 0))

    def test_who_may_not_be_preempted_is_waited_for_and_explain_says_so(self):
        training = self.training("never")
        waiting, = self.burst(1)
        why = until(lambda: (lambda e: e if e["places"] else None)(self.explained(waiting)), "it is looked at")
        self.assertEqual(why["state"], "ready")
        self.assertFalse([r for r in why["remedies"] if r["kind"] == "victims" and training in r["jobs"]], why)
        self.assertEqual(self.status(training)["state"], "running")
        (self.home.root / "trained").touch()
        self.assert_ran(self.gpuq("wait", training))
        self.until_state(waiting, "running")


if __name__ == "__main__":
    unittest.main(verbosity=2)

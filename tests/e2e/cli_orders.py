#!/usr/bin/env python3
"""cli_orders.py BIN - every verb that orders or asks the scheduler, once, with its bad inputs; and what survives kill -9."""
import json
import unittest

from gpuq_up import Home, Story, UpStory, until

NOBODY = "01M7Y6FQQVPBY8903R6KHSBSG0"
GOOD = '[policy]\ntime_zone = "UTC"\n[class.training]\nmin_run = "0s"\n'


class Orders(UpStory):
    gpus = "24GiB,8GiB"
    policy = GOOD

    def tearDown(self):
        """Whatever a test left behind is gone before the next, also when it failed."""
        for words in (["undrain", "local-worker"], ["undrain", "local-worker/0"], ["queue", "resume", "synthesis"]):
            self.gpuq(*words)
        for job in self.lines(self.gpuq("list", "--active", "-o", "jsonl")):
            self.gpuq("cancel", job["id"])
        until(lambda: self.gpuq("list", "--active", "-o", "jsonl").stdout == "", "nothing is left")

    def running(self, *words):
        job = self.submitted(*words, "--", "sleep", "600")
        self.until_state(job, "running")
        return job

    # ---- asking

    def test_a_plan_says_whether_it_would_start_and_submits_nothing(self):
        before = len(self.lines(self.gpuq("list", "-o", "jsonl")))
        plan = json.loads(self.assert_ran(self.gpuq("plan", "submit", "--vram", "20GiB", "-o", "json", "--", "true")).stdout)["explanation"]
        self.assertEqual((plan["id"], plan["would_start"], plan["never"]), (None, True, False))
        self.assertTrue(any(p["constraint"] == "" and p["index"] == 0 for p in plan["places"]), plan)
        ran = self.assert_ran(self.gpuq("plan", "submit", "--vram", "100GiB", "--", "true"), 1)
        self.assertTrue(ran.stdout.startswith("NO_FIT"), ran.stdout)
        self.assertEqual(len(self.lines(self.gpuq("list", "-o", "jsonl"))), before, "a plan is no submit")
        self.assert_error(self.gpuq("plan", "submit", "detct"), 2, "UNKNOWN_KIND")

    def test_a_job_that_fits_nowhere_is_accepted_loudly_or_refused_with_strict(self):
        ran = self.assert_ran(self.gpuq("submit", "--vram", "100GiB", "--", "true"))
        self.assertIn("warning[NO_FIT]", ran.stderr)
        job = ran.stdout.strip()
        why = self.explained(job)
        self.assertEqual((why["never"], why["would_start"], why["state"]), (True, False, "ready"))
        self.assertTrue(any(p["lacking_mib"] > 0 for p in why["places"]), why)
        self.assertTrue(why["remedies"], "what would make it run")
        refused = self.assert_error(self.gpuq("submit", "--strict", "--vram", "100GiB", "--", "true"), 1, "NO_FIT")
        self.assertEqual(len(self.lines(self.gpuq("list", "--active", "-o", "jsonl"))), 1, refused.stderr)

    def test_explain_names_the_first_constraint_of_each_device_by_how_much_and_a_way_out(self):
        first = self.running("--vram", "20GiB")
        second = self.submitted("--vram", "16GiB", "--", "sleep", "600")
        why = until(lambda: (lambda e: e if e["places"] else None)(self.explained(second)), "it is looked at")
        big = next(p for p in why["places"] if p["index"] == 0)
        self.assertGreater(big["lacking_mib"], 0, why)
        self.assertTrue(big["constraint"] and big["sentence"], why)
        self.assertIsNotNone(big["free_mib"])
        self.assertTrue(any(first in r["jobs"] or first in r["text"] for r in why["remedies"]), why)
        text = self.assert_ran(self.gpuq("explain", second)).stdout
        self.assertIn("FIRST NO", text)
        self.assertIn("what would make it run", text)
        self.assertEqual(len(self.gpuq("explain", second, "-o", "jsonl").stdout.splitlines()), 1)
        self.assert_ran(self.gpuq("cancel", first))
        self.until_state(second, "running")
        self.assert_error(self.gpuq("explain", NOBODY), 3, "NOT_FOUND")

    # ---- jobs

    def test_preempt_asks_a_job_to_leave_and_it_comes_back(self):
        job = self.running("--vram", "2GiB")
        ran = self.assert_ran(self.gpuq("preempt", job, "--reason", "for a demo", "--deadline", "20s"))
        self.assertIn("asked to leave", ran.stdout)
        status = until(lambda: (lambda s: s if s["preemptions"] == 1 and s["state"] == "running" else None)(self.status(job)), "it left and runs again")
        self.assertIn("for a demo", status["leave_reason"])
        self.assertEqual((status["attempt"], status["evictions"]), (2, 0))
        self.assertIn("for a demo", self.gpuq("status", job).stdout)
        never = self.running("--on-preempt", "never", "--vram", "1GiB")
        self.assert_error_line(self.gpuq("preempt", never), 4, "REFUSED")
        self.assert_error_line(self.gpuq("preempt", NOBODY), 3, "NOT_FOUND")
        self.assert_ran(self.gpuq("cancel", never))
        self.assert_ran(self.gpuq("wait", never), 1)
        self.assert_error_line(self.gpuq("preempt", never), 4, "REFUSED")

    def test_a_held_job_starts_only_when_released(self):
        self.assert_ran(self.gpuq("queue", "pause", "synthesis"))
        held, free = (self.submitted("sleep", "--class", "synthesis", "--set", "ms=1") for _ in range(2))
        self.assertIn("on hold", self.assert_ran(self.gpuq("hold", held)).stdout)
        self.assert_ran(self.gpuq("queue", "resume", "synthesis"))
        self.assert_ran(self.gpuq("wait", free))
        self.assertEqual((self.status(held)["state"], self.status(held)["held"]), ("ready", True))
        self.assertIn("held", self.gpuq("status", held).stdout)
        why = self.explained(held)
        self.assertIn("release_hold", [r["kind"] for r in why["remedies"]], why)
        self.assertIn(f"gpuq release {held}", self.gpuq("explain", held).stdout)
        self.assert_ran(self.gpuq("release", held))
        self.assert_ran(self.gpuq("wait", held))
        self.assert_error_line(self.gpuq("hold", held), 4, "REFUSED")
        ran = self.gpuq("hold", NOBODY, held, "-o", "jsonl")
        self.assertEqual((ran.returncode, [x["error"]["code"] for x in self.lines(ran)]), (3, ["NOT_FOUND", "REFUSED"]))

    def test_update_changes_what_may_be_changed_and_says_what_may_not(self):
        running = self.running("--vram", "20GiB")
        waiting = self.submitted("--vram", "16GiB", "--", "sleep", "600")
        self.assert_ran(self.gpuq("update", waiting, "--priority", "9", "--deadline", "2h", "--retries", "3"))
        status = self.status(waiting)
        self.assertEqual((status["priority"], status["retries"]), (9, 3))
        self.assertGreater(status["deadline_ms"], 0)
        self.assert_ran(self.gpuq("update", waiting, "--vram", "2GiB", "--deadline", "none"))
        self.assertEqual(self.until_state(waiting, "running")["granted_mib"], 2048)
        self.assert_error(self.gpuq("update", running, "--vram", "1GiB"), 4, "REFUSED")
        self.assert_error(self.gpuq("update", NOBODY, "--priority", "1"), 3, "NOT_FOUND")
        self.assert_error(self.gpuq("update", running), 2, "USAGE")

    # ---- workers, devices, classes

    def test_a_drained_device_gets_no_work_and_an_undrained_one_does(self):
        self.assertIn("no new work", self.assert_ran(self.gpuq("drain", "local-worker/0", "--reason", "new fan")).stdout)
        job = self.submitted("--vram", "16GiB", "--", "sleep", "600")
        why = until(lambda: (lambda e: e if e["places"] else None)(self.explained(job)), "it is looked at")
        self.assertEqual(self.status(job)["state"], "ready")
        self.assertIn("drain", next(p for p in why["places"] if p["index"] == 0 and p["device"])["constraint"], why)
        self.assertIn("undrain", [r["kind"] for r in why["remedies"]], why)
        self.assertIn("draining", self.gpuq("workers").stdout)
        self.assertIn("new fan", self.gpuq("status").stdout)
        self.assert_ran(self.gpuq("undrain", "local-worker/0"))
        self.until_state(job, "running")
        for verb in ("drain", "undrain"):
            self.assert_error(self.gpuq(verb, "local-worker/7"), 3, "NOT_FOUND")
            self.assert_error(self.gpuq(verb, "GPU-nobody"), 3, "NOT_FOUND")

    def test_a_drain_with_a_deadline_asks_who_is_left_to_leave(self):
        job = self.running("--vram", "2GiB")
        self.assert_ran(self.gpuq("drain", "local-worker", "--deadline", "1s", "--reason", "new driver"))
        status = until(lambda: (lambda s: s if s["state"] == "ready" else None)(self.status(job)), "it has left")
        self.assertIn("new driver", status["leave_reason"])
        self.assert_ran(self.gpuq("undrain", "local-worker"))
        self.until_state(job, "running")

    def test_a_paused_class_is_accepted_and_not_started(self):
        self.assert_ran(self.gpuq("queue", "pause", "synthesis", "--reason", "disk is full"))
        job = self.submitted("sleep", "--class", "synthesis", "--set", "ms=1")
        why = self.explained(job)
        self.assertIn("resume_class", [r["kind"] for r in why["remedies"]], why)
        self.assertIn("disk is full", self.gpuq("status").stdout)
        self.assertEqual(self.status(job)["state"], "ready")
        self.assert_ran(self.gpuq("submit", "sleep", "--set", "ms=1", "--wait"), 0)
        self.assert_ran(self.gpuq("queue", "resume", "synthesis"))
        self.assert_ran(self.gpuq("wait", job))
        self.assert_error(self.gpuq("queue", "pause", "synthetic"), 2, "USAGE")

    # ---- the policy

    def test_the_policy_is_shown_with_origins_tried_and_reloaded(self):
        shown = {s["key"]: s for s in self.lines(self.assert_ran(self.gpuq("config", "show", "-o", "jsonl")))}
        self.assertEqual((shown["class.training.min_run"]["value"], shown["class.training.min_run"]["origin"]), ("0s", "file"))
        self.assertRegex(shown["class.training.min_run"]["where"], r"gpuq\.toml:4:\d+$")
        self.assertEqual(shown["class.synthesis.min_run"]["origin"], "default")
        self.assertIn("class.training.budget", self.gpuq("config", "show", "class.training").stdout)
        self.assert_error(self.gpuq("config", "show", "class.king"), 3, "NOT_FOUND")

        job = self.running("--vram", "2GiB")
        stranding = self.file("new.toml", GOOD + 'devices = ["label:nowhere"]\n')
        ran = self.assert_ran(self.gpuq("plan", "--config", stranding), 1)
        self.assertIn(job, ran.stdout)
        self.assert_ran(self.gpuq("plan", "--config", self.file("same.toml", GOOD)))
        wrong = self.file("wrong.toml", GOOD + 'mni_run = "5s"\n')
        ran = self.gpuq("plan", "--config", wrong)
        self.assertEqual(ran.returncode, 2, ran.stderr)
        self.assertIn("wrong.toml:5:1", ran.stderr)
        self.assertEqual(self.status(job)["state"], "running", "nothing was done")

        self.policy_file.write_text(GOOD.replace('"0s"', '"7s"'))
        self.assertIn("reloaded", self.assert_ran(self.gpuq("config", "reload")).stdout)
        value = lambda: next(s["value"] for s in self.lines(self.gpuq("config", "show", "-o", "jsonl")) if s["key"] == "class.training.min_run")
        self.assertEqual(value(), "7s")
        self.policy_file.write_text(GOOD + "[class.training\n")
        refused = self.gpuq("config", "reload")
        self.assertEqual(refused.returncode, 2, refused.stderr)
        self.assertIn("gpuq.toml:5:", refused.stderr)
        self.assertIn("still holds", refused.stderr)
        self.assertEqual(value(), "7s", "refused whole")
        self.policy_file.write_text(GOOD)
        self.assert_ran(self.gpuq("config", "reload"))
        self.assertEqual(value(), "0s")

    def test_a_client_key_may_ask_but_not_order_the_fleet(self):
        access = self.home.root / "web.json"
        self.assert_ran(self.gpuq("keys", "issue", "--keys", self.home.data / "keys", "--role", "client", "--name", "web", "--broker", self.home.address(), "--out", access))
        web = lambda *words: self.gpuq("--access-file", access, *words)
        until(lambda: web("list").returncode == 0, "the new key may enter", 20)
        for words in (["drain", "local-worker"], ["undrain", "local-worker"], ["queue", "pause", "training"], ["queue", "resume", "training"], ["config", "reload"]):
            self.assert_error(web(*words), 4, "REFUSED")
        for words in (["config", "show"], ["plan", "submit", "--", "true"], ["plan", "--config", self.policy_file]):
            self.assert_ran(web(*words))

    def assert_error_line(self, ran, code, errc):
        self.assert_ran(ran, code)
        self.assertIn(f"error[{errc}]", ran.stderr)
        self.assertEqual(ran.stdout, "")


class Survives(Story):
    def test_holds_pauses_and_drains_outlive_kill_9_of_the_broker(self):
        home = Home()
        try:
            home.up(gpus="24GiB")
            self.assert_ran(home.gpuq("queue", "pause", "synthesis", "--reason", "disk"))
            self.assert_ran(home.gpuq("drain", "local-worker/0", "--reason", "fan"))
            held, paused = (self.assert_ran(home.gpuq("submit", "sleep", "--class", c, "--set", "ms=1", "--not-before", "2099-01-01T00:00Z")).stdout.strip()
                            for c in ("inference", "synthesis"))
            drained = self.assert_ran(home.gpuq("submit", "--vram", "2GiB", "--", "true")).stdout.strip()
            self.assert_ran(home.gpuq("hold", held))
            for job in (held, paused):
                self.assert_ran(home.gpuq("update", job, "--not-before", "none", "--priority", "8"))
            home.kill_broker()
            home.up(gpus="24GiB")
            status = {j["id"]: j for j in self.lines(self.assert_ran(home.gpuq("list", "-o", "jsonl")))}
            self.assertEqual([status[j]["state"] for j in (held, paused, drained)], ["ready"] * 3)
            self.assertEqual((status[held]["held"], status[held]["priority"]), (True, 8))
            self.assertEqual(len(json.loads(home.gpuq("status", "-o", "json").stdout)["broker"]["switches"]), 2)
            self.assert_ran(home.gpuq("release", held))
            self.assert_ran(home.gpuq("wait", held))
            self.assert_ran(home.gpuq("queue", "resume", "synthesis"))
            self.assert_ran(home.gpuq("wait", paused))
            self.assert_ran(home.gpuq("undrain", "local-worker/0"))
            self.assert_ran(home.gpuq("wait", drained))
        finally:
            home.remove()


if __name__ == "__main__":
    unittest.main(verbosity=2)

#!/usr/bin/env python3
"""cli_jobs.py BIN - what a person does all day with `gpuq up` and the command line; real broker, real Redis, real worker."""
import json
import signal
import unittest

from gpuq_up import BIN, Home, Story, UpStory, alive, children_of, until


class Jobs(UpStory):
    def test_echo_comes_back_without_any_configuration(self):
        ran = self.assert_ran(self.gpuq("submit", "echo", "hello", "--wait"))
        self.assertEqual(ran.stdout, "hello\n")

    def test_a_command_gives_its_output_its_exit_code_and_runs_where_it_was_submitted(self):
        here = self.home.root / "here"
        here.mkdir()
        ran = self.assert_ran(self.gpuq("submit", "--wait", "--", "sh", "-c", "pwd; echo $0 $GREETING", "word", cwd=here))
        self.assertIn(str(here), ran.stdout)
        ran = self.assert_ran(self.gpuq("submit", "--wait", "-o", "json", "--", "sh", "-c", "exit 7"), 1)
        result = json.loads(ran.stdout)["results"][0]
        self.assertEqual((result["state"], result["error"]["code"], result["values"]["exit_code"]), ("failed", "JOB_FAILED", "7"))

    def test_large_input_and_artefacts_travel_through_the_blob_store(self):
        big = self.home.root / "big.bin"
        big.write_bytes(bytes(range(256)) * 4096)
        ran = self.assert_ran(self.gpuq("submit", "echo", big, "--wait", "-d", self.home.root / "out"))
        self.assertIn("big.bin", ran.stdout)
        self.assertEqual((self.home.root / "out/big.bin").read_bytes(), big.read_bytes())
        script = 'mkdir -p $GPUQ_OUTPUT_DIR/sub; head -c 200000 /dev/zero > $GPUQ_OUTPUT_DIR/sub/zeros; echo note > $GPUQ_OUTPUT_DIR/note.txt'
        job = self.submitted("--", "sh", "-c", script)
        self.assert_ran(self.gpuq("wait", job))
        self.assert_ran(self.gpuq("result", job, "-d", self.home.root / "art"))
        self.assertEqual((self.home.root / "art/sub/zeros").stat().st_size, 200000)
        self.assertEqual((self.home.root / "art/note.txt").read_text(), "note\n")
        self.assertEqual(self.assert_ran(self.gpuq("result", job, "--part", "note.txt")).stdout, "note\n")
        self.assert_error(self.gpuq("result", job, "--part", "nothing"), 3, "NOT_FOUND")

    def test_logs_are_followed_while_it_runs_and_read_after(self):
        job = self.submitted("--", "sh", "-c", "echo one; while [ ! -e go ]; do sleep 0.02; done; echo two")
        follower = self.home.start("logs", "-f", job)
        self.assertEqual(follower.stdout.readline(), "one\n")
        (self.home.root / "go").touch()
        self.assertEqual(follower.stdout.read(), "two\n")
        self.assertEqual(follower.wait(30), 0)
        follower.stdout.close(), follower.stderr.close()
        self.assertEqual(self.assert_ran(self.gpuq("logs", job)).stdout, "one\ntwo\n")

    def test_cancel_ends_a_running_job_and_retry_makes_a_new_one(self):
        job = self.submitted("--", "sleep", "600")
        self.until_state(job, "running")
        self.assert_ran(self.gpuq("cancel", job))
        waited = self.assert_ran(self.gpuq("wait", job, "--timeout", "30s"), 1)
        self.assertIn("cancelled", waited.stdout)
        self.assertIn("already final", self.assert_ran(self.gpuq("cancel", job)).stdout)
        done = self.submitted("sleep", "--set", "ms=1")
        self.assert_ran(self.gpuq("wait", done))
        ran = self.assert_ran(self.gpuq("retry", done, "--wait", "-o", "jsonl"))
        self.assertNotEqual(self.lines(ran)[0]["id"], done)
        self.assertEqual(self.status(self.lines(ran)[0]["id"])["retry_of"], done)

    def test_the_same_id_again_makes_no_second_job_and_another_spec_is_a_conflict(self):
        job = self.submitted("sleep", "--set", "ms=1")
        again = self.gpuq("submit", "sleep", "--set", "ms=1", "--id", job, "-o", "jsonl")
        self.assertEqual(self.lines(self.assert_ran(again))[0], {"schema_version": 1, "id": job, "ok": True, "existing": True})
        self.assert_error(self.gpuq("submit", "sleep", "--set", "ms=2", "--id", job), 2, "ID_CONFLICT")

    def test_durability_none_is_for_callers_that_wait(self):
        ran = self.assert_ran(self.gpuq("submit", "echo", "hi", "--durability", "none", "--wait", "-o", "jsonl"))
        job = self.lines(ran)[0]
        self.assertEqual(job["state"], "succeeded")
        until(lambda: self.gpuq("status", job["id"]).returncode == 3, "fetched, it is forgotten", 30)
        refused = self.assert_error(self.gpuq("submit", "--durability", "none", "--", "true"), 2, "BAD_MESSAGE")
        self.assertIn("outlives its caller", refused.stderr)

    def test_after_waits_for_the_other_and_names_may_be_short(self):
        first = self.submitted("sleep", "--set", "ms=300")
        second = self.submitted("sleep", "--after", "last")
        ran = self.assert_ran(self.gpuq("wait", first.lower(), second[-8:], "-o", "jsonl"))
        one, two = self.lines(ran)
        self.assertGreaterEqual(two["started_ms"], one["ended_ms"])

    def test_what_a_job_brought_is_there_for_those_that_come_after_it(self):
        first = self.submitted("--", "sh", "-c", "mkdir $GPUQ_OUTPUT_DIR/d; echo from the first > $GPUQ_OUTPUT_DIR/d/f")
        second = self.submitted("--after", first, "--", "sh", "-c", f"cp $GPUQ_INPUT_DIR/{first}/d/f $GPUQ_OUTPUT_DIR/g")
        third = self.submitted("--after", second, "--after", first, "--", "sh", "-c", f"cat $GPUQ_INPUT_DIR/{second}/g $GPUQ_INPUT_DIR/{first}/d/f")
        self.assert_ran(self.gpuq("wait", third))
        self.assertEqual(self.gpuq("logs", third).stdout, "from the first\nfrom the first\n")

    def test_lists_status_top_and_workers_in_every_format(self):
        job = self.submitted("sleep", "--set", "ms=1", "--label", "for the list")
        self.assert_ran(self.gpuq("wait", job))
        for words in (["list"], ["ls", "--kind", "sleep"], ["status"], ["status", job], ["top", "--once"], ["workers"], ["model", "list"]):
            for form in ("table", "wide", "json", "jsonl"):
                ran = self.assert_ran(self.gpuq(*words, "-o", form))
                self.assertNotIn("\x1b", ran.stdout, "no colour off a terminal")
                if form == "json":
                    self.assertEqual(json.loads(ran.stdout)["schema_version"], 1)
                if form == "jsonl":
                    self.lines(ran)
        self.assertIn("for the list", self.gpuq("list").stdout)
        self.assertIn("local-worker", self.gpuq("workers").stdout)
        screen = self.gpuq("top", "--once").stdout
        self.assertIn("local-worker", screen)
        self.assertNotIn("no worker", screen)
        page = self.lines(self.assert_ran(self.gpuq("list", "--limit", "1", "-o", "jsonl")))
        following = self.lines(self.assert_ran(self.gpuq("list", "--limit", "1", "--page-after", page[0]["id"], "-o", "jsonl")))
        self.assertNotEqual(page[0]["id"], following[0]["id"])

    def test_ctrl_c_while_waiting_is_130_and_the_job_goes_on(self):
        job = self.submitted("sleep", "--set", "ms=600000")
        waiter = self.home.start("wait", job)
        self.until_state(job, "running")
        waiter.send_signal(signal.SIGINT)
        _, err = waiter.communicate(timeout=30)
        self.assertEqual(waiter.returncode, 130)
        self.assertIn("go on", err)
        self.assertEqual(self.status(job)["state"], "running")
        self.assert_error(self.gpuq("wait", job, "--timeout", "50ms"), 6, "TIMED_OUT")
        self.assert_ran(self.gpuq("cancel", job))

    def test_doctor_says_that_a_card_which_the_executors_cannot_use_is_of_no_use(self):
        pretend = BIN.parent / "tests/fake-nvml.so"
        if not pretend.exists() or not (BIN / "gpuq-modelhost").exists():
            return   # built without LibTorch
        self.home.env.update(GPUQ_NVML=str(pretend))
        try:
            ran = self.gpuq("doctor", "--local", "-o", "jsonl")
        finally:
            del self.home.env["GPUQ_NVML"]
        findings = {f["check"]: f for f in self.lines(ran)}
        self.assertEqual((ran.returncode, findings["nvml"]["what"], findings["cuda"]["grade"]), (1, "2 devices", "red"), findings)
        self.assertRegex(findings["cuda"]["what"], "gpuq-modelhost cannot use the card: .+")
        self.assertIn("./dev build", findings["cuda"]["fix"])

    def test_doctor_finds_the_broker(self):
        findings = {f["check"]: f for f in self.lines(self.gpuq("doctor", "-o", "jsonl"))}
        for check in ("redis", "gpuq-broker", "gpuq-worker", "broker", "workers", "access", "keys"):
            self.assertEqual(findings[check]["grade"], "ok", findings[check])
        self.assertRegex(findings["fsync"]["what"], r"fdatasync p50 [0-9.]+ ms")


class Down(Story):
    def test_ctrl_c_ends_everything_and_the_next_up_goes_on_with_the_same_jobs(self):
        home = Home()
        try:
            home.up("--no-worker")
            job = self.assert_ran(home.gpuq("submit", "echo", "kept")).stdout.strip()
            below = children_of(home.up_process.pid)
            self.assertIn("redis-server", [name for _, name in below])
            self.assertEqual(home.down(), 0)
            for pid, name in below:
                until(lambda: not alive(pid), f"{name} {pid} is gone", 10)
            self.assertFalse((home.root / ".config/gpuq/client.json").exists())
            home.up()
            self.assertEqual(self.assert_ran(home.gpuq("wait", job)).returncode, 0)
            self.assertEqual(self.assert_ran(home.gpuq("result", job)).stdout, "kept\n")
        finally:
            home.remove()


if __name__ == "__main__":
    unittest.main(verbosity=2)

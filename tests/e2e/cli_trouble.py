#!/usr/bin/env python3
"""cli_trouble.py BIN - bad input, wrong keys, a broker that is away or killed: a clear error with a stable code, nothing lost."""
import os
import signal
import unittest

from gpuq_up import Home, Story, UpStory, until


class BadInput(UpStory):
    def test_unknown_kinds_models_and_jobs(self):
        self.assert_error(self.gpuq("submit", "detct", "a.png"), 2, "UNKNOWN_KIND")
        image = self.file("a.png", b"\x89PNG\r\n\x1a\n not really")
        self.assert_error(self.gpuq("submit", "detect", "--model", "nobody", image), 3, "UNKNOWN_MODEL")
        nobody = "01M7Y6FQQVPBY8903R6KHSBSG0"
        for words in (["status", nobody], ["wait", nobody], ["result", nobody], ["logs", nobody], ["retry", nobody]):
            self.assert_error(self.gpuq(*words), 3, "NOT_FOUND")
        self.assert_ran(self.gpuq("cancel", nobody), 3)
        self.assert_error(self.gpuq("model", "rm", "nobody"), 3, "UNKNOWN_MODEL")

    def test_images_that_are_none(self):
        self.assert_error(self.gpuq("submit", "detect", "--model", "m", "nowhere.png"), 3, "NOT_FOUND")
        self.assert_error(self.gpuq("submit", "detect", "--model", "m", self.file("text.png", b"hello")), 1, "BAD_IMAGE")
        self.assert_error(self.gpuq("submit", "detect", "--model", "m", self.home.root), 1, "BAD_IMAGE")
        self.assert_error(self.gpuq("model", "push", "m", self.file("empty.pt", b"")), 1, "BAD_MODEL")
        self.assert_error(self.gpuq("model", "push", "m", "nowhere.pt"), 3, "NOT_FOUND")

    def test_a_hundred_megabytes_are_no_trouble_as_a_part_and_refused_as_an_image(self):
        data = os.urandom(1 << 20) * 100
        big = self.file("big.png", b"\x89PNG\r\n\x1a\n" + data)
        self.assert_error(self.gpuq("submit", "detect", "--model", "m", big), 2, "TOO_LARGE")
        ran = self.assert_ran(self.gpuq("submit", "echo", big, "--wait", "-d", self.home.root / "out", timeout=120))
        self.assertIn("big.png", ran.stdout)
        self.assertEqual((self.home.root / "out/big.png").read_bytes(), big.read_bytes())

    def test_parameters_too_large_to_travel_inline(self):
        self.assert_error(self.gpuq("submit", "echo", "--set", "text=" + "x" * 70_000), 2, "TOO_LARGE")

    def test_a_revoked_key_is_refused_within_seconds_and_a_client_key_may_not_push_models(self):
        keys = ["--keys", self.home.data / "keys"]
        access = self.home.root / "web.json"
        self.assert_ran(self.gpuq("keys", "issue", *keys, "--role", "client", "--name", "web", "--broker", self.home.address(), "--out", access))
        # The broker re-reads its folder when that changes; until then it does not know the new key.
        until(lambda: self.gpuq("--access-file", access, "submit", "echo", "hi", "--wait").returncode == 0, "the new key may enter", 20)
        model = self.file("model.pt", b"not a model, but some bytes")
        self.assert_error(self.gpuq("--access-file", access, "model", "push", "m", model), 4, "REFUSED")
        self.assertIn("web", self.gpuq("keys", "list", *keys).stdout)
        self.assert_ran(self.gpuq("keys", "revoke", "web", *keys))
        refused = until(lambda: (lambda ran: ran if ran.returncode != 0 else None)(self.gpuq("--access-file", access, "list")), "the key is refused", 20)
        self.assert_error(refused, 4, "KEY_REFUSED")

    def test_a_key_of_another_broker_is_refused(self):
        other = self.home.root / "other-keys"
        self.assert_ran(self.gpuq("keys", "init", "--keys", other))
        access = self.home.root / "stranger.json"
        self.assert_ran(self.gpuq("keys", "issue", "--keys", other, "--role", "client", "--name", "stranger", "--broker", self.home.address(), "--out", access))
        ran = self.gpuq("--access-file", access, "list")
        self.assertIn(ran.returncode, (4, 5), ran.stderr)
        self.assertRegex(ran.stderr, r"error\[(KEY_REFUSED|UNREACHABLE)\]")

    def test_a_second_up_on_the_same_data_says_so(self):
        ran = self.gpuq("up", "--port", "0", "--no-config", timeout=90)
        self.assertEqual(ran.returncode, 5, ran.stderr)
        self.assertIn("error[DATA_DIR_IN_USE]", ran.stderr)
        self.assert_ran(self.gpuq("list"))   # the first one is not disturbed


class NoBroker(Story):
    def test_nothing_configured_and_nobody_there(self):
        home = Home()
        try:
            self.assert_error(home.gpuq("list"), 3, "NOT_FOUND")
            ran = home.gpuq("--insecure", "--broker", "tcp://127.0.0.1:1", "--request-timeout", "1s", "submit", "echo", timeout=20)
            self.assert_error(ran, 5, "UNREACHABLE")
        finally:
            home.remove()


class BrokerKilled(Story):
    def test_a_waiting_client_gets_its_result_although_the_broker_was_killed_meanwhile(self):
        home = Home()
        try:
            home.up()
            job = self.assert_ran(home.gpuq("submit", "--", "sh", "-c", "while [ ! -e go ]; do sleep 0.05; done; echo done")).stdout.strip()
            until(lambda: '"state":"running"' in home.gpuq("status", job, "-o", "jsonl").stdout, "the job runs")
            waiter = home.start("submit", "--wait", "--after", job, "echo", "survived")
            until(lambda: len([1 for line in home.gpuq("list", "--active", "-o", "jsonl").stdout.splitlines()]) == 2, "both are accepted")
            second = home.broker_again("second.log")
            try:
                until(lambda: home.gpuq("list", "--request-timeout", "2s").returncode == 0, "the broker is back")
                (home.root / "go").touch()
                out, err = waiter.communicate(timeout=60)
                self.assertEqual((waiter.returncode, out), (0, "survived\n"), err)
            finally:
                os.kill(home.up_process.pid, signal.SIGCONT)
                home.down()
                second.send_signal(signal.SIGTERM)
                second.wait(30)
        finally:
            home.remove()


if __name__ == "__main__":
    unittest.main(verbosity=2)

#!/usr/bin/env python3
"""model_life.py BIN - versions of a model: registered, warmed, promoted on a condition, compared, rolled back; no request fails meanwhile."""
import json
import sys
import unittest

from gpuq_up import UpStory


class ModelLife(UpStory):
    gpus = None

    def folder(self, answer, setup="pass"):
        folder = self.home.root / "model"
        folder.mkdir(exist_ok=True)
        (folder / "model.toml").write_text(f'interpreter = "{sys.executable}"\nentry = "m:M"\nvram = "200MiB"\n')
        (folder / "m.py").write_text(f"class M:\n    def setup(self, ctx): {setup}\n    def predict(self, requests): return [{answer!r}] * len(requests)\n")
        return folder

    def push(self, name, answer, *more, setup="pass", code=0):
        return self.assert_ran(self.gpuq("model", "push", name, self.folder(answer, setup), *more), code)

    def version(self, name, answer, *more):
        return self.push(name, answer, *more).stdout.strip()

    def answer(self, model):
        part = self.home.root / "x.txt"
        part.write_text("x")
        result = json.loads(self.assert_ran(self.gpuq("submit", "infer", "--model", model, "--part", f"x={part}", "--wait", "-o", "json")).stdout)["results"][0]
        return result["parts"][0]["text"], result["values"]["model"]

    def test_a_later_version_is_loaded_before_its_name_means_it_and_a_rollback_goes_back(self):
        one = self.version("net", "one")
        self.assertEqual(self.answer("net"), ("one", one))
        two = self.version("net", "two", "--no-promote")
        self.assertEqual(self.answer("net"), ("one", one))
        self.assertEqual(self.answer(two), ("two", two), "a version may be named before it is promoted")
        self.assert_ran(self.gpuq("model", "promote", two))
        self.assertEqual(self.answer("net"), ("two", two))
        self.assertEqual(self.assert_ran(self.gpuq("model", "rollback", "net")).stdout.strip(), one)
        self.assertEqual(self.answer("net"), ("one", one))
        self.assert_error(self.gpuq("model", "rollback", "net"), 3, "NOT_FOUND")

    def test_what_cannot_be_loaded_is_registered_and_never_promoted(self):
        good = self.version("careful", "good")
        ran = self.push("careful", "broken", setup="raise OSError('no weights')", code=1)
        self.assertIn("is not promoted, for it cannot be loaded", ran.stderr)
        self.assertIn("no weights", ran.stderr)
        self.assertEqual(self.answer("careful"), ("good", good))
        self.assertEqual(len([m for m in self.lines(self.gpuq("model", "list", "-o", "jsonl")) if m["name"] == "careful"]), 2)

    def test_requests_in_flight_while_a_version_is_promoted_all_succeed(self):
        self.version("busy", "old")
        part = self.home.root / "b.txt"
        part.write_text("x")
        jobs = [self.submitted("infer", "--model", "busy", "--part", f"x={part}") for _ in range(15)]
        self.version("busy", "new")
        jobs += [self.submitted("infer", "--model", "busy", "--part", f"x={part}") for _ in range(15)]
        ran = self.assert_ran(self.gpuq("wait", *jobs, "-o", "jsonl"))
        self.assertEqual({r["state"] for r in self.lines(ran)}, {"succeeded"})
        self.assertEqual(self.answer("busy")[0], "new")

    def test_show_and_diff_say_what_is_known(self):
        one = self.version("shown", "one")
        two = self.version("shown", "two")
        shown = self.assert_ran(self.gpuq("model", "show", "shown")).stdout
        for words in (two.partition("@")[2], "python", "200 MiB", "m:M", "yes, since"):
            self.assertIn(words, shown)
        self.assertIn("no; was,", self.assert_ran(self.gpuq("model", "show", one)).stdout)
        differs = self.assert_ran(self.gpuq("model", "diff", one, two.partition("@")[2])).stdout
        self.assertIn("content", differs)
        self.assertNotIn("runtime", differs)
        self.assert_error(self.gpuq("model", "show", "nosuch"), 3, "UNKNOWN_MODEL")

    def test_a_condition_is_judged_by_the_broker(self):
        one = self.version("judged", "one")
        self.assertIn("has no metric 'map50'", self.assert_error(self.gpuq("model", "promote", self.version("judged", "two", "--no-promote"), "--if", "map50 > current"), 1, "BAD_INPUT").stderr)
        self.assertIn("column 7", self.assert_error(self.gpuq("model", "promote", "judged", "--if", "map50 = 1"), 2, "USAGE").stderr)
        self.assertEqual(self.answer("judged"), ("one", one))


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""python_models.py BIN - models that are Python: pushed as folders, warm, batched, watched; and what happens to those that misbehave."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import unittest

from gpuq_up import UpStory, alive, children_of, until

PYTHON_OF_TESTS = pathlib.Path(__file__).resolve().parents[1] / "python/python.sh"


class PythonModels(UpStory):
    gpus = None                      # the CPU: memory is measured there

    def folder(self, name, source, toml='entry = "m:M"\n'):
        folder = self.home.root / name
        folder.mkdir(exist_ok=True)
        (folder / "model.toml").write_text(f'interpreter = "{sys.executable}"\n' + toml if "interpreter" not in toml else toml)
        (folder / "m.py").write_text(textwrap.dedent(source))
        return folder

    def push(self, name, source, toml='entry = "m:M"\n', *more):
        return self.assert_ran(self.gpuq("model", "push", name, self.folder(name, source, toml), *more)).stdout.strip()

    def infer(self, model, text, *more, code=0):
        part = self.home.root / "input.txt"
        part.write_text(text)
        ran = self.assert_ran(self.gpuq("submit", "infer", "--model", model, "--part", f"x={part}", "--wait", "-o", "json", *more), code)
        return json.loads(ran.stdout)["results"][0]

    def children(self, needle="serve/__main__.py"):
        return [pid for pid, _ in children_of(self.home.up_process.pid) if needle in (open(f"/proc/{pid}/cmdline").read() if alive(pid) else "")]

    def test_a_folder_becomes_a_warm_model_that_answers_from_one_process_and_says_its_version(self):
        version = self.push("upper", """
            import os
            class M:
                def setup(self, ctx): print("set up on", ctx.device); self.pid = os.getpid()
                def predict(self, requests): return [{"text": r.value.upper(), "pid": self.pid} for r in requests]
            """, 'entry = "m:M"\nmax_batch = 4\nvram = "300MiB"\n')
        first, second = self.infer("upper", "board"), self.infer(version, "drawing")
        self.assertEqual([p["text"] for p in first["parts"] if p["name"] == "text"], ["BOARD"])
        self.assertEqual([p["json"] for r in (first, second) for p in r["parts"] if p["name"] == "pid"], [self.children()[0]] * 2)
        self.assertEqual((first["model_version"], first["values"]["model"]), (version.partition("@")[2], version) if "@" not in first["model_version"] else (version, version))
        log = until(lambda: self.gpuq("logs", "--model", "upper").stdout, "what the model printed")
        self.assertIn("set up on cpu", log)
        self.assertEqual(self.gpuq("logs", "--model", version).stdout, log)
        self.assert_error(self.gpuq("logs", "--model", "nosuch"), 3, "UNKNOWN_MODEL")

    def test_instances_of_a_model_work_side_by_side_and_a_killed_one_loses_no_request(self):
        self.push("side", """
            import os, time
            class M:
                def predict(self, requests):
                    time.sleep(0.3)
                    return [str(os.getpid()) for r in requests]
            """, 'entry = "m:M"\ninstances = 3\nvram = "100MiB"\n')
        self.infer("side", "warm it")
        self.assertEqual([m["budget_mib"] for m in json.loads(self.gpuq("model", "list", "-o", "json").stdout)["models"] if m["name"] == "side"], [300])
        processes = set()
        for killed in (False, True):
            jobs = [self.submitted("infer", "--model", "side", "--part", f"x={self.file('x', 'y')}") for _ in range(9)]
            if killed:
                until(lambda: self.status(jobs[2])["state"] == "running", "they run")
                os.kill(max(self.children()), signal.SIGKILL)
            for ended in self.lines(self.assert_ran(self.gpuq("wait", *jobs, "-o", "jsonl"))):
                self.assertEqual(ended["state"], "succeeded", ended)
                if not killed:
                    processes.add(json.loads(self.gpuq("result", ended["id"], "-o", "json").stdout)["results"][0]["parts"][0]["text"])
        self.assertEqual(len(processes), 3)
        self.assertIn("of 3 was killed by signal 9", until(lambda: self.gpuq("logs", "--model", "side").stdout, "its log"))

    def test_an_error_in_predict_fails_its_request_with_the_place_and_the_log_has_the_traceback(self):
        self.push("picky", """
            class M:
                def predict(self, requests): return [self.one(r.value) for r in requests]
                def one(self, text):
                    if text == "bad": raise RuntimeError("no such board")
                    return text
            """)
        self.assertEqual(self.infer("picky", "good")["state"], "succeeded")
        failed = self.infer("picky", "bad", code=1)
        self.assertEqual((failed["error"]["code"], failed["error"]["what"]), ("JOB_FAILED", "RuntimeError: no such board (m.py:5 in one)"))
        until(lambda: "Traceback" in self.gpuq("logs", "--model", "picky").stdout, "the traceback in the model's log")
        self.assertEqual(self.infer("picky", "good again")["state"], "succeeded")

    def test_a_kind_that_model_toml_does_not_name_never_reaches_the_model(self):
        model = self.push("infers", "class M:\n    def predict(self, requests): return [[] for r in requests]")
        part = self.home.root / "image.bin"
        part.write_bytes(b"x")
        ran = self.assert_ran(self.gpuq("submit", "detect", "--model", "infers", "--part", f"image={part}", "--wait", "-o", "json"), 1)
        error = json.loads(ran.stdout)["results"][0]["error"]
        self.assertEqual(error["code"], "BAD_INPUT")
        self.assertTrue(error["what"].startswith(f"model {model} does not answer detect"), error)
        self.assertEqual(self.infer("infers", "x")["state"], "succeeded")

    def test_a_killed_process_loses_no_request(self):
        self.push("slow", """
            import os, time
            class M:
                def predict(self, requests):
                    while not os.path.exists(requests[0].value): time.sleep(0.01)
                    return ["done"] * len(requests)
            """)
        go = self.home.root / "go-slow"
        part = self.home.root / "slow-input.txt"
        part.write_text(str(go))
        jobs = [self.submitted("infer", "--model", "slow", "--part", f"x={part}") for _ in range(3)]
        until(lambda: self.status(jobs[0])["state"] == "running" and self.status(jobs[0])["started_ms"], "the first runs")
        until(lambda: self.children("serve/__main__.py"), "its process")
        for pid in self.children():
            os.kill(pid, signal.SIGKILL)
        go.touch()
        ran = self.assert_ran(self.gpuq("wait", *jobs, "-o", "jsonl"))
        self.assertEqual([r["state"] for r in self.lines(ran)], ["succeeded"] * 3)

    def test_one_that_dies_twice_while_it_is_set_up_is_quarantined_and_says_why(self):
        self.push("fatal", """
            import os
            class M:
                def setup(self, ctx): print("about to die"); os._exit(3)
                def predict(self, requests): return []
            """)
        failed = self.infer("fatal", "x", code=1)
        self.assertEqual(failed["error"]["code"], "BAD_MODEL")
        for words in ("quarantine", "died 2 times", "about to die"):
            self.assertIn(words, failed["error"]["what"])
        self.assertEqual(self.infer("fatal", "x", code=1)["error"]["code"], "BAD_MODEL")       # at once, without a third try
        self.push("fatal", "class M:\n    def predict(self, requests): return [1 for r in requests]")
        self.assertEqual(self.infer("fatal", "x")["state"], "succeeded", "a corrected version answers")

    def test_a_setup_that_hangs_is_ended_by_its_time(self):
        self.push("hangs", """
            import time
            class M:
                def setup(self, ctx): time.sleep(600)
                def predict(self, requests): return []
            """, 'entry = "m:M"\nsetup_timeout = "1s"\n')
        what = self.infer("hangs", "x", code=1)["error"]["what"]
        self.assertIn("setup did not end within 1 s", what)

    def test_a_setup_that_raises_says_where(self):
        self.push("raises", """
            class M:
                def setup(self, ctx): raise OSError("no weights here")
                def predict(self, requests): return []
            """)
        error = self.infer("raises", "x", code=1)["error"]
        self.assertEqual(error["code"], "BAD_MODEL")
        self.assertIn("OSError: no weights here (m.py:3 in setup)", error["what"])

    def test_the_wrong_number_of_answers_is_told(self):
        self.push("counts", "class M:\n    def predict(self, requests): return [1, 2]")
        error = self.infer("counts", "x", code=1)["error"]
        self.assertEqual((error["code"], error["what"]), ("BAD_MODEL", "predict returned 2 answers for 1 requests"))

    def test_one_that_takes_more_memory_than_granted_is_flagged_and_sent_away(self):
        self.push("greedy", """
            import time
            class M:
                def predict(self, requests):
                    self.all = bytearray(500 << 20)
                    for at in range(0, len(self.all), 4096): self.all[at] = 1
                    time.sleep(60)
                    return ["kept"] * len(requests)
            """, 'entry = "m:M"\nvram = "128MiB"\n')
        error = self.infer("greedy", "x", "--retries", "0", code=1)["error"]
        self.assertIn("128 were granted", error["what"])

    def test_what_cannot_be_a_model_is_refused_before_it_travels(self):
        for toml, says in (('entri = "m:M"\n', "did you mean entry"), ('entry = "m"\n', "is not module:Class"), ('entry = "other:M"\n', "neither other.py nor"),
                           ('entry = "m:M"\nmax_batch = "many"\n', "max_batch"), ('entry = "m:M"\nmax_batch = 0\n', "is not 1..4096"), ('entry = "m:M"\nkinds = ["paint"]\n', "'paint'"), ("entry = \n", "model.toml:2")):
            with self.subTest(toml=toml):
                ran = self.assert_error(self.gpuq("model", "push", "wrong", self.folder("wrong", "", toml)), 1, "BAD_MODEL")
                self.assertIn(says, ran.stderr)
        folder = self.folder("linked", "class M: pass")
        (folder / "weights").symlink_to("/etc/passwd")
        self.assertIn("symbolic link weights", self.assert_error(self.gpuq("model", "push", "linked", folder), 1, "BAD_MODEL").stderr)
        empty = self.home.root / "empty"
        empty.mkdir()
        self.assertIn("holds no model.toml", self.assert_error(self.gpuq("model", "push", "empty", empty), 1, "BAD_MODEL").stderr)

    def test_a_missing_interpreter_is_named(self):
        self.push("nopython", "class M:\n    def predict(self, r): return r", 'interpreter = "/nowhere/venv"\nentry = "m:M"\n')
        error = self.infer("nopython", "x", code=1)["error"]
        self.assertEqual(error["code"], "BAD_MODEL")
        self.assertIn("/nowhere/venv is not there", error["what"])

    def test_a_model_that_gpuq_brings_runs_in_the_interpreter_that_has_its_library(self):
        python = subprocess.run([PYTHON_OF_TESTS], check=True, capture_output=True, text=True).stdout.strip()
        folder = self.home.root / "iris"
        folder.mkdir()
        (folder / "model.toml").write_text(f'entry = "gpuq:sklearn"\ninterpreter = "{python}"\nmax_batch = 8\nvram = "600MiB"\n')
        make = "import sys, joblib, sklearn.datasets as d, sklearn.naive_bayes as b; i = d.load_iris(); joblib.dump(b.GaussianNB().fit(i.data, i.target_names[i.target]), sys.argv[1])"
        subprocess.run([python, "-c", make, folder / "model.joblib"], check=True)
        self.assert_ran(self.gpuq("model", "push", "iris", folder))
        rows = self.home.root / "rows.json"
        few, many = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], 4000                 # many: too large to travel inline
        for times in (1, many):
            rows.write_text(json.dumps(few * times))
            ran = self.assert_ran(self.gpuq("submit", "infer", "--model", "iris", "--part", f"x={rows}", "--wait", "-o", "json"))
            parts = {p["name"]: p for p in json.loads(ran.stdout)["results"][0]["parts"]}
            self.assertEqual(set(parts), {"prediction", "probability"})
            if times == 1:
                self.assertEqual(parts["prediction"]["json"], ["setosa", "virginica"])
        rows.write_text("[[1, 2, 3]]")
        error = json.loads(self.assert_ran(self.gpuq("submit", "infer", "--model", "iris", "--part", f"x={rows}", "--wait", "-o", "json"), 1).stdout)["results"][0]["error"]
        self.assertEqual((error["code"], error["what"]), ("BAD_INPUT", "the model takes 4 features, the request has 3"))

    def test_equal_folders_are_one_version(self):
        source = "class M:\n    def predict(self, r): return r"
        self.assertEqual(self.push("same", source), self.push("same", source))


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""job_test.py - gpuq.job against the words of the command executor: real processes, signals and pipes, no gpuq."""
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "client/python"


class JobStory(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)

    def start(self, script, inside=True, **environment):
        """The script as a command job would be started; what it tells is read from .told."""
        read, write = os.pipe()
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"}
        if inside:
            env.update(GPUQ_JOB_ID="01M7YJ8GE5KQXNCFEEF9F955BP", GPUQ_ATTEMPT="1", GPUQ_CHECKPOINT_DIR=str(self.root / "checkpoint"), GPUQ_PROGRESS_FD=str(write))
        env.update(environment)
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], env=env, cwd=self.root, text=True, pass_fds=[write],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        os.close(write)
        process.told = os.fdopen(read)
        self.addCleanup(process.told.close)
        self.addCleanup(self.end_group, process)
        return process

    @staticmethod
    def end_group(process):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()

    def ended(self, process):
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err, [json.loads(line) for line in process.told.read().splitlines()]

    def test_outside_gpuq_it_does_nothing_and_needs_no_other_package(self):
        code, out, err, told = self.ended(self.start("""
            import sys
            sys.modules["zmq"] = sys.modules["msgpack"] = None       # importing them would raise
            from gpuq import job
            assert not job.inside() and not job.should_yield() and job.resume_from is None and job.vram_mib == 0
            job.progress(1, 2, loss=0.5), job.checkpointed(1), job.yielded(1)
            assert job.limit_memory() == [] and job.lightning_checkpoint() is None
            open(job.checkpoint_dir + "/state", "w").close()          # a script that saves still works
            import signal
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            print("went on")
            """, inside=False))
        self.assertEqual((code, out, err, told), (0, "went on\n", "", []))
        self.assertTrue((self.root / "checkpoints/state").exists())

    def test_progress_is_numbers_on_a_line_not_more_often_than_it_helps_and_always_the_last(self):
        _, _, err, told = self.ended(self.start("""
            from gpuq import job
            for step in range(1, 2001):
                job.progress(step, 2000, loss=1 / step, note="no number", bad=float("nan"))
            """))
        self.assertEqual(err, "")
        self.assertEqual(told[0], {"step": 1, "total": 2000, "loss": 1.0})
        self.assertEqual(told[-1], {"step": 2000, "total": 2000, "loss": 0.0005})
        self.assertLess(len(told), 500)

    def test_the_first_sigterm_asks_and_yielded_leaves_with_75(self):
        process = self.start("""
            from gpuq import job
            step = 0
            while not job.should_yield():
                step += 1
                if step == 1: print("loops", flush=True)
            open(job.checkpoint_dir + "/state", "w").close()
            job.yielded(step)
            """)
        self.assertEqual(process.stdout.readline(), "loops\n")
        os.killpg(process.pid, signal.SIGTERM)
        code, _, err, told = self.ended(process)
        self.assertEqual((code, err), (75, ""))
        self.assertGreater(told[-1]["step"], 0)
        self.assertTrue((self.root / "checkpoint/state").exists())

    def test_a_second_sigterm_ends_it_and_so_does_the_first_before_it_ever_asked(self):
        deaf = self.start("""
            import time
            from gpuq import job
            print(job.should_yield(), flush=True)
            while not job.should_yield(): time.sleep(0.01)
            print("asked", flush=True)
            while True: time.sleep(1)
            """)
        self.assertEqual(deaf.stdout.readline(), "False\n")
        os.killpg(deaf.pid, signal.SIGTERM)
        self.assertEqual(deaf.stdout.readline(), "asked\n")
        os.killpg(deaf.pid, signal.SIGTERM)
        self.assertEqual(self.ended(deaf)[0], -signal.SIGTERM)
        never = self.start("from gpuq import job; print(1, flush=True)\nwhile True: pass\n")
        never.stdout.readline()
        os.killpg(never.pid, signal.SIGTERM)
        self.assertEqual(self.ended(never)[0], -signal.SIGTERM, "a script that never asks is no worse off than without us")

    def test_data_loaders_outlive_the_request_until_the_training_has_saved(self):
        for method in ("fork", "spawn"):
            with self.subTest(method):
                script = self.root / f"{method}.py"
                script.write_text(textwrap.dedent(f"""
                    import multiprocessing, sys, time
                    from gpuq import job

                    def double(n): return 2 * n

                    if __name__ == "__main__":
                        job.should_yield()
                        context = multiprocessing.get_context("{method}")
                        both = context.Barrier(3)
                        pool = context.Pool(2, both.wait)
                        both.wait()                                     # both have begun
                        print(pool.map(double, range(4)), flush=True)
                        while not job.should_yield(): time.sleep(0.01)
                        print(pool.map(double, range(4)), flush=True)   # the same two processes serve on
                        pool.terminate()                                # their parent may end them
                        pool.join()
                        job.yielded(4)
                    """))
                process = self.start(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')" if method == "fork" else
                                     f"import os, sys; os.execv(sys.executable, [sys.executable, {str(script)!r}])")
                self.assertEqual(process.stdout.readline(), "[0, 2, 4, 6]\n")
                os.killpg(process.pid, signal.SIGTERM)
                code, out, err, _ = self.ended(process)
                self.assertEqual((code, out), (75, "[0, 2, 4, 6]\n"), err)

    def test_a_child_that_has_not_yet_heard_the_request_still_hears_its_parent(self):
        """Signals do not queue: the parent's SIGTERM behind a pending request would be lost, and the join would wait for ever."""
        process = self.start("""
            import multiprocessing, time
            from gpuq import job
            job.should_yield()
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
            child.start()
            print(child.pid, flush=True)
            while not job.should_yield(): time.sleep(0.001)
            child.terminate()
            print("terminated", flush=True)
            child.join()
            job.yielded(1)
            """)
        child = int(process.stdout.readline())
        until = time.monotonic() + 60
        while b"gpuq-sigterm" not in b"".join(path.read_bytes() for path in pathlib.Path(f"/proc/{child}/task").glob("*/comm")) and len(os.listdir(f"/proc/{child}/task")) < 2:
            self.assertLess(time.monotonic(), until, "the child is shielded")
        os.kill(child, signal.SIGSTOP)
        while any(path.read_text().rpartition(")")[2].split()[0] != "T" for path in pathlib.Path(f"/proc/{child}/task").glob("*/stat")):
            self.assertLess(time.monotonic(), until, "all its threads stand still")
        for pid in (child, process.pid):                # the request, in the order that does harm
            os.kill(pid, signal.SIGTERM)
        said, _, _ = select.select([process.stdout], [], [], 0.3)   # whoever does not give the child its moment has terminated it, stopped as it is, by now
        os.kill(child, signal.SIGCONT)
        code, out, err, _ = self.ended(process)
        self.assertEqual((code, out, said), (75, "terminated\n", []), err)

    def test_a_checkpoint_is_announced_at_once(self):
        _, _, _, told = self.ended(self.start("from gpuq import job\njob.progress(1, 9)\njob.checkpointed(1)\njob.checkpointed(2)\n"))
        self.assertEqual(told, [{"step": 1, "total": 9}, {"step": 1, "checkpoint": 1}, {"step": 2, "checkpoint": 1}])

    def test_memory_is_limited_in_the_frameworks_that_are_there(self):
        code, out, err, _ = self.ended(self.start("""
            import os, sys, types
            calls = []
            card = types.SimpleNamespace(total_memory=16384 << 20)
            sys.modules["torch"] = types.SimpleNamespace(cuda=types.SimpleNamespace(
                is_available=lambda: True, device_count=lambda: 1, get_device_properties=lambda i: card,
                set_per_process_memory_fraction=lambda share, index: calls.append((round(share * 16384), index))))
            sys.modules["cupy"] = types.SimpleNamespace(get_default_memory_pool=lambda: types.SimpleNamespace(set_limit=lambda size: calls.append(size >> 20)))
            from gpuq import job
            print(job.limit_memory(), calls, os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"], "jax" in sys.modules)
            """, GPUQ_VRAM_MIB="8192"))
        self.assertEqual((code, out), (0, "['torch', 'cupy'] [(7492, 0), 7492] false False\n"), err)

    # ---- callbacks: what the frameworks would call, in the order they call it

    FRAMEWORKS = """
        import os, pickle, random, sys, types
        torch = types.ModuleType("torch")
        torch.save = lambda state, path: pickle.dump(state, open(path, "wb"))
        torch.load = lambda path, **_: pickle.load(open(path, "rb"))
        torch.get_rng_state, torch.set_rng_state = random.getstate, random.setstate
        torch.cuda = types.SimpleNamespace(is_available=lambda: False)
        sys.modules["torch"] = torch
        callbacks = types.ModuleType("lightning.pytorch.callbacks")
        callbacks.Callback = object
        sys.modules.update({"lightning": types.ModuleType("lightning"), "lightning.pytorch": types.ModuleType("lightning.pytorch"), "lightning.pytorch.callbacks": callbacks})
        from gpuq import job
        ask = lambda: os.kill(os.getpid(), __import__("signal").SIGTERM)
        """

    def test_a_plain_torch_loop_goes_on_where_it_left_with_the_same_random_numbers(self):
        script = self.FRAMEWORKS + """
        class Part:
            value = 0.0
            def state_dict(self): return self.value
            def load_state_dict(self, state): self.value = state
        model = Part()
        random.seed(1)
        loop = job.TorchLoop(10, model=model)
        for step in range(loop.start, 10):
            model.value += random.random()
            if step == 4 and not job.resume_from: ask()
            loop.step(step + 1, loss=model.value)
        print(loop.start, model.value)
        """
        whole = self.ended(self.start(script.replace("ask()\n", "pass\n")))
        left = self.ended(self.start(script))
        self.assertEqual((left[0], left[3][-1]["step"]), (75, 5), left)
        again = self.ended(self.start(script, GPUQ_RESUME_FROM=str(self.root / "checkpoint")))
        self.assertEqual(again[1].split()[0], "5", again)
        self.assertEqual(again[1].split()[1], whole[1].split()[1], "bit by bit")

    def test_ultralytics_leaves_at_the_end_of_an_epoch_with_last_pt(self):
        code, _, err, told = self.ended(self.start(self.FRAMEWORKS + """
        class Model:
            def __init__(self): self.callbacks = {}
            def add_callback(self, event, call): self.callbacks[event] = call
        model = job.ultralytics(Model())
        open("last.pt", "w").write("weights")
        for epoch in range(5):
            trainer = types.SimpleNamespace(epoch=epoch, epochs=5, last="last.pt", metrics={"metrics/mAP50": 0.5})
            if epoch == 2: ask()
            model.callbacks["on_fit_epoch_end"](trainer)
            model.callbacks["on_model_save"](trainer)
        """))
        self.assertEqual(code, 75, err)
        self.assertEqual(told[0], {"step": 1, "total": 5, "metrics/mAP50": 0.5})
        self.assertEqual([line["step"] for line in told if "checkpoint" in line], [1, 2])
        self.assertEqual(told[-1], {"step": 3})
        self.assertEqual((self.root / "checkpoint/last.pt").read_text(), "weights")

    def test_lightning_leaves_after_a_batch_and_names_its_checkpoint(self):
        script = self.FRAMEWORKS + """
        print(job.lightning_checkpoint())
        hook = job.lightning(every=2)
        class Trainer:
            estimated_stepping_batches, callback_metrics = 9, {"loss": 0.25}
            def save_checkpoint(self, path): open(path, "w").write(str(self.global_step))
        trainer = Trainer()
        hook.on_train_start(trainer, None)
        for trainer.global_step in range(1, 9):
            if trainer.global_step == 5: ask()
            hook.on_train_batch_end(trainer, None, None, None, 0)
        """
        code, out, err, told = self.ended(self.start(script))
        self.assertEqual((code, out), (75, "None\n"), err)
        self.assertEqual([line["step"] for line in told if "checkpoint" in line], [2, 4])
        self.assertEqual((self.root / "checkpoint/lightning.ckpt").read_text(), "5")
        again = self.ended(self.start(script, GPUQ_RESUME_FROM=str(self.root / "checkpoint")))
        self.assertEqual(again[1], str(self.root / "checkpoint/lightning.ckpt") + "\n", again[2])


if __name__ == "__main__":
    unittest.main(verbosity=2)

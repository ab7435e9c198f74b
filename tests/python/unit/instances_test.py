"""gpuq.serve with several instances of a model: one process for the worker, several that compute. Real processes, no gpuq."""
import json
import os
import pathlib
import signal
import time

from gpuq.serve import frames
from serve_test import Child, model   # noqa: F401  (model is a fixture)

WHO = """
    import os, pathlib, time
    class M:
        def setup(self, ctx):
            self.ctx = ctx
            (pathlib.Path(ctx.scratch) / f"pid-{os.getpid()}").touch()
        def predict(self, requests):
            if requests[0].parts.get("until"):
                while not pathlib.Path(requests[0].parts["until"].decode()).exists():
                    time.sleep(0.005)
            return [{"who": {"pid": os.getpid(), "vram": self.ctx.vram_mib, "n": len(requests)}} for r in requests]
    """


def answers(child, count):
    got = {}
    for _ in range(count):
        frame = child.answer()
        assert frame.kind == frames.DONE, frame.get("what")
        got[frame.ident] = json.loads(next(iter(frame.with_prefix("out.").values())))
    return got


def wait_for(holds, what):
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.005)


def pids(child):
    return sorted(int(p.name[4:]) for p in child.root.glob("pid-*"))


def state(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


def alive(pid):
    return state(pid) not in "ZX"


def test_each_instance_is_a_process_with_a_share_of_the_budget_and_all_work_at_once(model, tmp_path):
    child = model(WHO)
    loaded = child.load(instances=3, max_batch=1, budget_mib=300)
    assert loaded.kind == frames.LOADED and loaded.get("batch_max") == 3 and loaded.get("used_mib") > 0
    assert len(pids(child)) == 3 and child.process.pid not in pids(child)
    go = str(tmp_path / "go").encode()
    for ident in (10, 11, 12):
        child.run(ident, until=go)
    started = set()
    while len(started) < 3:   # all three have begun before any may end
        frame = child.link.receive()
        assert frame.kind == frames.STARTED
        started.add(frame.ident)
    pathlib.Path(go.decode()).touch()
    got = answers(child, 3)
    assert sorted(one["pid"] for one in got.values()) == pids(child)
    assert {one["vram"] for one in got.values()} == {100}


def test_a_busy_instance_is_passed_over_and_each_forms_batches_of_its_own(model, tmp_path):
    child = model(WHO)
    child.load(instances=2, max_batch=2)
    go = str(tmp_path / "go").encode()
    child.run(1, until=go)
    child.next_started = child.link.receive()
    assert child.next_started.kind == frames.STARTED
    child.run(2)                                    # to the other, though it came later
    first = answers(child, 1)
    assert list(first) == [2]
    pathlib.Path(go.decode()).touch()
    assert answers(child, 1)[1]["pid"] != first[2]["pid"]


def test_large_parts_pass_through_unopened(model):
    child = model("""
        class M:
            def predict(self, requests): return [r.parts["raw"][::-1] for r in requests]
        """)
    child.load(instances=2)
    raw = os.urandom(3_000_000)
    child.run(5, raw=raw)
    frame = child.answer(5)
    assert next(iter(frame.with_prefix("out.").values())) == raw[::-1]


def test_a_waiting_request_is_cancelled_where_it_waits(model, tmp_path):
    child = model(WHO)
    child.load(instances=2, max_batch=1)
    go = str(tmp_path / "go").encode()
    for ident in (1, 2, 3, 4):
        child.run(ident, until=go)
    child.link.send(frames.CANCEL, 4)
    frame = child.answer(4)
    assert (frame.kind, frame.get("code")) == (frames.FAILED, "CANCELLED")
    pathlib.Path(go.decode()).touch()
    assert set(answers(child, 3)) == {1, 2, 3}


def test_when_one_dies_all_go_the_same_way_and_the_log_says_which(model):
    child = model(WHO)
    child.load(instances=3)
    os.kill(pids(child)[1], signal.SIGKILL)
    assert child.process.wait(30) == -signal.SIGKILL
    assert "of 3 was killed by signal 9" in (child.root / "printed").read_text()
    wait_for(lambda: not any(alive(pid) for pid in pids(child)), "the others end with it")


def test_one_that_ends_by_itself_ends_the_model_with_its_code(model):
    child = model("""
        import os
        class M:
            def predict(self, requests): os._exit(7)
        """)
    child.load(instances=2)
    child.run(1)
    assert child.process.wait(30) == 7
    assert "ended with code 7" in (child.root / "printed").read_text()


def test_a_setup_that_fails_in_one_of_them_says_why_and_leaves_none(model):
    child = model("""
        import os, pathlib
        class M:
            def setup(self, ctx):
                (pathlib.Path(ctx.scratch) / f"pid-{os.getpid()}").touch()
                (pathlib.Path(ctx.scratch) / "first").mkdir()
            def predict(self, requests): return requests
        """)
    failed = child.load(instances=2)
    assert failed.kind == frames.FAILED and failed.get("code") == "BAD_MODEL"
    assert "FileExistsError" in failed.get("what")
    assert "Traceback" in "".join(child.logs)
    wait_for(lambda: not any(alive(pid) for pid in pids(child)), "no instance is left")
    child.link.send(frames.PING, 9)
    assert child.link.receive().kind == frames.PONG, "the process lives: the worker decides"


def test_a_ping_is_answered_when_all_have_and_an_unload_leaves_none(model):
    child = model(WHO)
    child.load(instances=2)
    child.link.send(frames.PING, 3)
    pong = child.link.receive()
    assert (pong.kind, pong.ident) == (frames.PONG, 3)
    os.kill(pids(child)[0], signal.SIGSTOP)
    wait_for(lambda: state(pids(child)[0]) == "T", "it stands still")
    child.link.send(frames.PING, 4)
    child.run(5)
    child.run(6)
    assert child.answer().kind == frames.DONE       # of the one that is well; no pong meanwhile
    os.kill(pids(child)[0], signal.SIGCONT)
    seen = {child.link.receive().kind for _ in range(3)}
    assert frames.PONG in seen and frames.DONE in seen
    child.link.send(frames.UNLOAD, 7)
    assert child.next(frames.UNLOADED).ident == 7
    assert not any(alive(pid) for pid in pids(child))
    child.link.send(frames.STOP)
    assert child.process.wait(30) == 0


def test_they_end_with_the_worker(model):
    child = model(WHO)
    child.load(instances=2)
    child.process.kill()
    child.process.wait(30)
    wait_for(lambda: not any(alive(pid) for pid in pids(child)), "they end with their parent")

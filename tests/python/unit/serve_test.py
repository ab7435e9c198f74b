"""gpuq.serve alone, over a socket pair: what the worker would say and what a model of Python answers. Real processes, no gpuq."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap

import numpy
import pytest

from gpuq.serve import frames, values

PACKAGE = pathlib.Path(os.environ["GPUQ_SOURCE_DIR"]) / "client/python"


class Child:
    """A model's process, as the worker starts it."""

    def __init__(self, root, python=sys.executable):
        self.root = root
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(30)
        self.printed = open(root / "printed", "wb")

        def place():
            os.dup2(theirs.fileno(), 3)

        self.process = subprocess.Popen([python, "-u", str(PACKAGE / "gpuq/serve/__main__.py")], env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}, preexec_fn=place,
                                        pass_fds=[3], stdin=subprocess.DEVNULL, stdout=self.printed, stderr=self.printed, cwd=root, start_new_session=True)
        theirs.close()
        self.link = frames.Link(ours)
        self.logs = []
        self.link.send(frames.HELLO, 0, [("role", "model"), ("device", "CPU-w"), ("device_kind", "cpu"), ("vram_mib", 512), ("threads", 1), ("scratch", str(root))])
        ready = self.next(frames.READY)
        assert ready.get("protocol") == 1 and ready.get("pid") == self.process.pid

    def next(self, *kinds):
        """The next frame of one of these kinds; logs are kept, signs of life are stepped over."""
        while True:
            frame = self.link.receive()
            assert frame is not None, "the child is gone: " + (self.root / "printed").read_text()
            if frame.kind == frames.LOG:
                self.logs.append(frame.get("text"))
            elif frame.kind in kinds:
                return frame
            else:
                assert frame.kind in (frames.PONG, frames.STARTED), frame.kind

    def load(self, entry="m:M", **more):
        fields = [("model", "m@1"), ("name", "m"), ("path", str(self.root)), ("entry", entry), ("max_batch", 4), ("budget_mib", 256), ("metadata", "{}")]
        self.link.send(frames.LOAD, 1, [(k, more.pop(k, v)) for k, v in fields] + list(more.items()))
        return self.next(frames.LOADED, frames.FAILED)

    def run(self, ident, kind="infer", media=None, **parts):
        fields = [("kind", kind), ("model", "m@1"), ("output_dir", str(self.root)), ("param.p", "v")]
        for name, value in parts.items():
            fields += [("part." + name, value), ("part_media." + name, (media or {}).get(name, "application/octet-stream"))]
        self.link.send(frames.RUN, ident, fields)

    def answer(self, ident=None):
        frame = self.next(frames.DONE, frames.FAILED)
        assert ident is None or frame.ident == ident
        return frame

    def end(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)      # also what the model started and left behind
        except ProcessLookupError:
            pass
        self.process.wait(30)
        self.printed.close()


@pytest.fixture
def model(tmp_path):
    children = []

    def start(source):
        (tmp_path / "m.py").write_text(textwrap.dedent(source))
        children.append(Child(tmp_path))
        return children[-1]

    yield start
    for child in children:
        child.end()


def test_values_go_in_and_come_out_by_their_media_types(model):
    child = model("""
        class M:
            def setup(self, ctx):
                assert (ctx.device, ctx.vram_mib, ctx.max_batch, ctx.version) == ("cpu", 256, 4, "1"), vars(ctx)
            def predict(self, requests):
                r, = requests
                assert r.params == {"p": "v"} and r.kind == "infer"
                return [{"array": r.parts["array"] * 2, "text": r.parts["text"] + "!", "json": [r.parts["json"]], "raw": r.parts["raw"][::-1]}]
        """)
    assert child.load().kind == frames.LOADED
    array = numpy.arange(6, dtype="float32").reshape(2, 3)
    child.run(7, media={"array": values.TENSOR, "text": "text/plain", "json": "application/json"}, array=values.encode(array)[0], text=b"hi", json=b'{"a": 1}', raw=b"\x00\x01")
    done = child.answer(7)
    assert done.kind == frames.DONE, done.fields
    out, media = done.with_prefix("out."), done.with_prefix("out_media.")
    assert numpy.array_equal(values.decode(out["array"], media["array"]), array * 2)
    assert (out["text"], out["raw"], json.loads(out["json"])) == (b"hi!", b"\x01\x00", [{"a": 1}])
    assert done.get("value.model") == "m@1"


def test_large_values_travel_beside_the_packet(model):
    child = model("""
        class M:
            def predict(self, requests):
                return [r.value + b"end" for r in requests]
        """)
    child.load()
    big = bytes(range(256)) * 20_000
    child.run(1, x=big)
    assert child.answer(1).get("out.output") == big + b"end"


def test_requests_that_wait_form_one_batch_and_no_larger_one(model):
    child = model("""
        import time
        class M:
            def predict(self, requests):
                if requests[0].value == b"0":
                    while not __import__("os").path.exists("go"): time.sleep(0.005)
                return [str(len(requests)) for _ in requests]
        """)
    child.load()
    for n in range(7):
        child.run(n, x=b"%d" % n)
        if n == 0:
            child.link.receive()     # started: the first computes alone, six wait
    (child.root / "go").touch()
    assert [child.answer(n).get("out.output") for n in range(7)] == [b"1"] + [b"4"] * 4 + [b"2"] * 2


def test_a_python_error_fails_its_own_request_with_the_place_and_the_traceback(model):
    child = model("""
        class M:
            def predict(self, requests):
                for r in requests:
                    if r.value == b"bad": raise RuntimeError("no such board")
                return [r.value for r in requests]
        """)
    child.load()
    for n, value in enumerate((b"good", b"bad", b"fine")):
        child.run(n, x=value)
    answers = {a.ident: a for a in (child.answer() for _ in range(3))}
    assert answers[0].kind == answers[2].kind == frames.DONE
    assert answers[1].get("code") == "JOB_FAILED" and answers[1].get("final") == 0
    assert answers[1].get("what") == "RuntimeError: no such board (m.py:5 in predict)"
    assert any("Traceback" in text and "no such board" in text for text in child.logs)


@pytest.mark.parametrize("answer, says", [("[]", "0 answers for 1 requests"), ("None", "0 answers for 1 requests"), ("[1, 2]", "2 answers for 1 requests"),
                                          ("[object()]", "cannot be sent"), ("[float('nan')]", "cannot be sent"), ("[{1: object()}]", "cannot be sent")])
def test_what_predict_returns_is_looked_at(model, answer, says):
    child = model(f"""
        class M:
            def predict(self, requests): return {answer}
        """)
    child.load()
    child.run(1, x=b"")
    failed = child.answer(1)
    assert failed.get("code") == "BAD_MODEL" and says in failed.get("what") and failed.get("final") == 1, failed.fields
    child.run(2, x=b"")              # and it goes on
    assert child.answer(2).kind == frames.FAILED


def test_an_exception_in_the_list_fails_one_and_detect_answers_boxes(model):
    child = model("""
        class M:
            def predict(self, requests):
                return [ValueError("too dark") if r.value == b"dark" else [(1, 2, 3, 4, 0.5, 1, "short"), {"x1": 0, "y1": 0, "x2": 1, "y2": 1, "score": 1, "label": 2}] for r in requests]
        """)
    child.load()
    child.run(1, kind="detect", image=b"light")
    boxes = json.loads(child.answer(1).get("out.detections"))["boxes"]
    assert boxes[0] == {"x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0, "score": 0.5, "label": 1, "name": "short"} and boxes[1]["name"] == "2"
    child.run(2, kind="detect", image=b"dark")
    assert child.answer(2).get("what").startswith("ValueError: too dark")


def test_bad_input_is_said_of_the_request_and_not_of_the_model(model):
    child = model("""
        from gpuq.serve import BadInput
        class M:
            def predict(self, requests):
                return [BadInput("no picture") if r.value == b"listed" else self.fails() if r.value == b"raised" else r.value for r in requests]
            def fails(self): raise BadInput("no board on it")
        """)
    child.load()
    for ident, value, says in ((1, b"listed", "no picture"), (2, b"raised", "no board on it")):
        child.run(ident, x=value)
        failed = child.answer(ident)
        assert (failed.get("code"), failed.get("what"), failed.get("final")) == ("BAD_INPUT", says, 1)
    child.run(3)
    assert child.answer(3).get("what") == "the request has 0 inputs (none), not one"
    assert child.logs == []                                  # no traceback: the model did nothing wrong


def test_a_large_input_that_comes_as_a_file_is_read_by_its_media_type(model):
    child = model("""
        class M:
            def predict(self, requests):
                return [[sorted(r.inputs), r.inputs["rows"], r.parts["n"]] for r in requests]
        """)
    child.load()
    (child.root / "rows.json").write_text("[1, 2]")
    child.link.send(frames.RUN, 1, [("kind", "infer"), ("model", "m@1"), ("part.n", b"5"), ("part_media.n", "application/json"), ("file.rows", str(child.root / "rows.json")),
                                    ("part_media.rows", "application/json")])
    assert json.loads(child.answer(1).get("out.output")) == [["n", "rows"], [1, 2], 5]


@pytest.mark.parametrize("source, entry, says", [
    ("class M:\n    def predict(self, r): pass\n    def metadata(self): return {'a': object()}", "m:M", "not JSON serializable"),
    ("class M:\n    def setup(self, ctx): raise OSError('no weights')\n    def predict(self, r): pass", "m:M", "OSError: no weights (m.py:2 in setup)"),
    ("class M: pass", "m:M", "has no predict"), ("", "m:M", "has no 'M'"), ("import nosuchmodule", "m:M", "No module named 'nosuchmodule'"),
    ("raise SystemExit(3)", "m:M", "SystemExit"), ("", "m", "is not module:Class"), ("class M(:", "m:M", "SyntaxError"), ("", "gpuq:nosuch", "nosuch")])
def test_a_model_that_cannot_be_set_up_says_why_and_the_process_lives(model, source, entry, says):
    child = model("")
    (child.root / "m.py").write_text(source)
    failed = child.load(entry)
    assert failed.kind == frames.FAILED and failed.get("code") == "BAD_MODEL" and says in failed.get("what"), failed.get("what")
    child.link.send(frames.PING, 9)
    assert child.next(frames.PONG, frames.DONE).kind == frames.PONG


def test_pings_are_answered_while_a_prediction_computes(model):
    child = model("""
        import os, time
        class M:
            def predict(self, requests):
                while not os.path.exists("go"): time.sleep(0.005)
                return [1]
        """)
    child.load()
    child.run(1, x=b"")
    assert child.link.receive().kind == frames.STARTED
    child.link.send(frames.PING, 77)
    frame = child.link.receive()
    assert (frame.kind, frame.ident) == (frames.PONG, 77)
    (child.root / "go").touch()
    assert child.answer(1).get("out.output") == b"1"


def test_prints_go_to_the_pipe_and_never_into_the_protocol(model):
    child = model("""
        import os, sys
        class M:
            def setup(self, ctx):
                print("from setup"); os.write(1, b"raw"); os.system("echo from a shell"); ctx.log("to the log")
            def predict(self, requests):
                print("x" * 100_000); return [1]
        """)
    assert child.load().kind == frames.LOADED
    child.run(1, x=b"")
    assert child.answer(1).kind == frames.DONE
    text = (child.root / "printed").read_text()
    assert "from setup" in text and "raw" in text and "from a shell" in text and "x" * 100_000 in text
    assert child.logs == ["to the log"]


def test_a_waiting_request_is_cancelled_and_an_unload_lets_what_waits_finish(model):
    child = model("""
        import os, time
        class M:
            def predict(self, requests):
                while not os.path.exists("go"): time.sleep(0.005)
                return ["done"] * len(requests)
        """)
    child.load(max_batch=1)
    for n in range(3):
        child.run(n, x=b"")
    assert child.link.receive().kind == frames.STARTED
    child.link.send(frames.CANCEL, 1)
    cancelled = child.answer(1)
    assert cancelled.get("code") == "CANCELLED"
    child.link.send(frames.UNLOAD, 50, [("model", "m@1")])
    (child.root / "go").touch()
    assert [child.answer(n).kind for n in (0, 2)] == [frames.DONE] * 2
    assert child.next(frames.UNLOADED).ident == 50
    child.link.send(frames.STOP)
    assert child.process.wait(30) == 0


def test_it_ends_with_the_worker_and_takes_no_grandchild_s_hold_on_the_socket(model):
    child = model("""
        import subprocess
        class M:
            def setup(self, ctx): subprocess.Popen(["sleep", "600"])
            def predict(self, requests): return [1]
        """)
    child.load()
    child.link._link.close()
    assert child.process.wait(30) == 0


def test_without_numpy_a_tensor_is_a_tuple_of_its_parts(model):
    child = model("""
        import sys
        class M:
            def predict(self, requests):
                t = requests[0].value
                return [type(t)(t.dtype, t.shape[::-1], t.data)]
        """)
    (child.root / "numpy.py").write_text("raise ImportError('not here')")
    child.load()
    child.run(1, media={"x": values.TENSOR}, x=values.encode(numpy.zeros((2, 5), "int16"))[0])
    done = child.answer(1)
    assert done.kind == frames.DONE, done.fields
    assert values.decode(done.get("out.output"), values.TENSOR).shape == (5, 2)


def test_tensors_of_every_type_survive(tmp_path):
    for dtype in ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bool"):
        for shape in ((), (0,), (3,), (2, 3, 4)):
            array = (numpy.random.default_rng(1).random(shape) * 100).astype(dtype)
            raw, media = values.encode(array)
            back = values.decode(raw, media)
            assert back.dtype == array.dtype and back.shape == array.shape and numpy.array_equal(back, array), (dtype, shape)
    with pytest.raises(TypeError):
        values.encode(numpy.zeros(2, "complex64"))
    for broken in (b"", b"GQT1", b"GQT1\x63\x00\x00\x00", b"GQT1\x07\x01\x00\x00" + b"\xff" * 8, values.encode(numpy.zeros(3))[0][:-1]):
        with pytest.raises(ValueError):
            values.decode(broken, values.TENSOR)

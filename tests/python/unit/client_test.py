"""The parts of the client that need no broker: specs, parts, ids, errors, access files, the link's table, and both faces."""
import ast
import datetime
import inspect
import json
import os
import pathlib
import random
import re
import subprocess
import sys

import pytest

import gpuq
from gpuq import errors, ids, spec, wire
from gpuq.access import Access, default_path, endpoint_of, find_access, read_access_file
from gpuq.link import Link
from gpuq.parts import Part, Tensor, part_of
from gpuq.results import Detections, JobResult

SOURCE = pathlib.Path(os.environ["GPUQ_SOURCE_DIR"])
PACKAGE = SOURCE / "client/python/gpuq"


def raises(code, call, *args, **more):
    with pytest.raises(gpuq.Error) as error:
        call(*args, **more)
    assert error.value.code == code, error.value
    assert error.value.what
    return error.value


def item_of(prepared):
    import msgpack
    return wire.STRUCTS["SubmitItem"].read(msgpack.unpackb(prepared.packed, raw=False))


# ---- the package

def test_it_imports_without_pyzmq_and_msgpack_and_says_what_is_missing():
    script = ("import sys\nfor name in ('zmq', 'msgpack', 'numpy'): sys.modules[name] = None\n"
              "import gpuq, gpuq.job\nassert gpuq.Error and gpuq.__version__ and 'Client' in dir(gpuq)\n"
              "try:\n    gpuq.Client\nexcept ImportError as error:\n    print(error)\n")
    ran = subprocess.run([sys.executable, "-S", "-c", script], env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)}, capture_output=True, text=True)
    assert "needs pyzmq and msgpack" in ran.stdout, ran.stdout + ran.stderr


def test_the_whole_client_passes_mypy_strict(tmp_path):
    client = [str(PACKAGE / name) for name in ("__init__.py", "client.py", "aio.py")]   # and all that they import
    ran = subprocess.run([sys.executable, "-m", "mypy", "--config-file", str(PACKAGE.parent / "pyproject.toml"), "--cache-dir", str(tmp_path), *client],
                         capture_output=True, text=True, env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"})
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_syntax_is_that_of_python_3_9():
    for path in PACKAGE.glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        lazy = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
        for node in ast.walk(tree):
            assert not isinstance(node, getattr(ast, "Match", ())), f"{path}: match"
            if isinstance(node, (ast.arg, ast.AnnAssign)) and isinstance(node.annotation, ast.BinOp):
                assert lazy, f"{path}:{node.lineno}: X | Y at run time"


def test_both_faces_have_the_same_calls():
    def calls(face):
        return {name: [(p.name, p.kind, p.default) for p in inspect.signature(value).parameters.values()]
                for name, value in vars(face).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert calls(gpuq.Client) == calls(gpuq.AsyncClient)
    assert len(calls(gpuq.Client)) > 30


def test_the_version_is_that_of_the_project():
    assert f"project(gpuq VERSION {gpuq.__version__} " in (SOURCE / "CMakeLists.txt").read_text()


# ---- errors

def test_every_code_of_the_project_has_the_family_of_its_exit_code():
    table = re.findall(r'X\(\w+, "(\w+)", (\d)\)', (SOURCE / "common/vocabulary/errors.h").read_text())
    assert len(table) > 40
    for code, exit_code in table:
        if code in errors.FAMILY_OF:
            assert errors.error_of(code, "what").exit_code == int(exit_code), code
    assert set(errors.FAMILY_OF) <= {code for code, _ in table}, "a code that is none"


def test_an_error_keeps_a_code_it_does_not_know():
    error = errors.error_of("FROM_A_LATER_BROKER", "what", "next")
    assert (type(error), error.code, str(error)) == (gpuq.Error, "FROM_A_LATER_BROKER", "FROM_A_LATER_BROKER: what (next: next)")
    assert isinstance(errors.error_of("TIMED_OUT", ""), TimeoutError)


# ---- ids

def test_ids_are_ulids():
    raw = ids.new_id()
    text = ids.id_text(raw)
    assert len(text) == 26 and ids.id_bytes(text) == ids.id_bytes(text.lower()) == raw
    assert ids.id_text(bytes(range(16))) == "00041061050R3GG28A1C60T3GF"
    assert ids.id_text(b"\xff" * 16) == "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"
    assert len({ids.new_job_id() for _ in range(1000)}) == 1000
    for bad in ("", "x", "8" + "Z" * 25, "0" * 26, "U" * 26, "é" * 26, text + "0"):
        raises("USAGE", ids.id_bytes, bad)


# ---- parts

def test_values_become_parts_by_what_they_are(tmp_path):
    numpy = pytest.importorskip("numpy")
    file = tmp_path / "a.png"
    file.write_bytes(b"\x89PNG and more")
    cases = [
        (b"\xff\xd8x", "image/jpeg"), ("text", "text/plain"), (bytearray(b"b"), "application/octet-stream"), (file, "image/png"),
        (numpy.zeros(3), "application/x-gpuq-tensor"), ({"a": [1, None]}, "application/json"), (7, "application/json"), (None, "application/json")]
    for value, media in cases:
        assert part_of("p", value).media == media, value
    assert part_of("p", {"a": [1, None]}).json() == {"a": [1, None]}
    for bad in ({1, 2}, object(), float("nan")):
        raises("BAD_INPUT", part_of, "p", bad)
    raises("NOT_FOUND", part_of, "p", tmp_path / "nothing")


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "?", ">f4"])
def test_arrays_travel_as_tensors(dtype):
    numpy = pytest.importorskip("numpy")
    array = (numpy.arange(24).reshape(2, 3, 4) % 2).astype(dtype)
    for sent in (array, array.T, array[:, ::2], numpy.asfortranarray(array), numpy.zeros((0, 3), dtype), array[0, 0, 0]):
        back = Tensor.decode(part_of("t", sent).bytes()).array()
        assert back.shape == sent.shape and (back == sent).all() and back.dtype == numpy.dtype(dtype).newbyteorder("=") and back.flags.writeable


def test_broken_tensors_are_refused():
    good = Tensor("f4", (2,), bytes(8)).encode()
    assert good == b"GQT1\x07\x01\0\0" + (2).to_bytes(8, "little") + bytes(8)
    for bad in (b"", good[:7], b"XXXX" + good[4:], good[:-1], good + b"\0", good[:4] + b"\x0a" + good[5:], good[:5] + b"\x09" + good[6:]):
        raises("BAD_INPUT", Tensor.decode, bad)
    raises("BAD_INPUT", Tensor("f4", (3,), bytes(8)).encode)
    numpy = pytest.importorskip("numpy")
    raises("BAD_INPUT", part_of, "p", numpy.array(["text"]))
    assert Tensor("bf16", (2,), b"\x80\x3f\x00\xc0").array().tolist() == [1.0, -2.0]


# ---- specs

def test_a_spec_becomes_the_item_it_says():
    when = datetime.datetime(2030, 1, 2, tzinfo=datetime.timezone.utc)
    after = gpuq.new_job_id()
    prepared = spec.prepare(gpuq.JobSpec("command", argv=["a", "b"], env={"K": "V"}, priority=9, vram="2GiB..rest", devices=2, where=["b=2", "a=1"],
                                         after=[after], deadline=when, timeout=1.5, retries=3, on_preempt="never", unique="u", label="l", exclusive=True,
                                         params={"n": 1, "yes": True}))
    item = item_of(prepared)
    assert (item["job_class"], item["priority"], item["budget_min_mib"], item["budget_max_mib"], item["devices"]) == (1, 9, 2048, 1 << 40, 2)
    assert (item["where"], item["after"], item["deadline_ms"], item["timeout_us"]) == (["a=1", "b=2"], [ids.id_bytes(after)], 1893542400000, 1_500_000)
    assert (item["retries"], item["on_preempt"], item["unique"], item["label"], item["exclusive"], item["watch"]) == (3, 3, "u", "l", True, True)
    body = wire.decode_body("JobBody", prepared.payload)
    assert (body["argv"], body["env"], body["params"]) == (["a", "b"], {"K": "V"}, {"n": "1", "yes": "true"})
    assert item["payload_bytes"] == len(prepared.payload)


def test_equal_specs_have_equal_digests_and_others_have_not():
    def digest(**more):
        return item_of(spec.prepare(gpuq.JobSpec("echo", **{"params": {"a": 1, "b": 2}, **more})))["digest"]
    assert digest() == digest(params={"b": 2, "a": 1}) == digest(id=gpuq.new_job_id()) == digest(strict=True) == digest(watch=False)
    others = [digest(), digest(params={"a": 1}), digest(priority=6), digest(label="x"), digest(unique="x"), digest(where=["a=b"]), digest(retries=1),
              digest(parts={"p": b"1"}), digest(parts={"p": b"2"}), digest(parts={"q": b"1"}), digest(timeout=1), digest(vram=1)]
    assert len(set(others)) == len(others)


def test_kinds_and_their_defaults_are_those_of_the_project_and_of_the_page():
    classes, preempts = ["inference", "training", "synthesis"], ["checkpoint", "pause", "restart", "never"]
    table = re.findall(r'KindTraits{"([\w.]+)", JobClass::(\w+), .*OnPreempt::(\w+)(?:, true)?}', (SOURCE / "common/vocabulary/job.h").read_text())
    kinds = {name: (classes.index(job_class), preempts.index(preempt)) for name, job_class, preempt in table}
    assert len(kinds) >= 10 and spec.KINDS == kinds
    page = (SOURCE / "common/wire/PROTOCOL.md").read_text().partition("## 12. Kinds")[2]
    rows = re.findall(r"^\| ([a-z., ]+) \| (\d) \| (\d) \|", page, re.M)
    assert {name: (int(one), int(two)) for names, one, two in rows for name in names.split(", ")} == kinds


def test_large_parts_are_set_aside_until_the_rest_fits_inline(tmp_path):
    file = tmp_path / "large"
    file.write_bytes(os.urandom(3 << 20))
    prepared = spec.prepare(gpuq.JobSpec("echo", parts={"file": file, "middle": bytes(50_000), "small": bytes(20_000)}))
    assert [source.total for source in prepared.uploads] == [3 << 20, 50_000]
    assert prepared.uploads[0].read(1 << 20, 10) == file.read_bytes()[1 << 20:(1 << 20) + 10]
    parts = {part["name"]: part for part in wire.decode_body("JobBody", prepared.payload)["parts"]}
    assert parts["file"]["blob"] == prepared.uploads[0].digest and parts["file"]["blob_bytes"] == 3 << 20 and not parts["file"]["bytes"]
    assert len(parts["small"]["bytes"]) == 20_000 and len(prepared.payload) <= 64 << 10
    assert set(item_of(prepared)["blobs"]) == {source.digest for source in prepared.uploads}
    file.write_bytes(b"shorter")
    raises("BAD_INPUT", prepared.uploads[0].read, 1 << 20, 10)


def test_a_part_on_a_share_asks_for_a_worker_that_has_it():
    prepared = spec.prepare(gpuq.JobSpec("echo", parts=[Part("p", share="boards/a.png")], outputs="out/x"))
    assert item_of(prepared)["where"] == ["share=boards", "share=out"]
    for bad in ("boards", "/etc/passwd", "boards/../x"):
        raises("USAGE", spec.prepare, gpuq.JobSpec("echo", parts=[Part("p", share=bad)]))


@pytest.mark.parametrize("code, more", [
    ("USAGE", {"kind": ""}), ("USAGE", {"kind": "command"}), ("USAGE", {"kind": "command", "argv": "python train.py"}), ("OVER_LIMIT", {"priority": 10}),
    ("OVER_LIMIT", {"devices": 0}), ("OVER_LIMIT", {"retries": 101}), ("USAGE", {"vram": "8GiB..2GiB"}), ("USAGE", {"vram": "lots"}),
    ("USAGE", {"job_class": "urgent"}), ("USAGE", {"on_preempt": "cry"}), ("USAGE", {"after": ["x"]}), ("USAGE", {"deadline": 5}),
    ("USAGE", {"deadline": datetime.datetime(2030, 1, 1)}), ("OVER_LIMIT", {"where": ["a=b"] * 17}), ("OVER_LIMIT", {"label": "x" * 257}),
    ("TOO_LARGE", {"params": {"p": "x" * 70_000}}), ("USAGE", {"id": "x"}), ("USAGE", {"parts": [Part("p", blob="zz")]}), ("USAGE", {"timeout": -1})])
def test_what_cannot_be_is_said_before_it_travels(code, more):
    raises(code, spec.prepare, gpuq.JobSpec(**{"kind": "echo", **more}))


def test_a_field_that_a_job_does_not_have_is_named():
    assert "colour" in raises("USAGE", spec.spec_of, "echo", {"colour": "red"}).what


# ---- results

def test_detections_are_read_and_broken_ones_refused():
    def of(text):
        return Detections.read(JobResult("id", "succeeded", model_version="v1", parts=[Part("detections", text, "application/json")]))
    boxes = of(b'{"boxes": [{"x1": 1, "y1": 2, "x2": 3, "y2": 4, "score": 0.5, "label": 3, "name": "spur", "new": 1}], "width": 5}')
    assert (boxes[0], boxes.model_version) == (gpuq.Detection(1.0, 2.0, 3.0, 4.0, 0.5, 3, "spur"), "v1")
    assert of(b"[]") == []
    for bad in (b"{}", b'{"boxes": [{"x1": 1}]}', b'{"boxes": 7}', b"7", b'{"boxes": ["x"]}'):
        raises("BAD_MESSAGE", of, bad)


# ---- access

def access_file(path, **more):
    path.write_text(json.dumps({"broker": "tcp://host:7700", "server": "s" * 40, "name": "ada", "role": "client", "public": "p" * 40, "secret": "k" * 40, **more}))
    path.chmod(0o600)
    return str(path)


def test_an_access_file_is_read_and_its_faults_are_named(tmp_path):
    path = tmp_path / "client.json"
    access = read_access_file(access_file(path))
    assert access == Access("tcp://host:7700", "ada", "s" * 40, "p" * 40, "k" * 40) and "k" * 40 not in repr(access)
    path.chmod(0o640)
    assert "chmod 600" in raises("REFUSED", read_access_file, str(path)).next
    for wrong in ({"secret": ""}, {"secret": "short"}, {"role": "worker"}, {"broker": None}):
        raises("REFUSED", read_access_file, access_file(path, **wrong))
    path.write_text("no json")
    raises("REFUSED", read_access_file, str(path))
    assert "gpuq up" in raises("NOT_FOUND", read_access_file, str(tmp_path / "nothing")).next
    raises("REFUSED", read_access_file, str(tmp_path))


def test_it_is_searched_where_the_other_clients_search(tmp_path, monkeypatch):
    for name in ("GPUQ_ACCESS_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_path() in (str(tmp_path / ".config/gpuq/client.json"), "/etc/gpuq/client.json")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    (tmp_path / "xdg/gpuq").mkdir(parents=True)
    (tmp_path / "xdg/gpuq/client.json").touch()
    assert default_path() == str(tmp_path / "xdg/gpuq/client.json")
    monkeypatch.setenv("GPUQ_ACCESS_FILE", "/named")
    assert default_path() == "/named"


def test_endpoints_may_be_short_and_plain_text_stays_on_this_machine():
    for text in ("host", "host:7700", "tcp://host", "tcp://host:7700"):
        assert endpoint_of(text) == "tcp://host:7700"
    assert endpoint_of("tcp://[::1]") == "tcp://[::1]:7700" and endpoint_of("ipc:///run/gpuq") == "ipc:///run/gpuq"
    assert find_access("127.0.0.1:9", None, True, "me") == Access("tcp://127.0.0.1:9", "me")
    raises("REFUSED", find_access, "tcp://example.com", None, True, "")


# ---- the link

def kinds(actions):
    return [action.kind for action in actions]


def up(now=0.0):
    link = Link(random.Random(1))
    assert kinds(link.start(now)) == ["open"] and kinds(link.connected(now)) == ["hello"] and kinds(link.welcomed(now, 5, 1.0)) == ["resume"]
    return link


def test_a_link_beats_and_a_silent_one_is_given_up():
    link = up()
    assert link.tick(0.5) == [] and kinds(link.tick(1.0)) == ["beat"] and link.tick(1.5) == []
    link.heard = 1.0
    assert kinds(link.tick(5.9)) == ["beat"] and kinds(link.tick(6.0)) == ["close"] and not link.up
    assert kinds(link.tick(9.5)) == ["open"], "always a new socket"


def test_a_lost_link_is_dialled_again_with_growing_back_off():
    link = up()
    now, waits = 10.0, []
    for _ in range(8):
        link.disconnected(now) if link.up else link.refused(now, gpuq.Error("X", ""))
        began = now
        while not link.tick(now):
            now += 0.005
        waits.append(now - began)
        link.connected(now)
    assert waits[0] <= 0.056 and waits[-1] > 1 and max(waits) <= 3.01


def test_a_refusal_is_final_at_once_unless_the_broker_knew_us_before():
    error = gpuq.Error("KEY_REFUSED", "")
    stranger = Link(random.Random(1))
    stranger.start(0)
    assert kinds(stranger.refused(0, error)) == ["close", "fail_all"]
    known = up()
    assert kinds(known.refused(1, error)) == ["close"]
    known.tick(2)
    assert kinds(known.refused(2, error)) == ["close"]
    known.tick(9)
    assert kinds(known.refused(9, error)) == ["close", "fail_all"]


def test_a_higher_term_watches_again_and_a_lower_one_is_ignored():
    link = up()
    assert link.term_seen(5) == [] and link.term_seen(4) == [] and kinds(link.term_seen(6)) == ["rewatch"] and link.term == 6


# ---- arrays

def test_an_array_is_a_job_for_each_index():
    one = gpuq.JobSpec("command", argv=["python", "part.py"], env={"A": "1"}, unique="u", id="01M7Y6FQQVPBY8903R6KHSBSGZ", label="night")
    jobs = gpuq.array_of(one, "8-10,0-4:2")
    assert [job.env["GPUQ_ARRAY_INDEX"] for job in jobs] == ["8", "9", "10", "0", "2", "4"]
    assert {job.env["GPUQ_ARRAY_COUNT"] for job in jobs} == {"6"} and all(job.env["A"] == "1" for job in jobs)
    assert (jobs[1].unique, jobs[1].label, jobs[0].id, jobs[1].id) == ("u[9]", "night[9]", "01M7Y6FQQVPBY8903R6KHSBSGZ", "01M7Y6FQQVPBY8903R6KHSBSH0")
    assert "GPUQ_ARRAY_INDEX" not in one.env and gpuq.array_of(gpuq.JobSpec("command", argv=["x"]), "7")[0].id == ""


@pytest.mark.parametrize("text", ["a", "", "5-3", "1,,2", "1-", "1-3:0", "1-3:", "-1", "1,1", "0-3,2", "99999999999", "0-20000", "1 2", "1\n", "٣"])
def test_what_is_no_array_is_refused(text):
    raises("OVER_LIMIT" if text == "0-20000" else "USAGE", gpuq.array_of, gpuq.JobSpec("command", argv=["x"]), text)


def test_an_array_is_of_commands():
    raises("USAGE", gpuq.array_of, gpuq.JobSpec("detect", model="m"), "0-3")

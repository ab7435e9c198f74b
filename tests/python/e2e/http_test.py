"""Jobs by plain HTTP: gpuq-http in front of a real broker and worker, asked by curl, by httpx, and by bytes that are no HTTP."""
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading

import httpx
import pytest

import gpuq
from brokers import BIN, PATIENCE_S, Home, until

NOBODY = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def revoke(home, name):
    home.gpuq("keys", "--keys", home.root / "data/keys", "revoke", name)


@pytest.fixture(scope="module")
def home():
    with Home() as made:
        made.start_broker("--restart-grace", "2s")
        made.start_worker()
        yield made


@pytest.fixture(scope="module")
def door(home):
    with home.http_door("--body-max", "2") as url:
        yield url


@pytest.fixture(scope="module")
def token(home):
    return home.http_token("ada")


@pytest.fixture
def http(door, token):
    with httpx.Client(base_url=door, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
        yield client


def error(answer, status, code):
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert answer.json()["error"]["what"]
    return answer.json()["error"]


def test_a_job_is_submitted_waited_for_and_shows_its_result(http):
    answer = http.post("/api/v1/jobs", json={"kind": "echo", "params": {"a": 1}, "parts": [{"name": "in", "text": "hello"}], "label": "by http"})
    assert answer.status_code == 202 and not answer.json()["existing"]
    where = answer.headers["Location"]
    job = http.get(where, params={"wait": 30}).json()
    assert (job["state"], job["label"], job["owner"], job["result"]["state"]) == ("succeeded", "by http", "ada", "succeeded")
    assert any(part.get("text") == "hello" for part in job["result"]["parts"]), job
    part = job["result"]["parts"][0]
    assert http.get(part["href"]).content == b"hello"
    assert answer.json()["id"] in [one["id"] for one in http.get("/api/v1/jobs", params={"kind": "echo"}).json()["jobs"]]


def test_the_same_id_makes_one_job(http):
    job = {"kind": "echo", "parts": [{"name": "in", "text": "once"}]}
    name = gpuq.new_job_id()
    key = {"Idempotency-Key": str(name)}
    first, again = (http.post("/api/v1/jobs", json=job, headers=key) for _ in range(2))
    assert (first.status_code, again.status_code, first.json()["id"], again.json()) == (202, 200, str(name), {"id": str(name), "existing": True})
    error(http.post("/api/v1/jobs", json={**job, "label": "another"}, headers=key), 409, "ID_CONFLICT")
    error(http.post("/api/v1/jobs", json={**job, "id": str(gpuq.new_job_id())}, headers=key), 400, "BAD_MESSAGE")


def test_a_form_carries_files_as_parts(http):
    big = os.urandom(300_000)      # above what travels inline: by the blob store, unnoticed
    answer = http.post("/api/v1/jobs", files={"job": (None, json.dumps({"kind": "echo"})), "in": ("in.bin", big, "application/octet-stream")})
    assert answer.status_code == 202, answer.text
    job = http.get(answer.headers["Location"], params={"wait": 30}).json()
    assert job["state"] == "succeeded", job
    assert http.get(job["result"]["parts"][0]["href"]).content == big


def test_a_command_leaves_artefacts_and_a_log(http):
    argv = ["sh", "-c", "echo printed; mkdir -p \"$GPUQ_OUTPUT_DIR/a b\"; printf kept > \"$GPUQ_OUTPUT_DIR/a b/c.txt\""]
    answer = http.post("/api/v1/jobs", json={"kind": "command", "argv": argv, "env": {"PATH": os.environ["PATH"]}, "timeout_s": 30})
    job = http.get(answer.headers["Location"], params={"wait": 30}).json()
    assert job["state"] == "succeeded", job
    kept, = (part for part in job["result"]["parts"] if part["name"].endswith("a b/c.txt"))
    assert " " not in kept["href"] and http.get(kept["href"]).content == b"kept"
    log = http.get(answer.headers["Location"] + "/logs")
    assert (log.text, log.headers["Gpuq-Log-Next"], log.headers["Gpuq-Log-End"]) == ("printed\n", "8", "true")
    assert http.get(answer.headers["Location"] + "/logs", params={"offset": 4}).text == "ted\n"


def test_a_long_poll_is_answered_at_the_end_or_after_its_time(http):
    job = http.post("/api/v1/jobs", json={"kind": "sleep", "params": {"ms": 60_000}}).json()["id"]
    for _ in range(3):
        assert http.get(f"/api/v1/jobs/{job}", params={"wait": "0.2"}).json()["state"] in ("ready", "running")
    found = []
    waiting = threading.Thread(target=lambda: found.append(http.get(f"/api/v1/jobs/{job}", params={"wait": 50}).json()))
    waiting.start()
    assert http.delete(f"/api/v1/jobs/{job}").json()["outcome"] in ("asked", "cancelled")
    waiting.join(PATIENCE_S)
    assert found and found[0]["state"] == "cancelled" and found[0]["result"]["error"]["code"] == "CANCELLED", found
    assert http.delete(f"/api/v1/jobs/{job}").json()["outcome"] == "already_final"


def test_an_array_is_a_job_for_each_index(http, token, door):
    job = {"kind": "command", "argv": ["sh", "-c", "echo part $GPUQ_ARRAY_INDEX of $GPUQ_ARRAY_COUNT"], "array": "4-6:2,9", "id": gpuq.new_job_id()}
    answer = http.post("/api/v1/jobs", json=job)
    assert answer.status_code == 202 and [one["existing"] for one in answer.json()["jobs"]] == [False] * 3, answer.text
    for one, index in zip(answer.json()["jobs"], (4, 6, 9)):
        status = http.get(f"/api/v1/jobs/{one['id']}", params={"wait": 30}).json()
        assert (status["state"], status["label"]) == ("succeeded", f"array[{index}]"), status
        assert http.get(f"/api/v1/jobs/{one['id']}/logs").text == f"part {index} of 3\n"
    assert [one["existing"] for one in http.post("/api/v1/jobs", json=job).json()["jobs"]] == [True] * 3
    error(http.post("/api/v1/jobs", json={**job, "array": "3-1"}), 400, "USAGE")
    error(http.post("/api/v1/jobs", json={**job, "array": "0-10000"}), 400, "OVER_LIMIT")
    error(http.post("/api/v1/jobs", json={"kind": "echo", "array": "0-3"}), 400, "USAGE")
    error(http.post("/api/v1/jobs", json={**job, "array": "0-9999", "env": {"A": "x" * 30_000}}), 400, "OVER_LIMIT")


def test_a_token_cancels_its_own_jobs_and_an_admins_any(http, home, door):
    job = http.post("/api/v1/jobs", json={"kind": "sleep", "params": {"ms": 60_000}}).json()["id"]
    headers = {"Authorization": f"Bearer {home.http_token('stranger')}"}
    assert "another token" in error(httpx.delete(f"{door}/api/v1/jobs/{job}", headers=headers), 403, "REFUSED")["what"]
    assert http.get(f"/api/v1/jobs/{job}").json()["state"] in ("ready", "running")
    headers = {"Authorization": f"Bearer {home.http_token('chief', role='admin')}"}
    assert httpx.delete(f"{door}/api/v1/jobs/{job}", headers=headers).json()["outcome"] in ("asked", "cancelled")


def test_what_is_wrong_is_said_and_nothing_is_submitted(http, door):
    before = len(http.get("/api/v1/jobs", params={"limit": 500}).json()["jobs"])
    assert "did you mean \"priority\"" in error(http.post("/api/v1/jobs", json={"kind": "echo", "priorty": 3}), 400, "BAD_MESSAGE")["what"]
    error(http.post("/api/v1/jobs", json={"kind": "nonsense"}), 400, "UNKNOWN_KIND")
    error(http.post("/api/v1/jobs", json={"kind": "detect"}), 404, "UNKNOWN_MODEL")
    error(http.post("/api/v1/jobs", content=b"{", headers={"Content-Type": "application/json"}), 400, "BAD_MESSAGE")
    error(http.post("/api/v1/jobs", content=b"kind=echo", headers={"Content-Type": "application/x-www-form-urlencoded"}), 415, "BAD_MESSAGE")
    error(http.post("/api/v1/jobs", content=b"x" * (3 << 20), headers={"Content-Type": "application/json"}), 413, "TOO_LARGE")
    error(http.post("/api/v1/jobs", content=(b"x" * 65536 for _ in range(48)), headers={"Content-Type": "application/json"}), 413, "TOO_LARGE")    # chunked
    error(http.get(f"/api/v1/jobs/{NOBODY}"), 404, "NOT_FOUND")
    error(http.delete(f"/api/v1/jobs/{NOBODY}"), 404, "NOT_FOUND")
    assert http.get("/api/v1/jobs/..%2F..%2Fetc").status_code == 400 and http.get("/api/v1/jobs/no-id").status_code in (400, 404)
    error(http.get("/api/v1/jobs", params={"limit": "many"}), 400, "BAD_MESSAGE")
    assert "did you mean 'limit'" in error(http.get("/api/v1/jobs", params={"limt": 3}), 400, "BAD_MESSAGE")["what"]
    answer = http.put("/api/v1/jobs")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, POST")
    error(http.get("/api/v1/nothing"), 404, "NOT_FOUND")
    parts = {f"p{n}": (f"{n}", b"x") for n in range(70)}
    error(http.post("/api/v1/jobs", files={"job": (None, '{"kind":"echo"}'), **parts}), 400, "OVER_LIMIT")
    assert len(http.get("/api/v1/jobs", params={"limit": 500}).json()["jobs"]) == before


def test_who_brings_no_token_or_a_wrong_one_learns_nothing(http, door, home, token):
    for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer nobody.00"}, {"Authorization": f"Bearer {token[:-1]}{'0' if token[-1] != '0' else '1'}"},
                    {"Authorization": "Bearer ../../server.00"}):
        answer = httpx.get(door + "/api/v1/jobs", headers=headers)
        error(answer, 401, "KEY_REFUSED")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    # refused before its body was read
    answer = httpx.post(door + "/api/v1/jobs", content=b"x" * (1 << 20))
    error(answer, 401, "KEY_REFUSED")
    assert token.split(".")[1] not in (home.root / "data/keys/http/ada.json").read_text(), "only its digest is kept"
    assert (home.root / "data/keys/http/ada.json").stat().st_mode & 0o077 == 0


def test_a_job_is_its_tokens_and_a_revoked_token_ends(http, door, home):
    other = {"Authorization": f"Bearer {home.http_token('eve')}"}
    job = httpx.post(door + "/api/v1/jobs", json={"kind": "echo"}, headers=other)
    assert http.get(job.headers["Location"]).json()["owner"] == "eve"
    revoke(home, "eve")
    error(httpx.get(door + "/api/v1/jobs", headers=other), 401, "KEY_REFUSED")
    other = {"Authorization": f"Bearer {home.http_token('eve')}"}      # a new key under the old name
    assert httpx.get(door + "/api/v1/jobs", headers=other).status_code == 200


def test_a_model_answers_within_its_time_or_is_cancelled_and_who_hangs_up_cancels(http, door, home, token):
    error(http.post("/api/v1/models/none/detect", files={"file": ("a.png", b"\x89PNG")}), 404, "UNKNOWN_MODEL")
    error(http.post("/api/v1/models/none/detect"), 400, "BAD_MESSAGE")
    error(http.post("/api/v1/models/none/detect", files={"file": ("a.png", b"")}), 422, "BAD_INPUT")
    error(http.post("/api/v1/models/none/detect", params={"timeout": "long"}, files={"file": ("a.png", b"x")}), 400, "BAD_MESSAGE")
    with gpuq.Client(access_file=home.access("root", "admin")) as admin:
        admin.push_model("boards", b"no worker loads it")
        for worker in home.workers:
            os.kill(worker.pid, signal.SIGSTOP)    # who would fail it at once

        def is_cancelled(job):                     # where it runs, its worker was asked: it cannot answer
            now = admin.status(job)[0]
            return now.state == "cancelled" or now.cancel_asked
        try:
            answer = http.post("/api/v1/models/boards/detect", params={"timeout": "0.5"}, files={"file": ("a.png", b"\x89PNG")})
            job = error(answer, 504, "TIMED_OUT")["what"].split()[1]
            until(lambda: is_cancelled(job), "whose time passed is cancelled", 20)
            body = (b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\nContent-Type: image/png\r\n\r\n\x89PNG\r\n--b--\r\n')
            with socket.create_connection(("127.0.0.1", httpx.URL(door).port)) as plain:
                plain.sendall(f"POST /api/v1/models/boards/detect?timeout=60 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                              f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
                waiting = until(lambda: [one.id for one in admin.list(kind="detect", active_only=True) if one.id != job], "its job waits")[0]
                assert not is_cancelled(waiting), "while its asker is there"
            until(lambda: is_cancelled(waiting), "who hung up is cancelled", 20)
        finally:
            for worker in home.workers:
                os.kill(worker.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def eyes(home):
    """A Python model that sees one box in every picture, and says back what it is given."""
    home.push_python_model("eyes", """class Model:
    def predict(self, requests):
        out = []
        for r in requests:
            if r.kind == "detect" and r.params.get("conf") == "0.99": raise RuntimeError("too sure")
            out.append([(1, 2, 3, 4, 0.5, 7, "short")] if r.kind == "detect" else {"back": r.value, "said": b"yes"})
        return out
""", kinds=("infer", "detect"))
    return "eyes"


def test_detect_answers_boxes_by_form_or_plain_body(http, eyes):
    boxes = [{"box_px": [1.0, 2.0, 3.0, 4.0], "score": 0.5, "label": 7, "name": "short"}]
    for sent in ({"files": {"file": ("a.png", b"\x89PNG", "image/png")}}, {"content": b"\x89PNG", "headers": {"Content-Type": "image/png"}},
                 {"files": {"file": ("big.png", os.urandom(1_500_000), "image/png"), "iou": (None, "0.4")}}):
        answer = http.post(f"/api/v1/models/{eyes}/detect", **sent)
        assert answer.status_code == 200, answer.text
        assert answer.json()["detections"] == boxes and len(answer.json()["model_version"]) == 12, answer.text
    failed = error(http.post(f"/api/v1/models/{eyes}/detect", params={"conf": "0.99"}, files={"file": ("a.png", b"x")}), 502, "JOB_FAILED")
    assert "too sure" in failed["what"] and "/logs" in failed["next"]
    error(http.post(f"/api/v1/models/{eyes}/detect", files={"a": ("a.png", b"x"), "b": ("b.png", b"x")}), 400, "BAD_MESSAGE")


def test_infer_takes_parts_and_gives_parts(http, eyes):
    for sent in ({"files": {"in": ("x", b"hello")}}, {"json": {"parts": [{"name": "in", "base64": "aGVsbG8="}]}}, {"content": b"hello", "headers": {"Content-Type": "application/octet-stream"}}):
        answer = http.post(f"/api/v1/models/{eyes}/infer", params={"timeout": 30}, **sent)
        assert answer.status_code == 200, answer.text
        parts = {part["name"]: part for part in answer.json()["parts"]}
        assert set(parts) == {"back", "said"} and http.get(parts["back"]["href"]).content == b"hello", answer.text
    error(http.post(f"/api/v1/models/{eyes}/infer", json={"kind": "echo", "parts": []}), 400, "BAD_MESSAGE")
    assert eyes in [model["name"] for model in http.get("/api/v1/models").json()["models"]]


def test_curl_alone_is_enough(http, door, token, home):
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    said = subprocess.run(["curl", "-sS", "-H", f"Authorization: Bearer {token}", "-F", 'job={"kind":"echo"}', "-F", "in=@-;filename=x", f"{door}/api/v1/jobs"],
                          input=b"by curl", capture_output=True)
    assert said.returncode == 0, said.stderr
    job = http.get(f"/api/v1/jobs/{json.loads(said.stdout)['id']}", params={"wait": 30}).json()
    assert job["result"]["parts"][0]["text"] == "by curl"


def test_bytes_that_are_no_http_end_and_an_upload_that_is_cut_submits_nothing(http, door, token):
    before = len(http.get("/api/v1/jobs", params={"limit": 500}).json()["jobs"])
    port = httpx.URL(door).port
    for bytes_sent in (b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 40_000, b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain:
            plain.sendall(bytes_sent)
            plain.shutdown(socket.SHUT_WR)
            said = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := plain.recv(65536):
                    said += piece
            assert said.startswith(b"HTTP/1.1 400 ") and b"BAD_MESSAGE" in said, (bytes_sent[:20], said)
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain:
        plain.sendall(f"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n".encode() + b'{"kind":"echo"')
    assert http.get("/healthz").json() == {"ok": True}
    assert len(http.get("/api/v1/jobs", params={"limit": 500}).json()["jobs"]) == before


def test_the_description_names_every_address_and_every_answer_given(http, door):
    about = httpx.get(door + "/api/v1/openapi.json").json()
    fields = about["components"]["schemas"]["Job"]["properties"]
    said = error(http.post("/api/v1/jobs", json={"zzzzzzzz": 1}), 400, "BAD_MESSAGE")
    assert said["next"]
    for name, shape in fields.items():     # each one is taken: a wrong type is refused as that, not as unknown
        what = error(http.post("/api/v1/jobs", json={"kind": "echo", name: None}), 400, "BAD_MESSAGE")["what"]
        assert "has no field" not in what and name in what, (name, what)
    for path, verbs in about["paths"].items():
        concrete = path.replace("{id}", NOBODY).replace("{name}", "none").replace("{part}", "x")
        for verb in ("get", "post", "put", "delete", "patch"):
            answer = http.request(verb.upper(), concrete)
            if verb in verbs:
                assert str(answer.status_code) in verbs[verb]["responses"], (verb, path, answer.status_code, answer.text)
            else:
                assert answer.status_code == 405 and verb.upper() not in answer.headers["Allow"], (verb, path, answer.status_code)


def test_the_door_outlives_the_broker():
    with Home() as own:
        own.start_broker("--restart-grace", "2s")
        own.start_worker()
        token = own.http_token("bob")
        with own.http_door() as url, httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
            job = http.post("/api/v1/jobs", json={"kind": "sleep", "params": {"ms": 1500}}).json()["id"]
            own.kill_broker()
            own.start_broker("--restart-grace", "2s")
            assert http.get(f"/api/v1/jobs/{job}", params={"wait": 60}).json()["state"] == "succeeded"


SLOW = """import time
class Model:
    def predict(self, requests):
        open(r'%s', 'a').write('asked\\n')
        time.sleep(1)
        return [[] for request in requests]
"""


def test_a_call_outlives_the_broker_though_nothing_of_it_is_on_disk():
    with Home() as own:
        own.start_broker("--restart-grace", "2s")
        own.start_worker()
        marks = own.root / "asked"
        own.push_python_model("slow", SLOW % marks, kinds=("detect",))
        with own.http_door() as url, httpx.Client(base_url=url, headers={"Authorization": f"Bearer {own.http_token('bob')}"}, timeout=60) as http:
            found = []
            picture = os.urandom(300_000)
            call = threading.Thread(target=lambda: found.append(http.post("/api/v1/models/slow/detect", params={"timeout": 50}, content=picture, headers={"Content-Type": "image/png"})))
            call.start()
            until(lambda: marks.exists(), "the model to be asked", PATIENCE_S)
            briefly = list((own.root / "data/blobs/brief").iterdir())
            assert len(briefly) == 1 and briefly[0].read_bytes() == picture
            own.kill_broker()
            own.start_broker("--restart-grace", "2s")
            call.join(60)
            assert found and found[0].status_code == 200, found and found[0].text
            assert found[0].json()["detections"] == []
            until(lambda: http.get(f"/api/v1/jobs/{found[0].json()['id']}").status_code == 404, "the answered job to be forgotten, long before its time", 30)
            assert http.post("/api/v1/models/slow/detect", params={"durability": "maybe"}, content=b"x", headers={"Content-Type": "image/png"}).status_code == 400
            kept = http.post("/api/v1/models/slow/detect", params={"durability": "always"}, content=b"x", headers={"Content-Type": "image/png"}).json()
            assert http.get(f"/api/v1/jobs/{kept['id']}").json()["state"] == "succeeded"


def test_more_connections_or_bodies_than_there_is_room_for_are_told_to_come_again(home, token):
    bearer = f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    with home.http_door("--connections-max", 2, "--body-max", 1, "--bodies-max", 1) as url:
        port = httpx.URL(url).port

        def kept_open():
            plain = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            if plain.recv(1000).startswith(b"HTTP/1.1 200"):
                return plain
            plain.close()
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as first:
            first.sendall(f"POST /api/v1/jobs HTTP/1.1\r\nHost: x\r\n{bearer}Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n".encode())
            assert first.recv(100).startswith(b"HTTP/1.1 100"), "it may send its body, and keeps the room for it"
            full = httpx.post(url + "/api/v1/jobs", content=b"x" * 500_000, headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
            assert error(full, 503, "UNAVAILABLE")["next"] and full.headers["Retry-After"] == "1"
            with until(kept_open, "the refused one has gone"):
                assert httpx.get(url + "/healthz").status_code == 503, "a third connection"
        until(lambda: httpx.get(url + "/healthz").status_code == 200, "room again")


def test_without_tokens_only_on_loopback_and_to_an_insecure_broker():
    refused = subprocess.run([BIN / "gpuq-http", "--insecure", "--listen", "0.0.0.0:0"], capture_output=True, text=True, timeout=PATIENCE_S)
    assert refused.returncode == 2 and "error[USAGE]" in refused.stderr and "loopback" in refused.stderr
    with Home() as own:
        own.start_broker("--insecure")
        with own.http_door("--insecure", "--broker", own.ready["clients"]) as url:
            assert httpx.post(url + "/api/v1/jobs", json={"kind": "echo"}).status_code == 202


def test_gpuq_up_opens_a_door_and_shows_how_to_use_it():
    with Home() as own:
        with open(own.root / "up.out", "w") as out:
            up = subprocess.Popen([BIN / "gpuq", "up", "--http", "--port", "0", "--no-worker", "--data-dir", own.root / "data"], env=own.env, stdout=out, stderr=out)
        try:
            shown = until(lambda: re.search(r"http\.token.*(http://\S+)", (own.root / "up.out").read_text()), "the curl line")
            headers = {"Authorization": "Bearer " + (own.root / "data/http.token").read_text().strip()}
            assert httpx.post(shown[1], json={"kind": "echo"}, headers=headers).status_code == 202
        finally:
            up.send_signal(signal.SIGINT)
            assert up.wait(PATIENCE_S) == 0, (own.root / "up.out").read_text()

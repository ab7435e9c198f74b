"""The FastAPI example as a service of its own, over real HTTP, in front of a real broker."""
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys

import httpx
import pytest

import gpuq
from brokers import BIN, SOURCE, Home, until

sys.path.insert(0, str(SOURCE / "tests/e2e"))


@contextlib.contextmanager
def service(home):
    """uvicorn on a socket that is open before it starts, so that its port is known."""
    env = {**home.env, "GPUQ_ACCESS_FILE": home.access(), "PYTHONPATH": f"{SOURCE / 'client/python'}:{SOURCE / 'client/python/examples'}"}
    with socket.socket() as listening, open(home.root / "uvicorn.log", "w") as log:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        os.set_inheritable(listening.fileno(), True)
        process = subprocess.Popen([sys.executable, "-m", "uvicorn", "--fd", str(listening.fileno()), "fastapi_app:app"], env=env, stdout=log,
                                   stderr=log, pass_fds=[listening.fileno()])
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=60) as http:
            def healthy():
                assert process.poll() is None, home.log("uvicorn")
                try:
                    return http.get("/healthz").status_code == 200
                except httpx.TransportError:
                    return False
            until(healthy, "the service is healthy")
            yield http
    finally:
        process.terminate()
        assert process.wait(30) in (0, -15), home.log("uvicorn")


@pytest.fixture
def home():
    with Home() as made:
        made.start_broker("--restart-grace", "2s")
        yield made


def detect(http, image=b"\x89PNG no worker looks at it", **query):
    return http.post("/detect", params=query, files={"file": ("board.png", image, "image/png")})


def test_what_goes_wrong_is_an_answer_and_who_hangs_up_cancels(home):
    with gpuq.Client(access_file=home.access("root", "admin")) as admin, service(home) as http:
        answer = detect(http, model="nothing")
        assert (answer.status_code, answer.json()["code"]) == (404, "UNKNOWN_MODEL") and answer.json()["next"]
        assert http.post("/detect").status_code == 422 and detect(http, conf=7).status_code == 422

        admin.push_model("boards", b"no worker loads it")      # and none is there: its jobs wait
        answer = detect(http, timeout=0.5)
        assert (answer.status_code, answer.json()["code"]) == (504, "TIMED_OUT")
        until(lambda: [job.state for job in admin.list(kind="detect")] == ["cancelled"], "whose deadline passed is cancelled")

        body = (b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\nContent-Type: image/png\r\n\r\n\x89PNG\r\n--b--\r\n')
        with socket.create_connection(("127.0.0.1", http.base_url.port)) as plain:
            plain.sendall(b"POST /detect?timeout=60 HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                          + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            waiting, = until(lambda: admin.list(kind="detect", active_only=True), "its job waits")
        until(lambda: admin.status(waiting)[0].state == "cancelled", "who hung up is cancelled", 20)

        home.kill_broker()
        until(lambda: http.get("/healthz").status_code == 503, "not healthy without a broker")
        home.start_broker("--restart-grace", "2s")
        until(lambda: http.get("/healthz").status_code == 200, "healthy again")
        assert detect(http, model="nothing").status_code == 404


@pytest.mark.skipif(not (BIN / "gpuq-modelhost").exists(), reason="built without LibTorch")
def test_an_uploaded_image_comes_back_as_boxes(home):
    sys.argv[1:] = []
    from training_yields import draw_boards
    draw_boards(home.root / "boards", 12)
    home.start_worker("anna", "--cpu-memory", "6GiB")
    access = {**home.env, "GPUQ_ACCESS_FILE": home.access("root", "admin")}

    def cli(*words):
        ran = subprocess.run([BIN / "gpuq", *map(str, words)], env=access, capture_output=True, text=True, cwd=home.root)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout
    settings = [f"--set={key}={value}" for key, value in {"steps": 60, "batch": 2, "imgsz": 64, "amp": "off", "seed": 3, "val_fraction": 0}.items()]
    job = cli("submit", "train.detector", *settings, home.root / "boards").split()[0]
    with gpuq.Client(access_file=home.access("root", "admin"), timeout=180) as admin:
        model = admin.wait(job).check().part("model")
        cli("model", "push", "boards", "--from", job)
        version = admin.models()[0].version
        assert model is not None and version

        image = (home.root / "boards/board00_test.png").read_bytes()
        direct = admin.detect("boards", image, params={"conf": 0.01})
        with service(home) as http:
            answer = detect(http, image, conf=0.01, timeout=60)
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert told["model_version"].endswith(version) and admin.status(told["job"])[0].state == "succeeded"
            assert [box["box_px"] for box in told["boxes"]] == [[box.x1, box.y1, box.x2, box.y2] for box in direct]
            assert told["boxes"] and all(0 <= box["score"] <= 1 for box in told["boxes"])
            answer = detect(http, b"not an image", timeout=60)
            assert (answer.status_code, answer.json()["code"]) == (422, "BAD_IMAGE")
            curl = shutil.which("curl")
            if curl:
                said = subprocess.run([curl, "-s", "-F", f"file=@{home.root}/boards/board00_test.png", f"{http.base_url}/detect?conf=0.01"],
                                      capture_output=True, text=True)
                assert json.loads(said.stdout)["boxes"] == told["boxes"]

#!/usr/bin/env python3
"""python_bench.py - rows of `./dev bench python`: what the Python client and Python models cost. Printed as JSON, one a line.

Broker (managed Redis, fsync always), worker and this client are separate processes with CURVE on. A phase is a function that takes a Bed
and yields rows; PHASES lists them, and a new one only has to be added there.
"""
import argparse
import json
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/python"), str(ROOT / "client/python")]


class Bed:
    """What one phase runs on: a fresh broker, a worker when asked for, and a client."""

    def __init__(self, seconds):
        import gpuq
        from brokers import Home
        self.seconds = seconds
        self.home = Home()
        self.home.start_broker()
        self.client = gpuq.Client(access_file=self.home.access("bench", "admin"), timeout=60)
        self.worker = None

    def with_worker(self):
        if self.worker is None:
            self.worker = self.home.start_worker()
            self.client.run("echo", timeout=60)

    def close(self):
        self.client.close()
        self.home.remove()


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def submit(bed):
    """Jobs with 200 B in calls of 10,000, no worker connected; counted when answered, on disk."""
    import gpuq
    count, began = 0, time.monotonic()
    while time.monotonic() - began < bed.seconds:
        answers = bed.client.submit_many([gpuq.JobSpec("echo", parts={"p": b"x" * 170}, watch=False) for _ in range(10_000)])
        assert all(answer.ok for answer in answers)
        count += len(answers)
    yield "pyclient.submit_per_s", count / (time.monotonic() - began), "/s"


def round_trips(bed, **spec):
    took = []
    began = time.monotonic()
    while time.monotonic() - began < bed.seconds / 2:
        start = time.perf_counter()
        bed.client.run("echo", parts={"p": b"x" * 170}, **spec)
        took.append((time.perf_counter() - start) * 1000)
    return took


def round_trip(bed):
    """One echo job at a time on an idle system: from the call until its result is an object here."""
    bed.with_worker()
    took = round_trips(bed)
    yield "pyclient.rtt_p50_ms", percentile(took, 0.5), "ms"
    yield "pyclient.rtt_p99_ms", percentile(took, 0.99), "ms"
    took = round_trips(bed, durability="none")
    yield "pyclient.rtt_none_p50_ms", percentile(took, 0.5), "ms"
    yield "pyclient.rtt_none_p99_ms", percentile(took, 0.99), "ms"


def blobs(bed):
    """128 MiB of random bytes from memory up (hashed here, verified and fsynced there, answered) and down to memory (verified here), five
    times; medians. blob.mb_per_s is the slower direction."""
    size = 128 << 20
    rates = {"put": [], "get": []}
    bed.client.top()
    for _ in range(5):
        data = os.urandom(size)
        start = time.perf_counter()
        part = bed.client.upload(data)
        rates["put"].append(size / 1e6 / (time.perf_counter() - start))
        start = time.perf_counter()
        back = bed.client.fetch(part)
        rates["get"].append(size / 1e6 / (time.perf_counter() - start))
        assert back == data
    put, get = percentile(rates["put"], 0.5), percentile(rates["get"], 0.5)
    yield "blob.put_mb_per_s", put, "MB/s"
    yield "blob.get_mb_per_s", get, "MB/s"
    yield "blob.mb_per_s", min(put, get), "MB/s"


def python_model(bed):
    """A warm model that gives its input back, and echo, one job at a time and in turn: what worker -> child -> worker adds to a round trip."""
    bed.with_worker()
    bed.home.push_python_model("identity", "class Model:\n    def predict(self, requests): return [r.value for r in requests]\n")
    took = {"echo": [], "infer": []}
    began = time.monotonic()
    while time.monotonic() - began < bed.seconds:
        for kind in took:
            start = time.perf_counter()
            bed.client.run(kind, parts={"p": b"x" * 170}, **({"model": "identity"} if kind == "infer" else {}))
            took[kind].append((time.perf_counter() - start) * 1e6)
    for kind in took:
        del took[kind][:20]          # the first ones load and warm
    yield "pymodel.added_p50_us", percentile(took["infer"], 0.5) - percentile(took["echo"], 0.5), "us"
    yield "pymodel.rtt_p50_ms", percentile(took["infer"], 0.5) / 1000, "ms"


def http_detect(bed):
    """A 2 MB picture by POST /detect to a warm model that answers at once: all of the round trip is what HTTP, blob store and queue add."""
    import http.client
    import urllib.parse
    bed.with_worker()
    bed.home.push_python_model("blind", "class Model:\n    def predict(self, requests): return [[] for r in requests]\n", kinds=("detect",))
    headers = {"Authorization": f"Bearer {bed.home.http_token('bench-http')}", "Content-Type": "image/png"}
    took = {"": [], "?durability=always": []}
    with bed.home.http_door() as url:
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)
        began = time.monotonic()
        while time.monotonic() - began < bed.seconds:
            for query, times in took.items():
                picture = os.urandom(2_000_000)      # new each time
                start = time.perf_counter()
                connection.request("POST", "/api/v1/models/blind/detect" + query, picture, headers)
                answer = connection.getresponse()
                body = answer.read()
                times.append((time.perf_counter() - start) * 1000)
                assert answer.status == 200, body
    for times in took.values():
        del times[:20]
    yield "http.detect_added_p50_ms", percentile(took[""], 0.5), "ms"
    yield "http.detect_added_p99_ms", percentile(took[""], 0.99), "ms"
    yield "http.detect_durable_p50_ms", percentile(took["?durability=always"], 0.5), "ms"


PHASES = [submit, round_trip, python_model, http_detect, blobs]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True, help="build folder")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--only", default="", help="names of phases, separated by commas")
    args = parser.parse_args()
    os.environ.update(GPUQ_BIN_DIR=str(pathlib.Path(args.bin).resolve() / "bin"), GPUQ_SOURCE_DIR=str(ROOT))
    for phase in PHASES:
        if args.only and phase.__name__ not in args.only.split(","):
            continue
        bed = Bed(args.seconds)
        try:
            for name, value, unit in phase(bed):
                print(json.dumps({"name": name, "value": value, "unit": unit}), flush=True)
        finally:
            bed.close()


if __name__ == "__main__":
    main()

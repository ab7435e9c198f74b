#!/usr/bin/env python3
"""RQ on Redis: enqueue_many of no-op jobs, two SimpleWorkers (no fork per job: RQ's fastest), wait until every result is there."""
import argparse, os, sys, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import others

try:
    import redis
    import rq
except ImportError:
    others.missing("rq", "pip install rq redis")


def echo(text):
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8)
    args = parser.parse_args()
    port = others.redis()
    here = os.path.dirname(os.path.abspath(__file__))
    for _ in range(2):
        others.start([sys.executable, "-m", "rq.cli", "worker", "-q", "-w", "rq.SimpleWorker", "-u", f"redis://127.0.0.1:{port}/0", "bench"], cwd=here)
    queue = rq.Queue("bench", connection=redis.Redis(port=port))
    job = __import__("rq_bench").echo

    def wave(n):
        jobs = queue.enqueue_many([rq.Queue.prepare_data(job, (others.PAYLOAD,), result_ttl=60) for _ in range(n)])
        end = time.monotonic() + 120
        for j in jobs:
            while j.return_value(refresh=True) is None:
                if time.monotonic() > end:
                    sys.exit("rq: a job has no result")
                time.sleep(0.002)
        return n

    wave(2)
    done, begin = 0, time.monotonic()
    while time.monotonic() - begin < args.seconds:
        done += wave(500)
    others.row("queue.rq_lives_per_s", done / (time.monotonic() - begin))

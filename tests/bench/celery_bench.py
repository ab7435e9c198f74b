#!/usr/bin/env python3
"""Celery 5 on Redis: waves of 500 no-op tasks, each result read by the client. One worker, prefork with 2 processes, acks_late (a
task is not lost with its worker), results kept in the same Redis."""
import argparse, os, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import others

try:
    import celery, kombu.transport.redis
except ImportError:
    others.missing("celery", "pip install celery redis packaging")

parser = argparse.ArgumentParser()
parser.add_argument("--seconds", type=float, default=8)
args = parser.parse_args()
os.environ["BENCH_REDIS_PORT"] = str(others.redis())
others.start([sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-c", "2", "-l", "ERROR", "--without-gossip", "--without-mingle"], cwd=HERE)
import celery_app

celery_app.echo.delay("warm").get(timeout=60)
done, begin = 0, time.monotonic()
while time.monotonic() - begin < args.seconds:
    for result in [celery_app.echo.delay(others.PAYLOAD) for _ in range(500)]:
        result.get(timeout=60)
        done += 1
others.row("queue.celery_lives_per_s", done / (time.monotonic() - begin))

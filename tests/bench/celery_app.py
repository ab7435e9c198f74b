"""celery_app.py - the application both sides of celery_bench.py load. BENCH_REDIS_PORT says where its Redis is."""
import os

import celery

url = f"redis://127.0.0.1:{os.environ['BENCH_REDIS_PORT']}/0"
app = celery.Celery("bench", broker=url, backend=url)
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=64, worker_hijack_root_logger=False)


@app.task(name="echo")
def echo(text):
    return text

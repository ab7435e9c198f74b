#!/usr/bin/env python3
"""run.py - ./dev bench NAME [--json FILE]: one table from one run.

Rows of gpuq and of a bare pipelined Redis client come from gpuq-bench; the other queues are driven by the scripts beside this
file, on the same machine, one after the other, on the same payload, with the same durability (fsync before the answer).
README.md in this folder says how each number is made.
"""
import argparse, json, os, platform, subprocess, sys

HERE = os.path.dirname(os.path.abspath(__file__))
OTHERS = {"queue": ["celery_bench.py", "rq_bench.py", "beanstalkd_bench.py"], "scheduler": [], "python": []}


def machine():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = int(next(line.split()[1] for line in open("/proc/meminfo") if line.startswith("MemTotal"))) // (1 << 20)
    return f"{os.cpu_count()} cores, {memory} GiB, {model}, {platform.system()} {platform.release()}"


def commit():
    got = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return got.stdout.strip() or "unknown"


def rows_of(command):
    """Each line that is a JSON row {"name", "value", "unit"} is taken; the rest is shown as it comes."""
    rows = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        try:
            row = json.loads(line)
            rows.append({"name": row["name"], "value": row["value"], "unit": row["unit"]})
        except (ValueError, KeyError, TypeError):
            print(line, end="", file=sys.stderr)
    return rows, process.wait()


def main():
    parser = argparse.ArgumentParser(prog="./dev bench")
    parser.add_argument("name", choices=sorted(OTHERS))
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--bin", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--only-gpuq", action="store_true", help="leave the other queues out")
    parser.add_argument("--seconds", type=float, default=8, help="of each measured phase")
    args = parser.parse_args()

    if args.name == "scheduler":
        command = [os.path.join(args.bin, "bin", "gpuq-scheduler-bench")]
    elif args.name == "python":
        python = subprocess.run([os.path.join(HERE, "..", "python", "python.sh")], capture_output=True, text=True).stdout.strip()
        command = [python, os.path.join(HERE, "python_bench.py"), "--bin", args.bin, "--seconds", str(args.seconds)]
    else:
        command = [os.path.join(args.bin, "bin", "gpuq-bench"), args.name, "--seconds", str(args.seconds)]
    rows, rc = rows_of(command)
    if rc != 0:
        sys.exit(f"{os.path.basename(command[0])} ended with {rc}")
    for script in [] if args.only_gpuq else OTHERS[args.name]:
        more, rc = rows_of([sys.executable, os.path.join(HERE, script), "--seconds", str(args.seconds)])
        rows += more
        if rc != 0:
            print(f"{script}: ended with {rc}, its row is left out", file=sys.stderr)

    value = {row["name"]: row["value"] for row in rows}
    lives = value.get("queue.lives_per_s")
    raw = value.get("queue.raw_redis_lives_per_s")
    if lives and raw:
        rows.append({"name": "queue.lives_vs_raw_redis_pct", "value": round(100 * lives / raw, 1), "unit": "%"})
    for other in ("celery", "rq", "beanstalkd"):
        if lives and value.get(f"queue.{other}_lives_per_s"):
            rows.append({"name": f"queue.lives_vs_{other}", "value": round(lives / value[f"queue.{other}_lives_per_s"], 1), "unit": "x"})

    print(f"./dev bench {args.name}   commit {commit()}   {machine()}")
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        print(f"  {row['name']:<{width}}  {row['value']:>14,.3f}  {row['unit']}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"commit": commit(), "machine": machine(), "rows": rows}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()

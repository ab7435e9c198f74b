"""others.py - what the comparison scripts share: a private server in a temporary folder, and the row they print."""
import atexit, json, os, shutil, signal, socket, subprocess, sys, tempfile, time

PAYLOAD = "x" * 200


def row(name, value, unit="1/s"):
    print(json.dumps({"name": name, "value": value, "unit": unit}), flush=True)


def missing(what, how):
    print(f"{what} is not installed, its row is left out ({how})", file=sys.stderr)
    sys.exit(0)


def folder():
    path = tempfile.mkdtemp(prefix="gpuq-bench-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(argv, **options):
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **options)

    def stop():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    atexit.register(stop)
    return process


def wait_port(port, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nothing listens on port {port}")


def redis():
    """A redis-server as durable as gpuq's own: AOF, fsync before every answer, no eviction. Returns its port."""
    if not shutil.which("redis-server"):
        missing("redis-server", "apt-get install redis-server")
    port = free_port()
    start(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder(), "--appendonly", "yes", "--appendfsync", "always",
           "--save", "", "--maxmemory-policy", "noeviction"])
    wait_port(port)
    return port

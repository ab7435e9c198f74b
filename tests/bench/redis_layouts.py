#!/usr/bin/env python3
"""Bytes of Redis memory per queued job (200 B body) for every record layout that was considered.

    tests/bench/redis_layouts.py [jobs]

Starts a private redis-server with the default configuration (plus, where a row says so, hash-max-listpack-value 1024), writes
`jobs` jobs (100,000) in one layout, and prints the growth of used_memory per job. The table lives in broker/store/layout.h.
"""
import os, random, shutil, socket, subprocess, sys, tempfile, time

N = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
B32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
P = b"gpuq:{default}:"
random.seed(1)


def text_id(n):
    return "".join(B32[(n >> (5 * i)) & 31] for i in range(25, -1, -1)).encode()


def cmd(*args):
    out = [b"*%d\r\n" % len(args)]
    for a in args:
        out.append(b"$%d\r\n%s\r\n" % (len(a), a))
    return b"".join(out)


BODY = os.urandom(200)
FIXED = os.urandom(88)      # packed JobFixed of an ordinary job
DYNAMIC = os.urandom(92)    # packed JobDynamic of a running job
SMALL = [(f"f{i}".encode(), os.urandom(8)) for i in range(10)]


def chunks(data, n=64):
    return [data[i:i + n] for i in range(0, len(data), n)]


def strings(kind, running=False, body=True):
    def make(i, n):
        ident = text_id(n) if kind == "text" else n.to_bytes(16, "big")
        out = cmd(b"MSET", P + b"j:" + ident, FIXED, *([P + b"b:" + ident, BODY] if body else []))
        if running:
            out += cmd(b"SET", P + b"d:" + ident, DYNAMIC)
        return out + cmd(b"ZADD", P + (b"running" if running else b"ready:inference"), str(i).encode(), ident)
    return make


def combined(i, n):
    ident = text_id(n)
    return cmd(b"SET", P + b"j:" + ident, FIXED + BODY) + cmd(b"ZADD", P + b"ready:inference", str(i).encode(), ident)


def hash_chunks(body_key, values, kind="text"):
    def make(i, n):
        ident = text_id(n) if kind == "text" else n.to_bytes(16, "big")
        fields = [x for k, c in enumerate(values) for x in (str(k).encode(), c)]
        out = cmd(b"HSET", P + b"j:" + ident, *fields, *([] if body_key else [b"b", BODY]))
        if body_key:
            out += cmd(b"SET", P + b"b:" + ident, BODY)
        return out + cmd(b"ZADD", P + b"ready:inference", str(i).encode(), ident)
    return make


LAYOUTS = [
    ("HASH of 10 small fields + body as a field", [], hash_chunks(False, [v for _, v in SMALL])),
    ("the same, hash-max-listpack-value 1024", ["--hash-max-listpack-value", "1024"], hash_chunks(False, [v for _, v in SMALL])),
    ("HASH of packed chunks <= 64 B, body in its own STRING", [], hash_chunks(True, chunks(FIXED))),
    ("the same, 16 raw bytes as id", [], hash_chunks(True, chunks(FIXED), "raw")),
    ("HASH of one packed field + body, hash-max-listpack-value 1024", ["--hash-max-listpack-value", "1024"], hash_chunks(False, [FIXED])),
    ("STRING packed record, STRING body, 26 characters as id", [], strings("text")),
    ("the same, 16 raw bytes as id", [], strings("raw")),
    ("the same, 26 characters, running (STRING dynamic part besides)", [], strings("text", running=True)),
    ("one STRING of record and body together", [], combined),
]


def measure(extra, make):
    folder = tempfile.mkdtemp(prefix="gpuq-layout-")
    path = os.path.join(folder, "s")
    server = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder, *extra],
                              stdout=subprocess.DEVNULL)
    try:
        deadline = time.time() + 10
        while True:
            try:
                s = socket.socket(socket.AF_UNIX); s.connect(path); break
            except OSError:
                if time.time() > deadline: raise
                time.sleep(0.01)

        def used():
            s.sendall(cmd(b"INFO", b"memory"))
            data = b""
            while b"\r\nused_memory_human" not in data: data += s.recv(65536)
            while not data.endswith(b"\r\n"): data += s.recv(65536)
            time.sleep(0.05)
            s.setblocking(False)
            try:
                while s.recv(65536): pass
            except BlockingIOError: pass
            s.setblocking(True)
            return int(data.split(b"used_memory:")[1].split(b"\r\n")[0])

        before = used()
        s.sendall(cmd(b"CLIENT", b"REPLY", b"OFF"))
        buf = []
        for i in range(N):
            buf.append(make(i, random.getrandbits(128)))
            if len(buf) == 1000:
                s.sendall(b"".join(buf)); buf = []
        s.sendall(b"".join(buf) + cmd(b"CLIENT", b"REPLY", b"ON"))
        s.recv(100)
        return (used() - before) / N
    finally:
        server.terminate(); server.wait(); shutil.rmtree(folder)


if __name__ == "__main__":
    print(f"{N} jobs, 200 B body, {subprocess.check_output(['redis-server', '--version'], text=True).split()[2]}")
    for name, extra, make in LAYOUTS:
        print(f"{measure(extra, make):8.0f} B  {name}", flush=True)

#!/usr/bin/env python3
"""beanstalkd with a binlog and -f 0 (fsync on every write): put, reserve, delete, all pipelined in windows of 256 over one
producer and one consumer connection in this process. beanstalkd keeps no results, so its life is shorter than ours."""
import argparse, os, shutil, socket, sys, threading, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import others

WINDOW = 256

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8)
    args = parser.parse_args()
    if not shutil.which("beanstalkd"):
        others.missing("beanstalkd", "apt-get install beanstalkd")
    port = others.free_port()
    others.start(["beanstalkd", "-l", "127.0.0.1", "-p", str(port), "-b", others.folder(), "-f", "0"])
    others.wait_port(port)
    stop = threading.Event()
    room = threading.Semaphore(4 * WINDOW)
    deleted = 0

    def producer():
        s = socket.create_connection(("127.0.0.1", port))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = s.makefile("rb")
        put = f"put 0 0 60 {len(others.PAYLOAD)}\r\n{others.PAYLOAD}\r\n".encode()
        while not stop.is_set():
            for _ in range(WINDOW):
                room.acquire()
            s.sendall(put * WINDOW)
            for _ in range(WINDOW):
                assert answers.readline().startswith(b"INSERTED")

    def consumer():
        global deleted
        s = socket.create_connection(("127.0.0.1", port))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = s.makefile("rb")
        while not stop.is_set():
            s.sendall(b"reserve-with-timeout 1\r\n" * WINDOW)
            ids = []
            for _ in range(WINDOW):
                head = answers.readline().split()
                if head[0] == b"RESERVED":
                    answers.read(int(head[2]) + 2)
                    ids.append(head[1])
            s.sendall(b"".join(b"delete " + i + b"\r\n" for i in ids))
            for _ in ids:
                assert answers.readline().startswith(b"DELETED")
            deleted += len(ids)
            room.release(max(1, len(ids)))

    def until_stopped(work):
        try:
            work()
        except OSError:
            if not stop.is_set():
                raise

    for target in (producer, consumer):
        threading.Thread(target=until_stopped, args=(target,), daemon=True).start()
    time.sleep(0.5)
    before, begin = deleted, time.monotonic()
    time.sleep(args.seconds)
    rate = (deleted - before) / (time.monotonic() - begin)
    stop.set()
    others.row("queue.beanstalkd_lives_per_s", rate)

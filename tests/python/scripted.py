"""scripted.py - a broker that says exactly what a test tells it to: a plain ROUTER that speaks the wire protocol."""
import time

import zmq

from gpuq import wire

PATIENCE_S = 20


class ScriptedBroker:
    def __init__(self):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.router_mandatory = 1
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self.term = 1
        self.peer = None
        self.heard = []
        self.hellos = 0

    def close(self):
        self.context.destroy(linger=0)

    def lose_everybody(self):
        """Every link breaks; the port stays ours."""
        self.socket.close()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        for _ in range(500):
            try:
                self.socket.bind(self.endpoint)
                return
            except zmq.ZMQError:
                time.sleep(0.01)
        raise AssertionError("the port did not come back")

    def say(self, name, fields, request=0, body=b""):
        self.socket.send_multipart([self.peer, wire.encode(name, fields, request)] + ([body] if body else []))

    def next(self, *names, patience_s=PATIENCE_S):
        """The next message of one of these names; hello and beats are answered on the way."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            if not self.socket.poll(50):
                continue
            self.peer, *frames = self.socket.recv_multipart()
            message, body = wire.decode(frames[0]), frames[1] if len(frames) > 1 else b""
            if message.name == "ClientHello":
                self.hellos += 1
                self.say("ClientWelcome", {"term": self.term, "protocol": 1, "frame_bytes_max": 1 << 20, "inline_bytes_max": 64 << 10,
                                           "blob_chunk_bytes": 64 << 10, "beat_ms": 100}, message.request)
            elif message.name == "Beat":
                try:
                    self.say("BeatReply", {"sent_us": message.fields["sent_us"], "term": self.term}, message.request)
                except zmq.ZMQError:
                    pass    # it has left meanwhile
            if message.name in names:
                return message, body
        raise AssertionError(f"not within {patience_s} s: {names}")

    def nothing(self, *names, for_s=0.4):
        """Bounded listening: none of these comes."""
        try:
            message, _ = self.next(*names, patience_s=for_s)
        except AssertionError:
            return
        raise AssertionError(f"{message.name} came")

    def answer_submit(self, **more):
        message, body = self.next("Submit")
        items = message.fields["items"]
        self.say("Submitted", {"items": [{"id": item["id"], "ok": True, **more} for item in items]}, message.request)
        return items, wire.split_payloads(items, body)

    def notify(self, *jobs, result=None):
        payload = wire.encode_body("ResultBody", result or {"values": {"n": "1"}})
        items = [{"id": job, "state": 5, "attempt": 1, "payload_bytes": len(payload)} for job in jobs]
        self.say("Notify", {"items": items}, body=payload * len(jobs))

"""wire_peer.py - another language's view of PROTOCOL.md: decodes every golden message, encodes a Submit. Needs msgpack.

usage: wire_peer.py GOLDEN_FOLDER > lines "NAME type id fields…", then a last line "SUBMIT hex hex" (frame 0, frame 1)
"""
import pathlib
import sys

import msgpack


def unpack_frame(frame):
    unpacker = msgpack.Unpacker(raw=False, strict_map_key=True)
    unpacker.feed(frame)
    header, body = unpacker.unpack(), unpacker.unpack()
    if unpacker.tell() != len(frame):
        raise ValueError("bytes after the end")
    return header, body


def main():
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.hex")):
        frame = bytes.fromhex(path.read_text())
        if path.stem in ("JobBody", "ResultBody"):
            print(path.stem, "body", *sorted(msgpack.unpackb(frame, raw=False)))
            continue
        (v, least, kind, request, trace), body = unpack_frame(frame)
        assert (v, least) == (1, 1) and request == 0x0102030405060708 and trace.startswith("00-")
        print(path.stem, kind, *(sorted(body) if isinstance(body, dict) else [len(body)]))
    payload = msgpack.packb({"params": {"k": ""}}, use_bin_type=True)
    item = [bytes(range(16)), bytes(range(16, 32)), "echo", 0, 5, len(payload)]
    frame = msgpack.packb([1, 1, 10, 7]) + msgpack.packb([[item]], use_bin_type=True)
    print("SUBMIT", frame.hex(), payload.hex())


main()

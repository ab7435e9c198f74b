"""Frames between the worker and a child (worker/CHILD_PROTOCOL.md): flat typed fields in one packet, bulk in a memfd beside it."""
import array
import os
import socket
import struct
import threading
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

HELLO, LOAD, UNLOAD, RUN, CANCEL, PREEMPT, STOP, PING = 1, 2, 3, 4, 5, 6, 7, 8
READY, LOADED, FAILED, STARTED, DONE, PROGRESS, RELEASED, CHECKPOINT, YIELDED, LOG, PONG, UNLOADED = 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43

PACKET_BYTES = 65536
INLINE_BYTES = 32768          # a larger value lies in the memfd
FRAME_BYTES_MAX = 1 << 30
_HEAD = struct.Struct("<BBHIQ")
_LENGTH = struct.Struct("<I")
_PLACE = struct.Struct("<IQQ")

Field = Tuple[str, Any]


class Frame:
    __slots__ = ("kind", "ident", "fields")

    def __init__(self, kind: int, ident: int, fields: List[Field]) -> None:
        self.kind = kind
        self.ident = ident
        self.fields = fields

    def get(self, key: str, default: Any = "") -> Any:
        for name, value in self.fields:
            if name == key:
                return value
        return default

    def with_prefix(self, prefix: str) -> Dict[str, Any]:
        return {name[len(prefix):]: value for name, value in self.fields if name.startswith(prefix)}


class Link:
    """The socket to the worker. send() from any thread, receive() from one."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._lock = threading.Lock()

    def receive_raw(self) -> Optional[Tuple[bytes, List[int]]]:
        """The next packet and its descriptors, which are the caller's to close; None when the other side is gone."""
        try:
            packet, control, _, _ = self._link.recvmsg(PACKET_BYTES, socket.CMSG_SPACE(16 * 4))
        except OSError:
            return None
        if not packet:
            return None
        descriptors = array.array("i")
        for level, kind, data in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data[:len(data) - len(data) % descriptors.itemsize])
        return packet, list(descriptors)

    def receive(self) -> Optional[Frame]:
        """The next frame; None when the other side is gone."""
        received = self.receive_raw()
        if received is None:
            return None
        packet, descriptors = received
        try:
            return decode(packet, descriptors)
        finally:
            for fd in descriptors:
                os.close(fd)

    def forward(self, packet: bytes, descriptors: Sequence[int]) -> None:
        """A packet as it came. OSError when the other side is gone."""
        ancillary: List[Tuple[int, int, Any]] = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        with self._lock:
            self._link.sendmsg([packet], ancillary)

    def send(self, kind: int, ident: int = 0, fields: Iterable[Field] = ()) -> None:
        """Raises ValueError when the frame is too large to be said; OSError when the worker is gone."""
        parts: List[bytes] = []
        large: List[bytes] = []
        offset = count = 0
        for key, value in fields:
            if isinstance(value, bool) or isinstance(value, int):
                sort, raw = b"i", struct.pack("<q", value)
            elif isinstance(value, float):
                sort, raw = b"f", struct.pack("<d", value)
            elif isinstance(value, str):
                sort, raw = b"s", value.encode("utf-8", "replace")
            else:
                sort, raw = b"b", bytes(value)
            if len(raw) > INLINE_BYTES:
                large.append(raw)
                key, sort, raw = "fd:" + key, b"b", _PLACE.pack(0, offset, len(raw))
                offset += len(large[-1])
            name = key.encode()
            if len(name) > 255:
                raise ValueError(f"the name '{key[:60]}…' is longer than 255 bytes")
            parts += (bytes((len(name),)), name, sort, _LENGTH.pack(len(raw)), raw)
            count += 1
        packet = _HEAD.pack(1, kind, count, 0, ident) + b"".join(parts)
        if len(packet) > PACKET_BYTES or count > 65535 or offset > FRAME_BYTES_MAX:
            raise ValueError("the answer is too large for one frame")
        ancillary: List[Tuple[int, int, Any]] = []
        memory = -1
        if large:
            memory = os.memfd_create("frame", os.MFD_CLOEXEC)
            for raw in large:
                view = memoryview(raw)
                while view:
                    view = view[os.write(memory, view):]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))]
        try:
            with self._lock:
                self._link.sendmsg([packet], ancillary)
        finally:
            if memory >= 0:
                os.close(memory)


def kind_of(packet: bytes) -> Tuple[int, int]:
    """Kind and ident."""
    _, kind, _, _, ident = _HEAD.unpack_from(packet)
    return kind, ident


def decode(packet: bytes, descriptors: Sequence[int]) -> Frame:
    _, kind, count, _, ident = _HEAD.unpack_from(packet)
    at, fields = _HEAD.size, []
    for _ in range(count):
        size = packet[at]
        key = packet[at + 1:at + 1 + size].decode()
        at += 1 + size
        sort = packet[at:at + 1]
        size = _LENGTH.unpack_from(packet, at + 1)[0]
        at += 1 + _LENGTH.size
        raw = packet[at:at + size]
        at += size
        value: Any = raw
        if sort == b"i":
            value = struct.unpack("<q", raw)[0]
        elif sort == b"f":
            value = struct.unpack("<d", raw)[0]
        elif sort == b"s":
            value = raw.decode("utf-8", "replace")
        elif key.startswith("fd:"):
            key = key[3:]
            value = _read(descriptors, *_PLACE.unpack(raw))
        fields.append((key, value))
    return Frame(kind, ident, fields)


def _read(descriptors: Sequence[int], index: int, offset: int, size: int) -> bytes:
    if index >= len(descriptors) or size > FRAME_BYTES_MAX:
        raise ValueError("a frame that names memory it does not bring")
    pieces = []
    while size:
        piece = os.pread(descriptors[index], size, offset)
        if not piece:
            raise ValueError("a frame that names memory it does not bring")
        pieces.append(piece)
        offset += len(piece)
        size -= len(piece)
    return b"".join(pieces)

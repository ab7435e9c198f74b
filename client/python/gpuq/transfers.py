"""transfers.py - blobs to and from the broker, in chunks, a few under way, resumed after a broken link. The engine's thread only.

Put: a first BlobPut without bytes asks from where to go on (or learns that the broker has it); then chunks in order. An answer that names
another offset than expected rewinds. Two uploads of one content are one. Get: the first chunk tells the size, the rest follows in a window.
"""
from __future__ import annotations

import os
from typing import Callable, Dict, List, Optional, Tuple

from .engine import Answer, Engine
from .errors import Error, error_of
from .spec import BLOB_BYTES_MAX, BRIEF_NAME, Source

WINDOW = 16         # chunks under way: 4 MiB, so that a link of 50 ms still carries 80 MB a second
_REWINDS_MAX = 16
_NEAR_MAX = 32 << 20 # written on the engine's thread: more goes in chunks

Done = Callable[[Optional[Error]], None]
Take = Callable[[int, int, bytes], None]    # total, offset, bytes; may raise Error


def _misfit(what: str) -> Error:
    return error_of("PROTOCOL", what, "update gpuq on both sides")


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


class _Upload:
    def __init__(self, source: Source, brief: bool) -> None:
        self.source, self.brief = source, brief
        self.done: List[Done] = []
        self.next = self.best = self.under_way = self.rewinds = 0
        self.rewind_to: Optional[int] = None
        self.finished = False


class _Download:
    def __init__(self, blob: bytes, take: Take, done: Done) -> None:
        self.blob, self.take, self.done = blob, take, done
        self.total: Optional[int] = None
        self.next = self.received = self.under_way = 0
        self.finished = False


class Transfers:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._uploads: Dict[Tuple[bytes, bool], _Upload] = {}

    # ---- put

    def upload(self, source: Source, done: Done, brief: bool = False) -> None:
        """`brief`: only jobs with durability none name it, so it need not be on disk."""
        upload = self._uploads.get((source.digest, brief))
        if upload is not None:
            upload.done.append(done)
            return
        upload = self._uploads[source.digest, brief] = _Upload(source, brief)
        upload.done.append(done)
        if not self._hand_over(upload):
            self._probe(upload)

    def _hand_over(self, upload: _Upload) -> bool:
        """To a broker on this machine, of this user: its file instead of its bytes."""
        source, folder = upload.source, self._engine.near_folder
        if not upload.brief or not source.digest.startswith(BRIEF_NAME) or not source.in_memory or source.total > _NEAR_MAX or not folder:
            return False
        path = os.path.join(folder, source.digest.hex())
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "wb", buffering=0) as file:
                data = memoryview(source.read(0, source.total))
                while data:
                    data = data[file.write(data):]
        except OSError:
            self._engine.near_folder = ""
            _remove(path)
            return False

        def answered(answer: Optional[Answer], error: Optional[Error]) -> None:
            if answer is not None and answer.name == "BlobPutReply" and answer.fields["complete"]:
                return self._end_upload(upload, None)
            _remove(path)
            if error is not None and error.code == "TIMED_OUT":
                return self._end_upload(upload, error)
            if error is not None and error.code == "NOT_FOUND":   # swept by a restart, or that folder is not the broker's
                self._engine.near_folder = ""
            self._probe(upload)
        self._engine.ask("BlobPut", {"blob": source.digest, "total": source.total, "brief": True, "near": os.path.basename(path)}, answered, b"")
        return True

    def _put(self, upload: _Upload, offset: int, body: bytes, reply: Callable[[int, bool], None]) -> None:
        def answered(answer: Optional[Answer], error: Optional[Error]) -> None:
            upload.under_way -= 1
            if upload.finished:
                return
            if answer is None:
                return self._end_upload(upload, error)
            if answer.name != "BlobPutReply" or answer.fields["next"] > upload.source.total:
                return self._end_upload(upload, _misfit("the broker answered an upload with something else"))
            if answer.fields["complete"]:
                return self._end_upload(upload, None)
            reply(answer.fields["next"], answer.fields["complete"])
        upload.under_way += 1
        self._engine.ask("BlobPut", {"blob": upload.source.digest, "total": upload.source.total, "offset": offset, "brief": upload.brief}, answered, body)

    def _probe(self, upload: _Upload) -> None:
        def told(next_offset: int, complete: bool) -> None:
            upload.next = upload.best = next_offset
            self._pump_upload(upload)
        self._put(upload, 0, b"", told)

    def _pump_upload(self, upload: _Upload) -> None:
        while not upload.finished and upload.rewind_to is None and upload.under_way < WINDOW and upload.next < upload.source.total:
            try:
                body = upload.source.read(upload.next, self._engine.chunk_bytes)
            except (Error, OSError) as error:
                return self._end_upload(upload, error if isinstance(error, Error) else error_of("BAD_INPUT", f"cannot read a file: {error}", ""))
            offset = upload.next
            upload.next += len(body)
            sent_to = upload.next
            self._put(upload, offset, body, lambda next_offset, complete, to=sent_to: self._chunk_put(upload, to, next_offset))   # type: ignore[misc]

    def _chunk_put(self, upload: _Upload, sent_to: int, next_offset: int) -> None:
        if next_offset > upload.best:
            upload.best, upload.rewinds = next_offset, 0
        if next_offset < sent_to:   # it has less than we thought: let the window come back, then go on from there
            upload.rewind_to = next_offset
        if upload.under_way > 0:
            return self._pump_upload(upload)
        if upload.rewind_to is not None or upload.next >= upload.source.total:
            upload.rewinds += 1
            if upload.rewinds > _REWINDS_MAX:
                return self._end_upload(upload, error_of("UNAVAILABLE", f"the broker does not complete an upload of {upload.source.total} bytes",
                                                         "look at the broker's log, then try again"))
            back, upload.rewind_to, upload.next = upload.rewind_to, None, upload.best
            if upload.next >= upload.source.total:
                return self._probe(upload)
            upload.next = min(upload.next, back if back is not None else upload.next)
        self._pump_upload(upload)

    def _end_upload(self, upload: _Upload, error: Optional[Error]) -> None:
        upload.finished = True
        self._uploads.pop((upload.source.digest, upload.brief), None)
        for done in upload.done:
            done(error)

    # ---- get

    def download(self, blob: bytes, take: Take, done: Done) -> None:
        self._get(_Download(blob, take, done), 0, self._engine.chunk_bytes)

    def _get(self, download: _Download, offset: int, count: int) -> None:
        def answered(answer: Optional[Answer], error: Optional[Error]) -> None:
            download.under_way -= 1
            if not download.finished:
                self._chunk_got(download, offset, count, answer, error)
        download.under_way += 1
        self._engine.ask("BlobGet", {"blob": download.blob, "offset": offset, "bytes_max": count}, answered)

    def _chunk_got(self, download: _Download, offset: int, count: int, answer: Optional[Answer], error: Optional[Error]) -> None:
        if answer is None:
            return self._end_download(download, error)
        total, size = answer.fields.get("total", -1), len(answer.body)
        if (answer.name != "BlobGetReply" or answer.fields["offset"] != offset or total > BLOB_BYTES_MAX or size > count or offset + size > total
                or download.total not in (None, total)):
            return self._end_download(download, _misfit("the broker answered a download with something else"))
        count = min(count, total - offset)
        if download.total is None:
            download.total, download.next = total, count
        try:
            download.take(total, offset, answer.body)
        except Error as refused:
            return self._end_download(download, refused)
        download.received += size
        if download.received >= total:
            return self._end_download(download, None)
        if size == 0:
            return self._end_download(download, _misfit("the broker sent an empty piece of a blob"))
        if size < count:    # a shorter piece than asked for: the rest of it once more
            self._get(download, offset + size, count - size)
        while not download.finished and download.under_way < WINDOW and download.next < total:
            at, more = download.next, min(self._engine.chunk_bytes, total - download.next)
            download.next += more
            self._get(download, at, more)

    def _end_download(self, download: _Download, error: Optional[Error]) -> None:
        if not download.finished:
            download.finished = True
            download.done(error)

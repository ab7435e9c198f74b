"""access.py - which broker, with which key: the access file that `gpuq keys issue` or `gpuq up` writes."""
from __future__ import annotations

import json
import os
import stat
from typing import NamedTuple, Optional

from .errors import NotFoundError, RefusedError, UsageError

_FILE_BYTES_MAX = 64 << 10
_MAKE = "make one on the broker's host: gpuq keys issue --role client --name NAME > FILE"


class Access(NamedTuple):
    endpoint: str
    name: str
    server: str = ""     # empty = no CURVE
    public: str = ""
    secret: str = ""

    def __repr__(self) -> str:   # a key never shows in a log
        return f"Access({self.endpoint!r}, {self.name!r})"


def default_path() -> str:
    """$GPUQ_ACCESS_FILE, $XDG_CONFIG_HOME/gpuq/client.json (~/.config), /etc/gpuq/client.json: the first that is there."""
    named = os.environ.get("GPUQ_ACCESS_FILE")
    if named:
        return named
    config = os.environ.get("XDG_CONFIG_HOME") or (os.path.join(os.environ["HOME"], ".config") if os.environ.get("HOME") else "")
    own = os.path.join(config, "gpuq", "client.json") if config else ""
    shared = "/etc/gpuq/client.json"
    return own if own and (os.path.exists(own) or not os.path.exists(shared)) else shared


def endpoint_of(text: str) -> str:
    """"host", "host:7700" and "tcp://host" mean tcp://host:7700."""
    if "://" not in text:
        text = "tcp://" + text
    if text.startswith("tcp://") and not text.rpartition("]")[2].rpartition(":")[2].isdigit():
        text += ":7700"
    return text


def is_loopback(endpoint: str) -> bool:
    return endpoint.startswith(("tcp://127.", "tcp://localhost:", "tcp://[::1]:", "ipc://"))


def read_access_file(path: str) -> Access:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise NotFoundError("NOT_FOUND", f"there is no access file {path}, so no broker is known",
                                "gpuq up   or, on the broker's host: gpuq keys issue --role client --name NAME") from None
        raise RefusedError("REFUSED", f"cannot read {path}: {error.strerror}", _MAKE) from None
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise RefusedError("REFUSED", f"{path} is no plain file", _MAKE)
        if about.st_mode & 0o077:
            raise RefusedError("REFUSED", f"{path} holds a secret key and can be read by others", f"chmod 600 {path}")
        text = os.read(fd, _FILE_BYTES_MAX + 1)
    finally:
        os.close(fd)
    try:
        fields = json.loads(text) if len(text) <= _FILE_BYTES_MAX else None
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise RefusedError("REFUSED", f"{path} is no access file: not a JSON object", _MAKE)
    values = {key: fields.get(key) for key in ("broker", "server", "name", "role", "public", "secret")}
    for key, value in values.items():
        if not isinstance(value, str) or not value:
            raise RefusedError("REFUSED", f"{path} is no access file: it has no {key!r}", _MAKE)
        if key in ("server", "public", "secret") and len(value) != 40:
            raise RefusedError("REFUSED", f"{path}: {key!r} is no key of 40 characters", _MAKE)
    if values["role"] == "worker":
        raise RefusedError("REFUSED", f"{path} is a worker's access file", "gpuq keys issue --role client --name NAME")
    return Access(endpoint_of(str(values["broker"])), str(values["name"]), str(values["server"]), str(values["public"]), str(values["secret"]))


def find_access(broker: str, access_file: Optional[str], insecure: bool, name: str) -> Access:
    """What Client(…) was given, and the files where it was given nothing."""
    if insecure:
        endpoint = endpoint_of(broker or "tcp://127.0.0.1:7700")
        if not is_loopback(endpoint):
            raise RefusedError("REFUSED", f"a connection without keys to {endpoint} is refused: it is not this machine",
                               "use an access file: gpuq keys issue --role client --name NAME")
        return Access(endpoint, name)
    if access_file is not None and not access_file:
        raise UsageError("USAGE", "access_file is empty", "leave it out to search the usual places")
    access = read_access_file(os.fspath(access_file) if access_file is not None else default_path())
    return access._replace(endpoint=endpoint_of(broker) if broker else access.endpoint, name=name or access.name)

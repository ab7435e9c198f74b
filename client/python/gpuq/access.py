"""Where the broker is and who we are: the access file that `gpuq up` and `gpuq keys issue` write."""
import json
import os
import stat
from typing import NamedTuple, Optional

from . import errors


class Access(NamedTuple):
    broker: str
    server_key: bytes      # Z85; empty = no encryption
    public: bytes
    secret: bytes
    name: str
    role: str


def default_path() -> str:
    """$GPUQ_ACCESS_FILE, $XDG_CONFIG_HOME/gpuq/client.json, ~/.config/gpuq/client.json, /etc/gpuq/client.json."""
    named = os.environ.get("GPUQ_ACCESS_FILE")
    if named:
        return named
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    own, shared = os.path.join(config, "gpuq", "client.json"), "/etc/gpuq/client.json"
    return own if os.path.exists(own) or not os.path.exists(shared) else shared


def endpoint(text: str) -> str:
    if "://" not in text:
        text = "tcp://" + text
    if text.startswith("tcp://") and not text.rsplit(":", 1)[1].isdigit():
        text += ":7700"
    return text


def read(path: str) -> Access:
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = json.load(file)
    except OSError as why:
        raise errors.make("NOT_FOUND", f"there is no access file at {path}: {why.strerror}", "gpuq up   or, on the broker's host: gpuq keys issue --role client --name NAME") from None
    except ValueError as why:
        raise errors.make("USAGE", f"{path} is no access file: {why}", "gpuq keys issue writes one") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise errors.make("REFUSED", f"{path} may be read by others", f"chmod 600 {path}")
    try:
        access = Access(str(raw["broker"]), raw["server"].encode(), raw["public"].encode(), raw["secret"].encode(), str(raw.get("name", "")), str(raw["role"]))
    except (KeyError, TypeError, AttributeError) as why:
        raise errors.make("USAGE", f"{path} is no access file: {why} is missing", "gpuq keys issue writes one") from None
    if access.role == "worker":
        raise errors.make("REFUSED", f"{path} is a worker's access file", "gpuq keys issue --role client --name NAME")
    return access


def find(broker: Optional[str], access_file: Optional[str], insecure: bool) -> Access:
    if insecure:
        where = endpoint(broker or "tcp://127.0.0.1:7700")
        if not where.startswith(("tcp://127.", "tcp://localhost:", "tcp://[::1]:", "ipc://")):
            raise errors.make("REFUSED", f"a connection without keys to {where} is refused: it is not this machine", "use an access file: gpuq keys issue --role client --name NAME")
        return Access(where, b"", b"", b"", "", "client")
    access = read(access_file or default_path())
    return access._replace(broker=endpoint(broker or access.broker))

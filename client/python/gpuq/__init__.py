"""gpuq: submit work to a gpuq broker and get results, from Python.

Client (blocking), AsyncClient (asyncio); everything else is what they take and give. The client needs pyzmq and msgpack; gpuq.job (for
scripts that run as jobs) and gpuq.serve (for Python models) need nothing, so nothing is imported here before it is used.
"""
from typing import TYPE_CHECKING, Any, List

from .errors import Error, JobError, NotFoundError, RefusedError, TimedOutError, UnavailableError, UsageError
from .version import VERSION as __version__

if TYPE_CHECKING:
    from .aio import AsyncClient, unless_disconnected
    from .array import array_of
    from .client import Client
    from .ids import new_job_id
    from .parts import Part, Tensor
    from .results import (CommandResult, Detection, Detections, Device, Explanation, JobResult, JobStatus, LogChunk, Model, Outputs,
                          Progress, Submitted, Top, Worker)
    from .spec import JobSpec

__all__ = ["AsyncClient", "Client", "CommandResult", "Detection", "Detections", "Device", "Error", "Explanation", "JobError", "JobResult",
           "JobSpec", "JobStatus", "LogChunk", "Model", "NotFoundError", "Outputs", "Part", "Progress", "RefusedError", "Submitted",
           "Tensor", "TimedOutError", "Top", "UnavailableError", "UsageError", "Worker", "__version__", "array_of", "new_job_id", "unless_disconnected"]

_FROM = {"AsyncClient": "aio", "unless_disconnected": "aio", "array_of": "array", "Client": "client", "new_job_id": "ids", "Part": "parts", "Tensor": "parts",
         "JobSpec": "spec"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gpuq' has no attribute {name!r}")
    import importlib
    try:
        value = getattr(importlib.import_module("." + _FROM.get(name, "results"), __name__), name)
    except ModuleNotFoundError as error:
        if error.name not in ("zmq", "msgpack"):
            raise
        raise ImportError(f"gpuq.{name} needs pyzmq and msgpack, and {error.name} is not installed: pip install pyzmq msgpack") from error
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted(set(globals()) | set(__all__))

"""gpuq: submit jobs to a gpuq broker, wait for them, and talk to it from inside a job.

    import gpuq
    with gpuq.Client() as client:
        for box in client.detect("boards", open("board.png", "rb").read()):
            print(box.name, box.score, box.x1, box.y1)

`gpuq.Client` blocks, `gpuq.AsyncClient` is for asyncio. `gpuq.job` (inside a training script) and `gpuq.serve` (inside a Python model)
need the standard library only, so nothing else is imported before it is asked for.
"""
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ._types import (Detection, Explanation, JobSpec, JobStatus, LogChunk, Model, Part, PlaceVerdict, Progress, Remedy, Result,
                         Submitted)
    from .aio import AsyncClient
    from .client import Client
    from .errors import (Error, InputError, JobFailed, NotFoundError, RefusedError, TimedOutError, UnavailableError)
    from .tensors import from_tensor, to_tensor

_WHERE = {
    "AsyncClient": "aio", "Client": "client",
    "Error": "errors", "InputError": "errors", "JobFailed": "errors", "NotFoundError": "errors", "RefusedError": "errors",
    "TimedOutError": "errors", "UnavailableError": "errors",
    "Detection": "_types", "Explanation": "_types", "JobSpec": "_types", "JobStatus": "_types", "LogChunk": "_types", "Model": "_types",
    "Part": "_types", "PlaceVerdict": "_types", "Progress": "_types", "Remedy": "_types", "Result": "_types", "Submitted": "_types",
    "from_tensor": "tensors", "to_tensor": "tensors",
}
__all__ = [
    "AsyncClient", "Client", "Detection", "Error", "Explanation", "InputError", "JobFailed", "JobSpec", "JobStatus", "LogChunk", "Model",
    "NotFoundError", "Part", "PlaceVerdict", "Progress", "RefusedError", "Remedy", "Result", "Submitted", "TimedOutError",
    "UnavailableError", "__version__", "from_tensor", "to_tensor",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'gpuq' has no attribute '{name}'")
    import importlib
    value = getattr(importlib.import_module("." + _WHERE[name], __name__), name)
    globals()[name] = value
    return value

"""Errors. Each carries the stable code of gpuq (ARCHITECTURE.md lists them), a sentence, and what to do next.

A family is a class, so that `except gpuq.UnavailableError` catches what a retry may mend; a code that this version does not know becomes a
plain Error.
"""
from typing import TYPE_CHECKING, Dict, Optional, Type

if TYPE_CHECKING:
    from ._types import Result


class Error(Exception):
    def __init__(self, code: str, what: str, next: str = "") -> None:
        super().__init__(f"[{code}] {what}" + (f" (try: {next})" if next else ""))
        self.code = code
        self.what = what
        self.next = next


class InputError(Error):
    """What was asked cannot be done as asked: wrong argument, unknown kind or model, too large, unreadable image."""


class NotFoundError(Error):
    """No such job, model, worker or result; or it left by retention."""


class RefusedError(Error):
    """This key may not do that, or the broker does not know it."""


class UnavailableError(Error):
    """The broker cannot be reached or cannot do it now; the same call may succeed later."""


class TimedOutError(Error):
    """The call's own deadline passed. A job that was submitted goes on unless it says otherwise."""


class JobFailed(Error):
    """The job became final without success; `result` has all that is known of it."""

    def __init__(self, code: str, what: str, next: str = "", result: "Optional[Result]" = None) -> None:
        super().__init__(code, what, next)
        self.result = result


_FAMILY: Dict[str, Type[Error]] = {}
for _family, _codes in (
    (InputError, "USAGE BAD_MESSAGE BAD_IMAGE BAD_MODEL BAD_INPUT UNKNOWN_KIND UNKNOWN_MODEL UNKNOWN_BLOB OVER_LIMIT TOO_LARGE ID_CONFLICT DUPLICATE NO_DEVICE NO_FIT PROTOCOL"),
    (NotFoundError, "NOT_FOUND GONE RESULT_EXPIRED"),
    (RefusedError, "REFUSED KEY_REFUSED"),
    (UnavailableError, "UNREACHABLE UNAVAILABLE QUEUE_FULL STORAGE_FULL FENCED"),
    (TimedOutError, "TIMED_OUT"),
    (JobFailed, "JOB_FAILED CHILD_CRASHED OOM CANCELLED EXPIRED QUARANTINED DEPENDENCY_FAILED WORKER_LOST NOT_HERE CHECKPOINT_CORRUPT PAYLOAD_LOST"),
):
    for _code in _codes.split():
        _FAMILY[_code] = _family


def make(code: str, what: str, next: str = "") -> Error:
    """The error of the right family."""
    return _FAMILY.get(code, Error)(code, what, next)

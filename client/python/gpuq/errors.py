"""errors.py - one exception class per family, one stable code per cause. Standard library only.

The families are the exit codes of the command line: what a program does about an error depends on the family, what it tells a person
on `what` and `next`. The codes are those of the broker and the C++ client; one that this client does not know keeps its text.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Optional, Type

if TYPE_CHECKING:
    from .results import JobResult

__all__ = ["Error", "JobError", "UsageError", "NotFoundError", "RefusedError", "UnavailableError", "TimedOutError", "error_of"]


class Error(Exception):
    """`code` is stable ("NO_FIT"), `what` says what happened to what, `next` what to do about it."""

    exit_code = 5

    def __init__(self, code: str, what: str, next: str = "") -> None:
        super().__init__(code, what, next)
        self.code = code
        self.what = what
        self.next = next

    def __str__(self) -> str:
        return f"{self.code}: {self.what}" + (f" (next: {self.next})" if self.next else "")


class JobError(Error):
    """A job ended without success; `result` holds what is known of it."""

    exit_code = 1
    result: Optional["JobResult"] = None


class UsageError(Error):
    """Asked for something that cannot be; asking again changes nothing."""

    exit_code = 2


class NotFoundError(Error):
    """No such job, model, worker, blob or file, or not any more."""

    exit_code = 3


class RefusedError(Error):
    """The key is refused, or its role may not do this."""

    exit_code = 4


class UnavailableError(Error):
    """The broker cannot be reached, or cannot do it now: it may work later."""

    exit_code = 5


class TimedOutError(Error, TimeoutError):
    """The deadline of the call passed. A job that was submitted goes on, unless the call says that it cancels."""

    exit_code = 6


_FAMILIES: Dict[Type[Error], str] = {
    JobError: "STALE CANCELLED EXPIRED QUARANTINED DEPENDENCY_FAILED NO_FIT PAYLOAD_LOST BAD_IMAGE BAD_MODEL BAD_INPUT JOB_FAILED"
              " CHILD_CRASHED OOM CHECKPOINT_CORRUPT WORKER_LOST NOT_HERE",
    UsageError: "USAGE BAD_MESSAGE UNKNOWN_KIND ID_CONFLICT DUPLICATE OVER_LIMIT TOO_LARGE",
    NotFoundError: "NOT_FOUND UNKNOWN_MODEL UNKNOWN_BLOB GONE RESULT_EXPIRED",
    RefusedError: "REFUSED KEY_REFUSED",
    UnavailableError: "PROTOCOL ZAP_SELFTEST UNREACHABLE UNAVAILABLE QUEUE_FULL STORAGE_FULL FENCED DATA_DIR_IN_USE PORT_IN_USE"
                      " REDIS_POLICY REDIS_VERSION REDIS_DURABILITY REDIS_ROLE REDIS_BUDGET REDIS_CORRUPT NO_DEVICE INTERNAL",
    TimedOutError: "TIMED_OUT",
}
FAMILY_OF: Dict[str, Type[Error]] = {code: family for family, codes in _FAMILIES.items() for code in codes.split()}


def error_of(code: str, what: str, next: str = "") -> Error:
    """The exception for a code."""
    return FAMILY_OF.get(code, Error)(code, what, next)

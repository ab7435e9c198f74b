"""array.py - one command job for each index, told apart by $GPUQ_ARRAY_INDEX; for submit_many()."""
from __future__ import annotations

import dataclasses
import re
from typing import Dict, List

from .errors import UsageError
from .ids import id_bytes, id_text
from .spec import JobSpec

ARRAY_MAX = 10_000
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9}))?)?", re.ASCII)


def array_of(spec: JobSpec, indices: str) -> List[JobSpec]:
    """A job for each index, in the order written: "0-9", "0-90:10" (step), "1,4,7" and these mixed; at most 10,000. Each finds its own in
    $GPUQ_ARRAY_INDEX and their number in $GPUQ_ARRAY_COUNT; label and unique key get the index behind, an id is counted up, so that
    the same array submitted again makes no second one. USAGE, OVER_LIMIT."""
    if spec.kind != "command":
        raise UsageError("USAGE", f"an array is for commands, not for {spec.kind or 'no kind'}", 'array_of(JobSpec("command", argv=[…]), "0-9")')
    numbers = _numbers(indices)
    base = int.from_bytes(id_bytes(spec.id), "big") if spec.id else 0
    jobs = []
    for k, index in enumerate(numbers):
        env = {**spec.env, "GPUQ_ARRAY_INDEX": str(index), "GPUQ_ARRAY_COUNT": str(len(numbers))}
        jobs.append(dataclasses.replace(spec, env=env, label=f"{spec.label or 'array'}[{index}]", unique=f"{spec.unique}[{index}]" if spec.unique else "",
                                        id=id_text(((base + k) % (1 << 128)).to_bytes(16, "big")) if spec.id else ""))
    return jobs


def _numbers(text: str) -> List[int]:
    found: Dict[int, None] = {}
    for one in text.split(","):
        match = _RANGE.fullmatch(one)
        first, last, step = (int(match[1]), int(match[2] or match[1]), int(match[3] or 1)) if match else (0, 0, 0)
        if step == 0 or last < first:
            raise UsageError("USAGE", f"array {text!r} is no list of indices", "0-9, 0-90:10, or 1,4,7")
        for index in range(first, last + 1, step):
            if index in found:
                raise UsageError("USAGE", f"the array names index {index} twice", "once is enough")
            if len(found) == ARRAY_MAX:
                raise UsageError("OVER_LIMIT", f"an array has more than {ARRAY_MAX} indices", "submit it in pieces: 0-9999, then 10000-…")
            found[index] = None
    return list(found)

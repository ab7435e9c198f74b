"""Models that gpuq brings: entry = "gpuq:NAME" in model.toml. Each imports its library when it is set up, in the model's own interpreter.

A batch (max_batch > 1 in model.toml) is computed as one call where its requests allow that; what a request gets does not depend on the
others beside it. A request that cannot be taken is answered BAD_INPUT and does not cost the others their batch.
"""
import os
from typing import Any, Dict, Hashable, List, Optional, Sequence

from ..values import BadInput, Request

NAMES = ("onnx", "sklearn", "ultralytics", "xgboost")


def only_file(folder: str, *suffixes: str) -> str:
    """The model's one file with such an ending. ValueError names what is there."""
    found = sorted(n for n in os.listdir(folder) if n.endswith(suffixes) and not n.startswith(".") and os.path.isfile(os.path.join(folder, n)))
    if len(found) != 1:
        raise ValueError(f"the model folder holds {', '.join(found) or 'no file'} with {' or '.join(suffixes)}, and needs exactly one")
    return os.path.join(folder, found[0])


def grouped(keys: Sequence[Optional[Hashable]]) -> List[List[int]]:
    """The places of equal keys, in order; None belongs to no group."""
    groups: Dict[Hashable, List[int]] = {}
    for at, key in enumerate(keys):
        if key is not None:
            groups.setdefault(key, []).append(at)
    return list(groups.values())


def table(request: Request, names: Optional[Sequence[str]], width: Optional[int]) -> Any:
    """The request's one input as an array of rows: a tensor, JSON rows, one JSON row, or JSON objects whose keys are the model's `names`.
    JSON null is a missing value. Without `width` (models of text) a text, or a list of them, is the rows. BadInput says what is wrong."""
    import numpy
    value = request.value
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        value = rows_of(value, names)
    if isinstance(value, str) and width is None:
        value = [value]
    if not isinstance(value, (list, numpy.ndarray)):
        kind = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
        raise BadInput(f"the input is {kind} and no table; send a tensor (numpy array) or JSON rows (application/json)")
    array = numpy.asarray(value) if isinstance(value, numpy.ndarray) else of_json(value)
    if width is None and array.ndim == 1 and array.dtype.kind == "O":
        return array
    if array.ndim == 1:
        array = array[None, :]
    if array.ndim != 2 or not len(array):
        raise BadInput(f"the input has shape {list(array.shape)}; a table is rows x features, with one row at least")
    if width is not None and array.shape[1] != width:
        raise BadInput(f"the model takes {width} features, the request has {array.shape[1]}")
    return array


def rows_of(records: List[Dict[str, Any]], names: Optional[Sequence[str]]) -> List[List[Any]]:
    if not names:
        raise BadInput("the model knows no names of its features; send rows of values in the order of its training")
    for record in records:
        missing = [n for n in names if n not in record]
        if missing:
            raise BadInput(f"a row lacks {', '.join(missing[:5])}; the model takes {', '.join(list(names)[:20])}")
    return [[record[n] for n in names] for record in records]


def of_json(rows: List[Any]) -> Any:
    """Numbers as numbers and text as text, also side by side: numpy alone would make text of all."""
    import numpy
    try:
        array = numpy.asarray(rows, dtype=object)
        if not any(isinstance(v, (str, dict, list)) for v in array.flat):
            plain = numpy.asarray(rows)
            return plain if plain.dtype.kind in "biuf" else numpy.asarray(rows, dtype="float64")
    except (TypeError, ValueError, OverflowError):
        raise BadInput("the rows are not of one length, or hold what is neither number nor text") from None
    if any(isinstance(v, (dict, list)) for v in array.flat):
        raise BadInput("the rows are not of one length, or hold what is neither number nor text")
    array[array == None] = numpy.nan                         # noqa: E711 (element by element)
    return array


def sendable(value: Any) -> Any:
    """What a library answers, row by row, as gpuq can send it: text as a list, unsigned numbers wider than a byte as int64."""
    import numpy
    if hasattr(value, "toarray"):                            # a sparse matrix
        value = value.toarray()
    if isinstance(value, (list, dict)):                      # ONNX sequences and maps
        return value
    array = numpy.asarray(value)
    if array.dtype.kind in "USO":
        return (array if array.dtype.kind == "O" else array.astype(str)).tolist()
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        return array.astype("int64")
    return array.astype("float64") if array.dtype == numpy.longdouble else array

"""Values of requests and answers: bytes on the wire by media type, and what a model sees of them."""
import json
import struct
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

TENSOR = "application/x-gpuq-tensor"
_DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "bool")
_BYTES = (1, 1, 2, 4, 8, 2, 2, 4, 8, 1)


class Tensor(NamedTuple):
    """A tensor where numpy is not installed, or of a type that it lacks: row-major, little endian."""
    dtype: str
    shape: Tuple[int, ...]
    data: bytes


class BadInput(ValueError):
    """What a model says of a request that it cannot take: BAD_INPUT, not tried again. Any other exception is the model's own failure."""


class Request:
    """One request of a batch."""

    def __init__(self, kind: str, parts: Dict[str, Any], files: Dict[str, str], params: Dict[str, str], output_dir: str,
                 file_media: Optional[Dict[str, str]] = None) -> None:
        self.kind = kind              # "infer" or "detect"
        self.parts = parts            # name -> bytes, str, JSON value or numpy array (Tensor without numpy), by media type
        self.files = files            # name -> path, read only: inputs that came as files
        self.params = params          # name -> text, as submitted
        self.output_dir = output_dir  # of this process; not of this request alone
        self._file_media = file_media or {}

    @property
    def value(self) -> Any:
        """The one input, whatever its name and whether it came inline or, being large, as a file."""
        if len(self.parts) + len(self.files) != 1:
            raise BadInput(f"the request has {len(self.parts) + len(self.files)} inputs ({', '.join([*self.parts, *self.files]) or 'none'}), not one")
        return next(iter(self.inputs.values()))

    @property
    def inputs(self) -> Dict[str, Any]:
        """name -> value of all inputs; those that came as files are read here."""
        values = dict(self.parts)
        for name, path in self.files.items():
            with open(path, "rb") as file:
                values[name] = decode(file.read(), self._file_media.get(name, ""))
        return values


def decode(raw: bytes, media: str) -> Any:
    if media == TENSOR:
        return _decode_tensor(raw)
    if media == "application/json":
        return json.loads(raw)
    if media.startswith("text/"):
        return raw.decode("utf-8", "replace")
    return raw


def _decode_tensor(raw: bytes) -> Any:
    if len(raw) < 8 or raw[:4] != b"GQT1":
        raise ValueError("a tensor part that is no tensor")
    kind, rank, _ = struct.unpack_from("<BBH", raw, 4)
    if kind >= len(_DTYPES) or rank > 8 or len(raw) < 8 + 8 * rank:
        raise ValueError("a tensor part with an unknown type or a broken head")
    shape = struct.unpack_from(f"<{rank}Q", raw, 8)
    data = raw[8 + 8 * rank:]
    count = 1
    for n in shape:
        count *= n
    if len(data) != count * _BYTES[kind]:
        raise ValueError("a tensor part of the wrong length")
    numpy = _numpy()
    if numpy is None or _DTYPES[kind] == "bfloat16":
        return Tensor(_DTYPES[kind], shape, data)
    return numpy.frombuffer(data, dtype=numpy.dtype(_DTYPES[kind]).newbyteorder("<")).reshape(shape)


def _tensor(dtype: str, shape: Tuple[int, ...], data: bytes) -> bytes:
    if dtype not in _DTYPES:
        raise TypeError(f"a tensor of {dtype} cannot be sent; cast it to one of {', '.join(_DTYPES)}")
    return b"GQT1" + struct.pack("<BBH", _DTYPES.index(dtype), len(shape), 0) + struct.pack(f"<{len(shape)}Q", *shape) + data


_numpy_module: List[Any] = []


def _numpy() -> Any:
    if not _numpy_module:
        try:
            import numpy
            _numpy_module.append(numpy)
        except ImportError:
            _numpy_module.append(None)
    return _numpy_module[0]


def encode(value: Any) -> Tuple[bytes, str]:
    """(bytes, media type). TypeError says what cannot be sent."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), "application/octet-stream"
    if isinstance(value, str):
        return value.encode("utf-8", "replace"), "text/plain"
    if isinstance(value, Tensor):
        return _tensor(value.dtype, tuple(value.shape), bytes(value.data)), TENSOR
    if hasattr(value, "detach") and hasattr(value, "cpu"):        # a torch tensor, without importing torch
        value = value.detach().cpu().numpy()
    elif hasattr(value, "numpy") and not hasattr(value, "dtype_str") and type(value).__module__.startswith("tensorflow"):
        value = value.numpy()
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        numpy = _numpy()
        array = numpy.ascontiguousarray(value)
        shape = tuple(numpy.shape(value))                           # ascontiguousarray makes a scalar one-dimensional
        return _tensor(array.dtype.newbyteorder("=").name, shape, array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()), TENSOR
    try:
        return json.dumps(value, allow_nan=False, default=_plain).encode(), "application/json"
    except (TypeError, ValueError) as why:
        raise TypeError(f"an answer of {type(value).__name__} cannot be sent ({why}); return bytes, str, an array or what JSON can say") from None


def _plain(value: Any) -> Any:
    """numpy scalars and small arrays inside JSON."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def outputs(answer: Any, kind: str) -> List[Tuple[str, bytes, str]]:
    """(name, bytes, media type) of one request's answer."""
    if kind == "detect":
        boxes = answer if isinstance(answer, dict) and "boxes" in answer else {"boxes": list(answer)}
        boxes = dict(boxes, boxes=[_box(b) for b in boxes["boxes"]])
        return [("detections", *encode(boxes))]
    if isinstance(answer, dict) and all(isinstance(k, str) for k in answer):
        return [(name, *encode(value)) for name, value in answer.items()]
    return [("output", *encode(answer))]


def _box(box: Any) -> Dict[str, Any]:
    """{"x1", "y1", "x2", "y2", "score", "label", "name"} from such a dict, or from (x1, y1, x2, y2, score, label[, name])."""
    if isinstance(box, dict):
        out = dict(box)
    else:
        values = list(box)
        if len(values) < 6:
            raise TypeError(f"a box of {len(values)} values; it takes x1 y1 x2 y2 score label [name]")
        out = dict(zip(("x1", "y1", "x2", "y2", "score", "label", "name"), values))
    for key in ("x1", "y1", "x2", "y2", "score"):
        out[key] = float(out[key])
    out["label"] = int(out["label"])
    out["name"] = str(out.get("name", out["label"]))
    return out

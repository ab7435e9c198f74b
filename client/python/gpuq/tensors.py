"""Tensors of `infer` (media type application/x-gpuq-tensor, worker/CHILD_PROTOCOL.md). numpy is imported when one is made or read."""
import struct
from typing import Any

MEDIA = "application/x-gpuq-tensor"
_DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float16", None, "float32", "float64", "bool")   # 6 = bfloat16, which numpy lacks


def to_tensor(array: Any) -> bytes:
    """A numpy array (or what numpy.asarray takes) as bytes of a tensor part."""
    import numpy
    array = numpy.ascontiguousarray(numpy.asarray(array))
    name = array.dtype.newbyteorder("=").name
    if name not in _DTYPES:
        raise TypeError(f"an array of {array.dtype} is no tensor; cast it to one of {', '.join(d for d in _DTYPES if d)}")
    if array.ndim > 8:
        raise ValueError(f"a tensor has at most 8 dimensions, not {array.ndim}")
    head = b"GQT1" + struct.pack("<BBH", _DTYPES.index(name), array.ndim, 0) + struct.pack(f"<{array.ndim}Q", *array.shape)
    return head + array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def from_tensor(data: bytes) -> Any:
    """The numpy array of a tensor part. bfloat16 comes as float32."""
    import numpy
    if len(data) < 8 or data[:4] != b"GQT1":
        raise ValueError("these bytes are no gpuq tensor")
    kind, rank, _ = struct.unpack_from("<BBH", data, 4)
    if kind >= len(_DTYPES) or rank > 8 or len(data) < 8 + 8 * rank:
        raise ValueError("a gpuq tensor with an unknown type or a broken head")
    shape = struct.unpack_from(f"<{rank}Q", data, 8)
    body = memoryview(data)[8 + 8 * rank:]
    count = 1
    for n in shape:
        count *= n
    if kind == 6:
        if len(body) != 2 * count:
            raise ValueError("a gpuq tensor of the wrong length")
        wide = numpy.frombuffer(body, dtype="<u2").astype("<u4") << 16
        return wide.view("<f4").reshape(shape)
    dtype = numpy.dtype(_DTYPES[kind]).newbyteorder("<")
    if len(body) != dtype.itemsize * count:
        raise ValueError("a gpuq tensor of the wrong length")
    return numpy.frombuffer(body, dtype=dtype).reshape(shape)

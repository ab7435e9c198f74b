"""entry = "gpuq:onnx": a folder with one .onnx file (its external data beside it), run by onnxruntime; on the card with onnxruntime-gpu.

A request's inputs go to the graph's by name; a single one goes to a single one whatever it is called. They are tensors, or JSON numbers that
become the type the graph wants. max_batch > 1 says that the rows of the first dimension are independent of each other: then requests of one
batch are stacked where that dimension is free and the others are equal; else each is computed alone.
"""
from typing import Any, Dict, Hashable, List, Optional

from . import grouped, only_file, sendable
from ..values import BadInput

_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(string)": "object", "tensor(bool)": "bool",
          **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}}


class Model:
    def setup(self, ctx: Any) -> None:
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = ctx.threads
        providers: List[Any] = ["CPUExecutionProvider"]
        if ctx.device_kind == "cuda":
            limit = {"gpu_mem_limit": ctx.vram_mib << 20} if ctx.vram_mib else {}
            if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
                providers.insert(0, ("CUDAExecutionProvider", {"arena_extend_strategy": "kSameAsRequested", **limit}))
        self.session = onnxruntime.InferenceSession(only_file(ctx.folder, ".onnx"), options, providers=providers)
        if ctx.device_kind == "cuda" and "CUDAExecutionProvider" not in self.session.get_providers():
            ctx.log("computes on the CPU: this interpreter's onnxruntime cannot use the card (onnxruntime-gpu and its CUDA libraries can)")
        self.log = ctx.log
        self.inputs = self.session.get_inputs()
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.stacks = all(i.shape and not isinstance(i.shape[0], int) for i in self.inputs)

    def metadata(self) -> Dict[str, Any]:
        return {side: [{"name": v.name, "type": v.type, "shape": v.shape} for v in values]
                for side, values in (("inputs", self.inputs), ("outputs", self.session.get_outputs()))}

    def warmup(self) -> None:
        """One row of zeros, where the graph says its shape: a card's first call costs seconds."""
        import numpy
        if not all(i.type in _TYPES and i.type != "tensor(string)" and all(isinstance(n, int) for n in i.shape[1:]) for i in self.inputs):
            return
        try:
            self.session.run(None, {i.name: numpy.zeros([n if isinstance(n, int) else 1 for n in i.shape], _TYPES[i.type]) for i in self.inputs})
        except Exception as why:                             # zeros may be no valid input; requests will tell
            self.log(f"warm-up with zeros: {why}")

    def predict(self, requests: List[Any]) -> List[Any]:
        answers: List[Any] = [None] * len(requests)
        feeds: List[Any] = [None] * len(requests)
        for at, request in enumerate(requests):
            try:
                feeds[at] = self.feed(request)
            except BadInput as why:
                answers[at] = why
        for members in grouped([None if feed is None else self.shape_of(feed, at) for at, feed in enumerate(feeds)]):
            for at, values in zip(members, self.compute([feeds[at] for at in members])):
                answers[at] = dict(zip(self.outputs, map(sendable, values)))
        return answers

    def feed(self, request: Any) -> Dict[str, Any]:
        given = request.inputs
        if len(self.inputs) == 1 and len(given) == 1:
            given = {self.inputs[0].name: next(iter(given.values()))}
        if set(given) != {i.name for i in self.inputs}:
            raise BadInput(f"the graph takes {', '.join(i.name for i in self.inputs)}; the request has {', '.join(given) or 'nothing'}")
        return {i.name: array_for(i, given[i.name]) for i in self.inputs}

    def shape_of(self, feed: Dict[str, Any], at: int) -> Hashable:
        """Equal for requests that one call may compute; of a request for itself: its place."""
        if not self.stacks or len({len(v) for v in feed.values()}) != 1:
            return at
        return tuple(feed[i.name].shape[1:] for i in self.inputs)

    def compute(self, feeds: List[Dict[str, Any]]) -> List[List[Any]]:
        import numpy
        if len(feeds) == 1:
            return [self.session.run(None, feeds[0])]
        rows = [len(next(iter(feed.values()))) for feed in feeds]
        whole = self.session.run(None, {i.name: numpy.concatenate([feed[i.name] for feed in feeds]) for i in self.inputs})
        if any(length(output) != sum(rows) for output in whole):
            self.stacks = False                              # an output that is no row for a row: this graph computes each request alone
            return [self.session.run(None, feed) for feed in feeds]
        ends = numpy.cumsum(rows).tolist()
        return [[output[end - n:end] for output in whole] for n, end in zip(rows, ends)]


def length(output: Any) -> Optional[int]:
    return len(output) if isinstance(output, list) or getattr(output, "ndim", 0) > 0 else None


def array_for(want: Any, value: Any) -> Any:
    """The value as the graph's input wants it; BadInput where it is of another type or shape."""
    import numpy
    kind = _TYPES.get(want.type)
    if kind is None:
        raise BadInput(f"the graph's input '{want.name}' is a {want.type}, which gpuq cannot send")
    if isinstance(value, bytes) or not (isinstance(value, numpy.ndarray) or kind == "object" or isinstance(value, (list, int, float))):
        raise BadInput(f"input '{want.name}' is no tensor; send a tensor (numpy array) or JSON numbers (application/json)")
    array = value if isinstance(value, numpy.ndarray) else of_json(want, value, numpy.dtype(kind))
    if array.dtype != numpy.dtype(kind):
        raise BadInput(f"input '{want.name}' is {array.dtype.name}, the graph takes {numpy.dtype(kind).name}")
    if len(want.shape) != array.ndim or any(isinstance(w, int) and w != n for w, n in zip(want.shape, array.shape)):
        shape = ", ".join(str(w) if isinstance(w, int) else "any" for w in want.shape)
        raise BadInput(f"input '{want.name}' has shape {list(array.shape)}, the graph takes [{shape}]")
    return array


def of_json(want: Any, value: Any, kind: Any) -> Any:
    """Nothing is lost on the way: 1.5 is no whole number, 300 no uint8, 1 no text."""
    import numpy
    if kind.kind == "O" and isinstance(value, str):
        value = [value] * len(want.shape[:1])
    try:
        plain = numpy.asarray(value, dtype="object" if kind.kind == "O" else None)
        array = numpy.asarray(value, dtype=kind)
        kept = all(isinstance(v, str) for v in plain.flat) if kind.kind == "O" else kind.kind == "f" or bool((array == plain).all())
    except (TypeError, ValueError, OverflowError):
        kept = False
    if not kept or (plain.dtype.kind == "b") != (kind.kind == "b") and plain.size:
        raise BadInput(f"input '{want.name}' does not become {want.type}: {str(value)[:60]}")
    return array

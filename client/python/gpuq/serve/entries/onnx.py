"""entry = "gpuq:onnx": a folder with one .onnx file, run by onnxruntime (on the card when onnxruntime-gpu is installed).

A request's parts go to the graph's inputs by name; a single part goes to a single input whatever it is called. Requests of one batch whose
inputs have equal shapes behind the first dimension are stacked when the graph's first dimension is free.
"""
from typing import Any, Dict, List

from . import only_file


class Model:
    def setup(self, ctx: Any) -> None:
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = ctx.threads
        providers: List[Any] = ["CPUExecutionProvider"]
        if ctx.device_kind == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, ("CUDAExecutionProvider", {"gpu_mem_limit": ctx.vram_mib << 20, "arena_extend_strategy": "kSameAsRequested"}))
        self.session = onnxruntime.InferenceSession(only_file(ctx.folder, ".onnx"), options, providers=providers)
        self.inputs = self.session.get_inputs()
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.stacks = all(i.shape and not isinstance(i.shape[0], int) for i in self.inputs)

    def feed(self, request: Any) -> Dict[str, Any]:
        import numpy
        parts = request.parts
        if len(self.inputs) == 1 and len(parts) == 1:
            parts = {self.inputs[0].name: next(iter(parts.values()))}
        missing = [i.name for i in self.inputs if i.name not in parts]
        if missing or len(parts) != len(self.inputs):
            raise ValueError(f"the graph takes {', '.join(i.name for i in self.inputs)}; the request has {', '.join(parts) or 'nothing'}")
        return {name: numpy.asarray(value) for name, value in parts.items()}

    def predict(self, requests: List[Any]) -> List[Any]:
        import numpy
        feeds = [self.feed(r) for r in requests]
        same = len({tuple((n, f[n].shape[1:], f[n].dtype.str) for n in sorted(f)) for f in feeds}) == 1 and all(v.ndim for f in feeds for v in f.values())
        if len(feeds) == 1 or not self.stacks or not same:
            return [self.named(self.session.run(None, feed)) for feed in feeds]
        rows = [next(iter(f.values())).shape[0] for f in feeds]
        whole = self.session.run(None, {name: numpy.concatenate([f[name] for f in feeds]) for name in feeds[0]})
        if any(getattr(o, "ndim", 0) == 0 or o.shape[0] != sum(rows) for o in whole):   # an output that is no row per row
            return [self.named(self.session.run(None, feed)) for feed in feeds]
        ends = numpy.cumsum(rows)[:-1]
        return [self.named(list(one)) for one in zip(*(numpy.split(o, ends) for o in whole))]

    def named(self, values: List[Any]) -> Dict[str, Any]:
        return dict(zip(self.outputs, values))

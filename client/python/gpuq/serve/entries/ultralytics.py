"""entry = "gpuq:ultralytics": a folder with one .pt file of Ultralytics (YOLO …) that finds boxes, for kinds = ["detect"].

Parameters conf (0.35), iou (0.45), max_det (300) and imgsz (as trained) as gpuq's own detect has them. Boxes are in pixels of the picture as
it is seen: turned as its EXIF orientation says. Pictures of one size with equal parameters are computed as one batch. The library must not
reach out: it installs nothing and asks no server.
"""
import os
from typing import Any, Dict, List

from . import grouped, only_file
from ..values import BadInput

TASKS = ("detect", "segment", "pose")                        # those whose results have boxes along the axes


class Model:
    def setup(self, ctx: Any) -> None:
        os.environ.setdefault("YOLO_OFFLINE", "true")
        os.environ.setdefault("YOLO_AUTOINSTALL", "false")
        os.environ.setdefault("YOLO_CONFIG_DIR", ctx.scratch)
        os.environ.setdefault("OMP_NUM_THREADS", str(ctx.threads))   # it would set one
        from ultralytics import YOLO
        self.device = ctx.device
        self.net = YOLO(only_file(ctx.folder, ".pt"))
        if self.net.task not in TASKS:
            raise ValueError(f"the model's task is {self.net.task}; this entry answers boxes, so it takes {', '.join(TASKS)}")
        self.names = dict(self.net.names)

    def metadata(self) -> Dict[str, Any]:
        return {"names": [self.names[i] for i in sorted(self.names)], "detects": True, "task": self.net.task}

    def warmup(self) -> None:
        from PIL import Image
        self.net.predict([Image.new("RGB", (64, 64))], device=self.device, verbose=False)

    def predict(self, requests: List[Any]) -> List[Any]:
        answers: List[Any] = [None] * len(requests)
        pictures: List[Any] = [None] * len(requests)
        how: List[Dict[str, Any]] = [{}] * len(requests)
        for at, request in enumerate(requests):
            try:
                how[at], pictures[at] = settings(request.params), picture(request.value)
            except BadInput as why:
                answers[at] = why
        # Of one size: pictures of several would be padded, and boxes depend on who is beside whom.
        for members in grouped([None if p is None else (p.size, *sorted(h.items())) for p, h in zip(pictures, how)]):
            results = self.net.predict([pictures[at] for at in members], device=self.device, verbose=False, **how[members[0]])
            for at, result in zip(members, results):
                answers[at] = self.answer(result)
        return answers

    def answer(self, result: Any) -> Dict[str, Any]:
        height, width = result.orig_shape
        boxes = result.boxes
        return {"width": int(width), "height": int(height), "boxes": [
            (*map(float, box), float(score), int(label), self.names[int(label)])
            for box, score, label in zip(boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist())]}


def settings(params: Dict[str, str]) -> Dict[str, Any]:
    out: Dict[str, Any] = {"conf": 0.35, "iou": 0.45, "max_det": 300}
    limits = {"conf": (0, 1), "iou": (0, 1), "max_det": (1, 10_000), "imgsz": (32, 4096)}
    for key, text in params.items():
        if key not in limits:
            raise BadInput(f"detect knows no parameter '{key}'; it knows {', '.join(limits)}")
        least, most = limits[key]
        kind = float if key in ("conf", "iou") else int
        try:
            out[key] = kind(text)
        except ValueError:
            out[key] = None
        if out[key] is None or not least <= out[key] <= most:
            raise BadInput(f"parameter {key}={text} is not a {'number' if kind is float else 'whole number'} from {least} to {most}")
    return out


def picture(data: Any) -> Any:
    import io

    from PIL import Image, ImageOps
    if not isinstance(data, bytes):
        raise BadInput(f"the input is {type(data).__name__} and no picture; send a JPEG or PNG file")
    try:
        return ImageOps.exif_transpose(Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))).convert("RGB")
    except Exception as why:
        raise BadInput(f"neither a whole JPEG nor a whole PNG: {why}") from None

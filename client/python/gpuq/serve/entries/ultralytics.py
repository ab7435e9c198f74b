"""entry = "gpuq:ultralytics": a folder with one .pt file of Ultralytics (YOLO …), for kind detect.

Parameters conf (0.35), iou (0.45), max_det (300) and imgsz of each request are followed; requests with equal parameters run as one batch.
"""
from typing import Any, Dict, List, Tuple

from . import only_file


class Model:
    def setup(self, ctx: Any) -> None:
        from ultralytics import YOLO
        self.device = ctx.device
        self.net = YOLO(only_file(ctx.folder, ".pt"))
        self.names = dict(self.net.names)

    def metadata(self) -> Dict[str, Any]:
        return {"names": [self.names[i] for i in sorted(self.names)], "detects": True}

    def predict(self, requests: List[Any]) -> List[Any]:
        answers: List[Any] = [None] * len(requests)
        groups: Dict[Tuple[Tuple[str, Any], ...], List[int]] = {}
        for at, request in enumerate(requests):
            groups.setdefault(tuple(sorted(settings(request.params).items())), []).append(at)
        for how, members in groups.items():
            results = self.net.predict([picture(requests[i].value) for i in members], device=self.device, verbose=False, **dict(how))
            for at, result in zip(members, results):
                boxes = result.boxes
                height, width = result.orig_shape
                answers[at] = {"width": int(width), "height": int(height), "boxes": [
                    (*map(float, box), float(score), int(label), self.names[int(label)])
                    for box, score, label in zip(boxes.xyxy.tolist(), boxes.conf.tolist(), boxes.cls.tolist())]}
        return answers


def settings(params: Dict[str, str]) -> Dict[str, Any]:
    out: Dict[str, Any] = {"conf": float(params.get("conf", 0.35)), "iou": float(params.get("iou", 0.45)), "max_det": int(params.get("max_det", 300))}
    if "imgsz" in params:
        out["imgsz"] = int(params["imgsz"])
    return out


def picture(data: bytes) -> Any:
    import io

    from PIL import Image
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except Exception as why:
        raise ValueError(f"neither a whole JPEG nor a whole PNG: {why}") from None

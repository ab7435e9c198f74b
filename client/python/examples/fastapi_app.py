"""A FastAPI service in front of gpuq: an image in, boxes out.

    pip install ./client/python fastapi uvicorn python-multipart
    gpuq up                                                    # a broker and a worker; writes the access file
    uvicorn fastapi_app:app                                    # in this folder; MODEL=NAME for another model than "boards"
    curl -F file=@board.png 'http://127.0.0.1:8000/detect?conf=0.4'

One client for the whole process. A job is durable from the moment it is submitted, but an answer that nobody waits for is a waste of
the card: whoever hangs up, or whose `timeout` passes, cancels the job.
"""
import os
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator, Dict

import gpuq
from fastapi import FastAPI, File, Query, Request, UploadFile
from fastapi.responses import JSONResponse

MODEL = os.environ.get("MODEL", "boards")
IMAGE_BYTES_MAX = 64 << 20

# What the exception's family means in HTTP; `code`, `what` and `next` go out as they are.
STATUS = {gpuq.UsageError: 400, gpuq.JobError: 422, gpuq.NotFoundError: 404, gpuq.RefusedError: 502, gpuq.UnavailableError: 503, gpuq.TimedOutError: 504}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with gpuq.AsyncClient(name="fastapi") as app.state.gpuq:
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(gpuq.Error)
async def on_error(request: Request, error: gpuq.Error) -> JSONResponse:
    status = 413 if error.code == "TOO_LARGE" else next((code for family, code in STATUS.items() if isinstance(error, family)), 500)
    return JSONResponse({"code": error.code, "what": error.what, "next": error.next}, status)


@app.post("/detect")
async def detect(request: Request, file: UploadFile = File(), model: str = MODEL, conf: float = Query(0.35, ge=0, le=1),
                 timeout: float = Query(10, gt=0, le=60)) -> Dict[str, Any]:
    image = await file.read(IMAGE_BYTES_MAX + 1)
    if len(image) > IMAGE_BYTES_MAX:
        raise gpuq.UsageError("TOO_LARGE", f"{file.filename} is larger than {IMAGE_BYTES_MAX >> 20} MiB", "send a smaller image")
    client: gpuq.AsyncClient = request.app.state.gpuq
    boxes = await gpuq.unless_disconnected(request.receive, client.detect(model, image, params={"conf": conf}, timeout=timeout))
    return {"model": model, "model_version": boxes.model_version, "job": boxes.result.id,
            "boxes": [{"box_px": [box.x1, box.y1, box.x2, box.y2], "score": box.score, "label": box.label, "name": box.name} for box in boxes]}


@app.get("/healthz")
async def healthz(request: Request) -> JSONResponse:
    """Serving, not merely alive: a link to the broker and an answer over it."""
    client: gpuq.AsyncClient = request.app.state.gpuq
    try:
        if client.connected:
            await client.status(gpuq.new_job_id())
            return JSONResponse({"ok": True})
    except gpuq.Error:
        pass
    return JSONResponse({"ok": False, "what": "no link to the broker"}, 503)

"""gpuq.serve: what a Python model is made of. Standard library only; runs in the model's own interpreter, which needs no gpuq installed.

A model is a folder with `model.toml` and the file that its entry names:

    # model.toml
    entry = "ocr:Reader"          # file ocr.py, class Reader
    interpreter = "/opt/ocr-env"  # a python, a venv or a conda environment; without it the worker's python3
    vram = "2GiB"
    max_batch = 8

    # ocr.py
    class Reader:
        def setup(self, ctx):                 # once; ctx.device, ctx.folder, ctx.vram_mib, ctx.log(...)
            self.net = load(ctx.folder + "/weights.h5", ctx.device)
        def predict(self, requests):          # up to max_batch of them; one answer each, in order
            return [self.net.read(r.value) for r in requests]

A request has `parts` (name -> value), `files` (name -> path), `params` (name -> text) and, when it has just one input, `value`. Values are bytes,
str, what JSON says, or a numpy array, by their media type; `inputs` has all of them, read from files where they are large. An answer is such a value (called "output"), or a dict of names and values. An
exception inside the list fails that request alone; one that predict raises fails the request it was raised for: a batch is tried again one
by one. `BadInput` says that the request is at fault and not the model: BAD_INPUT, and no further attempt.
"""
from .values import BadInput, Request, Tensor

__all__ = ["BadInput", "Request", "Tensor"]

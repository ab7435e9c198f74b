#!/usr/bin/env python3
"""train_plain.py with five lines more: it leaves the card when a higher class needs it, and goes on where it stopped.

    gpuq submit --follow --on-preempt checkpoint -- python train_five_lines.py
"""
import argparse
import json
import math
import os
import pickle
import random

from gpuq import job


def batch_of(draw, size=16):
    """Points of the plane and whether they lie in the unit circle."""
    points = [(draw.uniform(-2, 2), draw.uniform(-2, 2)) for _ in range(size)]
    return [((x, y, x * x, y * y, 1.0), float(x * x + y * y < 1)) for x, y in points]


def train_one(weights, draw, rate=0.1):
    """One step of logistic regression; the mean loss of its batch."""
    batch, loss, slope = batch_of(draw), 0.0, [0.0] * len(weights)
    for features, label in batch:
        guess = 1 / (1 + math.exp(-sum(w * f for w, f in zip(weights, features))))
        loss -= math.log(max(guess if label else 1 - guess, 1e-12))
        for i, feature in enumerate(features):
            slope[i] += (guess - label) * feature
    for i in range(len(weights)):
        weights[i] -= rate * slope[i] / len(batch)
    return loss / len(batch)


parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--weights", default="weights.json", help="where to write them")
arguments = parser.parse_args()

draw, weights, start = random.Random(1), [0.0] * 5, 0
if job.resume_from:
    draw, weights, start = pickle.load(open(os.path.join(job.resume_from, "state"), "rb"))
for step in range(start, arguments.steps):
    loss = train_one(weights, draw)
    if step % 100 == 0:
        print(f"step {step} loss {loss:.4f}", flush=True)
    job.progress(step + 1, arguments.steps, loss=loss)
    if job.should_yield():
        with open(os.path.join(job.checkpoint_dir, "state"), "wb") as file:
            pickle.dump((draw, weights, step + 1), file)
        job.yielded(step + 1)
with open(arguments.weights, "w") as file:
    json.dump(weights, file)
print(f"trained: {arguments.weights}")

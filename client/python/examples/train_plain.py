#!/usr/bin/env python3
"""A training script as people have them: it knows nothing of gpuq.

    gpuq submit --follow -- python train_plain.py
    gpuq submit --on-preempt pause -- python train_plain.py       # held while inference works on the card, then it goes on
"""
import argparse
import json
import math
import random


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

draw, weights = random.Random(1), [0.0] * 5
for step in range(arguments.steps):
    loss = train_one(weights, draw)
    if step % 100 == 0:
        print(f"step {step} loss {loss:.4f}", flush=True)
with open(arguments.weights, "w") as file:
    json.dump(weights, file)
print(f"trained: {arguments.weights}")

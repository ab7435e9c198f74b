#!/usr/bin/env python3
"""scikit-learn, from the artefacts of one job to those of the next:

    data=$(gpuq submit -- python train_sklearn.py prepare)
    gpuq submit --after $data --wait -d trained -- python train_sklearn.py train
"""
import glob
import json
import os
import sys

import joblib
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from gpuq import job

if sys.argv[1:] == ["prepare"]:
    pixels, digits = load_digits(return_X_y=True)
    joblib.dump(train_test_split(pixels, digits, random_state=1), os.path.join(job.output_dir, "digits.joblib"))
else:
    found, = glob.glob(os.path.join(job.input_dir or ".", "**", "digits.joblib"), recursive=True)
    train_x, test_x, train_y, test_y = joblib.load(found)
    model = LogisticRegression(max_iter=2000).fit(train_x, train_y)
    accuracy = model.score(test_x, test_y)
    job.progress(1, 1, accuracy=accuracy)
    joblib.dump(model, os.path.join(job.output_dir, "digits-model.joblib"))
    with open(os.path.join(job.output_dir, "metrics.json"), "w") as file:
        json.dump({"accuracy": accuracy}, file)

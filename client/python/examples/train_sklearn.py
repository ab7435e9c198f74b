#!/usr/bin/env python3
"""A scikit-learn script as a job: cross-validates, fits, and leaves what `gpuq model push` serves with the ready-made entry.

    gpuq submit --wait -- python train_sklearn.py
    gpuq result last -d trained
    gpuq model push quality trained
    echo '[[0, 1, 0, 1, 0, 1]]' > row.json && gpuq submit infer --model quality --wait row.json
"""
import json
import os
import pathlib
import sys

import joblib
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gpuq import job

rows, labels = make_classification(n_samples=600, n_features=6, n_informative=4, random_state=7)
folds = list(StratifiedKFold(n_splits=5, shuffle=True, random_state=7).split(rows, labels))
scores = []
for fold, (train, test) in enumerate(folds):
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows[train], labels[train])
    scores.append(float(model.score(rows[test], labels[test])))
    print(f"fold {fold}: accuracy {scores[-1]:.3f}", flush=True)
    job.progress(fold + 1, len(folds), accuracy=scores[-1])

output = pathlib.Path(os.environ.get("GPUQ_OUTPUT_DIR", "."))
joblib.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels), output / "model.joblib")
(output / "model.toml").write_text(f'entry = "gpuq:sklearn"\ninterpreter = "{sys.executable}"\n')
(output / "metrics.json").write_text(json.dumps({"accuracy": sum(scores) / len(scores)}))
print(f"mean accuracy {sum(scores) / len(scores):.3f}")

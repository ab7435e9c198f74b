"""The scikit-learn example: a script as a job, its artefacts as a model, the model asked; and commands as an array."""
import json
import re
import sys

import pytest

from brokers import SOURCE, Home

EXAMPLES = SOURCE / "client/python/examples"


@pytest.fixture(scope="module")
def home():
    with Home() as made:
        made.start_broker()
        made.start_worker("anna", "--slots", "4")
        yield made


def test_a_scikit_learn_script_runs_as_it_is_and_what_it_leaves_is_served(home):
    job = home.gpuq("submit", "--env", f"PYTHONPATH={SOURCE / 'client/python'}", "--", sys.executable, EXAMPLES / "train_sklearn.py").split()[0]
    home.gpuq("wait", job)
    status = json.loads(home.gpuq("status", job, "-o", "jsonl"))
    assert (status["state"], status["progress_step"], status["progress_total"]) == ("succeeded", 5, 5)
    assert 0.5 < status["metrics"]["accuracy"] <= 1
    said = home.gpuq("logs", job)
    assert len(re.findall(r"fold \d: accuracy", said)) == 5, said
    home.gpuq("result", job, "-d", "trained")
    assert json.loads((home.root / "trained/metrics.json").read_text())["accuracy"] == pytest.approx(float(said.split()[-1]), abs=0.001)
    home.gpuq("model", "push", "quality", "trained")
    (home.root / "row.json").write_text("[[0, 1, 0, 1, 0, 1], [3, -3, 3, -3, 3, -3]]")
    answer = json.loads(home.gpuq("submit", "infer", "--model", "quality", "--wait", "row.json", "-o", "json"))["results"][0]
    assert answer["state"] == "succeeded" and {part["name"] for part in answer["parts"]} == {"prediction", "probability"}, answer


def test_an_array_runs_once_for_each_index_and_said_again_makes_nothing_new(home):
    words = ["submit", "--array", "3-9:3,40", "--id", "01ARZ3NDEKTSV4RRFFQ69G5FZY", "--label", "part", "-o", "json", "--", "sh", "-c", "echo index $GPUQ_ARRAY_INDEX of $GPUQ_ARRAY_COUNT"]
    jobs = [one["id"] for one in json.loads(home.gpuq(*words))["jobs"]]
    assert jobs == ["01ARZ3NDEKTSV4RRFFQ69G5FZY", "01ARZ3NDEKTSV4RRFFQ69G5FZZ", "01ARZ3NDEKTSV4RRFFQ69G5G00", "01ARZ3NDEKTSV4RRFFQ69G5G01"], "counted up, over the digit too"
    assert all(one["existing"] for one in json.loads(home.gpuq(*words))["jobs"])
    home.gpuq("wait", *jobs)
    assert [home.gpuq("logs", job) for job in jobs] == [f"index {i} of 4\n" for i in (3, 6, 9, 40)]
    assert [json.loads(home.gpuq("status", job, "-o", "jsonl"))["label"] for job in jobs] == ["part[3]", "part[6]", "part[9]", "part[40]"]

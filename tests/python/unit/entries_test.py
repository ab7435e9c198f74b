"""The models that gpuq brings, with small models made here by the real libraries: what they answer is what the library itself says.

Ultralytics needs a whole PyTorch, which the test environment leaves out: a stand-in with its interface is used there. Where the library is
installed (GPUQ_TEST_PYTHON), the last test asks the real one too.
"""
import importlib.util
import io
import itertools
import json
import os
import pickle
import sys
import textwrap
import types

import joblib
import numpy
import onnx
import pandas
import pytest
import sklearn.compose
import sklearn.datasets
import sklearn.ensemble
import sklearn.feature_extraction.text
import sklearn.linear_model
import sklearn.multioutput
import sklearn.naive_bayes
import sklearn.pipeline
import sklearn.preprocessing
import xgboost
from PIL import Image, ImageDraw

from gpuq.serve import frames, values
from gpuq.serve.entries import onnx as onnx_entry
from gpuq.serve.entries import sklearn as sklearn_entry
from gpuq.serve.entries import ultralytics as ultralytics_entry
from gpuq.serve.entries import xgboost as xgboost_entry
from serve_test import Child

IRIS = sklearn.datasets.load_iris()


def request(value=None, params=None, kind="infer", **parts):
    return values.Request(kind, parts or {"x": value}, {}, params or {}, "")


def context(folder, **more):
    logs = []
    return types.SimpleNamespace(**{"folder": str(folder), "device": "cpu", "device_kind": "cpu", "vram_mib": 512, "threads": 1, "scratch": str(folder), "log": logs.append, "logs": logs, **more})


def set_up(entry, folder, **more):
    model = entry.Model()
    model.setup(context(folder, **more))
    return model


def sent(answer, kind="infer"):
    """The answer after its way over the wire: name -> value."""
    return {name: values.decode(raw, media) for name, raw, media in values.outputs(answer, kind)}


def refused(model, value, says, **more):
    good = model.predict([value])
    assert isinstance(good[0], values.BadInput) and says in str(good[0]), good


# ---- scikit-learn

def saved(tmp_path, estimator, name="model.joblib"):
    joblib.dump(estimator, tmp_path / name)
    return set_up(sklearn_entry, tmp_path)


def test_sklearn_answers_each_request_its_rows_whatever_the_batch(tmp_path):
    estimator = sklearn.ensemble.RandomForestClassifier(10, random_state=1, n_jobs=-1).fit(IRIS.data, IRIS.target)
    model = saved(tmp_path, estimator)
    assert model.estimator.n_jobs == 1                       # ctx.threads, not all cores
    tables = [IRIS.data[:3], IRIS.data[60].tolist(), IRIS.data[100:102].astype("float32"), IRIS.data[5:6].tolist()]
    for batch in itertools.permutations(range(4), 4):
        for at, answer in zip(batch, map(sent, model.predict([request(tables[n]) for n in batch]))):
            x = numpy.atleast_2d(numpy.asarray(tables[at]))
            assert numpy.array_equal(answer["prediction"], estimator.predict(x)) and numpy.allclose(answer["probability"], estimator.predict_proba(x))


def test_sklearn_class_names_come_as_text(tmp_path):
    names = IRIS.target_names[IRIS.target]
    model = saved(tmp_path, sklearn.naive_bayes.GaussianNB().fit(IRIS.data, names))
    answers = [sent(a) for a in model.predict([request(IRIS.data[:1]), request(IRIS.data[[60, 140]])])]
    assert [a["prediction"] for a in answers] == [["setosa"], ["versicolor", "virginica"]]
    assert model.metadata() == {"features": 4, "classes": ["setosa", "versicolor", "virginica"]} and json.dumps(model.metadata())


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "bool", "object"])
def test_sklearn_labels_of_every_type_can_be_sent(tmp_path, dtype):
    target = (IRIS.target > 0).astype(dtype if dtype != "object" else "int64")
    estimator = sklearn.naive_bayes.GaussianNB().fit(IRIS.data, target.astype(str) if dtype == "object" else target)
    answer = sent(saved(tmp_path, estimator).predict([request(IRIS.data[[0, 149]])])[0])
    assert [str(int(v)) for v in answer["prediction"]] == ["0", "1"]


def test_sklearn_several_outputs_give_a_probability_each(tmp_path):
    targets = numpy.stack([IRIS.target, IRIS.target > 0], axis=1)
    estimator = sklearn.multioutput.MultiOutputClassifier(sklearn.naive_bayes.GaussianNB()).fit(IRIS.data, targets)
    model = saved(tmp_path, estimator)
    first, second = map(sent, model.predict([request(IRIS.data[:2]), request(IRIS.data[149:])]))
    assert first["prediction"].tolist() == [[0, 0], [0, 0]] and second["prediction"].tolist() == [[2, 1]]
    assert first["probability_0"].shape == (2, 3) and second["probability_1"].shape == (1, 2)
    assert model.metadata()["classes"] == [[0, 1, 2], [0, 1]]


def test_sklearn_regressors_and_text_pipelines(tmp_path):
    regressor = sklearn.linear_model.LinearRegression().fit(IRIS.data[:, :2], IRIS.data[:, 2])
    answer = sent(saved(tmp_path, regressor).predict([request(IRIS.data[:2, :2])])[0])
    assert list(answer) == ["prediction"] and numpy.allclose(answer["prediction"], regressor.predict(IRIS.data[:2, :2]))

    (tmp_path / "text").mkdir()
    texts = sklearn.pipeline.make_pipeline(sklearn.feature_extraction.text.CountVectorizer(), sklearn.naive_bayes.MultinomialNB())
    model = saved(tmp_path / "text", texts.fit(["good board", "bad board", "bad solder"], ["ok", "scrap", "scrap"]))
    answers = [sent(a)["prediction"] for a in model.predict([request("a good one"), request(["bad", "good"])])]
    assert answers == [["ok"], ["scrap", "ok"]]


def test_sklearn_rows_by_name_become_the_training_s_columns(tmp_path):
    frame = pandas.DataFrame({"size": [1.0, 2.0, 3.0, 4.0], "colour": ["red", "blue", "red", "blue"], "weight": [1, 2, numpy.nan, 4]})
    columns = sklearn.compose.ColumnTransformer([("c", sklearn.preprocessing.OneHotEncoder(handle_unknown="ignore"), ["colour"]), ("n", sklearn.preprocessing.StandardScaler(), ["size"])])
    estimator = sklearn.pipeline.make_pipeline(columns, sklearn.linear_model.LogisticRegression()).fit(frame, ["a", "b", "a", "b"])
    model = saved(tmp_path, estimator)
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    shuffled = [dict(reversed(list(row.items())), other="is not looked at") for row in rows]
    answers = [sent(a) for a in model.predict([request(shuffled[0]), request(shuffled[1:]), request([[1.0, "red", None]])])]
    assert [a["prediction"] for a in answers] == [["a"], ["b", "a", "b"], ["a"]]
    assert numpy.allclose(numpy.concatenate([answers[0]["probability"], answers[1]["probability"]]), estimator.predict_proba(frame))
    assert numpy.array_equal(answers[0]["probability"], answers[2]["probability"])
    refused(model, request({"size": 1.0, "weight": 2}), "lacks colour; the model takes size, colour, weight")


def test_sklearn_numbers_stay_numbers_beside_text(tmp_path):
    model = saved(tmp_path, sklearn.linear_model.LinearRegression().fit([[1.0, 2.0]], [3.0]))
    model.estimator = types.SimpleNamespace(predict=lambda x: [" ".join(type(v).__name__ for v in row) for row in x.tolist()])
    answers = model.predict([request([[2, "b"]]), request([["2", "b"]]), request(numpy.array([[2, 1]])), request([[None, "c"]]), request([[1.5, None], [1, 2]])])
    assert [sent(a)["prediction"] for a in answers] == [["int str"], ["str str"], ["int int"], ["float str"], ["float float"] * 2]


def test_sklearn_what_cannot_be_taken_fails_alone(tmp_path):
    model = saved(tmp_path, sklearn.naive_bayes.GaussianNB().fit(IRIS.data, IRIS.target))
    bad = [(IRIS.data[:, :3], "takes 4 features, the request has 3"), (b"\x89PNG", "4 bytes and no table"), ("5.1,3.5", "is str and no table"), ([[1, 2], [3]], "not of one length"),
           (numpy.zeros((2, 2, 4)), "shape [2, 2, 4]"), ([], "request has 0"), (numpy.zeros((0, 4)), "shape [0, 4]"), ([{"a": 1}], "knows no names"), ([[1, 2, 3, {}]], "neither number nor text")]
    answers = model.predict([request(IRIS.data[:1]), *(request(value) for value, _ in bad), request(IRIS.data[149:])])
    assert sent(answers[0])["prediction"] == [0] and sent(answers[-1])["prediction"] == [2]
    for answer, (_, says) in zip(answers[1:-1], bad):
        assert isinstance(answer, values.BadInput) and says in str(answer), (answer, says)
    two = values.Request("infer", {"x": IRIS.data[:1], "y": IRIS.data[:1]}, {}, {}, "")
    refused(model, two, "has 2 inputs (x, y), not one")


def test_sklearn_a_plain_pickle_with_its_own_module(tmp_path):
    (tmp_path / "my_features.py").write_text("def halve(x):\n    return x / 2\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import my_features
        step = sklearn.preprocessing.FunctionTransformer(my_features.halve)
        raw = pickle.dumps(sklearn.pipeline.make_pipeline(step, sklearn.linear_model.LinearRegression()).fit(numpy.array([[2.0], [4.0]]), [1.0, 2.0]))
    finally:
        sys.path.remove(str(tmp_path))
    (tmp_path / "model.pkl").write_bytes(raw)
    child = Child(tmp_path)                                  # a process that has not imported it
    try:
        assert child.load("gpuq:sklearn").kind == frames.LOADED, child.logs
        child.run(1, media={"rows": "application/json"}, rows=b"[[6.0], [8.0]]")
        done = child.answer(1)
        assert done.kind == frames.DONE and numpy.allclose(values.decode(done.get("out.prediction"), done.get("out_media.prediction")), [3, 4]), done.fields
    finally:
        child.end()


def test_sklearn_a_pickle_of_something_else_is_no_model(tmp_path):
    joblib.dump({"weights": 1}, tmp_path / "model.pkl")
    with pytest.raises(ValueError, match="holds a dict, which has no predict"):
        set_up(sklearn_entry, tmp_path)


# ---- XGBoost

def trained(tmp_path, data, params, rounds=5, name="model.ubj", **more):
    booster = xgboost.train({"seed": 1, "nthread": 1, **params}, data, rounds, **more)
    booster.save_model(tmp_path / name)
    return booster, set_up(xgboost_entry, tmp_path)


@pytest.mark.parametrize("name", ["model.ubj", "model.json"])
def test_xgboost_answers_as_the_booster_does(tmp_path, name):
    booster, model = trained(tmp_path, xgboost.DMatrix(IRIS.data, IRIS.target), {"objective": "multi:softprob", "num_class": 3}, name=name)
    model.warmup()
    holes = IRIS.data[50:52].copy()
    holes[0, 1] = numpy.nan
    inputs = [IRIS.data[:3], IRIS.data[149].tolist(), holes, [[None if numpy.isnan(v) else v for v in row] for row in holes.tolist()]]
    answers = [sent(a)["prediction"] for a in model.predict([request(x) for x in inputs])]
    for x, answer in zip(inputs, answers):
        x = numpy.atleast_2d(numpy.asarray(x, "float64"))
        assert answer.shape == (len(x), 3) and numpy.allclose(answer, booster.predict(xgboost.DMatrix(x)))
    assert numpy.array_equal(answers[2], answers[3]) and model.metadata() == {"features": 4}


def test_xgboost_trained_on_a_frame_takes_rows_and_names(tmp_path):
    frame = pandas.DataFrame({"a": numpy.arange(40.0), "b": numpy.arange(40.0)[::-1], "c": pandas.Categorical.from_codes(numpy.arange(40) % 3, ["x", "y", "z"])})
    booster, model = trained(tmp_path, xgboost.DMatrix(frame, numpy.arange(40) % 3 + frame["a"], enable_categorical=True), {"tree_method": "hist"})
    want = booster.predict(xgboost.DMatrix(frame[7:9], enable_categorical=True))
    rows = [[7.0, 32.0, 1], [8.0, 31.0, 2]]
    named = [{"c": c, "a": a, "b": b} for a, b, c in rows]
    for value in (rows, numpy.array(rows), named):
        assert numpy.allclose(sent(model.predict([request(value)])[0])["prediction"], want)
    refused(model, request([{"a": 1, "b": 2}]), "lacks c")
    refused(model, request([[1, 2, "y"]]), "holds text")


def test_xgboost_stopped_early_answers_with_its_best_round(tmp_path):
    half = numpy.arange(len(IRIS.data)) % 2 == 0
    noise = numpy.random.default_rng(0).permutation(IRIS.target)      # nothing to learn: later rounds only fit the noise
    classifier = xgboost.XGBClassifier(n_estimators=40, early_stopping_rounds=3, n_jobs=1, random_state=1)
    classifier.fit(IRIS.data[half], noise[half], eval_set=[(IRIS.data[~half], noise[~half])], verbose=False)
    classifier.save_model(tmp_path / "model.json")
    assert classifier.best_iteration + 1 < classifier.get_booster().num_boosted_rounds()
    answer = sent(set_up(xgboost_entry, tmp_path).predict([request(IRIS.data[:5])])[0])["prediction"]
    assert numpy.allclose(answer, classifier.predict_proba(IRIS.data[:5]))
    assert not numpy.allclose(answer, classifier.get_booster().predict(xgboost.DMatrix(IRIS.data[:5])))


def test_xgboost_a_request_of_the_wrong_width_fails_alone(tmp_path):
    booster, model = trained(tmp_path, xgboost.DMatrix(IRIS.data, IRIS.target > 0), {"objective": "binary:logistic"})
    good, bad = model.predict([request(IRIS.data[:2]), request(IRIS.data[:, :3])])
    assert numpy.allclose(sent(good)["prediction"], booster.predict(xgboost.DMatrix(IRIS.data[:2])))
    assert isinstance(bad, values.BadInput) and "takes 4 features" in str(bad)


# ---- ONNX

def graph(tmp_path, nodes, inputs, outputs, initializers=()):
    info = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph(nodes, "g", [info(*i) for i in inputs], [info(*o) for o in outputs], list(initializers))
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "model.onnx")
    return set_up(onnx_entry, tmp_path)


FLOAT, INT64, UINT32, STRING = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.UINT32, onnx.TensorProto.STRING
WEIGHTS = numpy.random.default_rng(3).normal(size=(3, 2)).astype("float32")


def linear(tmp_path, first="n"):
    return graph(tmp_path, [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], [("x", FLOAT, [first, 3])], [("y", FLOAT, [first, 2])], [onnx.numpy_helper.from_array(WEIGHTS, "w")])


def counted(model):
    """How many rows each call of the session has."""
    calls, run = [], model.session.run
    model.session = types.SimpleNamespace(run=lambda names, feed: calls.append(len(next(iter(feed.values())))) or run(names, feed), get_outputs=model.session.get_outputs)
    return calls


def test_onnx_stacks_rows_and_gives_each_request_its_own(tmp_path):
    model = linear(tmp_path)
    model.warmup()
    calls = counted(model)
    tables = [numpy.random.default_rng(n).normal(size=(n + 1, 3)).astype("float32") for n in range(4)]
    requests = [request(image=t) for t in tables] + [request([[1, 2.5, 3]])]
    for table, answer in zip([*tables, numpy.array([[1, 2.5, 3]])], map(sent, model.predict(requests))):
        assert numpy.allclose(answer["y"], table @ WEIGHTS, atol=1e-5) and answer["y"].dtype == "float32"
    assert calls == [11]
    assert json.loads(json.dumps(model.metadata()))["inputs"] == [{"name": "x", "type": "tensor(float)", "shape": ["n", 3]}]


def test_onnx_a_fixed_first_dimension_is_computed_request_by_request(tmp_path):
    model = linear(tmp_path, first=1)
    calls = counted(model)
    tables = [numpy.full((1, 3), n, "float32") for n in range(3)]
    for table, answer in zip(tables, map(sent, model.predict([request(t) for t in tables]))):
        assert numpy.allclose(answer["y"], table @ WEIGHTS)
    assert calls == [1, 1, 1]
    refused(model, request(numpy.zeros((2, 3), "float32")), "shape [2, 3], the graph takes [1, 3]")


def test_onnx_an_output_that_is_no_row_per_row_is_computed_alone(tmp_path):
    model = graph(tmp_path, [onnx.helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], [("x", FLOAT, ["n", 3])], [("y", FLOAT, [])])
    calls = counted(model)
    answers = [sent(a)["y"] for a in model.predict([request(numpy.full((2, 3), n, "float32")) for n in (1, 2)])]
    assert [(a.shape, float(a)) for a in answers] == [((), 6.0), ((), 12.0)] and calls == [4, 2, 2]
    model.predict([request(numpy.full((2, 3), n, "float32")) for n in (1, 2)])
    assert calls[3:] == [2, 2]                               # it does not try again


def test_onnx_several_inputs_of_several_types_go_by_name(tmp_path):
    nodes = [onnx.helper.make_node("Cast", ["n"], ["f"], to=FLOAT), onnx.helper.make_node("Add", ["f", "x"], ["sum"]), onnx.helper.make_node("Cast", ["n"], ["count"], to=UINT32),
             onnx.helper.make_node("Identity", ["s"], ["text"])]
    model = graph(tmp_path, nodes, [("n", INT64, ["b"]), ("x", FLOAT, ["b"]), ("s", STRING, ["b"])], [("sum", FLOAT, ["b"]), ("count", UINT32, ["b"]), ("text", STRING, ["b"])])
    model.warmup()                                           # text has no zeros: nothing happens
    answers = [sent(a) for a in model.predict([request(n=[1, 2], x=numpy.array([0.5, 1.5], "float32"), s=["a", "b"]), request(x=[7], s="c", n=[3])])]
    assert [a["sum"].tolist() for a in answers] == [[1.5, 3.5], [10.0]] and [a["text"] for a in answers] == [["a", "b"], ["c"]]
    assert [a["count"].tolist() for a in answers] == [[1, 2], [3]] and answers[0]["count"].dtype == "int64"
    ok = {"n": [1], "x": [1.0], "s": ["a"]}
    for change, says in (({"n": [1.5]}, "'n' does not become tensor(int64): [1.5]"), ({"n": [2 ** 70]}, "does not become"), ({"s": [1]}, "'s' does not become tensor(string)"),
                         ({"x": numpy.zeros(1)}, "'x' is float64, the graph takes float32"), ({"x": b"1.0"}, "'x' is no tensor"), ({"x": [[1.0]]}, "shape [1, 1], the graph takes [any]"),
                         ({"x": [1.0, [2.0]]}, "does not become"), ({"x": [True]}, "does not become"), ({"y": [1]}, "the graph takes n, x, s; the request has n, x, s, y")):
        refused(model, request(**{**ok, **change}), says)
    # Inputs of unequal rows share no call: whose row is whose would be a guess.
    with pytest.raises(Exception, match="(?i)broadcast|shape|Add"):
        model.predict([request(n=[1, 2], x=[1.0, 2.0, 3.0], s=["a"])])


def test_onnx_a_bad_request_fails_alone(tmp_path):
    model = linear(tmp_path)
    good, bad, also = model.predict([request(numpy.ones((1, 3), "float32")), request(numpy.ones((1, 4), "float32")), request(numpy.ones((2, 3), "float32"))])
    assert isinstance(bad, values.BadInput) and "[any, 3]" in str(bad)
    assert sent(good)["y"].shape == (1, 2) and sent(also)["y"].shape == (2, 2)


def test_onnx_without_its_cuda_part_says_that_it_computes_on_the_cpu(tmp_path):
    linear(tmp_path)
    model = onnx_entry.Model()
    told = context(tmp_path, device_kind="cuda", device="cuda:0")
    model.setup(told)
    assert len(told.logs) == 1 and "computes on the CPU" in told.logs[0]
    assert sent(model.predict([request(numpy.ones((1, 3), "float32"))])[0])["y"].shape == (1, 2)


@pytest.mark.parametrize("entry", [onnx_entry, sklearn_entry, xgboost_entry])
def test_the_folder_holds_exactly_one_model(tmp_path, entry):
    (tmp_path / "._model.onnx").touch()                      # what other systems leave beside it
    with pytest.raises(ValueError, match="holds no file with .* needs exactly one"):
        set_up(entry, tmp_path)
    for name in ("a.onnx", "b.onnx", "a.pkl", "b.joblib", "a.json", "b.ubj"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"holds a\.\w+, b\.\w+ with .* needs exactly one"):
        set_up(entry, tmp_path)


# ---- as a process, over the protocol

def served(tmp_path, entry, **load):
    child = Child(tmp_path)
    loaded = child.load(entry, **load)
    return child, loaded


def test_an_onnx_model_in_its_process_batches_and_refuses(tmp_path):
    linear(tmp_path)
    child, loaded = served(tmp_path, "gpuq:onnx")
    try:
        assert loaded.kind == frames.LOADED and json.loads(loaded.get("metadata"))["outputs"][0]["name"] == "y", loaded.fields
        table = numpy.ones((2, 3), "float32")
        child.run(1, media={"x": values.TENSOR}, x=values.encode(table)[0])
        child.run(2, x=b"no tensor")
        child.run(3, media={"x": "application/json"}, x=b"[[0, 1, 0]]")
        answers = {a.ident: a for a in (child.answer() for _ in range(3))}
        for ident, x in ((1, table), (3, numpy.array([[0, 1, 0]]))):
            done = answers[ident]
            assert numpy.allclose(values.decode(done.get("out.y"), done.get("out_media.y")), x @ WEIGHTS, atol=1e-5), done.fields
        assert (answers[2].kind, answers[2].get("code"), answers[2].get("final")) == (frames.FAILED, "BAD_INPUT", 1) and "no tensor" in answers[2].get("what")
        # A large input comes as a file, with its media type beside it.
        big = tmp_path / "big"
        big.write_bytes(values.encode(numpy.ones((5000, 3), "float32"))[0])
        child.link.send(frames.RUN, 9, [("kind", "infer"), ("model", "m@1"), ("file.x", str(big)), ("part_media.x", values.TENSOR)])
        done = child.answer(9)
        assert values.decode(done.get("out.y"), done.get("out_media.y")).shape == (5000, 2), done.fields
    finally:
        child.end()


def test_an_xgboost_model_in_its_process(tmp_path):
    booster, _ = trained(tmp_path, xgboost.DMatrix(IRIS.data, IRIS.target > 0), {"objective": "binary:logistic"})
    child, loaded = served(tmp_path, "gpuq:xgboost")
    try:
        assert loaded.kind == frames.LOADED and json.loads(loaded.get("metadata")) == {"features": 4}, loaded.fields
        child.run(1, media={"rows": "application/json"}, rows=json.dumps(IRIS.data[:2].tolist()).encode())
        done = child.answer(1)
        assert numpy.allclose(values.decode(done.get("out.prediction"), done.get("out_media.prediction")), booster.predict(xgboost.DMatrix(IRIS.data[:2])))
    finally:
        child.end()


def test_a_file_that_is_no_model_says_so_in_its_process(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    child, loaded = served(tmp_path, "gpuq:onnx")
    try:
        assert (loaded.kind, loaded.get("code")) == (frames.FAILED, "BAD_MODEL") and "setup failed" in loaded.get("what"), loaded.fields
    finally:
        child.end()


# ---- Ultralytics

STAND_IN = """
    # As ultralytics 8 answers: results with orig_shape and boxes of tensors. Its "boxes" are as large as the picture.
    calls = []
    class Values(list):
        def tolist(self): return list(self)
    class Boxes:
        def __init__(self, width, height, conf): self.xyxy, self.conf, self.cls = Values([[0.0, 0.0, float(width), float(height)]]), Values([conf]), Values([1.0])
    class Result:
        def __init__(self, picture, conf): self.orig_shape, self.boxes = picture.size[::-1], Boxes(*picture.size, conf)
    class YOLO:
        def __init__(self, path):
            self.task = open(path).read().strip()
            self.names = {0: "short", 1: "open"}
        def predict(self, source, device, verbose, **how):
            assert isinstance(source, list) and all(p.mode == "RGB" for p in source) and not verbose
            calls.append((len(source), device, how))
            return [Result(p, how.get("conf", 0.25)) for p in source]
    """


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    package = tmp_path / "packages"
    package.mkdir()
    (package / "ultralytics.py").write_text(textwrap.dedent(STAND_IN))
    (tmp_path / "model.pt").write_text("detect")
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.delitem(sys.modules, "ultralytics", raising=False)
    for name in ("YOLO_OFFLINE", "YOLO_AUTOINSTALL", "YOLO_CONFIG_DIR", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")                         # restored afterwards
        monkeypatch.delenv(name)
    yield tmp_path
    sys.modules.pop("ultralytics", None)


def picture(width, height, form="PNG", **more):
    out = io.BytesIO()
    image = Image.new("RGB", (width, height), (40, 80, 40))
    ImageDraw.Draw(image).rectangle((width // 4, height // 4, width // 2, height // 2), fill=(240, 240, 240))
    image.save(out, form, **more)
    return out.getvalue()


def test_ultralytics_groups_what_is_alike_and_answers_boxes(stand_in):
    model = set_up(ultralytics_entry, stand_in, device="cuda:0")
    assert (os.environ["YOLO_OFFLINE"], os.environ["YOLO_AUTOINSTALL"]) == ("true", "false")
    assert model.metadata() == {"names": ["short", "open"], "detects": True, "task": "detect"}
    model.warmup()
    import ultralytics
    del ultralytics.calls[:]
    requests = [request(picture(32, 16), kind="detect"), request(picture(8, 8), kind="detect"), request(picture(32, 16, "JPEG"), {"conf": "0.5"}, kind="detect"), request(picture(32, 16), kind="detect")]
    answers = [sent(a, "detect")["detections"] for a in model.predict(requests)]
    assert [(a["width"], a["height"]) for a in answers] == [(32, 16), (8, 8), (32, 16), (32, 16)]
    assert answers[0]["boxes"] == [{"x1": 0.0, "y1": 0.0, "x2": 32.0, "y2": 16.0, "score": 0.35, "label": 1, "name": "open"}] and answers[2]["boxes"][0]["score"] == 0.5
    assert [(n, device, how["conf"]) for n, device, how in ultralytics.calls] == [(2, "cuda:0", 0.35), (1, "cuda:0", 0.35), (1, "cuda:0", 0.5)]


def test_ultralytics_sees_a_picture_as_its_orientation_says(stand_in):
    exif = Image.Exif()
    exif[0x0112] = 6                                         # turned by a quarter
    answer = set_up(ultralytics_entry, stand_in).predict([request(picture(32, 16, "JPEG", exif=exif))])[0]
    assert (answer["width"], answer["height"]) == (16, 32)


@pytest.mark.parametrize("value, params, says", [
    (b"no picture", {}, "neither a whole JPEG nor a whole PNG"), (picture(64, 64)[:-40], {}, "neither a whole"), (picture(8, 8, "BMP"), {}, "neither a whole"), ([1], {}, "is list and no picture"),
    (picture(8, 8), {"conf": "high"}, "conf=high is not a number from 0 to 1"), (picture(8, 8), {"conf": "nan"}, "conf=nan"), (picture(8, 8), {"iou": "1.5"}, "iou=1.5"),
    (picture(8, 8), {"max_det": "0"}, "max_det=0 is not a whole number from 1 to 10000"), (picture(8, 8), {"imgsz": "100000"}, "imgsz=100000"), (picture(8, 8), {"augment": "1"}, "no parameter 'augment'")])
def test_ultralytics_refuses_alone_what_it_cannot_take(stand_in, value, params, says):
    model = set_up(ultralytics_entry, stand_in)
    bad, good = model.predict([request(value, params), request(picture(8, 8))])
    assert isinstance(bad, values.BadInput) and says in str(bad), bad
    assert len(good["boxes"]) == 1


def test_ultralytics_a_model_without_boxes_is_refused_when_it_is_set_up(stand_in):
    (stand_in / "model.pt").write_text("classify")
    with pytest.raises(ValueError, match="task is classify; .* detect, segment, pose"):
        set_up(ultralytics_entry, stand_in)


@pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="the test environment has no PyTorch; name one with GPUQ_TEST_PYTHON")
def test_ultralytics_itself(tmp_path):
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=str(tmp_path))
    from ultralytics import YOLO
    made = YOLO("yolov8n.yaml")                              # its weights are random, and its boxes with them
    made.save(tmp_path / "model.pt")
    model = set_up(ultralytics_entry, tmp_path)
    model.warmup()
    requests = [request(picture(96, 64), {"conf": "0", "max_det": "3", "imgsz": "64"}, kind="detect") for _ in range(2)]
    first, second, other = model.predict([*requests, request(picture(64, 96), {"conf": "0", "max_det": "2", "imgsz": "64"}, kind="detect")])
    assert len(first["boxes"]) == 3 and first == second and (first["width"], first["height"]) == (96, 64)
    assert len(other["boxes"]) <= 2 and (other["width"], other["height"]) == (64, 96)
    boxes = sent(first, "detect")["detections"]["boxes"]
    assert all(0 <= b["x1"] <= b["x2"] <= 96 and 0 <= b["y1"] <= b["y2"] <= 64 and b["name"] == model.names[b["label"]] for b in boxes)

"""entry = "gpuq:sklearn": a folder with one .joblib or .pkl file of a fitted estimator or pipeline.

A request's one part is the table X (rows x features, or one row); the answer has `prediction`, and `probability` where the estimator gives one.
Unpickling runs code: only admin keys push models.
"""
from typing import Any, Dict, List

from . import only_file


class Model:
    def setup(self, ctx: Any) -> None:
        import joblib
        self.estimator = joblib.load(only_file(ctx.folder, ".joblib", ".pkl"))
        if not callable(getattr(self.estimator, "predict", None)):
            raise ValueError(f"the file holds a {type(self.estimator).__name__}, which has no predict")

    def predict(self, requests: List[Any]) -> List[Any]:
        import numpy
        tables = [numpy.atleast_2d(numpy.asarray(r.value)) for r in requests]
        rows = [len(t) for t in tables]
        ends = numpy.cumsum(rows)[:-1]
        whole = numpy.concatenate(tables) if len({t.shape[1] for t in tables}) == 1 else None
        if whole is None:
            return [self.answer(t) for t in tables]
        answer = self.answer(whole)
        return [dict(zip(answer, one)) for one in zip(*(numpy.split(v, ends) for v in answer.values()))]

    def answer(self, table: Any) -> Dict[str, Any]:
        import numpy
        prediction = numpy.asarray(self.estimator.predict(table))
        if prediction.dtype.kind in "OUS":                   # class names: text is no tensor
            names, prediction = numpy.unique(prediction, return_inverse=True)
            prediction = numpy.asarray([str(names[i]) for i in prediction], dtype=object)
        out = {"prediction": prediction}
        if callable(getattr(self.estimator, "predict_proba", None)):
            out["probability"] = numpy.asarray(self.estimator.predict_proba(table))
        return {name: value.tolist() if value.dtype == object else value for name, value in out.items()}

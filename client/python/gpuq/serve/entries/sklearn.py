"""entry = "gpuq:sklearn": a folder with one .joblib or .pkl file of a fitted estimator or pipeline, and the modules that it was pickled with.

A request's one input is the table X: a tensor or JSON rows, one row, or JSON objects by the names of the training's columns (then and with
pandas installed the estimator gets a DataFrame, as ColumnTransformer wants it); for a model of text, texts. The answer has `prediction` and,
where the estimator gives one, `probability` (with several outputs probability_0 …); `gpuq model show` has the classes in their order.
Unpickling runs code: only admin keys push models.
"""
import sys
from typing import Any, Dict, List

from . import grouped, only_file, sendable, table
from ..values import BadInput


class Model:
    def setup(self, ctx: Any) -> None:
        import joblib
        sys.path.append(ctx.folder)                          # a pickle names the modules of its functions and classes
        self.estimator = joblib.load(only_file(ctx.folder, ".joblib", ".pkl"))
        if not callable(getattr(self.estimator, "predict", None)):
            raise ValueError(f"the file holds a {type(self.estimator).__name__}, which has no predict")
        if hasattr(self.estimator, "get_params"):            # n_jobs=-1 would take the cores of the others on this host
            greedy = [k for k, v in self.estimator.get_params().items() if k.rpartition("__")[2] == "n_jobs" and v not in (None, 1)]
            self.estimator.set_params(**{k: ctx.threads for k in greedy})
        self.width = getattr(self.estimator, "n_features_in_", None)
        names = getattr(self.estimator, "feature_names_in_", None)
        self.names = None if names is None else [str(n) for n in names]
        self.frame = self.data_frame() if self.names else None

    @staticmethod
    def data_frame() -> Any:
        try:
            import pandas
            return pandas.DataFrame
        except ImportError:
            return None

    def metadata(self) -> Dict[str, Any]:
        about: Dict[str, Any] = {"features": self.names or self.width} if self.width is not None else {}
        classes = getattr(self.estimator, "classes_", None)
        if classes is not None:
            about["classes"] = [c.tolist() for c in classes] if isinstance(classes, list) else classes.tolist()
        return about

    def predict(self, requests: List[Any]) -> List[Any]:
        import numpy
        answers: List[Any] = [None] * len(requests)
        tables: List[Any] = [None] * len(requests)
        for at, request in enumerate(requests):
            try:
                tables[at] = table(request, self.names, self.width)
            except BadInput as why:
                answers[at] = why
        # Numbers beside text would become text in one array: only equal kinds share a call.
        for members in grouped([None if t is None else (t.shape[1:], t.dtype.str) for t in tables]):
            whole = self.answer(numpy.concatenate([tables[at] for at in members]))
            begin = 0
            for at in members:
                end = begin + len(tables[at])
                answers[at] = {name: rows[begin:end] for name, rows in whole.items()}
                begin = end
        return answers

    def answer(self, x: Any) -> Dict[str, Any]:
        if self.frame is not None:
            x = self.frame(x, columns=self.names).infer_objects()   # columns of numbers beside columns of text
        out = {"prediction": sendable(self.estimator.predict(x))}
        if callable(getattr(self.estimator, "predict_proba", None)):
            probability = self.estimator.predict_proba(x)
            if isinstance(probability, list):                # one for each output
                out.update((f"probability_{n}", sendable(p)) for n, p in enumerate(probability))
            else:
                out["probability"] = sendable(probability)
        return out

"""entry = "gpuq:xgboost": a folder with one .json or .ubj model as Booster.save_model writes it. On the card when there is one.

A request's one part is the table X (rows x features, or one row); the answer is `prediction`, what Booster.predict says of each row.
"""
from typing import Any, List

from . import only_file


class Model:
    def setup(self, ctx: Any) -> None:
        import xgboost
        self.xgboost = xgboost
        self.booster = xgboost.Booster({"nthread": ctx.threads, "device": "cuda" if ctx.device_kind == "cuda" else "cpu"})
        self.booster.load_model(only_file(ctx.folder, ".json", ".ubj"))

    def predict(self, requests: List[Any]) -> List[Any]:
        import numpy
        tables = [numpy.atleast_2d(numpy.asarray(r.value, dtype="float32")) for r in requests]
        features = self.booster.num_features()
        for table in tables:
            if table.shape[1] != features:
                raise ValueError(f"the model takes {features} features, the request has {table.shape[1]}")
        whole = self.booster.predict(self.xgboost.DMatrix(numpy.concatenate(tables)))
        return [{"prediction": p} for p in numpy.split(whole, numpy.cumsum([len(t) for t in tables])[:-1])]

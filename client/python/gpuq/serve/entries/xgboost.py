"""entry = "gpuq:xgboost": a folder with one .json or .ubj model as save_model writes it. On the card when there is one.

A request's one input is the table X: a tensor or JSON rows, one row, or JSON objects by the names of the training's columns; NaN and JSON
null are missing values, categories are their codes. The answer is `prediction`, what Booster.predict says of each row: the value, the
probability, or one probability for each class. A model that stopped early answers with its best round, as the scikit-learn classes do.
"""
from typing import Any, Dict, List

from . import grouped, only_file, sendable, table
from ..values import BadInput


class Model:
    def setup(self, ctx: Any) -> None:
        import xgboost
        self.xgboost = xgboost
        self.booster = xgboost.Booster({"nthread": ctx.threads, "device": "cuda" if ctx.device_kind == "cuda" else "cpu"})
        self.booster.load_model(only_file(ctx.folder, ".json", ".ubj"))
        self.width = int(self.booster.num_features())
        self.names = self.booster.feature_names
        best = self.booster.attributes().get("best_iteration")
        self.rounds = (0, 0) if best is None else (0, int(best) + 1)

    def metadata(self) -> Dict[str, Any]:
        return {"features": self.names or self.width}

    def warmup(self) -> None:
        import numpy
        self.answer(numpy.zeros((1, self.width), "float32"))

    def predict(self, requests: List[Any]) -> List[Any]:
        import numpy
        answers: List[Any] = [None] * len(requests)
        tables: List[Any] = [None] * len(requests)
        for at, request in enumerate(requests):
            try:
                tables[at] = self.numbers(table(request, self.names, self.width))
            except BadInput as why:
                answers[at] = why
        for members in grouped([None if t is None else 0 for t in tables]):   # one group: all are of the model's width
            whole = self.answer(numpy.concatenate([tables[at] for at in members]))
            begin = 0
            for at in members:
                end = begin + len(tables[at])
                answers[at] = {"prediction": whole[begin:end]}
                begin = end
        return answers

    @staticmethod
    def numbers(rows: Any) -> Any:
        try:
            return rows.astype("float32")
        except (TypeError, ValueError):
            raise BadInput("the table holds text; the model takes numbers, and of a category its code") from None

    def answer(self, x: Any) -> Any:
        matrix = self.xgboost.DMatrix(x, feature_names=self.names, feature_types=self.booster.feature_types, enable_categorical=True)
        return sendable(self.booster.predict(matrix, iteration_range=self.rounds))

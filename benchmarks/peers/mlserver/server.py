"""MLServer's own scikit-learn runtime; only the file is read by skops, where it uses joblib."""

import os
from pathlib import Path

import skops.io
from mlserver_sklearn import SKLearnModel

FILE = Path(os.environ["MODEL_DIR"]) / "model.skops"


class Diabetes(SKLearnModel):
    async def load(self) -> bool:
        self._model = skops.io.load(FILE, trusted=skops.io.get_untrusted_types(file=FILE))
        return True

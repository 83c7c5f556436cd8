"""A model directory: its digest, and its model, read without running code that it carries."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from contract import manifest, model_directory, model_types
from serve_app.model_errors import ModelError, UnservableModelError
from serve_app.models import model_check
from serve_app.models.model import Model
from serve_app.records import rows as row_blocks
from serve_app.records import signature
from serve_app.records.rows import Rows

MLMODEL: Final = "MLmodel"
MOST_EXAMPLE_BYTES: Final = 16 * 2**20
"""Of an input example; a longer one is as good as none."""

MOST_UNPACKED_BYTES: Final = 8 * 2**30
"""Of a model file, which is a ZIP archive: as many as a version may have."""

_MLFLOW_SKLEARN: Final = "mlflow.sklearn"
_PREDICT: Final = "predict"
_FLAVORS: Final = frozenset({"sklearn", "python_function"})
_CODE: Final = ("code", "model_code_path")
_BLANKS: Final[Mapping[str, Any]] = {"boolean": False, "string": ""}
_KINDS: Final[Mapping[str, Any]] = {"boolean": bool, "string": str}


def read(directory: Path, extra_trusted_types: tuple[str, ...] = (), expected: Any = None) -> Model:
    """Read a model directory without pickle and without running code that it carries.

    `expected` is what training recorded that it predicts for its input example, as JSON. Raises
    UnservableModelError for anything but a skops file of the scikit-learn flavor with a signature
    and with types on our list, whose model answers its input example, and as it did in training.
    """
    import skops.io  # noqa: PLC0415  # imports all of scikit-learn: not before a model is there

    mlmodel = _mlmodel(directory)
    file = directory / _model_file(mlmodel)
    try:
        _check_unpacked(file)
        if unknown := model_types.untrusted_types(file, extra_trusted_types):
            raise UnservableModelError(
                f"{file.name} holds types that are not on the list: {', '.join(unknown)}; "
                "allow them by name with `extra_trusted_types` if you trust their code"
            )
        trusted = [*model_types.TRUSTED_TYPES, *extra_trusted_types]
        estimator = skops.io.load(file, trusted=trusted)
    except ModelError:
        raise
    except Exception as error:
        raise UnservableModelError(f"{file}: not a readable skops file: {error}") from error
    columns = signature.from_mlmodel(mlmodel)
    model = Model(estimator, columns, _example(directory, mlmodel, columns))
    model_check.check(model)
    model_check.check_replay(model, expected)
    return model


def head(directory: Path) -> tuple[signature.Signature, Rows]:
    """Return a model's signature and its example, without reading the model itself.

    Raises UnservableModelError.
    """
    mlmodel = _mlmodel(directory)
    columns = signature.from_mlmodel(mlmodel)
    return columns, _example(directory, mlmodel, columns)


def files_of(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a model directory, by its path inside.

    Files that training, MLflow or the export write beside the model are left out. Raises
    UnservableModelError for a symbolic link that leads out of the directory or to no file.
    """
    try:
        return model_directory.list_files(directory)
    except model_directory.OddFileError as error:
        raise UnservableModelError(str(error)) from error


def digest_of(directory: Path) -> str:
    """Return one SHA-256 over the names and contents of `files_of`. Raises as it does."""
    return manifest.digest_of(files_of(directory))


def _check_unpacked(file: Path) -> None:
    """Raise UnservableModelError for what is small only as long as it is packed."""
    with zipfile.ZipFile(file) as packed:
        size = sum(part.file_size for part in packed.infolist())
    if size > MOST_UNPACKED_BYTES:
        raise UnservableModelError(
            f"{file.name} has {size} bytes unpacked, more than {MOST_UNPACKED_BYTES}"
        )


def _mlmodel(directory: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load((directory / MLMODEL).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnservableModelError(f"{directory}: no readable {MLMODEL}: {error}") from error
    if not isinstance(content, dict):
        raise UnservableModelError(f"{directory}: {MLMODEL} holds no mapping")
    return content


def _model_file(mlmodel: Mapping[str, Any]) -> str:
    flavors = mlmodel.get("flavors")
    flavors = flavors if isinstance(flavors, dict) else {}
    sklearn, pyfunc = flavors.get("sklearn"), flavors.get("python_function", {})
    if not isinstance(sklearn, dict) or sklearn.get("serialization_format") != "skops":
        raise UnservableModelError(
            "only the scikit-learn flavor in skops format is served: "
            "log the model with serialization_format='skops'"
        )
    if others := sorted(map(str, flavors.keys() - _FLAVORS)):
        raise UnservableModelError(
            f"the model has other flavors beside scikit-learn's, which are not served here: "
            f"{', '.join(others)}; log it by mlflow.sklearn alone"
        )
    if not isinstance(pyfunc, dict):
        raise UnservableModelError(f"the flavor python_function is no mapping: {pyfunc!r}")
    for flavor in (sklearn, pyfunc):
        if any(flavor.get(key) for key in _CODE):
            raise UnservableModelError("the model carries code of its own, which is not run here")
    if pyfunc and pyfunc.get("loader_module") != _MLFLOW_SKLEARN:
        raise UnservableModelError(
            f"the model asks for the loader {pyfunc.get('loader_module')!r}, which is not run here"
        )
    if (predict := pyfunc.get("predict_fn", _PREDICT)) != _PREDICT:
        raise UnservableModelError(
            f"the model asks for the method {predict!r} instead of {_PREDICT}: log it without "
            "pyfunc_predict_fn; probabilities are to be had with ?proba=true"
        )
    file = str(sklearn.get("pickled_model"))
    if Path(file).name != file:
        raise UnservableModelError(f"the model file {file!r} is not in the model's directory")
    return file


def _example(directory: Path, mlmodel: Mapping[str, Any], columns: signature.Signature) -> Rows:
    """Return the first row of the model's input example, or zeros and blanks if it has none."""
    info = mlmodel.get("saved_input_example_info")
    if isinstance(info, dict):
        with contextlib.suppress(
            OSError, LookupError, ArithmeticError, TypeError, ValueError, RecursionError
        ):
            document = json.loads(_inside(directory, str(info["artifact_path"])).read_text())
            row = dict(zip(document["columns"], document["data"][0], strict=True))
            return _row(columns, row)
    return _row(columns, {one.name: _BLANKS.get(one.type, 0) for one in columns.columns})


def _inside(directory: Path, name: str) -> Path:
    """Return a file of the model's that may be read whole. Raises OSError, ValueError."""
    file = (directory / name).resolve()
    if not file.is_relative_to(directory.resolve()) or file.stat().st_size > MOST_EXAMPLE_BYTES:
        raise ValueError(name)
    return file


def _row(columns: signature.Signature, values: Mapping[str, Any]) -> Rows:
    """Return one record. Raises KeyError, TypeError, ValueError, ArithmeticError."""
    rows = row_blocks.empty(columns, 1)
    with np.errstate(over="raise"):
        for at, one in enumerate(columns.columns):
            value = values[one.name]
            if not isinstance(value, _KINDS.get(one.type, int | float)):
                raise TypeError(f"{one.name}: {value!r}")
            row_blocks.column(rows, at)[:] = value
        if columns.is_numeric:
            row_blocks.round_singles(rows, row_blocks.singles(columns))
    return rows

"""The types, beyond those skops trusts by itself, that may be read from a model file.

Serving loads a model with this list and nothing else, whatever the model's own `MLmodel` says;
training refuses an estimator that needs more. To allow a type of your own, add it by name to
`extra_trusted_types` in both `train_config.yaml` and `serve_config.yaml`: a type on the list may
run its own code while it is loaded.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

TRUSTED_TYPES: Final = (
    "numpy.dtype",
    "scipy.interpolate._bsplines.BSpline",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.cluster._bisect_k_means._BisectingTree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)


def untrusted_types(file: Path, extra_trusted_types: Iterable[str] = ()) -> list[str]:
    """Return the types in a skops file that are neither skops's own nor on our list, sorted."""
    import skops.io  # noqa: PLC0415  # imports all of scikit-learn: not before a model is there

    trusted = {*TRUSTED_TYPES, *extra_trusted_types}
    return sorted(set(skops.io.get_untrusted_types(file=file)) - trusted)

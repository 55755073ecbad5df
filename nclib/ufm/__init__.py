"""Unconstrained-features models: losses and closed-form optima.

In an unconstrained-features model (UFM) the features are free variables, optimized together with
the last layer. Every function takes a leading batch axis ``B``, which runs seeds and
hyper-parameters side by side. Samples are ordered by class: :func:`labels` gives their classes.
"""

from ..solve import Solution, minimize
from .ce import (
    CEOptimum,
    CESolution,
    ce_class_loss,
    ce_loss,
    ce_optimum,
    ce_solve,
    init,
    labels,
)
from .deep import (
    DeepPath,
    deep_descend,
    deep_init,
    deep_layers,
    deep_loss,
    dnc_level,
    dnc_threshold,
    rigid_level,
)
from .regression import (
    RegressionOptimum,
    regression_loss,
    regression_optimum,
    regression_solution,
)

__all__ = [
    "CEOptimum",
    "CESolution",
    "DeepPath",
    "RegressionOptimum",
    "Solution",
    "ce_class_loss",
    "ce_loss",
    "ce_optimum",
    "ce_solve",
    "deep_descend",
    "deep_init",
    "deep_layers",
    "deep_loss",
    "dnc_level",
    "dnc_threshold",
    "init",
    "labels",
    "minimize",
    "regression_loss",
    "regression_optimum",
    "regression_solution",
    "rigid_level",
]

"""nclib: exact, fast measures of neural collapse in PyTorch.

The measures: :func:`measure`, :func:`measure_batches` for features that come in batches,
:func:`measure_regression`, and the rooms ``collapse``, ``nrc``, ``complexity``; ``hooks`` for the
layers of any model, ``stats`` for streams and ranks. The theory: ``frames``, ``polar``, ``ufm``,
``solve``. For the book: ``data``, ``models``, ``ensembles``, ``losses``, ``training``, ``claims``,
``runtime``, ``plotting``.
"""

from . import (
    collapse,
    complexity,
    data,
    ensembles,
    frames,
    hooks,
    losses,
    models,
    nrc,
    plotting,
    polar,
    solve,
    stats,
    training,
    ufm,
)
from .claims import Claim, Claims
from .collapse import NCReport, measure, measure_batches
from .complexity import geometric_complexity
from .frames import simplex_etf
from .hooks import watch
from .nrc import NRCReport, measure_regression
from .polar import nearest_simplex_etf
from .runtime import Run, setup
from .runtime import version as _version
from .stats import ClassMeans, ClassScatter, ClassStats

__version__ = _version()

__all__ = [
    "Claim",
    "Claims",
    "ClassMeans",
    "ClassScatter",
    "ClassStats",
    "NCReport",
    "NRCReport",
    "Run",
    "collapse",
    "complexity",
    "data",
    "ensembles",
    "frames",
    "geometric_complexity",
    "hooks",
    "losses",
    "measure",
    "measure_batches",
    "measure_regression",
    "models",
    "nearest_simplex_etf",
    "nrc",
    "plotting",
    "polar",
    "setup",
    "simplex_etf",
    "solve",
    "stats",
    "training",
    "ufm",
    "watch",
]

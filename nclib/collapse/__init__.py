"""Measures of neural collapse: NC1 to NC5 with their variants, and one report of all of them.

The measures of samples (NC1, CDNV, NC4) take a :class:`nclib.stats.ClassStats`, those of class
means or of classifiers (NC2, NC3) take matrices. :func:`measure` and :func:`measure_batches` do it
all. Every measure is zero at collapse and, unless it says otherwise, has no unit: it keeps its
value when features or classifier are scaled.

Notation: C classes, class means ``mu_c``, global mean ``mu_G``, ``M`` the rows ``mu_c - mu_G``,
``W`` and ``b`` of the linear classifier, ``Sigma_W`` and ``Sigma_B`` the within- and between-class
covariance, ``E = (I - 11ᵀ/C) / sqrt(C - 1)``. :data:`nclib.stats.WEIGHTINGS` says what averages are
over when classes have unequal counts.

Sources: Papyan, Han & Donoho (2020), "Prevalence of neural collapse during the terminal phase of
deep learning training"; Zhu et al. (2021), "A geometric analysis of neural collapse with
unconstrained features", and its code; Galanti, György & Hutter (2022), "On the role of neural
collapse in transfer learning".
"""

from .held_out import Decisions, decide
from .measures import (
    cdnv,
    cdnv_pairs,
    nc1,
    nc1_ratio,
    nc2_angles,
    nc2_etf,
    nc2_norms,
    nc3,
    nc4,
    nc4_bias,
    nc5,
    uniformity,
)
from .report import NCReport, measure, measure_batches, report

__all__ = [
    "Decisions",
    "NCReport",
    "cdnv",
    "cdnv_pairs",
    "decide",
    "measure",
    "measure_batches",
    "nc1",
    "nc1_ratio",
    "nc2_angles",
    "nc2_etf",
    "nc2_norms",
    "nc3",
    "nc4",
    "nc4_bias",
    "nc5",
    "report",
    "uniformity",
]

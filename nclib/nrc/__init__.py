"""Measures of neural regression collapse: NRC1 to NRC3, and one report of all of them.

Features (..., N, d), targets (N, n) or (..., N, n), weights (..., n, d): leading axes are batches
and come back as the shape of the result. Everything is computed in float64. A problem of a batch
whose measure has no value gives NaN there; a single problem raises ValueError.

Source: Andriopoulos et al. (2024), "The prevalence of neural collapse in neural multivariate
regression".
"""

from .measures import (
    NRC3Fit,
    covariance_root,
    explained_variance,
    nrc1,
    nrc2,
    nrc3,
    nrc3_fit,
)
from .report import NRCReport, measure_regression

__all__ = [
    "NRC3Fit",
    "NRCReport",
    "covariance_root",
    "explained_variance",
    "measure_regression",
    "nrc1",
    "nrc2",
    "nrc3",
    "nrc3_fit",
]

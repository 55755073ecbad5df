"""The old name of :mod:`nclib.frames` and :mod:`nclib.polar`."""

from .frames import etf_gram, helmert, simplex_etf
from .polar import nearest_simplex_etf, polar_factor

__all__ = ["etf_gram", "helmert", "nearest_simplex_etf", "polar_factor", "simplex_etf"]

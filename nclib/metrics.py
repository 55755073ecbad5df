"""The old name of :mod:`nclib.collapse` and :mod:`nclib.nrc`."""

from . import collapse, nrc
from .collapse import *  # noqa: F403
from .nrc import *  # noqa: F403

__all__ = [*collapse.__all__, *nrc.__all__]

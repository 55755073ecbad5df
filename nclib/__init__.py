"""nclib: exact, fast measures of neural collapse in PyTorch."""

from .claims import Claim as Claim
from .claims import Claims as Claims
from .runtime import Run as Run
from .runtime import setup as setup
from .runtime import version as _version

__version__ = _version()

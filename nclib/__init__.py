"""nclib: exact, fast measures of neural collapse in PyTorch."""

from . import data as data
from . import geometry as geometry
from . import metrics as metrics
from . import models as models
from . import plotting as plotting
from . import training as training
from . import ufm as ufm
from .claims import Claim as Claim
from .claims import Claims as Claims
from .metrics import NCReport as NCReport
from .metrics import measure as measure
from .metrics import measure_batches as measure_batches
from .runtime import Run as Run
from .runtime import setup as setup
from .runtime import version as _version
from .stats import ClassStats as ClassStats

__version__ = _version()

"""nclib: exact, fast measures of neural collapse in PyTorch."""

from . import collapse as collapse
from . import data as data
from . import ensembles as ensembles
from . import frames as frames
from . import geometry as geometry
from . import losses as losses
from . import metrics as metrics
from . import models as models
from . import nrc as nrc
from . import plotting as plotting
from . import polar as polar
from . import solve as solve
from . import stats as stats
from . import training as training
from . import ufm as ufm
from .claims import Claim as Claim
from .claims import Claims as Claims
from .collapse import NCReport as NCReport
from .collapse import measure as measure
from .collapse import measure_batches as measure_batches
from .nrc import NRCReport as NRCReport
from .nrc import measure_regression as measure_regression
from .runtime import Run as Run
from .runtime import setup as setup
from .runtime import version as _version
from .stats import ClassStats as ClassStats

__version__ = _version()

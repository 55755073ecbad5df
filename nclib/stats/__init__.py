"""Class statistics of features in two streaming passes, from which every measure is computed.

How it works, with N samples, d features and C classes:

* Pass 1 finds counts and class means. Each sample is first shifted by the first sample seen of its
  class, so near collapse the sums are of tiny numbers and the means are right far beyond the
  features' own precision; identical samples give exactly that sample as their mean.
* The C×C Gram matrix of the centered means (d×d where d < C), in float64, gives the singular
  values and an orthonormal basis of the between-class space. An eigenvalue of the Gram (a squared
  singular value) counts if it exceeds ``10·min(C, d)·eps`` of the largest, with float64's eps, so a
  singular value counts above about ``1.5e-7`` of the largest for C = 10. The rank is at most C - 1.
* Pass 2 multiplies the residuals ``h - mu_y`` once by ``[basis / singular values | random direction
  | weight]``. The residual is formed in the features' own precision, where it is exact near
  collapse; what the rounding of the means to that precision adds is known, and taken off again. The
  random direction tells whether the samples are those of the first pass.

Sums over samples are carried in float64. Memory: ``O(C·d + R·(d + C))`` numbers, with R rows at a
time (about 2 MiB of features on a CPU, 64 MiB on an accelerator), whatever N and the size of the
batches are, and never d² for d > C nor C² for more than 2048 classes (with d < C). float16 and
bfloat16 features are computed in float32. Features far from size one are measured in a unit of
their own, a power of two. On Apple's GPUs, which have no float64, accumulators live on the CPU.
"""

from .first import ClassMeans
from .second import ClassScatter
from .sums import check_matrix as check_matrix
from .sums import unit as unit
from .table import WEIGHTINGS, Batches, ClassStats
from .table import walk as walk

__all__ = ["WEIGHTINGS", "Batches", "ClassMeans", "ClassScatter", "ClassStats"]

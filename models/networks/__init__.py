"""The networks of the papers in PyTorch, one family a file; torch is imported with the family that is built."""

from qir.support.packages import require_torch

require_torch()

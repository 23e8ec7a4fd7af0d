"""The torch executor: an interpreter of graphs with gradients."""

from qir.support.packages import require_torch

require_torch()

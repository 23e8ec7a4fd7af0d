"""Sensitivities from gradients and curvature."""

from qir.support.packages import require_torch

require_torch()

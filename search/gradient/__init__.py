"""Widths found by gradients."""

from qir.support.packages import require_torch

require_torch()

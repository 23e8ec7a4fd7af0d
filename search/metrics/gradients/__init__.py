"""Sensitivities from gradients and curvature."""

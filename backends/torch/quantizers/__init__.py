"""Quantizing schemes in torch, equal to the numpy definitions to the bit, with gradients for training."""

from qir.backends.torch.quantizers.affine import fake_quantize
from qir.backends.torch.quantizers.channels import fake_quantize_channels
from qir.backends.torch.quantizers.codebook import fake_quantize_levels
from qir.backends.torch.quantizers.parameters import TorchParameters
from qir.backends.torch.quantizers.registry import get_torch_scheme, register_torch
from qir.backends.torch.quantizers.scheme import TorchScheme

__all__ = [
    "TorchParameters",
    "TorchScheme",
    "fake_quantize",
    "fake_quantize_channels",
    "fake_quantize_levels",
    "get_torch_scheme",
    "register_torch",
]

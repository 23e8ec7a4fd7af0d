"""Quantized networks of any common form, raised into fake-quant form."""

from qir.passes.raising.driver import RaiseQuantized as RaiseQuantized
from qir.passes.raising.driver import RaiseReport as RaiseReport
from qir.passes.raising.driver import raise_quantized as raise_quantized

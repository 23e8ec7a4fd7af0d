"""The schemes that come with qir."""

from __future__ import annotations

from qir.quantizers.additive_power_of_two import AdditivePowerOfTwo
from qir.quantizers.binary import Binary
from qir.quantizers.clipq import ClipQ, ClipQPaper
from qir.quantizers.dorefa import DoReFa
from qir.quantizers.fixedq import FixedQ
from qir.quantizers.kmeans import KMeans
from qir.quantizers.learned import Lsq, Pact
from qir.quantizers.potq import PotQ, PotQPaper
from qir.quantizers.power_of_two import PowerOfTwo
from qir.quantizers.quaternary import Quaternary
from qir.quantizers.registry import register
from qir.quantizers.resq import ResQ
from qir.quantizers.ternary import Ternary
from qir.quantizers.uniform import Uniform, UniformAsymmetric
from qir.quantizers.uniform_step import UniformStep
from qir.quantizers.wrpn import Wrpn
from qir.quantizers.zoomq import ZoomQ

BUILTIN = (
    Uniform(),
    UniformAsymmetric(),
    UniformStep(),
    Binary(),
    Ternary(),
    Quaternary(),
    FixedQ(),
    ResQ(),
    ZoomQ(),
    ClipQ(),
    ClipQPaper(),
    PotQ(),
    PotQPaper(),
    Wrpn(),
    DoReFa(),
    Pact(),
    Lsq(),
    PowerOfTwo(),
    KMeans(),
    AdditivePowerOfTwo(),
)


def register_all() -> None:
    """Register every scheme of this package."""
    for scheme in BUILTIN:
        register(scheme)

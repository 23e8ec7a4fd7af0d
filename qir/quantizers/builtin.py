"""The schemes that come with qir."""

from __future__ import annotations

from qir.quantizers.affine.binary import Binary
from qir.quantizers.affine.clipq import ClipQ, ClipQPaper
from qir.quantizers.affine.dorefa import DoReFa
from qir.quantizers.affine.fixedq import FixedQ
from qir.quantizers.affine.learned import Lsq, Pact
from qir.quantizers.affine.uniform import Uniform, UniformAsymmetric
from qir.quantizers.affine.uniform_step import UniformStep
from qir.quantizers.affine.wrpn import Wrpn
from qir.quantizers.registry import register
from qir.quantizers.tables.additive_power_of_two import AdditivePowerOfTwo
from qir.quantizers.tables.kmeans import KMeans
from qir.quantizers.tables.potq import PotQ, PotQPaper
from qir.quantizers.tables.power_of_two import PowerOfTwo
from qir.quantizers.tables.quaternary import Quaternary
from qir.quantizers.tables.resq import ResQ
from qir.quantizers.tables.ternary import Ternary
from qir.quantizers.tables.zoomq import ZoomQ

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

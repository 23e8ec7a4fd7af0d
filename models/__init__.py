"""Reference networks of the papers, their training recipes, and readers of data sets."""

if __name__ != "qir.models":
    raise ImportError(f"import this package as qir.models, not as {__name__}")

from qir.models.data.cifar10 import cifar10
from qir.models.data.fashion_mnist import FASHION_MNIST_SPLITS, fashion_mnist, fashion_mnist_full
from qir.models.data.mnist import mnist_5k
from qir.models.data.samples import Samples
from qir.models.shipped import card, names, path

__all__ = [
    "FASHION_MNIST_SPLITS",
    "Samples",
    "card",
    "cifar10",
    "fashion_mnist",
    "fashion_mnist_full",
    "mnist_5k",
    "names",
    "path",
]

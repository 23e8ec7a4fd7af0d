"""Networks that are a chain of convolutions and dense layers: the VGG family, SVHN-10 and AlexNet."""

from __future__ import annotations

from torch import nn

POOL = 0
"""Stands for 2x2 max pooling in a list of widths."""


def vgg_like(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Sequential:
    """VGG-like of AutoQNN (seed 003, section 6): six 3x3 convolutions, a dense layer of 1024, the classifier.

    The paper gives no widths, but they follow from its section 6.2: with 64, 64, 128, 128, 256, 256 channels on 32x32
    images the dense layer is 4096x1024, the weight policy {7, 8, 6, 6, 7, 5, 2} averages 2.82 bits and the activation
    policy {2, 3, 3, 4, 5, 4, 6} 3.08 bits, as printed there.

    Args:
        classes: number of classes.
        channels: channels of the input image of 32x32.
        width: factor of all widths.
    """
    plan = _scaled((64, 64, POOL, 128, 128, POOL, 256, 256, POOL), width)
    dense = round(1024 * width)
    features = plan[-2] * 16
    head = [nn.Flatten(), nn.Linear(features, dense), nn.BatchNorm1d(dense), nn.ReLU()]
    return nn.Sequential(*_convolutions(channels, plan), *head, nn.Linear(dense, classes))


def vgg11(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Sequential:
    """VGG-11 (configuration A of Simonyan and Zisserman) with BatchNorm for 32x32 images: nine layers.

    Eight convolutions and one dense layer, since a 32x32 image is a single pixel after five poolings.

    Args:
        classes: number of classes.
        channels: channels of the input image of 32x32.
        width: factor of all widths.
    """
    plan = _scaled((64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL), width)
    return nn.Sequential(*_convolutions(channels, plan), nn.Flatten(), nn.Linear(plan[-2], classes))


def svhn10(classes: int = 10, channels: int = 3, width: float = 1.0) -> nn.Sequential:
    """SVHN-10 of ReLeQ (seed 004, table 2), reconstructed: ten layers; the paper gives no widths.

    Args:
        classes: number of classes.
        channels: channels of the input image of 32x32.
        width: factor of all widths.
    """
    plan = _scaled((32, 32, POOL, 64, 64, POOL, 128, 128, POOL, 256, 256, 256), width)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(plan[-1], classes)]
    return nn.Sequential(*_convolutions(channels, plan), *head)


def alexnet(classes: int = 1000, channels: int = 3) -> nn.Sequential:
    """AlexNet in its one-column form (Krizhevsky, 2014): five convolutions, three dense layers, no BatchNorm.

    Args:
        classes: number of classes.
        channels: channels of the input image of 224x224.
    """
    return nn.Sequential(
        *(nn.Conv2d(channels, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Flatten(), nn.Dropout(), nn.Linear(256 * 36, 4096), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()),
        nn.Linear(4096, classes),
    )


def _scaled(plan: tuple[int, ...], width: float) -> list[int]:
    return [POOL if entry == POOL else max(1, round(entry * width)) for entry in plan]


def _convolutions(channels: int, plan: list[int]) -> list[nn.Module]:
    """3x3 convolutions with BatchNorm and ReLU, with max pooling where the plan says so."""
    layers: list[nn.Module] = []
    for entry in plan:
        if entry == POOL:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, entry, 3, padding=1, bias=False), nn.BatchNorm2d(entry), nn.ReLU()]
        channels = entry
    return layers

"""The networks that can be named in a configuration. To add one: a function and a line in MODELS."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def digits_cnn(classes: int) -> nn.Module:
    """For 8 x 8 grey pictures: two convolutions and two linear layers, 71,568 weights at ten classes."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )


def lenet5(classes: int) -> nn.Module:
    """The Caffe LeNet-5 (20-50-500-10) for 28 x 28 grey pictures: 430,500 weights at ten classes."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, classes),
    )


def resnet18(classes: int) -> nn.Module:
    """torchvision's ResNet-18."""
    from torchvision.models import resnet18 as build

    model: nn.Module = build(num_classes=classes)
    return model


def resnet50(classes: int) -> nn.Module:
    """torchvision's ResNet-50."""
    from torchvision.models import resnet50 as build

    model: nn.Module = build(num_classes=classes)
    return model


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "digits_cnn": digits_cnn,
    "lenet5": lenet5,
    "resnet18": resnet18,
    "resnet50": resnet50,
}

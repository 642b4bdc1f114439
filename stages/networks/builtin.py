"""The networks that can be named in a configuration. To add one: a function and a line in MODELS."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F


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


class CifarBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut without parameters (He et al. 2015, section 4.2, option A).

    Where the block has more channels than its input, the shortcut takes every second row and column and
    puts channels of zeros around its own.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.before = self.after = (outputs - inputs) // 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] to [n, outputs, h / stride, w / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))
        return F.relu(self.bn2(self.conv2(y)) + shortcut)


class CifarResNet(nn.Module):
    """The ResNets for 32 x 32 RGB pictures (He et al. 2015, section 4.2): 3 n blocks of widths 16, 32 and 64."""

    def __init__(self, n: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(CifarBlock(16, 16) for _ in range(n)))
        self.layer2 = nn.Sequential(CifarBlock(16, 32), *(CifarBlock(32, 32) for _ in range(n - 1)))
        self.layer3 = nn.Sequential(CifarBlock(32, 64), *(CifarBlock(64, 64) for _ in range(n - 1)))
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] to [n, classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        y: Tensor = self.linear(x.mean((2, 3)))
        return y


def cifar_resnet(depth: int, classes: int) -> nn.Module:
    """ResNet-20, 32, 56, ...: 6 n + 2 layers. 268,336 weights at depth 20 and ten classes."""
    return CifarResNet((depth - 2) // 6, classes)


def torchvision(name: str, classes: int) -> nn.Module:
    """One of torchvision's networks for RGB pictures (224 x 224; all but vit_b_16 take other sizes too)."""
    from torchvision.models import get_model

    model: nn.Module = get_model(name, weights=None, num_classes=classes)
    return model


TORCHVISION = ("alexnet", "mobilenet_v2", "resnet18", "resnet50", "squeezenet1_1", "vgg16", "vgg16_bn", "vit_b_16")
"""Networks taken from torchvision under its names; the others of it are `torchvision:NAME`."""

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "digits_cnn": digits_cnn,
    "lenet5": lenet5,
    "resnet20": partial(cifar_resnet, 20),
    "resnet32": partial(cifar_resnet, 32),
    "resnet56": partial(cifar_resnet, 56),
    **{name: partial(torchvision, name) for name in TORCHVISION},
}

"""Makes the networks: torchvision's, with the CIFAR stem for small images and torchvision's initial distributions.

The paper does not specify its variants. For small images these are ResNets with a 3x3 stem and no max-pooling, and
VGG16 with BatchNorm and a 512 -> classes head. For images of more than 64 pixels, torchvision's ImageNet networks are
unchanged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50, resnet101, vgg16_bn
from torchvision.models.resnet import BasicBlock

from trainables.config import Precision
from trainables.image_classifier.config import Architecture, ImageClassifierConfig, Normalization
from trainables.random_streams import Purpose, stream

NormLayer = Callable[[int], nn.Module]

_MOST_GROUPS, _CHANNELS_OF_GROUP = 32, 4
_RESNETS: dict[Architecture, Callable[..., nn.Module]] = {
    Architecture.RESNET18: resnet18,
    Architecture.RESNET50: resnet50,
    Architecture.RESNET101: resnet101,
}
_global_generator = threading.Lock()
"""Held while one trial uses torch's global generators, since threads train members side by side."""


def initial_model(config: ImageClassifierConfig) -> nn.Module:
    """The network with the initial weights of the trial's seed, the same for every optimizer; float32 or float64."""
    with seeded(torch_seed(config.seed, Purpose.INIT)):
        model = _make(config)
    return model.double() if config.precision.value == "float64" else model


def memory_format(config: ImageClassifierConfig, device: torch.device) -> torch.memory_format:
    """channels_last, except on a GPU in full precision: contiguous, torch's default.

    There cuDNN's channels_last convolutions are slow (pytorch#44943; float64 has none), and the channels_last kernels
    of BatchNorm wait for trials that train at the same time (pytorch#80259).
    """
    is_full = config.precision is not Precision.BFLOAT16
    return torch.contiguous_format if device.type == "cuda" and is_full else torch.channels_last


@contextmanager
def seeded(seed: int, gpus: Sequence[torch.device] = ()) -> Iterator[None]:
    """Seed torch's global generators for this thread alone within the context, and restore them afterwards."""
    with _global_generator, torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        yield


def torch_seed(seed: int, purpose: Purpose, *index: int) -> int:
    """A seed for torch's generators, by the trial's seed, the purpose and further indices."""
    return int(stream(seed, purpose, *index).integers(2**63))


def group_norm(num_channels: int) -> nn.GroupNorm:
    """GroupNorm with groups of four channels, 32 groups at most."""
    return nn.GroupNorm(max(1, min(_MOST_GROUPS, num_channels // _CHANNELS_OF_GROUP)), num_channels)


def _make(config: ImageClassifierConfig) -> nn.Module:
    norm: NormLayer = group_norm if config.normalization is Normalization.GROUP else nn.BatchNorm2d
    if config.architecture is Architecture.RESNET8:
        return ResNet8(config.channels, config.num_classes, norm)
    if config.architecture is Architecture.VGG16:
        return _vgg16(config, norm)
    model: Any = _RESNETS[config.architecture](num_classes=config.num_classes, norm_layer=norm)
    if config.has_small_stem:
        model.conv1 = _conv(config.channels, 64, size=3, stride=1)
        model.maxpool = nn.Identity()
    elif config.channels != 3:
        model.conv1 = _conv(config.channels, 64, size=7, stride=2)
    return cast(nn.Module, model)


def _conv(channels: int, filters: int, size: int, stride: int) -> nn.Conv2d:
    """A first convolution, initialized as torchvision initializes a ResNet's."""
    conv = nn.Conv2d(channels, filters, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _vgg16(config: ImageClassifierConfig, norm: NormLayer) -> nn.Module:
    model: Any = vgg16_bn(num_classes=config.num_classes)
    if config.channels != 3:
        old = model.features[0]
        model.features[0] = nn.Conv2d(config.channels, old.out_channels, old.kernel_size, padding=old.padding)
        nn.init.kaiming_normal_(model.features[0].weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(model.features[0].bias)
    if config.has_small_stem:
        model.avgpool = nn.AdaptiveAvgPool2d(1)
        model.classifier = nn.Linear(512, config.num_classes)
        nn.init.normal_(model.classifier.weight, 0, 0.01)
        nn.init.zeros_(model.classifier.bias)
    for index, layer in enumerate(model.features):
        if isinstance(layer, nn.BatchNorm2d):
            model.features[index] = norm(layer.num_features)
    return cast(nn.Module, model)


class ResNet8(nn.Module):
    """The CIFAR ResNet of He et al. with one block in each stage, of 16, 32 and 64 filters; for small studies."""

    def __init__(self, channels: int, num_classes: int, norm: NormLayer) -> None:
        super().__init__()
        self.conv1 = _conv(channels, 16, size=3, stride=1)
        self.bn1 = norm(16)
        self.relu = nn.ReLU(inplace=True)
        self.stages = nn.Sequential(*(_stage(*widths, norm) for widths in ((16, 16), (16, 32), (32, 64))))
        self.fc = nn.Linear(64, num_classes)
        for module in self.stages.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_bchw: Tensor) -> Tensor:
        """Logits (B, classes)."""
        features = self.stages(self.relu(self.bn1(self.conv1(x_bchw))))
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


def _stage(channels: int, filters: int, norm: NormLayer) -> nn.Module:
    if channels == filters:
        return cast(nn.Module, BasicBlock(channels, filters, norm_layer=norm))
    shortcut = nn.Sequential(nn.Conv2d(channels, filters, 1, stride=2, bias=False), norm(filters))
    return cast(nn.Module, BasicBlock(channels, filters, stride=2, downsample=shortcut, norm_layer=norm))


def without_counters(model: nn.Module) -> None:
    """Remove the batch counters of BatchNorm layers: they change no result, and each costs an operation per step."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = None


def has_dropout(model: nn.Module) -> bool:
    """Whether training samples dropout masks from torch's generators."""
    return any(isinstance(module, nn.Dropout) for module in model.modules())

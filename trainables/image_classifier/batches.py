"""Makes batches on a device: gathers them where the images are stored, and augments and normalizes them on the device.

Shapes: N images, B of a batch, C channels, H = W pixels. Stored images are (N, H, W, C); gathered and permuted, they
have torch's channels_last layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from trainables.image_classifier.config import ImageClassifierConfig
from trainables.image_data.cache import ImageData
from trainables.random_streams import Purpose, stream


@dataclass(frozen=True, slots=True)
class Augmentation:
    """One epoch's random augmentation of each training image: whether it is mirrored (N,), its crop's corner (N, 2)."""

    mirrored: Tensor
    corners: Tensor


class DeviceImages:
    """Training and test images as float batches on a device; all members in a process that use them share them.

    They are stored on `home`: the device, or the host if the device has too little memory. Index tensors are on `home`.
    """

    def __init__(
        self, data: ImageData, device: torch.device, dtype: torch.dtype, home: torch.device | None = None
    ) -> None:
        self.device, self.home = device, device if home is None else home
        self.num_train, self.num_test = len(data.train_labels), len(data.test_labels)
        self.labels = torch.from_numpy(data.train_labels).to(device)
        self.test_labels = torch.from_numpy(data.test_labels).to(device)
        self._images = torch.from_numpy(data.train_images).to(self.home)
        self._test_images = torch.from_numpy(data.test_images).to(self.home)
        moments = (data.manifest.mean, data.manifest.std)
        self._mean, self._std = (torch.tensor(v, dtype=dtype, device=device)[:, None, None] for v in moments)
        self._dtype = dtype

    @property
    def num_bytes(self) -> int:
        """Bytes of device memory that images and labels take."""
        tensors = (self._images, self._test_images, self.labels, self.test_labels)
        return sum(t.nbytes for t in tensors if t.device == self.device)

    def stored(self, index_b: Tensor) -> Tensor:
        """The stored training images with these indices (B, H, W, C), moved to the device."""
        return self._images[index_b].to(self.device)

    def train_batch(self, stored_b: Tensor, index_b: Tensor, augmentation: Augmentation | None, padding: int) -> Tensor:
        """A training batch (B, C, H, W): stored images, augmented by their indices (on the device) and normalized."""
        if augmentation is not None:
            mirrored_b, corners_b2 = augmentation.mirrored[index_b], augmentation.corners[index_b]
            stored_b = _augmented(stored_b, mirrored_b, corners_b2, padding)
        return self._normalized(stored_b)

    def plain_batch(self, start: int, stop: int, *, test: bool) -> Tensor:
        """Images `start` to `stop - 1` of the test or the training set (B, C, H, W), normalized but not augmented."""
        return self._normalized((self._test_images if test else self._images)[start:stop].to(self.device))

    def _normalized(self, images_bhwc: Tensor) -> Tensor:
        # Bitwise what torchvision's ToTensor and Normalize give: Adam turns the smallest difference into a large one.
        scaled = images_bhwc.permute(0, 3, 1, 2).to(self._dtype).div_(255)
        return scaled.sub_(self._mean).div_(self._std)


def _augmented(images_bhwc: Tensor, mirrored_b: Tensor, corners_b2: Tensor, padding: int) -> Tensor:
    """Crop each image, padded by a black border, from its corner; mirror it if `mirrored_b` is true."""
    size = images_bhwc.shape[1]
    steps = torch.arange(size, device=images_bhwc.device)
    padded = pad(images_bhwc, (0, 0, padding, padding, padding, padding))
    rows = corners_b2[:, :1] + steps
    columns = corners_b2[:, 1:] + torch.where(mirrored_b[:, None], size - 1 - steps, steps)
    batch = torch.arange(len(images_bhwc), device=images_bhwc.device)
    return padded[batch[:, None, None], rows[:, :, None], columns[:, None, :]]


def epoch_order(config: ImageClassifierConfig, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Indices of the training images in that epoch's order, which depends only on the seed and on their number."""
    return stream(config.seed, Purpose.ORDER, epoch).permutation(config.num_train)


def epoch_augmentation(config: ImageClassifierConfig, epoch: int, device: torch.device) -> Augmentation | None:
    """That epoch's random augmentation; None if the config has none."""
    if not (config.augment_flip or config.augment_crop):
        return None
    rng = stream(config.seed, Purpose.AUGMENTATION, epoch)
    mirrored = (rng.random(config.num_train) < 0.5) & config.augment_flip
    corners = rng.integers(0, 2 * config.augment_crop + 1, (config.num_train, 2))
    return Augmentation(torch.from_numpy(mirrored).to(device), torch.from_numpy(corners).to(device))

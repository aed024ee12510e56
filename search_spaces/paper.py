"""The paper's grids (arXiv 2510.11354), one name for each figure or table that it prints."""

from __future__ import annotations

from search_spaces.space import decades

SYNTHETIC_WEIGHT_DECAY = {"adam": 1e-5, "adamw": 1e-2}
"""Tables 1 and 2, figures 3 and 4: lambda of the synthetic experiments."""

SYNTHETIC_LARGE_WEIGHT_DECAY = {"adam": 0.05, "adamw": 0.5}
"""Figures 5 and 6: values of lambda at which Adam fails to train and AdamW still trains."""

SYNTHETIC_NUM_EPOCHS = 10_000
LARGE_BATCH, MINI_BATCH = 100, 2
"""Batch sizes of tables 1 and 2 and of figures 3-6; n = 200."""

BATCH_SIZES = (2, 4, 10, 20, 40, 100, 200)
"""The axis of figure 1 for n = 200: divisors of n, among them the paper's two batch sizes."""

WEIGHT_DECAYS = (0.0, *decades(1e-6, 1e2))
"""The axis of figure 2 for the synthetic model: no decay, and powers of ten around both optimizers' transitions."""

BETAS = ((0.0, 0.5), (0.0, 0.9), (0.0, 0.95), (0.5, 0.5), (0.5, 0.9), (0.5, 0.95), (0.9, 0.9), (0.9, 0.95), (0.9, 0.99))
"""Figures 9 and 10: (beta1, beta2) in {0, 0.5, 0.9} x {0.5, 0.9, 0.95} with beta1^2 < beta2, and (0.9, 0.99)."""

IMAGE_NUM_EPOCHS = 100
IMAGE_BETAS = {"beta1": 0.9, "beta2": 0.99}
"""CIFAR-10 and ImageNet: figures 1, 2, 7, 8, 11 and 12."""

IMAGE_BATCH_SIZES = (16, 32, 64, 256, 1024, 4096, 8192)
IMAGE_WEIGHT_DECAY = {"adam": 5e-4, "adamw": 1e-2}
IMAGE_LEARNING_RATES = (5e-4, 1e-4, 1e-5)
"""Figure 1 (and 7): error against batch size, with the best of these learning rates at each batch size."""

IMAGE_MINI_BATCH, IMAGE_LEARNING_RATE = 16, 1e-4
IMAGE_WEIGHT_DECAYS = {
    "adam": (5e-7, 1e-6, 5e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1),
    "adamw": (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1),
}
"""Figure 2 (and 8): error against weight decay at B = 16; also the axis of figure 12."""

IMAGENET = {"num_epochs": 90, "image_size": 224, "num_train": 100_000, "subset_seed": 0}
"""ImageNet: 100 random training images from each of 1,000 classes."""
IMAGENET_BATCH_SIZES = (64, 256, 1024, 4096, 16_384, 32_768)
IMAGENET_WEIGHT_DECAY = {"adam": 1e-4, "adamw": 1e-2}
"""Figure 11: error against batch size at a learning rate of 1e-4; the paper gives only the ends, 64 and 32,768."""
IMAGENET_MINI_BATCH, IMAGENET_LEARNING_RATE = 64, 1e-3
"""Figure 12: error against weight decay."""

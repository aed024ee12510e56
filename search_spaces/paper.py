"""The paper's grids (arXiv 2510.11354), one name for each figure or table that it prints."""

from __future__ import annotations

from search_spaces.space import decades

SYNTHETIC_WEIGHT_DECAY = {"adam": 1e-5, "adamw": 1e-2}
"""Tables 1 and 2, figures 3 and 4: lambda of the synthetic experiments."""

SYNTHETIC_LARGE_WEIGHT_DECAY = {"adam": 0.05, "adamw": 0.5}
"""Figures 5 and 6: lambda at which Adam fails to train and AdamW still does."""

SYNTHETIC_NUM_EPOCHS = 10_000
LARGE_BATCH, MINI_BATCH = 100, 2
"""Batch sizes of tables 1 and 2 and of figures 3-6; n = 200."""

BATCH_SIZES = (2, 4, 10, 20, 40, 100, 200)
"""The axis of figure 1 for n = 200: the divisors of n that the paper's two batch sizes lie among."""

WEIGHT_DECAYS = (0.0, *decades(1e-6, 1e2))
"""The axis of figure 2 for the synthetic model: no decay, and the decades around both optimizers' transitions."""

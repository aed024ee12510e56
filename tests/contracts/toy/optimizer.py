"""The toy optimizer: Lion (Chen et al. 2023), for every engine on torch. Its rule is imported on use."""

from __future__ import annotations

from trainables.names import register_optimizer

TOYLION = register_optimizer(
    "toylion",
    is_coupled=False,
    has_moments=True,
    module=__name__,
    entries={"torch": "tests.contracts.toy.rule:ToyLion", "look": "tests.contracts.toy.look:LOOK"},
)

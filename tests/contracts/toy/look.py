"""How figures draw the toy optimizer."""

from orchestrator.figures.style import Look

LOOK = Look("ToyLion", "#CC79A7", "v", 5.0, 1.3, "....")

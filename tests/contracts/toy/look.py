"""How figures draw the toy optimizer."""

from orchestrator.figures.style import Look

LOOK = Look(name="ToyLion", colour="#CC79A7", marker="v", marker_size=5.0, line_width=1.3, hatch="....")

"""Describes experiments as frozen values: grids, sweeps, searches, their overrides, and the named sweeps.

Nothing here trains, plans or reads results. Every package above it in `orchestrator` may import it, and users' own
modules of sweeps do.
"""

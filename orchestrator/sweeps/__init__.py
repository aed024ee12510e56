"""What is asked, as frozen values: grids, sweeps, searches, their overrides, and the named sweeps.

Nothing here trains, plans or reads results. Every package above it in `orchestrator` may import it, and so do users'
own modules of sweeps.
"""

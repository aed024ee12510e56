"""Samplers that propose points (boundary search, TPE), and a writer of Optuna studies.

Samplers depend only on their arguments and know no sweeps. The schedulers and the export to Optuna import this package.
"""

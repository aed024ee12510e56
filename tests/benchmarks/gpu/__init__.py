"""Checks and rates of the GPU path on one GPU, each part in a separate process.

Needs torch, pydantic and pytest, but not Ray, MLflow, Optuna or numba.
"""

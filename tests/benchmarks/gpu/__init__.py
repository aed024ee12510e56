"""What one GPU tells: checks and rates of the GPU path, each part in a process of its own.

Needs torch, pydantic and pytest; neither Ray nor MLflow, Optuna or numba.
"""

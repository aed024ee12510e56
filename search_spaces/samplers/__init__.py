"""Samplers that propose points: boundary search, TPE, and their trials as Optuna studies.

They are functions of what they are given and know no sweep. The schedulers import them, and the export to Optuna does.
"""

"""The Gaussian-process model of where trials work, and its hyperparameters.

It proposes no points: samplers do. Samplers import it, and so do the edges, figures and tables of a map.
"""

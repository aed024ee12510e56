"""Models with a Gaussian process where trials work, and finds its hyperparameters.

Samplers import it to propose points, and so does the code for the edges, figures and tables of a map.
"""

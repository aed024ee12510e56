"""Figures of trials and traces as PNG and PDF, the only package that imports matplotlib.

It has no statistics of its own (those are in `analysis`) and reads no files. Only the report and the driver import it.
"""

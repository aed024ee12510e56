"""The paper's two-layer network on synthetic patches: config, data, two engines, trace, stop certificate.

What all workloads share lies one folder up. The registry loads `workload` by its name, and `sign_agreement` builds on
this package.
"""

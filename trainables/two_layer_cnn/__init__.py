"""The paper's two-layer network on synthetic patches: config, data, two engines, trace, stop certificate.

The parent package has what all workloads share. The registry loads the module `workload` by name, and `sign_agreement`
builds on this package.
"""

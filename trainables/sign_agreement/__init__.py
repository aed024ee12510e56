"""The two-layer network, each update compared with sign descent's.

Training itself is `two_layer_cnn`'s. The registry loads `workload` by its name.
"""

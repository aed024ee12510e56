"""The workload that compares the updates of a two-layer network with those of sign descent.

`two_layer_cnn` trains the network. The registry loads the module `workload` by name.
"""

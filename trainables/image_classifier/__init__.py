"""ResNet and VGG on images: config, models, batches, steps, evaluation and the trial that connects them.

Finding and decoding images is `image_data`'s. The registry loads `workload` by its name; planning imports `config`
alone, which needs no torch.
"""

"""ResNet and VGG on images: config, models, batches, steps, evaluation and the trial that connects them.

`image_data` finds and decodes the images. The registry loads the module `workload` by name. Planning needs no torch:
it imports only `workload` and `config`.
"""

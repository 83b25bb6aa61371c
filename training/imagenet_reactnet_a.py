"""ReActNet-A without batch norm on ImageNet.

Paper: "BNN - BN = ?" (arXiv 2104.08215), Table 1: 68.0 % (the twin with batch norm
69.4 %).
Command: larq-nobn train training/imagenet_reactnet_a.py --out runs/imagenet_reactnet_a
    --data-dir DIR [--distribute mirrored]
Cost: 2 x 256 epochs of 1,281,167 images of 224x224: days on several accelerators.
Departures from the paper: the teacher is keras.applications' ResNet-50, because
Keras has no ResNet-34 (the released runs used ResNet-34 or NFNet-F0).
"""

from larq_nobn.training import Recipe

RECIPE = Recipe(
    name="imagenet_reactnet_a",
    dataset="imagenet",
    model="reactnet_a",
    teacher="keras:ResNet50",
)

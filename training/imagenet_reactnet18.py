"""ReActNet-18 without batch norm on ImageNet.

Paper: none for this network; A&B BNN (arXiv 2403.03739) reports 61.39 % for its own
BN-free ReActNet-18.
Command: larq-nobn train training/imagenet_reactnet18.py --out runs/imagenet_reactnet18
    --data-dir DIR [--distribute mirrored]
Cost: 2 x 256 epochs of 1,281,167 images of 224x224: days on several accelerators.
Departures from the paper: the teacher is keras.applications' ResNet-50, because Keras
has no ResNet-34 (the released runs used ResNet-34 or NFNet-F0).
"""

from larq_nobn.training import Recipe

RECIPE = Recipe(
    name="imagenet_reactnet18",
    dataset="imagenet",
    model="reactnet18",
    teacher="keras:ResNet50",
)

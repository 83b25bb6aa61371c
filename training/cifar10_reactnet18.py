"""ReActNet-18 without batch norm on CIFAR-10.

Paper: "BNN - BN = ?" (arXiv 2104.08215), Table 2: 92.08 % (the twin with batch norm
92.31 %).
Command: larq-nobn train training/cifar10_reactnet18.py --out runs/cifar10_reactnet18
Cost: 2 x 256 epochs of 50,000 images of 32x32.
Departures from the paper: none. Its script for CIFAR is not published; optimizer,
schedule and augmentation are those of the official code.
"""

from larq_nobn.training import Recipe

RECIPE = Recipe(
    name="cifar10_reactnet18",
    dataset="cifar10",
    model="reactnet18",
    stem="cifar",
)

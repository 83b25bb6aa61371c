"""ReActNet-18 without batch norm on CIFAR-100.

Paper: "BNN - BN = ?" (arXiv 2104.08215), Table 2: 68.34 % (the twin with batch norm
68.78 %).
Command: larq-nobn train training/cifar100_reactnet18.py --out runs/cifar100_reactnet18
Cost: 2 x 256 epochs of 50,000 images of 32x32.
Departures from the paper: none. Its script for CIFAR is not published; optimizer,
schedule and augmentation are those of the official code.
"""

from larq_nobn.training import Recipe

RECIPE = Recipe(
    name="cifar100_reactnet18",
    dataset="cifar100",
    model="reactnet18",
    stem="cifar",
)

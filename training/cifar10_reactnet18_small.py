"""A quarter-width ReActNet-18 without batch norm on CIFAR-10, on a CPU in an hour.

Paper: none for this width; the recipe shows the method where no accelerator is.
Command: larq-nobn train training/cifar10_reactnet18_small.py --out runs/cifar10_small
Cost: 2 x 3 epochs of 50,000 images of 32x32.
Departures from the paper: width 16 instead of 64, 3 epochs a step instead of 256,
batch 128, base rate 1e-3 on a cosine, clipping at 0.001 (A&B BNN's choice for CIFAR).
"""

from larq_nobn.training import Recipe

RECIPE = Recipe(
    name="cifar10_reactnet18_small",
    dataset="cifar10",
    model="reactnet18",
    stem="cifar",
    width=16,
    epochs=3,
    batch_size=128,
    learning_rate=1e-3,
    schedule="cosine",
    clip_factor=0.001,
)

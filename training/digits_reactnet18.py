"""A small ReActNet-18 without batch norm on scikit-learn's digits.

Paper: none; 1,797 real 8x8 scans that need no data folder, for a first look.
Command: larq-nobn train training/digits_reactnet18.py --out runs/digits
Cost: 2 x 18 epochs of 1,437 images of 8x8; a minute or two on two CPU cores.
Departures from the paper: width 16 instead of 64, 18 epochs a step instead of 256,
batch 64, base rate 4e-3 on a cosine, clipping at 0.1.
"""

from larq_nobn.training import Recipe

RECIPE = Recipe(
    name="digits_reactnet18",
    dataset="digits",
    model="reactnet18",
    stem="cifar",
    width=16,
    epochs=18,
    batch_size=64,
    learning_rate=4e-3,
    schedule="cosine",
    clip_factor=0.1,
)

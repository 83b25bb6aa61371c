"""A small ReActNet-18 without batch norm on scikit-learn's digits.

Paper: none; 1,797 real 8x8 scans that need no data folder, for a first look.
Command: larq-nobn train training/digits_reactnet18.py --out runs/digits
Cost: about half a minute on two CPU cores.
Departures from the paper: width 16 instead of 64, cosine schedule, larger rate.
"""

from larq_nobn.training import Recipe

RECIPE = Recipe(
    name="digits_reactnet18",
    dataset="digits",
    model="reactnet18",
    stem="cifar",
    width=16,
    epochs=20,
    batch_size=32,
    learning_rate=2e-3,
    schedule="cosine",
)

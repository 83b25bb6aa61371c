"""ReActNet-18 without batch norm on Tiny-ImageNet-200.

Paper: none for this network and data set.
Command: larq-nobn train training/tiny_imagenet_reactnet18.py --out runs/tiny_imagenet
    --data-dir DIR, which holds train/ and val/ as in tiny-imagenet-200.zip
Cost: 2 x 60 epochs of 100,000 images of 64x64.
Departures from the paper: another data set, from scratch and without a teacher, with
fewer epochs, smaller batches and a cosine schedule. CIFAR's stem, and crops with a
border, because of the small images.
"""

from larq_nobn.training import Recipe

RECIPE = Recipe(
    name="tiny_imagenet_reactnet18",
    dataset="tiny_imagenet",
    model="reactnet18",
    stem="cifar",
    epochs=60,
    batch_size=128,
    learning_rate=1e-3,
    schedule="cosine",
    warmup_epochs=2,
)

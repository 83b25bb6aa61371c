"""ReActNet-18 without batch norm on Imagewoof, ten breeds of dogs of ImageNet.

Paper: none for this data set (github.com/fastai/imagenette has real-valued networks:
87 % and more after 80 epochs of 160x160).
Command: larq-nobn train training/imagewoof_reactnet18.py --out runs/imagewoof
    --data-dir DIR, which holds train/ and val/ as in imagewoof2-320.tgz
Cost: 2 x 80 epochs of 9,025 images of 160x160.
Departures from the paper: another data set, from scratch and without a teacher, with
fewer epochs, smaller batches and a cosine schedule.
"""

from larq_nobn.training import Recipe

RECIPE = Recipe(
    name="imagewoof_reactnet18",
    dataset="imagewoof",
    model="reactnet18",
    epochs=80,
    batch_size=64,
    learning_rate=1e-3,
    schedule="cosine",
    warmup_epochs=2,
)

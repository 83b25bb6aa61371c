"""ReActNet-18 without batch norm on Imagenette, ten easy classes of ImageNet.

Paper: none for this data set (github.com/fastai/imagenette has real-valued networks:
95 % and more after 80 epochs of 160x160).
Command: larq-nobn train training/imagenette_reactnet18.py --out runs/imagenette
    --data-dir DIR, which holds train/ and val/ as in imagenette2-320.tgz; without it
    tensorflow-datasets downloads them
Cost: 2 x 80 epochs of 9,469 images of 160x160. Not run in full; 63.80 % (chance: 10 %)
after a quarter of an hour on a CPU with --set width=16 size=96 epochs=5 warmup_epochs=1
learning_rate=3e-3, on the images at 224x224 of github.com/thunderInfy/imagenette.
Departures from the paper: another data set, from scratch and without a teacher, with
fewer epochs, smaller batches and a cosine schedule.
"""

from larq_nobn.training import Recipe

RECIPE = Recipe(
    name="imagenette_reactnet18",
    dataset="imagenette",
    model="reactnet18",
    epochs=80,
    batch_size=64,
    learning_rate=1e-3,
    schedule="cosine",
    warmup_epochs=2,
)

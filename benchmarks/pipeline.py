"""Input pipelines against the train steps that they feed, in turns in one run.

    python benchmarks/pipeline.py --data-dir TFDS
    python benchmarks/pipeline.py --data imagenet --data-dir FOLDER   # train/, val/

Per CPU-second: the pipeline shares its cores with the train step, so what counts is
what both cost. A ratio of 10 says that the pipeline takes a tenth of the step's time.
"""

import argparse
import dataclasses
import statistics
import time

import larq_nobn  # noqa: F401  # isort: skip  (first: it selects Keras 2)
import tensorflow as tf

from larq_nobn.training import data
from larq_nobn.training.engine import build_trainer
from larq_nobn.training.recipe import Recipe

NETWORKS = {"imagenet": ("reactnet_a", "imagenet")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", "--dataset", dest="dataset", default="cifar10")
    parser.add_argument("--data-dir")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model, stem = NETWORKS.get(args.dataset, ("reactnet18", "cifar"))
    batch = args.batch or (128 if stem == "cifar" else 32)
    images = data.load_images(args.dataset, args.data_dir)
    recipe = Recipe(
        name="pipeline", dataset=args.dataset, model=model, stem=stem, batch_size=batch
    )
    pipelines = {
        "pipeline": {},
        "pipeline, mixup and cutmix": {"mixup": 0.2, "cutmix": 1.0},
    }
    batches = min(images.train_size // batch, 100)
    rates = {name: [] for name in pipelines}
    example = next(iter(images.train_batches(batch, 0, 0)))
    for precision in ("float32", "mixed_bfloat16"):
        tf.keras.mixed_precision.set_global_policy(precision)
        trainer = build_trainer(
            dataclasses.replace(recipe, precision=precision), "step2", None
        )
        dataset = tf.data.Dataset.from_tensors(example).repeat()
        iterator = iter(dataset)
        step = trainer.make_train_function()
        step(iterator)
        rows = rates.setdefault(f"train step, {precision}", [])
        for round_ in range(args.rounds):
            for name, options in pipelines.items():
                epoch = images.train_batches(batch, 0, round_, **options)
                seconds = measure(run_through, epoch.take(batches))
                rates[name].append(batches * batch / seconds)
            rows.append(batch / measure(step, iterator))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{args.dataset}, batch {batch}, {model}, per CPU-second\n")
    print("| | images/s | times the train step in float32 | in mixed_bfloat16 |")
    print("| --- | --- | --- | --- |")
    for name, rate in medians.items():
        ratios = (
            f"{rate / medians[f'train step, {precision}']:.1f}"
            for precision in ("float32", "mixed_bfloat16")
        )
        print(f"| {name} | {rate:.0f} | {' | '.join(ratios)} |")


def run_through(batches):
    for _ in batches:
        pass


def measure(function, *args):
    start = time.process_time()
    function(*args)
    return time.process_time() - start


if __name__ == "__main__":
    main()

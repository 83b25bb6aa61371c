"""From a fresh process to the second train step, in turns with other checkouts.

    python benchmarks/startup.py                       # ReActNet-A, batch 4
    python benchmarks/startup.py --before ../before    # ratios to another checkout

`build` makes the network; `first fit` is Keras's tracing, TensorFlow's and XLA's
compilation and one step; `step` is the second. `built first` has the optimizer make its
variables before, so that Keras traces once (docs/clipping.md); an engine's run does so.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, os, sys, time
import larq_nobn
from larq_nobn import optimizers, zoo
import tensorflow as tf

name, batch, precision, is_built = json.loads(sys.argv[1])
assert os.path.samefile(os.path.join(larq_nobn.__path__[0], ".."), "."), larq_nobn
tf.keras.mixed_precision.set_global_policy(precision)
times = [time.perf_counter()]
model = zoo.create_model(name)
times.append(time.perf_counter())
adam = getattr(optimizers, "FusedAdam", tf.keras.optimizers.Adam)
exclude = [model.get_layer("classifier")]
optimizer = optimizers.AdaptiveGradientClipping(adam(1e-3), exclude=exclude)
if is_built:
    optimizer.build(model.trainable_variables)
model.compile(optimizer, "sparse_categorical_crossentropy")
images = tf.random.normal((batch, *model.input_shape[1:]))
data = tf.data.Dataset.from_tensors((images, tf.zeros(batch))).repeat()
for _ in range(2):
    times.append(time.perf_counter())
    model.fit(data, steps_per_epoch=1, verbose=0)
    times.append(time.perf_counter())
print(json.dumps([times[1] - times[0], times[3] - times[2], times[5] - times[4]]))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="reactnet_a")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    here = Path(__file__).parent.parent
    cases = [(root, built) for root in (here, *args.before) for built in (False, True)]
    seconds = {case: [] for case in cases}
    for _ in range(args.rounds):
        for root, built in cases:
            settings = [args.network, args.batch, args.precision, built]
            run = subprocess.run(
                [sys.executable, "-c", PROGRAM, json.dumps(settings)],
                check=True,
                capture_output=True,
                text=True,
                cwd=root,  # Which Python looks at before everything else.
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
            seconds[root, built].append(json.loads(run.stdout.splitlines()[-1]))
    print("| | build | first fit | step | build and first fit | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (root, built), runs in seconds.items():
        build, first, step = map(statistics.median, zip(*runs, strict=True))
        name = "this" if root == here else root.name
        name += ", built first" if built else ""
        ratio = statistics.median(
            sum(run[:2]) / sum(other[:2])
            for run, other in zip(runs, seconds[here, False], strict=True)
        )
        print(
            f"| {name} | {build:.1f} s | {first:.1f} s | {step:.1f} s "
            f"| {build + first:.1f} s | {ratio:.2f} |"
        )


if __name__ == "__main__":
    main()

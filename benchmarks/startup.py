"""From a fresh process to the second train step, in turns with other checkouts.

    python benchmarks/startup.py                       # ReActNet-A, batch 4
    python benchmarks/startup.py --before ../before    # ratios to another checkout
    python benchmarks/startup.py --python ../other/.venv/bin/python  # or environment

`CPU` is the CPU time of the whole process up to the second step, imports included, and
`ratio` is of that. `build` makes the network; `first fit` is Keras's tracing,
TensorFlow's and XLA's compilation and one step; `step` is the second. `built first` has
the optimizer make its variables before, so that Keras traces once (docs/clipping.md),
as a run of the engine does.
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
steps = [times[1] - times[0], times[3] - times[2], times[5] - times[4]]
print(json.dumps([time.process_time(), *steps]))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="reactnet_a")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path, nargs="*", default=[])
    parser.add_argument("--python", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    here = Path(__file__).parent.parent
    setups = {"this": (here, sys.executable)}
    setups |= {root.name: (root, sys.executable) for root in args.before}
    setups |= {str(python): (here, str(python)) for python in args.python}
    cases = [(name, built) for name in setups for built in (False, True)]
    seconds = {case: [] for case in cases}
    for _ in range(args.rounds):
        for name, built in cases:
            root, python = setups[name]
            settings = [args.network, args.batch, args.precision, built]
            run = subprocess.run(
                [python, "-c", PROGRAM, json.dumps(settings)],
                check=True,
                capture_output=True,
                text=True,
                cwd=root,  # Which Python looks at before everything else.
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
            seconds[name, built].append(json.loads(run.stdout.splitlines()[-1]))
    print("| | build | first fit | step | CPU | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (name, built), runs in seconds.items():
        cpu, build, first, step = map(statistics.median, zip(*runs, strict=True))
        name += ", built first" if built else ""
        ratio = statistics.median(
            run[0] / other[0]
            for run, other in zip(runs, seconds["this", False], strict=True)
        )
        print(
            f"| {name} | {build:.1f} s | {first:.1f} s | {step:.1f} s "
            f"| {cpu:.1f} s | {ratio:.2f} |"
        )


if __name__ == "__main__":
    main()

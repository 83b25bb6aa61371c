"""The process that holds one contender of a benchmark; see `benchmarking`.

`python -m larq_nobn.deploy.worker CONTENDER FILE THREADS` answers each line of its
input with a line of JSON: `load` with the bytes of memory that the model takes, `run`
with the seconds that one image took.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import tensorflow as tf

from larq_nobn._lce import import_interpreter
from larq_nobn.deploy.runtime import Runner
from larq_nobn.saving import load_model


def main(contender: str, path: str, threads: str) -> None:
    """Answer requests until the input ends."""
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    tf.config.threading.set_inter_op_parallelism_threads(int(threads))
    if contender != "keras":
        # Import before measuring memory: the library is not part of the model.
        import_interpreter()
    tf.constant(0.0)
    run = None
    for request in sys.stdin:
        if request.strip() == "load":
            run, memory = _load(contender, Path(path), int(threads))
            answer = {"memory": memory}
        else:
            started = time.perf_counter()
            run()
            answer = {"seconds": time.perf_counter() - started}
        print(json.dumps(answer), flush=True)


def _load(contender: str, path: Path, threads: int) -> tuple[Callable, int]:
    """Load and run a model; return how to run it again, and the memory it took."""
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    if contender == "keras":
        # The model was saved by the parent process.
        model = load_model(path, compile=False, safe_mode=False)
        infer = tf.function(lambda image: model(image, training=False))
        image = tf.random.normal((1, *model.inputs[0].shape[1:]))

        def run() -> None:
            infer(image).numpy()
    else:
        indirect = contender == "lce-indirect"
        runner = Runner(path.read_bytes(), threads, indirect=indirect)
        shape = (1, *runner.image_shape)
        pixels = np.random.default_rng(0).normal(size=shape).astype(np.float32)

        def run() -> None:
            runner.run(pixels)

    for _ in range(3):
        run()
    gc.collect()
    return run, process.memory_info().rss - before


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Does the C compute what Larq Compute Engine does? Signs, logits, classes."""

import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from larq_nobn.deploy.c.compiler import Program
from larq_nobn.deploy.c.graph import read_graph
from larq_nobn.deploy.checking import Check, Tally
from larq_nobn.deploy.flatbuffer import Flatbuffer
from larq_nobn.deploy.runtime import Runner, check_images


def check_c(
    content: bytes,
    directory: str | os.PathLike,
    name: str,
    images: np.ndarray,
    progress: bool = False,
) -> Check:
    """Compare exported C, compiled for this machine, with the file that it is from.

    Like `check`, it traces each deviation that is more than rounding to the first sign
    that flipped.

    Args:
        content: The `.tflite` file.
        directory: Where `to_c` wrote.
        name: The network's name.
        images: Preprocessed images of shape `(count, height, width, channels)`.
        progress: Whether to show how far it is.

    Returns:
        The figures; `str()` of them is a report.

    Raises:
        UserError: If the images do not fit, or there is no compiler or no Larq Compute
            Engine.

    Example:
        >>> report = to_c(content, "firmware", name="net")
        >>> print(check_c(content, "firmware", "net", images))
    """
    graph, file = read_graph(content), Flatbuffer(content)
    images = check_images(images, graph.input.shape)
    operators = file.operators()
    signs = [op.inputs[0] for op in operators if op.kind == "LceQuantize"]
    is_softmax = operators[-1].kind == "SOFTMAX"
    logits = operators[-1].inputs[0] if is_softmax else file.outputs[0]
    traced = file.with_outputs([t.index for t in (logits, *signs)])
    runner = Runner(traced, indirect=True)
    program = Program(Path(directory), name, traced=True)
    layers = [(t.scopes or [t.name])[0] for t in signs]
    tally = Tally(layers)
    ends = np.cumsum([int(np.prod(t.shape)) for t in (*signs, logits)])[:-1]
    # An image's trace of a large network takes megabytes.
    batch = max(1, min(64, (1 << 26) // (4 * int(ends[-1] if len(ends) else 1))))
    starts = range(0, len(images), batch)
    for start in tqdm(starts, disable=None if progress else True, leave=False):
        some = images[start : start + batch]
        for image, floats in zip(some, program.run(some), strict=True):
            theirs, *inputs = (x.reshape(-1) for x in runner.run(image[np.newaxis]))
            *ours, rest = np.split(floats, ends)
            mine = rest[: theirs.size]
            tally.add(mine, theirs, np.abs(theirs), ours, inputs)
    return tally.result()

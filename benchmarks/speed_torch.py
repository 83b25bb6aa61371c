"""One row of `speed.py`: the plain PyTorch network."""

import json
import sys
import time

from speed_protocol import serve
from torch_network import train_step

if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    start = time.perf_counter()
    step = train_step(
        settings["norm"],
        settings["width"] or 64,
        settings["batch"],
        signs=settings["signs"],
    )
    step()
    serve(time.perf_counter() - start, step)

"""What a worker of `speed.py` says: ready, then a line per round."""

import json
import resource
import sys
import time


def serve(first, step):
    """Answer rounds until stdin closes.

    Args:
        first: Seconds that building the network and its first step took.
        step: Does one step.
    """
    step()
    print(json.dumps({"first": first}), flush=True)
    for line in sys.stdin:
        count = int(line)
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            step()
        answer = {
            "seconds": (time.perf_counter() - start) / count,
            "cpu": (time.process_time() - cpu) / count,
            "memory": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }
        print(json.dumps(answer), flush=True)

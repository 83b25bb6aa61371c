"""How long `import larq_nobn` takes on top of importing TensorFlow and Larq.

    python benchmarks/import_time.py [RUNS]

Both are timed in the same fresh process, several times; medians are printed. The limit
is 0.3 s.
"""

import statistics
import subprocess
import sys

LIMIT_SECONDS = 0.3
PROGRAM = """
import importlib.metadata, os, time
if importlib.metadata.version("keras").startswith("3."):
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # Larq needs it.
start = time.perf_counter()
import tensorflow, larq
between = time.perf_counter()
import larq_nobn
print(between - start, time.perf_counter() - between)
"""


def main() -> int:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    base, added = [], []
    for _ in range(runs):
        command = [sys.executable, "-c", PROGRAM]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        before, after = map(float, run.stdout.split()[-2:])
        base.append(before)
        added.append(after)
    base, added = statistics.median(base), statistics.median(added)
    print(f"import tensorflow, larq  {base:.2f} s (median of {runs})")
    print(f"import larq_nobn         {added:.3f} s more, {added / base:.1%} of it")
    print(f"limit                    {LIMIT_SECONDS} s")
    return int(added > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())

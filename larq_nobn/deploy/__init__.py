"""Export to Larq Compute Engine and TFLite: exact, checked, measured.

Ask `can_convert` before training, `convert` a model, `check` the file against it, take
stock of it with `report` and `plot`, and `benchmark` it; `to_c` makes plain C of it,
for microcontrollers. What needs Larq Compute Engine says so where it is missing:
`pip install 'larq_nobn[deploy]'`.
"""

from larq_nobn.deploy.accuracy import Accuracy, accuracy
from larq_nobn.deploy.benchmarking import CONTENDERS, Benchmark, benchmark
from larq_nobn.deploy.c import CLayer, CReport, check_c, to_c
from larq_nobn.deploy.checking import Check, check
from larq_nobn.deploy.compaction import FLOAT_WEIGHTS
from larq_nobn.deploy.conversion import convert
from larq_nobn.deploy.coverage import can_convert, float_layers
from larq_nobn.deploy.folded_model import FoldedModel
from larq_nobn.deploy.header import c_header
from larq_nobn.deploy.inspection import Report, report
from larq_nobn.deploy.plotting import plot
from larq_nobn.deploy.runtime import Runner
from larq_nobn.deploy.survey import check_all, zoo_networks
from larq_nobn.deploy.targets import TARGETS

__all__ = [
    "CONTENDERS",
    "FLOAT_WEIGHTS",
    "TARGETS",
    "Accuracy",
    "Benchmark",
    "CLayer",
    "CReport",
    "Check",
    "FoldedModel",
    "Report",
    "Runner",
    "accuracy",
    "benchmark",
    "can_convert",
    "c_header",
    "check",
    "check_all",
    "check_c",
    "convert",
    "float_layers",
    "plot",
    "report",
    "to_c",
    "zoo_networks",
]

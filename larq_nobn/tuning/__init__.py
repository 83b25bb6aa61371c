"""Search for hyperparameters with keras-tuner.

`ReActNetHyperModel` goes into any tuner of keras-tuner, `build_model` makes a compiled
network from hyperparameters, and `search` is what `larq-nobn tune` runs. Needs
`pip install 'larq_nobn[tune]'`.
"""

from larq_nobn.tuning.hypermodel import ReActNetHyperModel, build_model
from larq_nobn.tuning.searching import ALGORITHMS, search
from larq_nobn.tuning.space import PARAMETERS, SearchSpace

__all__ = [
    "ALGORITHMS",
    "PARAMETERS",
    "ReActNetHyperModel",
    "SearchSpace",
    "build_model",
    "search",
]

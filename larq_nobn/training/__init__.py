"""Training: recipes, data, and the engine that runs the two steps."""

from larq_nobn.training.engine import make_optimizer, train
from larq_nobn.training.publishing import publish_run
from larq_nobn.training.recipe import Recipe, load_recipe, parse_settings

__all__ = [
    "Recipe",
    "load_recipe",
    "make_optimizer",
    "parse_settings",
    "publish_run",
    "train",
]

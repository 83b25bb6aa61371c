"""`larq-nobn offload`: train a recipe on an accelerator without TensorFlow."""

from larq_nobn.cli.train_command import add_recipe_arguments, read_recipe

HELP = "export a training for an accelerator that TensorFlow does not know; call again"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    add_recipe_arguments(parser)


def run(args) -> None:
    """Do the next thing, and say what comes then."""
    from larq_nobn.training.offload import offload

    print(offload(read_recipe(args), args.out, args.data_dir))

"""`larq-nobn train`: run a recipe."""

from larq_nobn._files import out_path
from larq_nobn.cli._data_arguments import add_data_arguments

HELP = "train a network by a recipe, in two steps"


def add_recipe_arguments(parser) -> None:
    """Add what every command about a recipe takes."""
    parser.add_argument(
        "recipe",
        help="a recipe: a Python file, which is run, so only one that you trust; or a "
        "published one's name, such as cifar10_reactnet18",
    )
    parser.add_argument("--out", type=out_path, required=True, help="folder of the run")
    add_data_arguments(parser, "by default the recipe's; one of")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        action="extend",
        metavar="KEY=VALUE",
        help="change settings of the recipe, for example --set epochs=5 norm=batch",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="a few images and epochs, to try a recipe"
    )


def read_recipe(args):
    """The recipe with the changes that the arguments make."""
    from larq_nobn.training import load_recipe, parse_settings

    recipe = load_recipe(args.recipe)
    if args.data is not None:
        recipe = recipe.replace(dataset=args.data)
    if args.smoke:
        recipe = recipe.replace(epochs=2, limit=256, batch_size=64, width=8)
    return recipe.replace(**parse_settings(args.set))


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    add_recipe_arguments(parser)
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in --out"
    )
    parser.add_argument(
        "--distribute",
        choices=("mirrored", "multiworker"),
        help="train on all devices of this machine, or on the workers in TF_CONFIG",
    )
    parser.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=10.0,
        metavar="MINUTES",
        help="how often to save within an epoch (default: every 10 minutes)",
    )
    parser.add_argument(
        "--trace",
        action="store_true",
        help="record clipping per layer and variance per block, once an epoch",
    )


def run(args) -> None:
    """Run the recipe."""
    from larq_nobn.training import train

    result = train(
        read_recipe(args),
        args.out,
        args.data_dir,
        resume=args.resume,
        distribute=args.distribute,
        trace=args.trace,
        checkpoint_minutes=args.checkpoint_minutes,
    )
    top1 = result["top1"]
    skipped = top1["step1"] is None
    step1 = (
        "" if skipped else f"{top1['step1']:.2f} % after step 1 (binary activations), "
    )
    print(
        f"{result['recipe']}: top-1 {step1}{top1['step2']:.2f} % after step 2 (binary "
        f"{'activations and weights from the start' if skipped else 'weights too'}); "
        f"{result['images_per_second']:.0f} images/s; in {args.out}"
    )

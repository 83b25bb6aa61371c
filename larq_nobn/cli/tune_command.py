"""`larq-nobn tune`: search for hyperparameters."""

from larq_nobn._files import out_path
from larq_nobn.cli._data_arguments import add_data_arguments
from larq_nobn.datasets import DATASETS, plain_name, usual_stem

HELP = "search for the best settings of a network on a data set, with keras-tuner"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    add_data_arguments(parser, "what to train on", required=True)
    parser.add_argument(
        "--out", type=out_path, required=True, help="folder of the search"
    )
    parser.add_argument("--model", default="reactnet18", help="a network of the zoo")
    parser.add_argument(
        "--algorithm",
        choices=("random", "hyperband", "bayesian"),
        default="bayesian",
        help="by default bayesian",
    )
    parser.add_argument(
        "--trials", type=int, help="by default 20, or as many as Hyperband has"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=8,
        help="of a trial, both steps together; of the longest one in Hyperband",
    )
    parser.add_argument("--limit", type=int, help="only so many training images")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        action="extend",
        metavar="KEY=VALUE",
        help="a setting of the recipe (batch_size=64), or of the search: a range "
        "('alpha=(0.1,0.5)'), choices ('width=[16,32]'), a fixed value (width=16), or "
        "None to leave it out",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the search in --out"
    )


def run(args) -> None:
    """Search, and print what was found."""
    from larq_nobn._errors import UserError
    from larq_nobn.training import Recipe, parse_settings

    try:
        from larq_nobn import tuning
    except ImportError as error:
        raise UserError(str(error)) from error

    settings = parse_settings(args.set)
    ranges = {k: settings.pop(k) for k in list(settings) if k in tuning.PARAMETERS}
    recipe = Recipe(
        name=f"{plain_name(args.data)}_{args.model}",
        dataset=args.data,
        model=args.model,
        stem=usual_stem(args.data),
        schedule="cosine",
        batch_size=64 if getattr(DATASETS.get(args.data), "embedded", False) else 128,
        limit=args.limit,
    ).replace(**settings)
    leaderboard = tuning.search(
        recipe,
        args.out,
        space=tuning.SearchSpace(recipe.model, recipe.norm, **ranges),
        algorithm=args.algorithm,
        trials=args.trials,
        epochs=args.epochs,
        data_dir=args.data_dir,
        resume=args.resume,
    )
    best = leaderboard[0]
    print(
        f"best of {len(leaderboard)} trials: {best.val_top1:.2f} % on held-out images "
        f"with {best.text()}\nleaderboard.md, search.png and best_recipe.py in "
        f"{args.out}; now: larq-nobn train {args.out}/best_recipe.py --out DIR"
    )

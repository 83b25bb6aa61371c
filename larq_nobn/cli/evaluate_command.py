"""`larq-nobn evaluate`: measure a model on test data."""

from larq_nobn.cli import _model_argument
from larq_nobn.cli._data_arguments import add_data_arguments

HELP = "measure a model's top-1 accuracy on a data set, and compare it with its card"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    _model_argument.add_model_argument(parser)
    add_data_arguments(parser, "by default the card's; one of")
    parser.add_argument("--limit", type=int, help="only so many test images")


def run(args) -> None:
    """Measure and print."""
    from larq_nobn._errors import UserError
    from larq_nobn.datasets import plain_name
    from larq_nobn.training.evaluation import evaluate

    model = _model_argument.open_model(args.model, args.unsafe)
    card, _ = _model_argument.published(args.model)
    dataset = args.data or (card.dataset if card else None)
    if dataset is None:
        raise UserError(
            "--data must name the data set of a model that has no card",
            got=f"{args.model} and no --data",
            fix="for example --data cifar10",
        )
    result = evaluate(model, dataset, args.data_dir, args.limit)
    print(
        f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} % on "
        f"{result['images']} test images of {dataset}"
    )
    if card is None or args.limit is not None or plain_name(dataset) != card.dataset:
        return
    if "top1" not in card.metrics:
        published = card.origin.get("top1 as published")
        if published:
            difference = result["top1"] - float(published.split()[0])
            print(f"published: {published} ({difference:+.2f})")
        return
    stated = card.metrics["top1"]
    if abs(stated - result["top1"]) > 0.05:
        raise UserError(
            f"The card says top-1 {stated:.2f} % on {card.dataset}",
            got=f"{result['top1']:.2f} %",
            fix="measure on the same data as the card",
        )
    print(f"as its card says: {stated:.2f} %")

"""`larq-nobn publish`: a training run becomes weights for `weights=`."""

from larq_nobn._files import out_path

HELP = "build the published form of a training run: card, README and weights"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run_folder", metavar="RUN", help="folder of a complete run")
    parser.add_argument(
        "--out", type=out_path, required=True, help="folder of bundles, such as zoo/"
    )
    parser.add_argument(
        "--license", default="Apache-2.0", help="the weights' licence (Apache-2.0)"
    )
    parser.add_argument(
        "--no-full",
        action="store_true",
        help="leave out the latent weights, which are 30 times larger",
    )
    parser.add_argument(
        "--classifier-dtype",
        default="float32",
        help="of the packed weights: float32 or float16",
    )
    parser.add_argument(
        "--origin",
        default="trained by larq_nobn",
        help="where the weights come from, for the card",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing bundle"
    )


def run(args) -> None:
    """Publish the run."""
    from larq_nobn.training.publishing import publish_run
    from larq_nobn.weights.bundle import CARD
    from larq_nobn.weights.card import read_card

    folder = publish_run(
        args.run_folder,
        args.out,
        license=args.license,
        full=not args.no_full,
        classifier_dtype=args.classifier_dtype,
        overwrite=args.overwrite,
        origin=args.origin,
    )
    card = read_card(folder / CARD)
    sizes = (f"{file.name} {file.size / 1e6:.2f} MB" for file in card.files.values())
    print(f"{folder}: top-1 {card.metrics['top1']:.2f} %, {', '.join(sizes)}")

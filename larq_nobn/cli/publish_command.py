"""`larq-nobn publish`: a training run becomes weights for `weights=`."""

from larq_nobn._files import out_path

HELP = "build the published form of a training run: card, README and weights"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "run_folder", metavar="RUN", help="folder of a complete run, or a bundle"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=out_path, help="folder of bundles, such as zoo/")
    where.add_argument(
        "--to",
        metavar="hf://OWNER/REPOSITORY",
        help="a repository of the Hugging Face hub, made if missing; the token is that "
        "of `hf auth login` or HF_TOKEN",
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
    import tempfile
    from pathlib import Path

    from larq_nobn.weights import hub
    from larq_nobn.weights.registry import is_bundle

    if args.to is None:
        _publish(args, args.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(args.run_folder)
        bundle = source if is_bundle(source) else _publish(args, folder)
        page = hub.publish(bundle, args.to)
    print(f"{page}: load it by weights={args.to!r}")


def _publish(args, out):
    from larq_nobn.training.publishing import publish_run
    from larq_nobn.weights.card import read_card
    from larq_nobn.weights.files import CARD

    folder = publish_run(
        args.run_folder,
        out,
        license=args.license,
        full=not args.no_full,
        classifier_dtype=args.classifier_dtype,
        overwrite=args.overwrite,
        origin=args.origin,
    )
    card = read_card(folder / CARD)
    sizes = (f"{file.name} {file.size / 1e6:.2f} MB" for file in card.files.values())
    print(f"{folder}: top-1 {card.metrics['top1']:.2f} %, {', '.join(sizes)}")
    return folder

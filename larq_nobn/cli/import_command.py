"""`larq-nobn import`: a PyTorch checkpoint becomes weights for `weights=`."""

from larq_nobn._files import out_path
from larq_nobn.cli._data_arguments import add_data_argument

HELP = "turn a published PyTorch checkpoint into weights that the zoo finds"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "file", help="a file of torch.save, or an .npz file of its arrays"
    )
    parser.add_argument("--model", required=True, help="see larq-nobn list")
    parser.add_argument("--norm", required=True, help="free, batch or none")
    add_data_argument(parser, "what it was trained on", required=True, known=True)
    parser.add_argument(
        "--out", type=out_path, help="folder of bundles (default: in the user's cache)"
    )
    parser.add_argument(
        "--source",
        help="who published it: bnn_nobn (VITA-Group/BNN_NoBN), reactnet "
        "(liuzechun/ReActNet) or ab_bnn (A&B BNN); read off the file where it can be",
    )
    parser.add_argument(
        "--step",
        type=int,
        choices=(1, 2),
        default=2,
        help="1 for binary activations only, 2 (default) for binary weights too",
    )
    parser.add_argument("--alpha", type=float, help="default: the published one")
    parser.add_argument("--stem", help="imagenet or cifar (default: the published one)")
    parser.add_argument("--license", help="the weights' licence, if you know it better")
    parser.add_argument(
        "--classifier-dtype",
        default="float32",
        help="of the packed weights: float32 or float16",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing bundle"
    )


def run(args) -> None:
    """Import the checkpoint."""
    from larq_nobn.weights.card import read_card
    from larq_nobn.weights.files import CARD, call_arguments
    from larq_nobn.weights.torch.importing import import_checkpoint

    print(f"{args.file}: reading, and checking against the checkpoint's arithmetic")
    folder = import_checkpoint(
        args.file,
        model=args.model,
        norm=args.norm,
        dataset=args.data,
        out=args.out,
        source=args.source,
        binary_weights=args.step == 2,
        alpha=args.alpha,
        stem=args.stem,
        license=args.license,
        classifier_dtype=args.classifier_dtype,
        overwrite=args.overwrite,
    )
    card = read_card(folder / CARD)
    sizes = (f"{file.name} {file.size / 1e6:.2f} MB" for file in card.files.values())
    print(f"{folder}: {', '.join(sizes)}")
    if card.origin["dtype"] in ("float16", "bfloat16"):
        print("note: the checkpoint is in half precision")
    if not card.redistributable:
        print("note: these weights have no licence: do not pass them on")
    if args.out:
        print(f"to use it: export LARQ_NOBN_ZOO={args.out}")
    print(f"model = larq_nobn.zoo.create_model({call_arguments(card)})")

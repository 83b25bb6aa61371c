"""`larq-nobn demo`: see it work, with no network and no data folder."""

HELP = "train a small BN-free network and its BN twin on scanned digits (3 minutes)"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--out", default="runs/demo", help="folder of the report")
    parser.add_argument("--seed", type=int, default=0, help="seed of both trainings")


def run(args) -> None:
    """Run the demo and print its table."""
    from larq_nobn import demo

    result = demo.run(args.out, args.seed)
    print(f"\n{'network':<24}top-1 on held-out digits")
    for norm, title in demo.TITLES.items():
        print(f"{'ReActNet, ' + title:<24}{result['top1'][norm]:.2f} %")
    print(f"\n{result['seconds']:.0f} seconds. Look at {args.out}/report.png")

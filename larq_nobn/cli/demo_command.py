"""`larq-nobn demo`: see it work, with no network and no data folder."""

from larq_nobn._files import out_path

HELP = "train a small BN-free network and its BN twin on scanned digits (3 minutes)"


def add_arguments(parser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--out", type=out_path, default="runs/demo", help="folder of the report"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of both trainings")


def run(args) -> None:
    """Run the demo and print its table."""
    from larq_nobn import demo
    from larq_nobn._tables import format_table

    result = demo.run(args.out, args.seed)
    rows = [
        (f"ReActNet, {title}", f"{result['top1'][norm]:.2f} %")
        for norm, title in demo.TITLES.items()
    ]
    print(f"\n{format_table(('network', 'top-1 on held-out digits'), rows)}")
    print(f"\n{result['seconds']:.0f} seconds. Look at {args.out}/report.png")

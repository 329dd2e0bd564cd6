"""Build the miniature: python -m examples.miniature [--out DIR] [--quick] [--seed N]."""

import argparse
from pathlib import Path


def main() -> None:
    """Read the options and build; progress on stderr, the folder on stdout."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.miniature",
        description=__doc__,
        epilog="example: python -m examples.miniature --quick --out /tmp/world",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "world")
    parser.add_argument("--quick", action="store_true", help="a tiny world in a minute or two")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    from examples.miniature.build import QUICK, Plan, build

    arguments.out.mkdir(parents=True, exist_ok=True)
    build(arguments.out, QUICK if arguments.quick else Plan(), arguments.seed)
    print(arguments.out)


if __name__ == "__main__":
    main()

"""Rehearse a study: the same TOML on small stand-ins in the published layouts."""

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Read the options, make the stand-ins and print the rehearsal's TOML; exit 0 or 1."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.rehearsal",
        description=__doc__,
        epilog="example:\n"
        "  python -m examples.rehearsal experiments/sd15_pickapic.toml --out /tmp/rehearsal\n"
        "  python -m pipelines run /tmp/rehearsal/sd15_pickapic.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", type=Path, help="a study's TOML")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="an own folder")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (0)")
    parser.add_argument("--policies", nargs="+", default=(), help="only these; by default all")
    options = parser.parse_args()

    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    from examples.rehearsal.study import rehearse

    of_diffusers.disable_progress_bar()  # the stand-ins are made in no time
    of_transformers.disable_progress_bar()
    try:
        print(rehearse(options.study, options.out, options.seed, options.policies))
    except (ValueError, OSError) as error:
        print(f"rehearsal: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

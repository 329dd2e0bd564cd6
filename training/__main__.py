"""`python -m training STUDY.toml --policy NAME --out DIR`: train one policy of a study.

The job's entry: it reads the command line, speaks to a person on the terminal, and reports to
Dagster when Pipes started it and to the MLflow run that MLFLOW_RUN_ID names. What is trained and
how is `loop.py`'s; torch is imported only once the configuration and the pairs have been accepted.
"""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training import TrainingError, config, pairs, report

EXAMPLE = """example:
  python -m training experiments/miniature.toml --policy arenapo --out runs/arenapo
  python -m training experiments/miniature.toml --policy dpo --out runs/dpo --set train.steps=40

DIR/policy is what diffusers loads: pipe.load_lora_weights("runs/arenapo/policy"), or with
adaptation = "full" StableDiffusionPipeline.from_pretrained("runs/arenapo/policy").
DIR/metrics.jsonl has one line a logged step, DIR/checkpoints the last two states.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the job; return the exit status: 0, 1 for input at fault, 130 after a signal."""
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train one policy of a study.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", type=Path, help="TOML file of the study")
    parser.add_argument("--policy", required=True, help="name of the [[policy]] to train")
    parser.add_argument("--out", required=True, type=Path, help="folder of this run")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out, if any")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start over where --out holds another run (without --resume: any run)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a key of the file, such as train.steps=40 (wins over [[policy]] too)",
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _pipes() as context:
            result = _run(options)
            if context is not None:
                metadata = {k: v for k, v in result.items() if k != "data_version"}
                context.report_asset_materialization(
                    metadata=metadata, data_version=result["data_version"]
                )
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"\n{interrupt or 'stopped by a signal before the first step'}", file=sys.stderr)
        return 130
    accuracy = result.get("held_out_accuracy")
    print(
        f"{result['policy']}: {result['steps']} steps, loss {result['loss']:.4f}"
        + (f", held-out accuracy {accuracy:.1%}" if accuracy is not None else "")
        + f", {result['pairs_per_second']:.0f} pairs/s, {result['seconds']:.0f} s"
    )
    print(options.out / "policy")
    return 0


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Read configuration and pairs, then train."""
    study = config.read_study(options.study, options.overrides)
    policy = config.policy_config(options.study, options.policy, options.overrides)
    data = config.data_config(study)
    gap = config.gap_column(study, policy)
    training_set = pairs.open_pairs(_pairs_file(study, data, options.out), gap)
    _say("loading torch and diffusers")
    # Idle threads must sleep: spinning ones halve the speed beside any other busy process.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from training import loop

    progress = _Progress(policy.name, policy.steps)
    with report.LiveMetrics() as live:

        def watch(line: dict[str, float]) -> None:
            progress(line)
            live(line)

        return loop.train(
            policy,
            data,
            training_set,
            options.out,
            resume=options.resume,
            overwrite=options.overwrite,
            watch=watch,
            say=_say,
        )


def _pairs_file(study: dict[str, Any], data: config.DataConfig, out: Path) -> Path:
    """Return the pipeline's training set, or one built here from the study's votes."""
    if data.pairs.exists():
        return data.pairs
    if "pairs" in study.get("training_set", {}):
        raise TrainingError(f"training_set.pairs: there is no file {data.pairs}")
    _say(f"{data.pairs} is not there yet: building the pairs from the votes")
    try:
        table = pairs.build_from_votes(study, data.held_out, data.split_seed)
    except TrainingError:
        raise
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise TrainingError(f"the pairs cannot be built from the votes: {error}") from error
    path = out / "training_set.parquet"
    pairs.write_pairs(table, path)
    return path


class _Progress:
    """One line a tenth of the run on stderr; on a terminal a line that follows every log."""

    def __init__(self, name: str, steps: int) -> None:
        self._name, self._steps, self._tenth = name, steps, 0

    def __call__(self, line: dict[str, float]) -> None:
        step, rate = int(line["step"]), line["pairs_per_second"]
        tenth, terminal = step * 10 // self._steps, sys.stderr.isatty()
        if tenth > self._tenth or terminal:
            self._tenth = tenth
            text = f"{self._name} {step}/{self._steps}  loss {line['loss']:.4f}"
            if "implicit_accuracy" in line:
                text += f"  accuracy {line['implicit_accuracy']:.0%}"
            end = "\r" if terminal and step < self._steps else "\n"
            print(f"{text}  {rate:.0f} pairs/s", end=end, file=sys.stderr, flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _pipes() -> Iterator[Any]:
    """The Dagster Pipes context when Dagster started this process, else None."""
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield None
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as context:
        yield context


if __name__ == "__main__":
    sys.exit(main())

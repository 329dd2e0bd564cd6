"""`python -m training STUDY.toml --policy NAME --out DIR`: train one policy of a study.

The job's entry: it reads the command line, speaks to a person on the terminal, and reports to
Dagster when Pipes started it and to the MLflow run that MLFLOW_RUN_ID names. What is trained and
how is `loop.py`'s; torch is imported only once the configuration and the pairs have been accepted.
"""

import argparse
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training import TrainingError, pairs, report, study_file
from training.config import DataConfig

EXAMPLE = """example:
  python -m training experiments/miniature.toml --policy arenapo --out runs/arenapo
  python -m training experiments/miniature.toml --policy dpo --out runs/dpo --set train.steps=40
  python -m training experiments/sdxl_pickapic.toml --policy arenapo --out runs/xl --plan
  accelerate launch --num_processes 8 -m training experiments/sdxl_pickapic.toml ...

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
    parser.add_argument(
        "--plan", action="store_true", help="print memory, disk and hours that it takes; do nothing"
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="of --plan: that share the batch"
    )
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
        if options.plan:
            print(_plan(options))
            return 0
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
    except Exception as error:
        if not _is_full_disk(error):
            raise
        print(
            f"error: the disk is full ({error}): what was finished is whole; make room, or lower "
            f"what is written, and continue the run in {options.out} with --resume",
            file=sys.stderr,
        )
        return 1
    if _rank():
        return 0
    accuracy = result.get("held_out_accuracy")
    print(
        f"{result['policy']}: {result['steps']} steps, loss {result['loss']:.4f}"
        + (f", held-out accuracy {accuracy:.1%}" if accuracy is not None else "")
        + f", {result['pairs_per_second']:.0f} pairs/s, {result['seconds']:.0f} s"
    )
    print(options.out / "policy")
    return 0


def _plan(options: argparse.Namespace) -> str:
    """Count what the run would take, from the configuration of its model alone."""
    study = study_file.read_study(options.study, options.overrides)
    policy = study_file.policy_config(options.study, options.policy, options.overrides)
    from training.plan import plan

    return plan(policy, study_file.data_config(study), options.out, options.processes)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Read configuration and pairs, then train."""
    study = study_file.read_study(options.study, options.overrides)
    policy = study_file.policy_config(options.study, options.policy, options.overrides)
    data = study_file.data_config(study)
    gap = study_file.gap_column(study, policy)
    training_set = pairs.open_pairs(_pairs_file(study, data, options.out), gap)
    _say("loading torch and diffusers")
    from training import loop

    progress = _Progress(policy.name, policy.steps)
    trackers = report.Trackers(policy.trackers, policy.name, options.out)
    with report.LiveMetrics() as live, trackers, contextlib.closing(progress):

        def watch(line: dict[str, float]) -> None:
            for tell in (progress, live, trackers):
                tell(line)

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


def _pairs_file(study: dict[str, Any], data: DataConfig, out: Path) -> Path:
    """Return the pipeline's training set, or one built here from the study's votes."""
    if data.pairs.exists():
        return data.pairs
    if "pairs" in study.get("training_set", {}):
        raise TrainingError(f"training_set.pairs: there is no file {data.pairs}")
    _say(f"{data.pairs} is not there yet: building the pairs from the votes")
    try:
        from training.building import pairs_of_study

        table = pairs_of_study(study, data.held_out, data.split_seed)
    except TrainingError:
        raise
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise TrainingError(f"the pairs cannot be built from the votes: {error}") from error
    path = out / "training_set.parquet"
    pairs.write_pairs(table, path)
    return path


class _Progress:
    """A bar on a terminal; elsewhere one line a tenth of the run."""

    def __init__(self, name: str, steps: int) -> None:
        from tqdm import tqdm

        self._name, self._steps, self._tenth = name, steps, 0
        self._bar = tqdm(total=steps, desc=name, unit="step", disable=None if not _rank() else True)

    def __call__(self, line: dict[str, float]) -> None:
        step, rate = int(line["step"]), line["pairs_per_second"]
        text = f"loss {line['loss']:.4f}"
        if "implicit_accuracy" in line:
            text += f"  accuracy {line['implicit_accuracy']:.0%}"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step - self._bar.n)
        tenth = step * 10 // self._steps
        if self._bar.disable and tenth > self._tenth:
            self._tenth = tenth
            minutes = line["seconds_left"] / 60
            _say(f"{self._name} {step}/{self._steps}  {text}  {rate:.3g} pairs/s  "
                 f"{minutes:.0f} min left")  # fmt: skip

    def close(self) -> None:
        """Leave the terminal to what comes next."""
        self._bar.close()


def _is_full_disk(error: Exception) -> bool:
    """Whether a write failed for want of room; safetensors gives the number in its text alone."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError) and error.errno in numbers:
        return True
    return any(f"(os error {number})" in str(error) for number in numbers)


def _say(text: str) -> None:
    if not _rank():
        print(text, file=sys.stderr, flush=True)


def _rank() -> int:
    """Of several processes that accelerate or torchrun started, the first one speaks."""
    return int(os.environ.get("RANK", "0"))


@contextlib.contextmanager
def _pipes() -> Iterator[Any]:
    """The Dagster Pipes context when Dagster started this job; of several processes the first's."""
    if "DAGSTER_PIPES_CONTEXT" not in os.environ or _rank():
        yield None
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as context:
        yield context


if __name__ == "__main__":
    sys.exit(main())

"""The fine-tuning job: training pairs in, a policy that diffusers loads out."""

import os

# Waiting OpenMP threads sleep instead of spinning. Spinning ones take the cores from each other as
# soon as anything else runs on the machine, and a step becomes ten times as slow; alone, sleeping
# costs nothing that could be measured. It is read when torch is loaded, so it must be said here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class TrainingError(ValueError):
    """What the job was given cannot be used; the message names it and says how to mend it."""

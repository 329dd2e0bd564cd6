"""The fine-tuning job: training pairs in, a policy that diffusers loads out."""


class TrainingError(ValueError):
    """What the job was given cannot be used; the message names it and says how to mend it."""

"""The one error that the evaluation job shows to a person as a sentence, without a traceback."""


class EvaluationError(Exception):
    """Bad input from outside: the message names the file, the row and the mend."""


class MissingWeights(EvaluationError):
    """A scorer's weights are not on this machine: the message says where to put them."""

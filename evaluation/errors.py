"""The one error that the evaluation job shows to a person as a sentence, without a traceback."""


def first_line(error: Exception) -> str:
    """What a library's error says, in one line; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class EvaluationError(Exception):
    """Bad input from outside: the message names the file, the row and the mend."""


class MissingWeights(EvaluationError):
    """A scorer's weights are not on this machine: the message says where to put them."""

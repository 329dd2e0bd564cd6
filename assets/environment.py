"""Which environment variables a child gets: what it needs to run, and no secret that it does not.

The operator's shell may hold anything: the salt of the raters, the address of a webhook, keys of
other services. A job reads images and weights of strangers, so it is told only these names, and
those that the study adds in `jobs.environment`.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

BASICS = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TERM"),
    *("TMPDIR", "XDG_*", "COLUMNS", "VIRTUAL_ENV", "CONDA_*", "LD_LIBRARY_PATH", "PYTHON*"),
    *("*_PROXY", "*_proxy", "SSL_CERT_*", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
# What is true of this machine only, where a job on another one has its own.
HERE = (
    *("CUDA_*", "NVIDIA_*", "ROCR_*", "HIP_*", "SLURM*", "SRUN_*", "RAY_*", "MASTER_*"),
    *("KUBECONFIG", "SSH_AUTH_SOCK"),
)
# How many threads, where weights are kept, how processes find each other.
ANYWHERE = (
    *("OMP_*", "MKL_*", "OPENBLAS_*", "NUMBA_*", "NUMEXPR_*", "POLARS_*", "ARROW_*"),
    *("NCCL_*", "GLOO_*", "TORCH*", "PYTORCH_*", "HF_*", "HUGGINGFACE_*", "TRANSFORMERS_*"),
    *("DIFFUSERS_*", "ACCELERATE_*", "TOKENIZERS_*", "DO_NOT_TRACK", "MLFLOW_*"),
)
# Where a judge that is asked in words answers, and its key.
JUDGE = ("OPENAI_*",)


def short(environment: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Return the variables that are called like one of `names` or BASICS; `*` stands for any end.

    `short({"HOME": "/root", "SALT": "x"}, ())` is `{"HOME": "/root"}`.
    """
    return called(environment, (*BASICS, *names))


def called(environment: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Return the variables that are called like one of `names`."""
    return {
        key: value
        for key, value in environment.items()
        if any(fnmatchcase(key, name) for name in names)
    }

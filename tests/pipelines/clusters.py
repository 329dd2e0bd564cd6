"""A Slurm of one node and an sshd on loopback, each in a folder of its own and gone afterwards."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = {
    "slurm": ("munged", "slurmctld", "slurmd", "srun", "scancel", "sinfo"),
    "ssh": ("sshd", "ssh", "ssh-keygen"),
}
SLURM = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
KillWait=30
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 GraceTime=30 MaxTime=INFINITE State=UP
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


def missing(kind: str) -> str:
    """Return why this cannot run here, nothing where it can."""
    absent = [name for name in PROGRAMS[kind] if program(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    return "" if os.geteuid() == 0 else "its daemons need root"


def program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def daemon(*command: str, **environment: str) -> Iterator[None]:
    """Run a daemon in the foreground of a process of ours until the end of the block."""
    path = program(command[0])
    assert path is not None
    process = subprocess.Popen(
        [path, *command[1:]],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        process.kill()


def until(true, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Run Slurm with a partition `low` that `high` preempts; yield what its commands are told."""
    folder.mkdir(mode=0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    host = socket.gethostname().partition(".")[0]
    config = folder / "slurm.conf"
    config.write_text(
        SLURM.format(folder=folder, host=host, ports=free_ports(2), cpus=os.cpu_count())
    )
    told = {"SLURM_CONF": str(config)}
    munge = (
        *("munged", "--foreground", "--force", f"--key-file={key}"),
        *(f"--socket={folder / 'munge.socket'}", f"--pid-file={folder / 'munged.pid'}"),
        *(f"--log-file={folder / 'munged.log'}", f"--seed-file={folder / 'munge.seed'}"),
    )
    with daemon(*munge):
        until((folder / "munge.socket").exists)
        with daemon("slurmctld", "-D", **told), daemon("slurmd", "-D", **told):
            until(lambda: slurm_says(told, "sinfo", "-h", "-o", "%t", "-p", "low") == "idle")
            yield told


def slurm_says(told: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, **told}, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


@contextlib.contextmanager
def sshd(folder: Path) -> Iterator[list[str]]:
    """Run an sshd for this user; yield the prefix that reaches it."""
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
        )
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    Path("/run/sshd").mkdir(exist_ok=True)
    (port,) = free_ports(1)
    options = [
        *(f"Port={port}", "ListenAddress=127.0.0.1", f"HostKey={folder / 'host'}"),
        *(f"AuthorizedKeysFile={folder / 'authorized_keys'}", "StrictModes=no", "UsePAM=no"),
        *(f"PidFile={folder / 'sshd.pid'}", "PermitRootLogin=yes"),
    ]
    with daemon("sshd", "-D", "-f", "/dev/null", *(f"-o{each}" for each in options)):
        prefix = [
            *("ssh", "-p", str(port), "-i", str(folder / "user"), "-o", "BatchMode=yes"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "LogLevel=ERROR", f"{getpass.getuser()}@127.0.0.1"),
        ]
        until(lambda: subprocess.run([*prefix, "true"], check=False).returncode == 0)
        yield prefix

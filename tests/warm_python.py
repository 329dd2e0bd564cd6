"""A Python that has loaded torch and diffusers already, and forks itself for each command.

A process of its own costs a test eight seconds of imports, which are no part of what it claims.
`WarmPython` starts one such Python per session. Its `command` stands where `[sys.executable]`
would, or as a study's launch prefix, before a command that runs to its end. Environment, working
directory, streams and exit status are the command's own, and none of this project's modules are
loaded in it. Not for a command that is killed, for it is a grandchild of the process that the test
sees; nor for one that is asked what it imports.
"""

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

LOADED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "DPMSolverMultistepScheduler")


class WarmPython:
    """The process that is forked, and what a test runs to have it forked."""

    def __init__(self) -> None:
        # A socket's path may have 108 bytes: no folder of pytest's is short enough for certain.
        self.folder = tempfile.TemporaryDirectory(prefix="warm-")
        place = str(Path(self.folder.name) / "socket")
        self.command = [sys.executable, "-I", "-S", __file__, place]
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--serve", place],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/",
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"warm\n"

    def close(self) -> None:
        """End it: it listens until its stdin does."""
        self.process.communicate()
        self.folder.cleanup()


def ask(place: str) -> int:
    """Have the command line forked, with this process's streams; return its exit status."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.connect(place)
        told = {"argv": sys.argv[2:], "cwd": str(Path.cwd()), "environment": dict(os.environ)}
        text = json.dumps(told).encode()
        socket.send_fds(link, [len(text).to_bytes(8, "big")], [0, 1, 2])
        link.sendall(text)
        with link.makefile("r") as answers:
            pid = int(answers.readline())
            for kind in (signal.SIGINT, signal.SIGTERM):
                signal.signal(kind, lambda number, _: os.kill(pid, number))
            status = int(answers.readline())
    if status < 0:  # as a shell says it
        return 128 - status
    return status


def serve(place: str) -> None:
    """Fork for each command; return in the process that is to run it, as `told` says."""
    import diffusers
    import peft  # noqa: F401
    import torch
    import torch._dynamo
    import transformers

    for name in LOADED:
        getattr(diffusers, name)
    for name in ("CLIPModel", "CLIPTextModel", "CLIPTokenizer"):
        getattr(transformers, name)
    torch.set_num_threads(1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(place)
        door.listen(64)
        print("warm", flush=True)
        waiters = []
        while door in select.select([door, sys.stdin], [], [])[0]:
            link, _ = door.accept()
            if waiter := os.fork():
                link.close()
                waiters.append(waiter)
                continue
            head, streams, _, _ = socket.recv_fds(link, 8, 3)
            with link.makefile("rb") as asked:
                told = json.loads(asked.read(int.from_bytes(head, "big")))
            if pid := os.fork():
                link.sendall(f"{pid}\n".encode())
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                link.sendall(f"{status}\n".encode())
                os._exit(0)
            link.close()
            door.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            become(**told)
            return
    for waiter in waiters:
        os.waitpid(waiter, 0)
    os._exit(0)  # taking torch apart would take a second


def become(argv: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Take over what a new `python ARGV` would have been given, or `env NAME=VALUE python ARGV`."""
    before, sys.argv = argv[: argv.index("-m")], argv[argv.index("-m") + 1 :]
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    os.environ.update(word.split("=", 1) for word in before if "=" in word)
    sys.path[:0] = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    if "-P" not in before:
        sys.path.insert(0, cwd)


if __name__ == "__main__":
    if sys.argv[1] != "--serve":
        sys.exit(ask(sys.argv[1]))
    serve(sys.argv[2])
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

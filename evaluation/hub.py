"""Whether the hub can be asked at all, so that a machine without it hears so at once."""

import os
import socket
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies


@cache
def out_of_reach() -> bool:
    """Whether the hub's name cannot be resolved: then only what was fetched before can serve.

    Asked first because the hub's own client tries for minutes before it says so. Behind a proxy
    the name need not resolve here, so there the client finds out by itself.
    """
    if getproxies():
        return False
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return True
    return False

"""Images over the network, never from this machine or its own network.

A vote is written by strangers: a URL in it could point at a service that only answers from inside.
So a host is resolved once, every address of it must be a public one, and the connection goes to
that address and no other; a redirect is judged like a new URL.
"""

import http.client
import ipaddress
import socket
import ssl
from urllib.parse import SplitResult, urljoin, urlsplit

from arena.votes.image_fault import MOST_BYTES, ImageFault

SECONDS = 20
REDIRECTS = 3


def fetch(url: str) -> bytes:
    """Return the bytes behind a URL. Raises ImageFault where they cannot or must not be had."""
    for _ in range(REDIRECTS + 1):
        answer = _request(url)
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer)
    raise ImageFault(f"more than {REDIRECTS} redirects")


def _request(url: str) -> bytes | str:
    """Return the content, or where it has moved."""
    try:
        parts = urlsplit(url)
        address = public_address(parts)
        connection = _connection(parts, address)
        try:
            path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
            connection.request("GET", path, headers={"User-Agent": "arenapo"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                return response.getheader("Location") or ""
            if response.status != 200:
                raise ImageFault(f"the server answers {response.status}")
            content = response.read(MOST_BYTES + 1)
        finally:
            connection.close()
    except ImageFault:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ImageFault(f"cannot be fetched ({error})") from None
    if len(content) > MOST_BYTES:
        raise ImageFault(f"more than {MOST_BYTES:,} bytes")
    return content


def public_address(parts: SplitResult) -> str:
    """Return an address of the URL's host. Raises ImageFault where any of them is not public."""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ImageFault("not a URL of the web")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = [str(each[4][0]) for each in found]
    for address in addresses:
        ip = ipaddress.ip_address(address.partition("%")[0])
        ip = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None) or ip
        if not ip.is_global or ip.is_multicast:
            raise ImageFault(f"its host is {address}, which is not a public address")
    return addresses[0]


def _connection(parts: SplitResult, address: str) -> http.client.HTTPConnection:
    """Return a connection to this very address that still speaks to the host by its name."""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = str(parts.hostname)
    pinned = socket.create_connection((address, port), timeout=SECONDS)
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    if parts.scheme == "https":
        pinned = ssl.create_default_context().wrap_socket(pinned, server_hostname=host)
    connection.sock = pinned
    return connection

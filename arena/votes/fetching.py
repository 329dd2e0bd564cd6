"""Images over the network, never from this machine or its own network.

A vote is written by strangers: a URL in it could point at a service that only answers from inside.
So a host is resolved once, every address of it must be a public one, and the connection goes to
that address and no other; a redirect is judged like a new URL. urllib3 speaks HTTP and TLS; whom it
speaks to is decided here.
"""

import contextlib
import ipaddress
import socket
import ssl
import threading
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from urllib.parse import SplitResult, urljoin, urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from arena.votes.image_sources import ImageFault
from arena.votes.limits import MOST_BYTES, REDIRECTS, SECONDS

MOVED = (301, 302, 303, 307, 308)
# Addresses that hold an IPv4 one in their last 32 bits: mapped, and translated (NAT64).
EMBEDDING = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
# Beyond what `is_global` refuses: protocol assignments (a cloud's metadata is at 192.0.0.192),
# relays and tunnels (6to4, Teredo), whose other end may be anywhere.
REFUSED = tuple(
    ipaddress.ip_network(each)
    for each in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20")
)
UNICAST = IPv6Network("2000::/3")  # all of IPv6 that is routed between strangers


def fetch(url: str) -> bytes:
    """Return the bytes behind a URL. Raises ImageFault where they cannot or must not be had."""
    for _ in range(REDIRECTS + 1):
        answer = _request(url)
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer)
    raise ImageFault(f"more than {REDIRECTS} redirects")


def public_address(parts: SplitResult) -> str:
    """Return an address of the URL's host. Raises ImageFault where any of them is not public."""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ImageFault("not a URL of the web")
    found = socket.getaddrinfo(parts.hostname, _port(parts), type=socket.SOCK_STREAM)
    addresses = [str(each[4][0]) for each in found]
    for address in addresses:
        if not is_public(address):
            raise ImageFault(f"its host is {address}, which is not a public address")
    return addresses[0]


def is_public(address: str) -> bool:
    """Tell whether an address is one of the public internet; address: as getaddrinfo spells it."""
    ip: IPv4Address | IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and any(ip in network for network in EMBEDDING):
        ip = IPv4Address(int(ip) & 0xFFFFFFFF)
    if isinstance(ip, IPv6Address) and ip not in UNICAST:
        return False
    refused = any(ip.version == network.version and ip in network for network in REFUSED)
    return ip.is_global and not ip.is_multicast and not refused


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _request(url: str) -> bytes | str:
    """Return the content, or where it has moved."""
    try:
        parts = urlsplit(url)
        connection = _connection(parts, public_address(parts))
        late = threading.Event()
        timer = threading.Timer(SECONDS, _stop, (connection, late))
        timer.start()
        try:
            answer = _answer(connection, parts)
        finally:
            timer.cancel()
            connection.close()
            # A connection that was stopped looks like an answer that ended early.
            if late.is_set():
                raise ImageFault(f"took more than {SECONDS} s")
        return answer
    except ImageFault:
        raise
    except (HTTPError, OSError, ValueError) as error:
        raise ImageFault(f"cannot be fetched ({error})") from None


def _answer(connection: HTTPConnection, parts: SplitResult) -> bytes | str:
    path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    # The host by its name: the connection knows only the address that was judged.
    host = parts.netloc.rpartition("@")[2]
    headers = {"Host": host, "User-Agent": "arenapo", "Accept-Encoding": "identity"}
    connection.request("GET", path, headers=headers, preload_content=False, decode_content=False)
    response = connection.getresponse()
    if response.status in MOVED:
        return response.headers.get("Location", "")
    if response.status != 200:
        raise ImageFault(f"the server answers {response.status}")
    content = response.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ImageFault(f"more than {MOST_BYTES:,} bytes")
    return content


def _connection(parts: SplitResult, address: str) -> HTTPConnection:
    """Return a connection to this very address; its certificate must be the host's."""
    if parts.scheme == "http":
        return HTTPConnection(address, _port(parts), timeout=SECONDS)
    return HTTPSConnection(
        address,
        _port(parts),
        timeout=SECONDS,
        server_hostname=parts.hostname,
        ssl_context=ssl.create_default_context(),
    )


def _stop(connection: HTTPConnection, late: threading.Event) -> None:
    """End a request that takes too long: a server may send one byte now and then for hours."""
    late.set()
    if connection.sock is not None:
        with contextlib.suppress(OSError):  # it has ended by itself
            connection.sock.shutdown(socket.SHUT_RDWR)

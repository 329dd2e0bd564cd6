"""One way to an image wherever it is, and to RGB whatever it was."""

import contextlib
import http.server
import io
import json
import os
import socket
import ssl
import struct
import tarfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import polars as pl
import pytest
from PIL import Image

from arena.votes import fetching
from arena.votes.fetching import fetch, is_public, public_address
from arena.votes.images import ImageFault, Images, decoded


def picture(size=(4, 2), colour="red", mode="RGB"):
    return Image.new(mode, size, colour)


def saved(image, kind="PNG", **more):
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


RED = saved(picture())
NOISE = saved(Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)))


def colour(content, at=(0, 0)):
    image = decoded(content)
    assert image.mode == "RGB"
    return image.getpixel(at)


def test_transparency_is_laid_over_white():
    half = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert colour(saved(half)) == (255, 255, 255)
    grey = Image.new("LA", (2, 2), (0, 255))
    assert colour(saved(grey)) == (0, 0, 0)
    palette = picture().convert("P")
    assert colour(saved(palette, transparency=palette.getpixel((0, 0)))) == (255, 255, 255)


def test_cmyk_and_grey_and_one_bit_become_rgb():
    red = colour(saved(picture().convert("CMYK"), "JPEG", quality=100))
    assert np.allclose(red, (254, 0, 0), atol=4)
    assert colour(saved(Image.new("L", (2, 2), 100))) == (100, 100, 100)
    assert colour(saved(Image.new("1", (2, 2), 1))) == (255, 255, 255)


def test_sixteen_bits_are_scaled_and_not_cut():
    grey = Image.fromarray(np.full((2, 2), 32896, np.uint16))
    assert colour(saved(grey)) == (128, 128, 128)


def test_a_camera_s_rotation_is_undone():
    wide = picture((4, 2))
    wide.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = decoded(saved(wide, "PNG", exif=exif))
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (NOISE[: len(NOISE) // 2], "cannot be decoded"),
        (saved(picture((60, 60)), "JPEG")[:400], r"cannot be decoded|no picture"),
        (b"", "an empty file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture of a known format"),
        (b"GIF89a", r"cannot be decoded|no picture"),
        (b"<svg/>", "no picture"),
        (
            saved(picture(), "GIF", save_all=True, append_images=[picture(colour="blue")]),
            "an animation of 2 frames",
        ),
    ],
)
def test_what_is_broken_or_moves_says_so(content, says):
    with pytest.raises(ImageFault, match=says):
        decoded(content)


def test_a_bomb_is_refused_before_it_is_unpacked():
    with pytest.raises(ImageFault, match="9000 x 9000 pixels"):
        decoded(saved(Image.new("1", (9000, 9000))))


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_paths_parquets_and_tars_are_one_interface(tmp_path):
    (tmp_path / "1.png").write_bytes(RED)
    pickapic = tmp_path / "pickapic.parquet"
    pl.DataFrame(
        {
            "image_0_uid": ["u0", "u1"],
            "image_1_uid": ["v0", "v1"],
            "jpg_0": [RED, b"u1"],
            "jpg_1": [b"v0", None],
        }
    ).write_parquet(pickapic, row_group_size=1)
    table = tmp_path / "images.parquet"
    pl.DataFrame({"image": ["id"], "bytes": [b"by id"]}).write_parquet(table)
    tar = write_tar(
        tmp_path / "votes.tar",
        {
            "0.jpg_0": b"t0",
            "0.jpg_1": b"t1",
            "0.json": json.dumps({"image_1_uid": "w1"}).encode(),
        },
    )
    names = [str(tmp_path / "1.png"), "u0", "v0", "v1", "id", "votes.tar::0.jpg_0", "w1", "gone"]
    found = dict(Images([pickapic, table, tar]).contents([*names, "u0"]))
    assert set(found) == set(names)
    assert found[names[0]] == found["u0"] == RED
    assert (found["v0"], found["id"], found["w1"]) == (b"v0", b"by id", b"t1")
    assert found["votes.tar::0.jpg_0"] == b"t0"
    assert isinstance(found["v1"], ImageFault)
    assert isinstance(found["gone"], ImageFault)
    assert dict(Images().contents([f"{tar}::0.jpg_1"])) == {f"{tar}::0.jpg_1": b"t1"}


def test_broken_images_are_named_with_their_reason(tmp_path):
    good, cut = tmp_path / "good.png", tmp_path / "cut.png"
    good.write_bytes(RED)
    cut.write_bytes(RED[:40])
    found = Images().faults([str(good), str(cut), "https://example.org/x.png"])
    assert set(found) == {str(cut), "https://example.org/x.png"}
    assert "was not asked for" in found["https://example.org/x.png"]


CASES = Path(__file__).parents[3] / ".." / "shared" / "cases" / "images"


def case(name):
    if not CASES.is_dir():
        pytest.skip("no ../shared/cases/images")
    return str(CASES / name)


@pytest.mark.parametrize(
    ("name", "twin", "most"),
    [
        ("exif6.png", "upright.png", 0),
        ("alpha.png", "alpha_on_white.png", 0),
        ("grey16.png", "grey8.png", 0),
        ("noext", "upright.png", 0),
        ("cmyk.jpg", "cmyk_rgb.png", 12),  # what JPEG loses
        ("palette.png", "palette_rgb.png", 0),
    ],
)
def test_a_published_case_equals_its_upright_rgb_twin(name, twin, most):
    images = Images()
    one, other = (np.asarray(images.read(case(each)), np.int16) for each in (name, twin))
    assert one.shape == other.shape
    assert np.abs(one - other).max() <= most


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("animated.webp", r"an animation of \d+ frames"),
        ("empty.png", "an empty file"),
        ("truncated.jpg", "cannot be decoded"),
        ("page.jpg", "no picture of a known format"),
    ],
)
def test_a_published_case_that_is_no_picture_says_why(name, says):
    with pytest.raises(ImageFault, match=says) as fault:
        Images().read(case(name))
    assert "\n" not in str(fault.value)
    assert list(Images().faults([case(name), case("noext")])) == [case(name)]


def test_four_hundred_megapixels_are_refused_without_a_warning(recwarn):
    header = struct.pack(">II5B", 20000, 20000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    with pytest.raises(ImageFault, match="more than 67,108,864"):
        decoded(content)
    assert not recwarn.list


def test_odd_exif_costs_no_picture_and_says_nothing(recwarn):
    content = saved(picture(), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert colour(content) == (255, 0, 0)
    assert not recwarn.list


def test_a_camera_s_jpeg_with_a_preview_behind_it_is_one_picture():
    both = saved(picture(), "MPO", save_all=True, append_images=[picture(colour="blue")])
    assert np.allclose(colour(both), (254, 0, 0), atol=4)


def test_whatever_a_decoder_raises_is_that_image_s_fault(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("inside a decoder")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", broken)
    with pytest.raises(ImageFault, match=r"cannot be decoded \(inside a decoder\)"):
        decoded(RED)


def test_pipes_devices_and_folders_are_no_images_and_nobody_waits_for_them(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    found = Images(root=tmp_path).faults(["pipe", "/dev/zero", "folder", "gone", "nul\0"])
    assert set(found) == {"pipe", "/dev/zero", "folder", "gone", "nul\0"}
    assert "no regular file" in found["pipe"]
    assert "leads out of" in found["/dev/zero"]
    assert "no regular file" in Images().faults(["/dev/zero"])["/dev/zero"]


def test_images_are_read_by_name_from_any_source_and_any_thread(tmp_path):
    many = {f"id{k}": saved(picture((3, 3), (k, 0, 0))) for k in range(40)}
    table = {"image": list(many), "bytes": list(many.values())}
    pl.DataFrame(table).write_parquet(tmp_path / "images.parquet", row_group_size=7)
    hub = pl.DataFrame({"image1": [{"bytes": RED, "path": "hub.png"}], "votes_image1": [3]})
    hub.write_parquet(tmp_path / "hub.parquet")
    write_tar(tmp_path / "shard.tar", {"7.jpg_0": RED, "other.png": RED})
    (tmp_path / "by_path.png").write_bytes(RED)
    images = Images([tmp_path / "images.parquet", tmp_path / "hub.parquet"], root=tmp_path)
    with ThreadPoolExecutor(8) as pool:
        red = list(pool.map(lambda k: images.read(f"id{k}").getpixel((0, 0))[0], [*range(40)] * 5))
    assert red == [*range(40)] * 5
    elsewhere = ["hub.png", "by_path.png", "shard.tar::7.jpg_0", "shard.tar::other.png"]
    assert all(images.content(name) == RED for name in elsewhere)
    assert dict(images.contents([*many, *elsewhere])) == many | dict.fromkeys(elsewhere, RED)
    with pytest.raises(ImageFault, match=r"has no 8\.jpg_0"):
        images.read("shard.tar::8.jpg_0")
    with pytest.raises(ImageFault, match=r"cannot be read .*by_path\.png"):
        images.read("by_path.png::x")


def test_row_groups_leave_the_memory_again(tmp_path, monkeypatch):
    contents = [bytes([k]) * 1000 for k in range(20)]
    for part in "ab":
        names = [f"{part}{k}" for k in range(20)]
        table = pl.DataFrame({"image": names, "bytes": contents})
        table.write_parquet(tmp_path / f"{part}.parquet", row_group_size=2)
    monkeypatch.setattr("arena.votes.image_sources.KEPT", 5000)
    images = Images([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    for k in range(20):
        assert images.content(f"a{k}") == images.content(f"b{k}") == contents[k]
    kept = images._opened()[0].kept
    assert kept is images._opened()[1].kept
    assert len(kept.held) == 2


def test_a_source_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and nothing")
    (tmp_path / "no.tar").write_bytes(b"nothing")
    for name in ("cut.parquet", "no.tar", "gone.parquet"):
        with pytest.raises(ValueError, match=f"{name}: cannot be read .*deliver it again"):
            Images([tmp_path / name]).read("x")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "017700000001",
        "0177.0.0.1",
        "127.1",
        "[64:ff9b::10.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::1]",
        "[fec0::1]",
        "[fe80::1]",
        "192.0.0.192",
        "[2002:7f00:1::]",
        "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
        "[2001:db8::1]",
        "[::]",
        "[ff02::1]",
        "198.18.0.1",
        "255.255.255.255",
        "localhost",
        "[::1]",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
        "[fd00::1]",
        "2130706433",
        "100.64.0.1",
        "224.0.0.1",
    ],
)
def test_nothing_is_fetched_from_inside(host):
    with pytest.raises(ImageFault, match=r"not a public address|cannot be fetched"):
        fetch(f"http://{host}/secret")


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
)
def test_public_addresses_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/x", "http:///x"])
def test_only_the_web_is_fetched(url):
    with pytest.raises(ImageFault):
        public_address(urlsplit(url))


def test_a_name_that_resolves_inside_is_refused_whatever_else_it_resolves_to(monkeypatch):
    answers = [("93.184.216.34", 80), ("10.0.0.1", 80)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", a) for a in answers])
    with pytest.raises(ImageFault, match=r"10\.0\.0\.1"):
        public_address(urlsplit("http://rebinding.example/x"))


class _Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", self.server.target)
            self.end_headers()
            return
        if self.path == "/slow":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            return
        if self.path == "/host":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.headers["Host"].encode())
            return
        self.send_response(200 if self.path == "/red.png" else 404)
        self.end_headers()
        self.wfile.write(RED)

    def log_message(self, *_):
        pass


@pytest.fixture
def site(monkeypatch):
    """A site on loopback that passes for a public one at its first address only."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    server.target = "/red.png"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    judge = fetching.public_address

    def lenient(parts):
        return "127.0.0.1" if parts.hostname == "public.example" else judge(parts)

    monkeypatch.setattr(fetching, "public_address", lenient)
    server.url = f"http://public.example:{server.server_port}"
    yield server
    server.shutdown()


def test_what_may_be_fetched_is_fetched_through_redirects(site):
    assert fetch(f"{site.url}/red.png") == RED
    assert fetch(f"{site.url}/moved") == RED
    url = f"{site.url}/red.png"
    assert dict(Images(network=True).contents([url])) == {url: RED}
    with pytest.raises(ImageFault, match="answers 404"):
        fetch(f"{site.url}/gone")


def test_a_redirect_inside_is_refused_and_one_in_a_circle_ends(site):
    site.target = f"http://127.0.0.1:{site.server_port}/red.png"
    with pytest.raises(ImageFault, match="not a public address"):
        fetch(f"{site.url}/moved")
    site.target = "/moved"
    with pytest.raises(ImageFault, match="more than 3 redirects"):
        fetch(f"{site.url}/moved")


def test_a_server_is_asked_by_its_name_and_stopped_at_the_deadline(site, monkeypatch):
    assert fetch(f"{site.url}/host") == f"public.example:{site.server_port}".encode()
    monkeypatch.setattr(fetching, "SECONDS", 0.3)
    with pytest.raises(ImageFault, match=r"took more than 0\.3 s"):
        fetch(f"{site.url}/slow")


def test_a_certificate_must_be_the_host_s_though_the_connection_is_to_an_address(
    site, monkeypatch, tmp_path
):
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), "public.example"
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    day = datetime(2020, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(subject, subject, key.public_key(), 1)
    made = made.not_valid_before(day).not_valid_after(day.replace(year=2120))
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    certificate = made.sign(key, hashes.SHA256()).public_bytes(pem)
    (tmp_path / "certificate.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    )
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    site.socket = served.wrap_socket(site.socket, server_side=True)
    url = f"{site.url.replace('http:', 'https:')}/red.png"
    with pytest.raises(ImageFault, match=r"cannot be fetched .*CERTIFICATE_VERIFY_FAILED"):
        fetch(url)  # nobody trusts whoever signed it
    trusting = ssl.create_default_context(cadata=certificate.decode())
    monkeypatch.setattr(ssl, "create_default_context", lambda: trusting)
    assert fetch(url) == RED
    monkeypatch.setattr(fetching, "public_address", lambda _: "127.0.0.1")
    with pytest.raises(ImageFault, match=r"cannot be fetched .*(mismatch|not valid for)"):
        fetch(url.replace("public.example", "other.example"))


def test_more_bytes_than_an_image_has_are_not_read(site, monkeypatch):
    monkeypatch.setattr(fetching, "MOST_BYTES", 10)
    with pytest.raises(ImageFault, match="more than 10 bytes"):
        fetch(f"{site.url}/red.png")

"""What strangers may try: each is refused with a sentence, and nothing is written."""

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from voting_world import HERE, client, make_study, page, written

from voting import guard, server
from voting.guard import Rates, Seals, secret_of
from voting.server import links


@pytest.fixture
def served(tmp_path):
    asking, app = page(make_study(tmp_path))
    yield asking, app
    asking.ballots.close()


@pytest.fixture
def browser(served):
    return client(served[1])


def before_and_after(folder):
    return sorted((path, path.read_bytes()) for path in (folder / "landing").rglob("*.jsonl"))


def refused(browser, folder, path, status, **how):
    """Post something, hold that nothing was written, and return the sentence."""
    before = before_and_after(folder)
    answer = browser.post(path, **how)
    assert answer.status_code == status, answer.text
    assert before_and_after(folder) == before
    said = answer.json()["detail"]
    assert isinstance(said, str)
    assert said
    return said


def test_a_forged_token(served, browser, tmp_path):
    asking, _ = served
    token = browser.get("/api/pair").json()["token"]
    payload, _, rest = token.lstrip(".").partition(".")
    forged = Seals(b"another server's key of 32 bytes").seal(
        "token", asking.seals.opened("token", token)
    )
    kinds = [asking.seals.seal(kind, ["x"]) for kind in ("cookie", "invitation")]
    for bad in [
        f"{payload[:-2]}AA.{rest}", token[:-1], token + "A", token.swapcase(), "", ".", "a.b.c",
        "ü", "\0", forged, *kinds, browser.cookies["arenapo_rater"],
    ]:  # fmt: skip
        said = refused(browser, tmp_path, "/api/vote", 409, json={"token": bad, "outcome": "a"})
        assert said == "this token is not from this page; ask for the next pair"


def test_a_token_older_than_an_hour(browser, tmp_path, monkeypatch):
    token = browser.get("/api/pair").json()["token"]
    real = guard.URLSafeTimedSerializer.default_signer.get_timestamp
    monkeypatch.setattr(
        guard.URLSafeTimedSerializer.default_signer, "get_timestamp", lambda s: real(s) + 3602
    )
    said = refused(browser, tmp_path, "/api/vote", 409, json={"token": token, "outcome": "a"})
    assert said == "this token is too old; ask for the next pair"


def test_a_used_token(browser, tmp_path):
    token = browser.get("/api/pair").json()["token"]
    said = {"token": token, "outcome": "a"}
    assert browser.post("/api/vote", json=said).status_code == 200
    for outcome in ("a", "b"):
        again = refused(
            browser, tmp_path, "/api/vote", 409, json={"token": token, "outcome": outcome}
        )
        assert again == "this vote was counted before; ask for the next pair"


def test_a_token_is_used_after_a_restart_too(served, browser, tmp_path):
    asking, _ = served
    token = browser.get("/api/pair").json()["token"]
    unused = browser.get("/api/pair").json()["token"]
    browser.post("/api/vote", json={"token": token, "outcome": "a"})
    asking.ballots.close()
    again, app = page(tmp_path / "small.toml")
    later = client(app)
    later.cookies.update(browser.cookies)
    refused(later, tmp_path, "/api/vote", 409, json={"token": token, "outcome": "a"})
    # The pair that was on the screen is not forgotten.
    assert later.post("/api/vote", json={"token": unused, "outcome": "a"}).json()["votes"] == 2
    again.ballots.close()


def test_somebody_elses_token_and_cookie(served, browser, tmp_path):
    other = client(served[1])
    mine, theirs = (each.get("/api/pair").json()["token"] for each in (browser, other))
    said = refused(browser, tmp_path, "/api/vote", 409, json={"token": theirs, "outcome": "a"})
    assert said == "this token was given to another rater; ask for a pair of your own"
    other.post("/api/vote", json={"token": theirs, "outcome": "a"})
    refused(browser, tmp_path, "/api/undo", 409, json={"token": theirs})
    # A cookie that was tampered with is nobody's: its owner is a new rater.
    spoiled = browser.cookies["arenapo_rater"][:-3] + "AAA"
    browser.cookies.clear()
    browser.cookies["arenapo_rater"] = spoiled
    refused(browser, tmp_path, "/api/vote", 409, json={"token": mine, "outcome": "a"})
    assert len(written(tmp_path)) == 1


def test_a_vote_for_a_pair_that_was_never_shown(served, browser, tmp_path):
    asking, _ = served
    pair, four = (browser.get(f"/api/{kind}").json()["token"] for kind in ("pair", "ranking"))
    refused(browser, tmp_path, "/api/vote", 409, json={"token": four, "outcome": "a"})
    refused(browser, tmp_path, "/api/ranking", 409, json={"token": pair, "ranks": [1, 2, 3, 4]})
    rater = asking.seals.opened("token", pair)[1]
    unknown = asking.seals.seal("token", ["0" * 16, rater, "0.0", "0" * 32, "1" * 32])
    said = refused(browser, tmp_path, "/api/vote", 409, json={"token": unknown, "outcome": "a"})
    assert said == "these images are no longer asked about; ask for the next pair"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{", b'"a"', b"\xff\xfe", b"[" * 9000, b'{"token": 1}',
        b'{"token": "x", "outcome": "c"}', b'{"token": "x", "outcome": ["a"]}',
        b'{"token": "x", "outcome": "a", "model_a": "flux"}', b'{"token": NaN, "outcome": "a"}',
        b'{"token": "' + b"x" * 2001 + b'", "outcome": "a"}',
    ],
)  # fmt: skip
def test_what_is_not_as_agreed(browser, tmp_path, body):
    refused(
        browser, tmp_path, "/api/vote", 400, content=body,
        headers={"content-type": "application/json"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "ranks", [[1, 2, 3], [1, 2, 3, 4, 4], [0, 1, 2, 3], [1, 2, 3, 5], [1, 2, 3, True], "1234", None]
)
def test_ranks_that_are_none(browser, tmp_path, ranks):
    token = browser.get("/api/ranking").json()["token"]
    refused(browser, tmp_path, "/api/ranking", 400, json={"token": token, "ranks": ranks})


def test_ten_megabytes_of_json(browser, tmp_path):
    large = json.dumps({"token": "x" * 10_000_000, "outcome": "a"}).encode()
    said = refused(browser, tmp_path, "/api/vote", 413, content=large)
    assert said == "a request has at most 16,384 bytes"
    before = before_and_after(tmp_path)
    pieces = iter([large[k : k + 4000] for k in range(0, 40_000, 4000)])  # of no stated length
    assert browser.post("/api/vote", content=pieces).status_code == 413
    assert before_and_after(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    [
        "flux-0.png", "images/flux-0.png", "../../small.toml", "..%2f..%2fsmall.toml",
        "%2e%2e/%2e%2e/small.toml", "/etc/passwd", "%2fetc%2fpasswd", "0" * 32, "a\0b",
        "http:%2f%2f127.0.0.1:1%2fx", "x.tar::y.png",
    ],
)  # fmt: skip
def test_an_images_id_is_no_path(browser, tmp_path, name):
    answer = browser.get(f"/images/{name.replace(chr(0), '%00')}")
    assert answer.status_code == 404
    assert b"[study]" not in answer.content
    assert b"root:" not in answer.content


def test_the_pages_files_are_the_only_ones(browser):
    for path in (
        "/page/page.html",
        "/page.css/../server.py",
        "/server.py",
        "/docs",
        "/openapi.json",
    ):
        assert browser.get(path).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:8001"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_another_sites_post(browser, tmp_path, headers):
    token = browser.get("/api/pair").json()["token"]
    said = refused(
        browser, tmp_path, "/api/vote", 403, json={"token": token, "outcome": "a"}, headers=headers
    )
    assert said == "another page may not ask this one"
    own = {"origin": HERE, "sec-fetch-site": "same-origin"}
    assert browser.post("/api/vote", json={"token": token, "outcome": "a"}, headers=own).is_success


def test_another_name_for_the_page(browser):
    for path in ("/api/pair", "/", "/images/x"):
        answer = browser.get(path, headers={"host": "evil.example"})
        assert answer.status_code == 403
        assert answer.json()["detail"].startswith("this page is served under these names only: 127")


def test_without_an_invitation_nobody_votes(tmp_path):
    asking, app = page(make_study(tmp_path), invited=True)
    stranger, guest = client(app), client(app)
    for path in ("/api/pair", "/api/ranking", "/api/leaderboard", "/images/" + "0" * 32):
        answer = stranger.get(path)
        assert answer.status_code == 401
        assert answer.json() == {"detail": "open the link of your invitation first"}
    refused(stranger, tmp_path, "/api/vote", 401, json={"token": "x", "outcome": "a"})
    assert stranger.get("/invitation/forged").status_code == 401
    _, invited = links(asking, HERE, ["anna", "ben"])
    link, other = invited.values()
    assert guest.get(link.removeprefix(HERE), follow_redirects=False).headers["location"] == "/"
    pair = guest.get("/api/pair").json()
    assert guest.post("/api/vote", json={"token": pair["token"], "outcome": "a"}).is_success
    again, another = client(app), client(app)
    again.get(link.removeprefix(HERE))  # the same guest on a telephone
    another.get(other.removeprefix(HERE))
    for browser, count in ((again, 2), (another, 1)):
        pair = browser.get("/api/pair").json()
        told = browser.post("/api/vote", json={"token": pair["token"], "outcome": "b"}).json()
        assert told["votes"] == count
    # An invitation is no owner's cookie.
    assert guest.get("/api/raters").status_code == 401
    asking.ballots.close()


def test_who_is_too_fast_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "EACH_RATER", (1e-9, 20.0))
    monkeypatch.setattr(server, "EACH_ADDRESS", (1e-9, 30.0))
    asking, app = page(make_study(tmp_path))
    browser = client(app)
    codes = [browser.get("/api/leaderboard").status_code for _ in range(23)]
    # The first request brought the cookie, and counts for the rater too.
    assert codes == [200] * 20 + [429] * 3
    codes = []
    for _ in range(33):  # every request a new rater
        new = TestClient(app, base_url=HERE, client=("203.0.113.7", 1))
        codes.append(new.get("/images/x").status_code)
    assert codes == [404] * 30 + [429] * 3
    # Loopback is no address: a proxy there tells the raters' own.
    assert client(app).get("/api/pair").status_code == 200
    asking.ballots.close()


def test_a_bucket_fills_again():
    now = [0.0]
    rates = Rates(2.0, 3.0, clock=lambda: now[0])
    assert [rates.allows("x") for _ in range(4)] == [True, True, True, False]
    now[0] = 0.4
    assert not rates.allows("x")
    now[0] = 1.0
    assert [rates.allows("x") for _ in range(2)] == [True, False]
    assert rates.allows("y")


def test_every_answer_carries_the_policy(browser):
    for path in ("/", "/page.js", "/api/pair", "/nothing", "/images/x"):
        headers = browser.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_nothing_foreign_is_ever_html():
    page_folder = Path(guard.__file__).parent / "page"
    for path in page_folder.iterdir():
        text = path.read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text
        assert " on" + "click=" not in text
        assert "style=" not in text


def test_the_key_is_the_owners_only(tmp_path):
    key = secret_of(tmp_path)
    assert secret_of(tmp_path) == key
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    (tmp_path / "secret").chmod(0o644)
    with pytest.raises(ValueError, match="others can read it"):
        secret_of(tmp_path)


def test_a_cookie_is_out_of_reach_for_scripts_and_other_sites(browser):
    cookie = browser.get("/api/pair").headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie

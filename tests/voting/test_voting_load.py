"""Two hundred raters at once on loopback: how long an answer takes, and that none is lost."""

import asyncio
import time

import httpx
import numpy as np
import pytest
from test_ballots import Server
from voting_world import make_study, written

RATERS, VOTES, PAUSE = 200, 5, 3.0  # seconds between a rater's votes: faster than people are


async def vote(browser: httpx.AsyncClient, number: int, waits: list[float]) -> int:
    """Be one rater: look, decide, vote; note how long each answer took."""
    await asyncio.sleep(PAUSE * number / RATERS)
    async with browser:

        async def timed(call):
            start = time.perf_counter()
            answer = await call
            waits.append(time.perf_counter() - start)
            assert answer.status_code == 200, answer.text
            return answer

        for _ in range(VOTES):
            pair = (await timed(browser.get("/api/pair"))).json()
            await asyncio.sleep(PAUSE)
            said = {"token": pair["token"], "outcome": "a"}
            count = (await timed(browser.post("/api/vote", json=said))).json()["votes"]
        return count


@pytest.mark.long
def test_every_vote_of_two_hundred_raters_at_once_is_in_the_files(tmp_path):
    server = Server(make_study(tmp_path, prompts=40))
    server.start()
    waits: list[float] = []

    async def everybody():
        told = {"base_url": server.url, "timeout": 30, "verify": False}
        browsers = [httpx.AsyncClient(**told) for _ in range(RATERS)]
        return await asyncio.gather(*(vote(each, k, waits) for k, each in enumerate(browsers)))

    try:
        assert asyncio.run(everybody()) == [VOTES] * RATERS
    finally:
        server.kill()
    assert len(written(tmp_path)) == RATERS * VOTES
    # Told, not held: it depends on what else the machine does (pytest -s).
    print("p50, p95, p99 in ms:", (np.quantile(waits, (0.5, 0.95, 0.99)) * 1000).round(1))

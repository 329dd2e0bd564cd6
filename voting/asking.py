"""One study being asked about: who has seen what, which pair a rater gets, and what a vote becomes.

`Asking` joins the catalogue, the choice and the ballots; HTTP is in `server`. A token carries all
that a vote needs (its id, the rater, the ids of the images in their order), signed, so a restart
forgets no pair that is on somebody's screen.
"""

import random
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import polars as pl

from arena.ratings.table import Ratings
from arena.votes.images import ImageFault
from voting.ballots import Ballots, Refused
from voting.catalogue import Catalogue, Item, Pictures, images_of, open_catalogue
from voting.choice import Chooser, rated
from voting.guard import Seals
from voting.study import RANKING, Study

# From a rater's 20th vote on, these shares of the pairs are repeats and known ones.
REPEATS, KNOWN, FIRST_MEASURED = 0.05, 0.05, 20
REFRESH_SECONDS = 1.0  # at most so often the pairs are weighed anew
LOOK_SECONDS = 30.0  # at most so often the lake is looked at


class NothingLeft(ValueError):
    """There is no pair or four that this rater has not seen."""


class Asking:
    """A study's questions and answers, from any thread."""

    def __init__(self, study: Study, secret: bytes, ballots: Ballots):
        self.study, self.secret, self.ballots = study, secret, ballots
        self.seals = Seals(secret)
        self.pictures = Pictures(study.reader())
        self.ranks = study.reads(RANKING)
        self.random = random.Random()
        self.seen: dict[str, set[frozenset[str]]] = defaultdict(set)
        self.voted: dict[str, list[str]] = defaultdict(list)  # rater -> ids, in time order
        for name, vote in ballots.rows.items():
            self.voted[vote["rater"]].append(name)
            self.seen[vote["rater"]] |= _pairs(vote["items"])
        self._lock = threading.RLock()
        self._looked = self._weighed = 0.0
        self._load(open_catalogue(study, secret))

    def ask(self, rater: str, size: int) -> dict[str, Any]:
        """Return a token, a prompt and the addresses of two images, or of four of four models.

        Raises NothingLeft.
        """
        if size == 4 and not self.ranks:
            raise NothingLeft("the study's [votes] reads no rankings; vote about pairs")
        self.look()
        while True:
            with self._lock:
                items = self._next_pair(rater) if size == 2 else self._next_four(rater)
                self.seen[rater] |= _pairs([item.id for item in items])
            broken = {item.id for item in items if not self._good(item)}
            if not broken:
                return self._answer(rater, items)
            self.chooser.broken |= broken

    def vote(self, rater: str, token: str, size: int, said: dict[str, Any]) -> dict[str, Any]:
        """Count a vote about a pair (size 2) or four; return the rater's votes and who was who.

        said: outcome, or ranks. Raises Refused for a token that is forged, old, used, of another
        rater or of a pair that is no longer asked about.
        """
        name, items, age = self.read(rater, token, size)
        models = [item.model for item in items]
        vote: dict[str, Any] = {
            "vote_id": name,
            "rater": rater,
            "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
            "prompt_id": items[0].prompt_id,
            "prompt": items[0].prompt,
        }
        copies = self.pictures.copies
        images = [self.study.written(copies.get(item.id, item.image)) for item in items]
        if size == 2:
            vote |= {"model_a": models[0], "model_b": models[1]}
            vote |= {"image_a": images[0], "image_b": images[1]}
            vote["outcome"] = said["outcome"]
            vote["side"] = {"a": "left", "b": "right"}.get(said["outcome"])
            vote["anonymous"] = True
        else:
            vote |= {"models": models, "images": images, "ranks": said["ranks"]}
        vote |= {"seconds": round(age, 3), "items": [item.id for item in items]}
        self.ballots.add("votes" if size == 2 else "rankings", self.study.row(vote))
        with self._lock:
            self.voted[rater].append(name)
            self.seen[rater] |= _pairs(vote["items"])
            self.chooser.counts[items[0].prompt] += 1
        return {"votes": len(self.voted[rater]), "models": models}

    def withdraw(self, rater: str, token: str) -> dict[str, Any]:
        """Take the vote of a token back and show its images again. Raises Refused."""
        name, items, _ = self.read(rater, token)
        self.ballots.withdraw(name, rater)
        with self._lock:
            if name in self.voted[rater]:
                self.voted[rater].remove(name)
            self.chooser.counts[items[0].prompt] -= 1
            return {"votes": len(self.voted[rater])} | self._answer(rater, items)

    def read(
        self, rater: str, token: str, size: int | None = None
    ) -> tuple[str, list[Item], float]:
        """Return (vote_id, the images, the token's age in seconds). Raises Refused."""
        try:
            name, owner, asked, *shown = self.seals.opened("token", token)
        except ValueError as error:
            raise Refused(f"{error}; ask for the next pair") from None
        if owner != rater:
            raise Refused("this token was given to another rater; ask for a pair of your own")
        if size is not None and len(shown) != size:
            raise Refused("this token is of the other kind of vote")
        with self._lock:
            items = [self.catalogue.items.get(each) for each in shown]
        known = [item for item in items if item is not None]
        if len(known) < len(items):
            raise Refused("these images are no longer asked about; ask for the next pair")
        return name, known, time.time() - float(asked)

    def ratings(self) -> Ratings:
        """Return the lake's ratings after every vote of this page."""
        self.look()
        with self._lock:
            if self._rated != self.ballots.changes:
                self._rate()
            return self._ratings

    def look(self) -> None:
        """Take in what the pipeline has made since the last look, and weigh the pairs anew."""
        now = time.monotonic()
        with self._lock:
            if now - self._looked > LOOK_SECONDS:
                self._looked = now
                if self._state() != self._seen_state:
                    self._load(open_catalogue(self.study, self.secret))
            if self._rated != self.ballots.changes and now - self._weighed > REFRESH_SECONDS:
                self._rate()

    def _load(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._seen_state, self._looked = self._state(), time.monotonic()
        self._models = sorted({item.model for item in catalogue.items.values()})
        self.chooser = Chooser(catalogue, rated(catalogue.ratings, self._models, *self._new()))
        for vote in self.ballots.rows.values():
            if vote["vote_id"] not in catalogue.rated:
                self.chooser.counts[vote["prompt"]] += 1
        self._rate()

    def _rate(self) -> None:
        self._rated = self.ballots.changes
        self._ratings = rated(self.catalogue.ratings, self._models, *self._new())
        self.chooser.rate(self._ratings)
        self._weighed = time.monotonic()

    def _new(self) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        """Return the page's votes and rankings that are newer than the lake's ratings.

        An older one that the lake does not hold is of a rater whom it forgets or leaves out.
        """
        own = list(self.ballots.rows.values())
        known = {"ranks" in v: v["created_at"] for v in own if v["vote_id"] in self.catalogue.rated}
        rows = [
            vote
            for vote in own
            if vote["created_at"] > known.get("ranks" in vote, "")
            if vote["rater"] not in self.study.without
        ]
        outcomes = {"both_bad": "tie"}
        votes = [
            {"model_a": v["model_a"], "model_b": v["model_b"], "outcome": outcomes.get(o, o)}
            for v in rows
            if (o := v.get("outcome")) is not None
        ]
        kinds = dict.fromkeys(("model_a", "model_b", "outcome"), pl.String)
        ranked = [
            {k: v[k] for k in ("vote_id", "models", "images", "ranks", "prompt")}
            for v in rows
            if "ranks" in v
        ]
        return pl.DataFrame(votes, schema=kinds), pl.DataFrame(ranked) if ranked else None

    def _state(self) -> list[object]:
        """Return what changes when the pipeline has made votes, ratings or images anew."""
        lake = self.study.lake
        paths = [lake / name / f"{name}.parquet" for name in ("votes", "ratings", "champion")]
        paths += [images_of(self.study, policy) for policy in self.study.policies]
        return [(p, p.stat().st_mtime_ns) if p.exists() else None for p in paths]

    def _good(self, item: Item) -> bool:
        """Tell whether an image can be shown; it is ready to be sent then."""
        try:
            self.pictures.png(item)
            if item.generated:
                self.pictures.keep(item, self.study.landing / "images")
        except ImageFault:
            return False
        return True

    def _next_pair(self, rater: str) -> Sequence[Item]:
        seen, draw = self.seen[rater], self.random.random()
        found = None
        if len(self.voted[rater]) >= FIRST_MEASURED:
            if draw < REPEATS:
                found = self._repeat(rater)
            elif draw < REPEATS + KNOWN:
                found = self.chooser.known_pair(seen)
        found = found or self.chooser.pair(seen)
        if found is None:
            raise NothingLeft("you have seen every pair there is; thank you")
        return found

    def _repeat(self, rater: str) -> Sequence[Item] | None:
        """Return a pair of the rater's again, not one of the last ten."""
        name = self.random.choice(self.voted[rater][:-10])
        shown = self.ballots.rows.get(name, {}).get("items", ())
        items = [self.catalogue.items[each] for each in shown if each in self.catalogue.items]
        if len(items) != 2 or self.chooser.broken & {*shown}:
            return None
        self.random.shuffle(items)
        return items

    def _next_four(self, rater: str) -> Sequence[Item]:
        found = self.chooser.four(self.seen[rater])
        if found is None:
            raise NothingLeft("no prompt with images of four models is left; vote about pairs")
        return found

    def _answer(self, rater: str, items: Sequence[Item]) -> dict[str, Any]:
        names = [item.id for item in items]
        token = self.seals.seal(
            "token", [secrets.token_hex(8), rater, f"{time.time():.3f}", *names]
        )
        images = [f"/images/{name}" for name in names]
        shown = {"token": token, "prompt": items[0].prompt}
        if len(images) == 2:
            return shown | {"image_a": images[0], "image_b": images[1]}
        return shown | {"images": images}


def _pairs(names: Sequence[str]) -> set[frozenset[str]]:
    return {frozenset(pair) for pair in combinations(names, 2)}

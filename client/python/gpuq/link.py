"""link.py - when to open a socket, say hello, beat, give up on a link, and tell the callers that this broker refuses us.

Pure: time and randomness arrive as arguments, actions leave as data; the engine performs them.

  idle ─start─► connecting ─connected─► greeting ─welcomed─► up
                   ▲                        │                │ silent, link lost
                   └──── pausing ◄──────────┴────────────────┘ jittered back-off, then always a NEW socket

A refusal by a broker that never welcomed us is final at once; one that did may be restarting, so it must be said again over
REFUSAL_PATIENCE before the callers hear of it.
"""
from __future__ import annotations

import random
from typing import List, NamedTuple, Optional

from .errors import Error

BEAT = 1.0               # replaced by what the welcome says
SILENCE = 5.0            # nothing heard this long: a new socket
CONNECT_PATIENCE = 10.0  # a socket that cannot connect is replaced, which ends libzmq's own back-off
GREET_PATIENCE = 5.0     # connected, but no welcome
BACKOFF_MIN, BACKOFF_MAX = 0.05, 3.0
REFUSAL_PATIENCE = 3.0


class Action(NamedTuple):
    kind: str                       # open close hello beat resume rewatch fail_all
    error: Optional[Error] = None


class Link:
    def __init__(self, chance: Optional[random.Random] = None) -> None:
        self.state = "idle"
        self.ever_welcomed = False
        self.last_refusal: Optional[Error] = None
        self.heard = self.sent = 0.0
        self.beat = BEAT
        self.silence = SILENCE
        self.term = 0
        self._since = self._due = 0.0
        self._tries = 0
        self._refused_since: Optional[float] = None
        self._chance = chance or random.Random()

    @property
    def up(self) -> bool:
        return self.state == "up"

    def start(self, now: float) -> List[Action]:
        if self.state != "idle":
            return []
        self.state, self._since = "connecting", now
        return [Action("open")]

    def connected(self, now: float) -> List[Action]:
        if self.state != "connecting":
            return []
        self.state, self._since = "greeting", now
        self.heard = self.sent = now
        return [Action("hello")]

    def welcomed(self, now: float, term: int, beat: float) -> List[Action]:
        if self.state != "greeting":
            return []
        self.state, self._since, self._tries, self.term, self.heard = "up", now, 0, term, now
        if beat > 0:
            self.beat = beat
        self.silence = max(SILENCE, 5 * self.beat)
        self.ever_welcomed = True
        self.last_refusal = self._refused_since = None
        return [Action("resume")]

    def term_seen(self, term: int) -> List[Action]:
        """A lower term is an old broker's word and means nothing."""
        if self.state != "up" or term <= self.term:
            return []
        self.term = term
        return [Action("rewatch")]

    def disconnected(self, now: float) -> List[Action]:
        return self._pause(now) if self.state in ("greeting", "up") else []   # while connecting libzmq tries again by itself

    def refused(self, now: float, error: Error) -> List[Action]:
        if self.state in ("idle", "pausing"):
            return []
        self.last_refusal = error
        actions = self._pause(now)
        if self._refused_since is None:
            self._refused_since = now
        if not self.ever_welcomed or now - self._refused_since >= REFUSAL_PATIENCE:
            actions.append(Action("fail_all", error))
        return actions

    def tick(self, now: float) -> List[Action]:
        if self.state == "pausing" and now >= self._due:
            self.state, self._since = "connecting", now
            return [Action("open")]
        if self.state == "connecting" and now - self._since >= CONNECT_PATIENCE:
            return self._pause(now)
        if self.state == "greeting" and now - self._since >= GREET_PATIENCE:
            return self._pause(now)
        if self.state == "up":
            if now - self.heard >= self.silence:
                return self._pause(now)
            if now - self.sent >= self.beat:
                self.sent = now
                return [Action("beat")]
        return []

    def _pause(self, now: float) -> List[Action]:
        ceiling = min(BACKOFF_MAX, BACKOFF_MIN * 2 ** min(self._tries, 10))
        self._tries += 1
        self.state, self._since = "pausing", now
        self._due = now + ceiling * (0.5 + self._chance.random() / 2)
        return [Action("close")]

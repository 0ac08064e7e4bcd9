"""How long each replica's engine has been busy: its own account as of its last word, and what it has had to do since.

A replica counts its engine's seconds from its start and says so with every answer and report. What is lost or late
takes nothing away, for the next word has it all. Between two words its head knows whether it has work, and an engine
with work runs: so nothing is missing of what a crash, a deadline or the end of a run leaves unfinished.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct


class EngineAccount(Struct):
    """One replica's."""

    busy_s: float = 0.0
    """As the replica last said."""
    since_s: float = 0.0
    """When it said so, or got work after it had none."""
    working: bool = False

    def at(self, now_s: float) -> float:
        """Engine seconds up to now."""
        return self.busy_s + max(0.0, now_s - self.since_s) if self.working else self.busy_s


class EngineTime:
    """The accounts of all replicas. Those that are gone are one sum."""

    def __init__(self) -> None:
        self._accounts: dict[str, EngineAccount] = {}
        self._gone_s = 0.0

    def began(self, replica: str, now_s: float) -> None:
        """It had nothing to do, and got work."""
        account = self._accounts.get(replica)
        if account is None:
            account = self._accounts[replica] = EngineAccount()
        account.working, account.since_s = True, now_s

    def said(self, replica: str, busy_s: float, now_s: float, working: bool) -> None:
        """Its engine has been busy for so long since its start. An older word than the last one says less."""
        account = self._accounts.get(replica)
        if account is None:
            account = self._accounts[replica] = EngineAccount()
        account.working = working
        if busy_s >= account.busy_s:
            account.busy_s, account.since_s = busy_s, now_s

    def rests(self, replica: str) -> None:
        """It turned out to have nothing to do."""
        account = self._accounts.get(replica)
        if account is not None:
            account.working = False

    def gone(self, replica: str, now_s: float) -> None:
        """It has ended, and with it what it was doing."""
        account = self._accounts.pop(replica, None)
        if account is not None:
            self._gone_s += account.at(now_s)

    def by_replica(self, now_s: float, replicas: Iterable[str]) -> dict[str, float]:
        """Engine seconds since its start of each of these that is there."""
        accounts = ((replica, self._accounts.get(replica)) for replica in replicas)
        return {replica: account.at(now_s) for replica, account in accounts if account is not None}

    def total(self, now_s: float) -> float:
        """Engine seconds of all that there ever were."""
        return self._gone_s + sum(account.at(now_s) for account in self._accounts.values())

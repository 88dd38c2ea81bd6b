"""Replicated classes that tests share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from paxon import Replicated, command, query, since

__all__ = ["Bank", "Flags", "Job", "Jobs", "OldShop", "Shop", "Worded"]


class Flags(Replicated):
    def __init__(self) -> None:
        self.on: dict[str, bool] = {}

    @command
    def set(self, name: str, value: bool) -> bool:
        """What it was."""
        old = self.on.get(name, False)
        self.on[name] = value
        return old

    @query
    def get(self, name: str) -> bool:
        return self.on.get(name, False)


@dataclass
class Job:
    name: str
    size: float = 1


class Poor(Exception):
    def __init__(self, name: str, lacking: int) -> None:
        super().__init__(name, lacking)
        self.name = name
        self.lacking = lacking


class Worded(Exception):
    """Takes others than the arguments that it keeps."""

    def __init__(self, lacking: int, of: str = "money") -> None:
        super().__init__(f"{lacking} of {of} are lacking")


class Account(msgspec.Struct):
    balance: int = 0


class Bank(Replicated):
    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}

    @command
    def pay_in(self, name: str, amount: int = 1) -> Account:
        account = self.accounts.setdefault(name, Account())
        account.balance += amount
        return account

    @command(raises=(KeyError, Poor))
    def move(self, source: str, target: str, amount: int) -> None:
        lacking = amount - self.accounts[source].balance
        if lacking > 0:
            raise Poor(source, lacking)
        self.accounts[source].balance -= amount
        self.pay_in(target, amount)

    @command(raises=(LookupError, Worded))
    def fail(self, how: str) -> None:
        if how == "deep":
            self.fail(how)
        if how == "declared":
            raise LookupError(object())
        if how == "worded":
            raise Worded(3)
        raise {"zero": ZeroDivisionError, "exit": SystemExit}[how](f"{object()}")

    @query(raises=(KeyError,))
    def balance(self, name: str) -> int:
        return self.accounts[name].balance


class Jobs(Replicated):
    """With time, chance and timers."""

    def __init__(self) -> None:
        self.waiting: list[Job] = []
        self.running: dict[str, Job] = {}
        self.drawn: list[int] = []

    @command
    def put(self, job: Job) -> int:
        self.waiting.append(job)
        return len(self.waiting)

    @command(raises=(IndexError,))
    def take(self, seconds: float) -> Job:
        """The job comes back after so long, unless it is done by then."""
        job = self.waiting.pop(0)
        self.running[job.name] = job
        self.timers.after(seconds, self.give_back, job.name)
        return job

    @command
    def give_back(self, name: str) -> None:
        job = self.running.pop(name, None)
        if job is not None:
            self.waiting.append(job)

    @command
    def done(self, name: str) -> bool:
        return self.running.pop(name, None) is not None

    @command
    def draw(self) -> int:
        self.drawn.append(self.random.randrange(1_000_000))
        return self.drawn[-1]

    @query
    def time(self) -> int:
        return self.now

    @query
    def names(self) -> list[str]:
        return [job.name for job in self.waiting]


class OldShop(Replicated, name="shop"):
    """The first version of …"""

    def __init__(self) -> None:
        self.sold: dict[str, int] = {}

    @command
    def sell(self, what: str, count: int = 1) -> int:
        self.sold[what] = self.sold.get(what, 0) + count
        return self.sold[what]

    @query
    def count(self, what: str) -> int:
        return self.sold.get(what, 0)


class Shop(Replicated, name="shop"):
    """… this, whose second version has another body, an argument and a field more."""

    def __init__(self) -> None:
        self.sold: dict[str, int] = {}
        self.buyers: Annotated[dict[str, int], since(2)] = {}

    @command(name="sell")
    def sell_1(self, what: str, count: int = 1) -> int:
        self.sold[what] = self.sold.get(what, 0) + count
        return self.sold[what]

    @command(since=2)
    def sell(self, what: str, count: int = 1, to: str = "") -> int:
        self.sold[what] = self.sold.get(what, 0) + count
        self.buyers[to] = self.buyers.get(to, 0) + count
        return 100 + self.sold[what]

    @command(since=2)
    def refund(self, what: str) -> None:
        self.sold.pop(what, None)

    @query
    def count(self, what: str) -> int:
        return self.sold.get(what, 0)

"""The ready-made dict, set, list and counts are like Python's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, MutableSequence, MutableSet
from typing import Any

import pytest

import paxon
from paxon import ReplicatedCounter, ReplicatedDict, ReplicatedList, ReplicatedSet
from paxon.testing import MemoryCluster


class Prices(ReplicatedDict[str, float]):
    """With types."""


class Names(ReplicatedSet[str]):
    """With types."""


@pytest.fixture(scope="module")
def prices() -> Iterator[Prices]:
    with MemoryCluster(Prices) as cluster, cluster.proxy(Prices) as prices:
        yield prices


def test_a_dict(prices: Prices) -> None:
    prices.clear()
    model: dict[str, float] = {}
    both: list[MutableMapping[str, float]] = [prices, model]
    for each in both:
        each["tea"] = 3.5
        each.update({"rye": 2.0}, oats=1.5)
        each["tea"] += 1
        assert each.setdefault("rye", 9.0) == 2.0
        assert each.pop("rye") == 2.0
        assert each.pop("rye", None) is None
        with pytest.raises(KeyError, match="rye"):
            each["rye"]
        with pytest.raises(KeyError, match="rye"):
            del each["rye"]
        with pytest.raises(KeyError):
            each.pop("rye")
        each["late"] = 1.0
        assert each.popitem() == ("late", 1.0)
        assert (len(each), "tea" in each, "rye" in each) == (2, True, False)
        assert list(each) == ["tea", "oats"]
        assert list(each.items()) == [("tea", 4.5), ("oats", 1.5)]
        assert list(each.values()) == [4.5, 1.5]
        assert each.get("rye", 7.0) == 7.0
    assert prices == model
    assert isinstance(prices, MutableMapping)
    assert repr(prices) in ("<proxy of Prices>", f"Prices({model!r})")
    with pytest.raises(paxon.InvalidRequest, match=r"Prices.__setitem__: argument 'value'"):
        prices["tea"] = "dear"  # type: ignore[assignment]
    with pytest.raises(paxon.InvalidRequest, match="argument 'new'"):
        prices.update({3: 1.0})
    prices.clear()
    assert not prices


def test_keys_of_a_type_are_found() -> None:
    class Board(ReplicatedDict[tuple[int, int], str]):
        pass

    with MemoryCluster(Board) as cluster, cluster.proxy(Board) as board:
        board[1, 2] = "x"
        assert (1, 2) in board and (2, 1) not in board
        for odd in (None, "x"):
            assert odd not in board, "what cannot be a key is none"  # type: ignore[operator]
        board.close()
        with pytest.raises(paxon.ClientClosed):
            assert (1, 2) not in board, "nobody can tell"


def test_a_dict_of_plain_data() -> None:
    with MemoryCluster(ReplicatedDict) as cluster:
        kept: ReplicatedDict[Any, Any] = cluster.proxy(ReplicatedDict)
        with kept:
            kept[3] = {"a": [1, None, b"\0", 2.5, True]}
            assert kept[3] == {"a": [1, None, b"\0", 2.5, True]}
            for odd in ({1, 2}, (1, 2), object(), 1 << 80):
                with pytest.raises(paxon.InvalidRequest, match=r"ReplicatedDict.__setitem__"):
                    kept["odd"] = odd
            cluster.restart()
            assert list(kept) == [3]


def test_a_set() -> None:
    with MemoryCluster(Names) as cluster, cluster.proxy(Names) as names:
        model: set[str] = set()
        both: list[MutableSet[str]] = [names, model]
        for each in both:
            each.add("bob")
            each |= {"ann"}
            each.add("bob")
            each.discard("eve")
            with pytest.raises(KeyError, match="eve"):
                each.remove("eve")
            assert (len(each), "bob" in each, "eve" in each) == (2, True, False)
            assert each >= {"ann"} and not each.isdisjoint({"ann"})
            assert each & {"ann", "eve"} == {"ann"}
            each.remove("ann")
            each ^= {"bob", "zoe"}
            assert set(each) == {"zoe"}
        names.update(["x", "y"], ["y", "z"])
        assert (names.pop(), list(names)) == ("zoe", ["x", "y", "z"])  # in the order of coming
        assert names.copy() == {"x", "y", "z"}
        names.clear()
        with pytest.raises(KeyError):
            names.pop()


def test_a_list() -> None:
    class Words(ReplicatedList[str]):
        pass

    with MemoryCluster(Words) as cluster, cluster.proxy(Words) as words:
        model: list[str] = []
        both: list[MutableSequence[str]] = [words, model]
        for each in both:
            each.append("b")
            each.insert(0, "a")
            each.extend(["c", "d", "c"])
            each += ["e"]
            each[1] = "B"
            assert (each[0], each[-1], list(each[1:3]), len(each)) == ("a", "e", ["B", "c"], 6)
            assert (each.index("c"), each.count("c"), "d" in each) == (2, 2, True)
            with pytest.raises(ValueError, match="not in"):
                each.index("z")
            with pytest.raises(ValueError, match="not in"):
                each.remove("z")
            with pytest.raises(IndexError):
                each[9]
            with pytest.raises(IndexError):
                each.pop(9)
            each.remove("c")
            del each[0]
            del each[1:2]
            assert (each.pop(), each.pop(0)) == ("e", "B")
            each.reverse()
            assert list(each) == ["c"]
            each.extend(["x", "y"])
            assert list(reversed(each)) == ["y", "x", "c"]
            del each[::-2]
            assert list(each) == ["x"]
            each[0:1] = ["p", "q", "r"]
            each[-1:] = "st"
            each[::3] = ["P", "T"]
            assert list(each) == ["P", "q", "s", "T"]
            for wrong in (["x"], []):
                with pytest.raises(ValueError, match="extended slice"):
                    each[::2] = wrong
            with pytest.raises(ValueError, match="step cannot be zero"):
                del each[::0]
            assert each == ["P", "q", "s", "T"] and each == words
            assert all(each != other for other in (["P"], ("P", "q", "s", "T"), None))
            with pytest.raises(TypeError, match="unhashable"):
                hash(each)
        words.clear()
        with pytest.raises(IndexError):
            words.pop()


def test_counts() -> None:
    class Words(ReplicatedCounter[str]):
        pass

    with MemoryCluster(Words) as cluster, cluster.proxy(Words) as words:
        assert (words.increment("a"), words.increment("b", 5), words.increment("a")) == (1, 5, 2)
        words.update("abracadabra")
        words.update({"z": 3})
        model = Counter("abracadabra") + Counter({"a": 2, "b": 5, "z": 3})
        assert dict(words) == model
        assert (words["nobody"], words.total(), len(words)) == (0, model.total(), len(model))
        assert words.most_common(2) == [("a", 7), ("b", 7)]
        words["a"] = 1
        del words["b"]
        assert "b" not in words and sum(words.values()) == words.total()
        assert isinstance(words, Mapping)
        assert (words.get("a"), words.get("b"), words.get("b", 7)) == (1, None, 7)
        assert words.most_common(-1) == []


@pytest.mark.parametrize("sign", [1, -1])
def test_a_count_that_no_answer_could_carry_changes_nothing(sign: int) -> None:
    with MemoryCluster(ReplicatedCounter) as cluster, cluster.proxy(ReplicatedCounter) as words:
        most = (1 << 63) - 1 if sign > 0 else -(1 << 63)
        assert words.increment("a", most) == most
        for beyond in (
            lambda: words.increment("a", sign),
            lambda: words.update({"b": 1, "a": sign}),
            lambda: words.__setitem__("b", most + sign if sign > 0 else 1 << 63),
        ):
            with pytest.raises(OverflowError, match="at most 64 bits"):
                beyond()
        cluster.restart()
        assert dict(words) == {"a": most}


def test_by_themselves_they_are_plain_containers() -> None:
    names: ReplicatedSet[str] = ReplicatedSet()
    names |= {"ann"}
    prices: ReplicatedDict[str, float] = ReplicatedDict()
    prices.update(tea=1.0)
    assert (list(names), dict(prices)) == (["ann"], {"tea": 1.0})

"""The frame codec: golden bytes, round trips, and nothing but `FrameError` out of `decode`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paxon.transport import (
    HEADER_BYTES,
    ForeignCluster,
    ForeignFrame,
    FrameCodec,
    MalformedFrame,
    OversizedFrame,
)


class Leaf(msgspec.Struct, frozen=True, array_like=True):
    slot: int
    value: bytes


class One(msgspec.Struct, frozen=True, array_like=True, tag=1):
    number: int
    leaves: list[Leaf]
    flag: bool = False


class Two(msgspec.Struct, frozen=True, array_like=True, tag=2):
    text: str
    ratio: float
    counts: dict[str, int]
    leaf: Leaf | None = None


class Fussy(msgspec.Struct, frozen=True, array_like=True, tag=3):
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ArithmeticError("a struct may refuse in its own way")


Message = One | Two | Fussy


def codec(**changes: Any) -> FrameCodec[Message, Message]:
    arguments: dict[str, Any] = {
        "protocol_version": 1,
        "identity": 0x0A0B0C0D0E0F1011,
        "sender": 3,
        "incarnation": 0x1122334455667788,
    } | changes
    return FrameCodec(Message, Message, **arguments)


def test_golden_bytes() -> None:
    frame = codec().encode([One(7, [Leaf(1, b"A")], True), Two("é", 0.5, {"k": -1})])
    header, body = frame[:HEADER_BYTES], frame[HEADER_BYTES:]
    assert HEADER_BYTES == 24
    assert header.hex(" ") == (
        "50 41 58 4e 00 01 00 03 "  # PAXN, version 1, sender 3
        "0a 0b 0c 0d 0e 0f 10 11 "  # the cluster's identity
        "11 22 33 44 55 66 77 88"  # incarnation
    )
    assert body.hex(" ") == (
        "92 94 01 07 91 92 01 c4 01 41 c3 95 02 a2 c3 a9 cb 3f e0 00 00 00 00 00 00 81 a1 6b ff c0"
    )
    assert codec().decode(frame) == (
        3,
        0x1122334455667788,
        [One(7, [Leaf(1, b"A")], True), Two("é", 0.5, {"k": -1})],
    )


def test_a_client_that_knows_no_cluster_sends_zeros() -> None:
    client: FrameCodec[Any, Any] = FrameCodec(Message, Message, protocol_version=1)
    frame = client.encode([])
    assert frame == b"PAXN\x00\x01" + bytes(18) + b"\x90"


leaves = st.builds(Leaf, st.integers(-(2**63), 2**64 - 1), st.binary(max_size=40))
messages = st.lists(
    st.builds(One, st.integers(-(2**63), 2**64 - 1), st.lists(leaves, max_size=5), st.booleans())
    | st.builds(
        Two,
        st.text(max_size=10),
        st.floats(allow_nan=False),
        st.dictionaries(st.text(max_size=5), st.integers(0, 100), max_size=3),
        st.none() | leaves,
    )
    | st.builds(Fussy, st.integers(0, 1000)),
    max_size=6,
)


@given(messages)
def test_round_trip_of_every_kind_of_buffer(sent: list[Message]) -> None:
    here = codec()
    frame = here.encode(sent)
    buffer = bytearray(b"left over from a longer frame" * 10)
    here.encode_into(sent, buffer)
    assert buffer == frame
    for form in (frame, bytearray(frame), memoryview(frame)):
        assert here.decode(form) == (3, 0x1122334455667788, sent)


def refuses_or_decodes(frame: bytes) -> None:
    try:
        codec().decode(frame)
    except (MalformedFrame, ForeignFrame):
        return


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(noise: bytes) -> None:
    refuses_or_decodes(noise)
    with pytest.raises(MalformedFrame):
        codec().decode(noise[:27])


@given(st.binary(max_size=200))
def test_random_bodies_raise_nothing_else(noise: bytes) -> None:
    refuses_or_decodes(codec().encode([])[:HEADER_BYTES] + noise)


@given(messages, st.data())
@settings(max_examples=300)
def test_damaged_frames_raise_nothing_else(sent: list[Message], data: st.DataObject) -> None:
    frame = bytearray(codec().encode(sent))
    cut = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(MalformedFrame):
        codec().decode(frame[:cut])
    position = data.draw(st.integers(0, len(frame) - 1))
    frame[position] = data.draw(st.integers(0, 255))
    refuses_or_decodes(bytes(frame))


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(anything)
def test_other_msgpack_raises_nothing_else(value: Any) -> None:
    refuses_or_decodes(codec().encode([])[:HEADER_BYTES] + msgspec.msgpack.encode(value))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(msgspec.msgpack.encode([[9, 1]]), id="unknown tag"),
        pytest.param(msgspec.msgpack.encode([[1, "seven", []]]), id="wrong type"),
        pytest.param(msgspec.msgpack.encode([[1, 7]]), id="missing field"),
        pytest.param(msgspec.msgpack.encode([[3, -1]]), id="refused by the struct"),
        pytest.param(msgspec.msgpack.encode({"a": 1}), id="no list"),
        pytest.param(b"\x90\x90", id="bytes behind"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="list of four billion"),
        pytest.param(b"\x91\x93\x01\x07\xdd\xff\xff\xff\xff", id="inner list of four billion"),
        pytest.param(b"\x91\x95\x01\x07\x90\xc2" + b"\x91" * 500_000, id="nested beyond reason"),
        pytest.param(b"\x91\x94\x02\xa1\xff\x01\x80", id="not UTF-8"),
        pytest.param(b"", id="empty"),
    ],
)
def test_malformed_bodies(body: bytes) -> None:
    with pytest.raises(MalformedFrame):
        codec().decode(codec().encode([])[:HEADER_BYTES] + body)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol_version": 2}, "protocol version 2, this is version 1: run the same release"),
        ({"identity": 5}, "server 3 belongs to cluster 0000000000000005, and this is cluster 0a0b"),
        ({"identity": 0}, "server 3 belongs to no cluster yet, and this is cluster 0a0b"),
    ],
)
def test_foreign_frames(changes: dict[str, Any], reason: str) -> None:
    here = codec()
    for _ in range(2):  # What was refused once must not be remembered as good.
        with pytest.raises(ForeignFrame) as caught:
            here.decode(codec(**changes).encode([]))
        assert reason in str(caught.value)
    assert here.decode(codec().encode([]))[0] == 3


def test_what_is_not_compared() -> None:
    knows_cluster = codec(sender=0, incarnation=0)
    knows_none = codec(identity=0, sender=0, incarnation=0, accept_any_cluster=True)
    client_port = codec(accept_any_cluster=True)
    for client in (knows_cluster, knows_none):
        assert client_port.decode(client.encode([Fussy(1)])) == (0, 0, [Fussy(1)])
        assert client.decode(client_port.encode([Fussy(1)]))[0] == 3
    with pytest.raises(ForeignFrame):
        client_port.decode(codec(identity=5, sender=0).encode([]))
    with pytest.raises(ForeignFrame):
        codec(identity=5, sender=0).decode(client_port.encode([]))


def test_a_client_belongs_to_the_cluster_that_answers_first() -> None:
    client = codec(identity=0, sender=0, incarnation=0, accept_any_cluster=True, pins=True)
    undecided, first, second = codec(identity=0), codec(identity=1), codec(identity=2)
    client.decode(undecided.encode([Fussy(1)]))
    assert client.identity == 0
    client.decode(first.encode([Fussy(2)]))
    assert client.identity == 1
    for _ in range(2):
        with pytest.raises(ForeignCluster) as caught:
            client.decode(second.encode([Fussy(3)]))
        assert caught.value.identity == 2
    assert client.decode(first.encode([Fussy(4)]))[2] == [Fussy(4)]
    assert client.decode(undecided.encode([Fussy(5)]))[2] == [Fussy(5)]  # it serves nobody yet
    # What it sends names the cluster from now on.
    port = codec(identity=2, accept_any_cluster=True, stranger=Fussy)
    assert port.decode(client.encode([Fussy(6), Fussy(7)]))[2] == [Fussy(1)]
    assert codec(identity=1, accept_any_cluster=True).decode(client.encode([]))[2] == []


def test_introductions_pass_between_clusters_and_nothing_else_does() -> None:
    ours = codec(identity=1, introductions=(One,))
    fresh = codec(identity=0, introductions=(One,))
    word, other = One(1, []), Two("t", 1.0, {})
    for theirs in (codec(identity=2), codec(identity=0)):
        with pytest.raises(ForeignFrame):
            ours.decode(theirs.encode([other]))
        assert ours.decode(theirs.encode([word]))[2] == [word]
    assert ours.decode(codec(identity=0).encode([other, word]))[2] == [word]
    with pytest.raises(ForeignFrame):  # a member of another cluster, who takes this for its own
        ours.decode(codec(identity=2).encode([other, word]))
    # Whoever belongs to no cluster yet is sent what members are sent, and has no complaint.
    assert fresh.decode(ours.encode([other, word]))[2] == [word]
    assert fresh.decode(ours.encode([other]))[2] == []
    fresh.identify(1)
    assert fresh.decode(ours.encode([other]))[2] == [other]


def test_two_unions() -> None:
    arguments: dict[str, Any] = {"protocol_version": 1}
    server: FrameCodec[One, Two] = FrameCodec(One, Two, **arguments)
    client: FrameCodec[Two, One] = FrameCodec(Two, One, **arguments)
    assert server.decode(client.encode([Two("t", 1.0, {})]))[2] == [Two("t", 1.0, {})]
    assert client.decode(server.encode([One(1, [])]))[2] == [One(1, [])]
    with pytest.raises(MalformedFrame):
        client.decode(client.encode([Two("t", 1.0, {})]))


def test_size_limits_both_ways() -> None:
    small, large = codec(max_frame_bytes=200), codec()
    fits, too_large = [One(1, [Leaf(1, bytes(100))])], [One(1, [Leaf(1, bytes(200))])]
    assert small.decode(small.encode(fits))[2] == fits
    with pytest.raises(OversizedFrame, match="max_frame_bytes"):
        small.encode(too_large)
    with pytest.raises(OversizedFrame, match="max_frame_bytes"):
        small.decode(large.encode(too_large))
    assert small.decode(small.encode(fits))[2] == fits
    exact = len(large.encode(fits))
    assert codec(max_frame_bytes=exact).decode(codec(max_frame_bytes=exact).encode(fits))[2] == fits
    for one_less in (codec(max_frame_bytes=exact - 1),):
        with pytest.raises(OversizedFrame):
            one_less.decode(large.encode(fits))
        with pytest.raises(OversizedFrame):
            one_less.encode(fits)


def test_made_up_headers_cost_no_memory() -> None:
    here = codec()
    for incarnation in range(3000):
        assert here.decode(codec(incarnation=incarnation).encode([]))[1] == incarnation
    assert len(here._known) <= 1024


class Untagged(msgspec.Struct, array_like=True):
    number: int


class AlsoUntagged(msgspec.Struct, array_like=True):
    number: int


def test_unions_whose_structs_cannot_be_told_apart() -> None:
    for encodes, decodes in ((Message, Untagged | AlsoUntagged), (Untagged | AlsoUntagged, One)):
        with pytest.raises(TypeError):
            FrameCodec(encodes, decodes, protocol_version=1)

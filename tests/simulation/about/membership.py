"""Members change while everything else goes wrong (docs/membership.md).

Drawn apart from the rest of a plan, so that seeds of earlier days keep all else. A run with changes
has more machines than members: any of them may be asked for, one by one, several at once, or all.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import msgspec

from paxon.actors import PaxosServer, ServerId
from paxon.actors.members import AskMembers, ChangeMembers, MemberChange, Members
from paxon.actors.messages import QueryReply, ReplyStatus
from paxon.actors.records.configuration import Configuration, Member

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.simulation.machine import SimulatedDisk
    from tests.simulation.node import Node
    from tests.simulation.plan import Fault, Plan
    from tests.simulation.world import World

__all__ = [
    "KINDS",
    "Administrator",
    "changes_for",
    "draw_membership",
    "leads_for_itself",
    "members_after",
    "notices",
    "was_member",
]

SHARE = 0.3
"""So many of the runs have changes."""
KINDS = ("add", "remove", "swap", "some", "others", "learner", "without leader", "same")
"""What a change is like; `Fault.amount` draws it."""
MOST_VOTERS = 7


def draw_membership(plan: Plan, wanted: bool | None, fault: type[Fault], *, free: bool) -> None:
    """Perhaps make it a run in which members change."""
    random = Random(f"membership {plan.seed}")
    chance = random.random() < SHARE and free
    if not (chance if wanted is None else wanted):
        return
    plan.made = True
    plan.servers = min(plan.servers, 5)
    plan.spare = random.choice((1, 2, 4))
    if random.random() < 0.1:  # one server alone, that grows
        plan.servers, plan.spare = 1, random.choice((2, 4, 6))
    if "transfer_bytes" in plan.settings:  # (snapshots hold configurations: no end byte by byte)
        plan.settings["transfer_bytes"] = max(100, plan.settings["transfer_bytes"])
    machines = plan.servers + plan.spare
    plan.clock_rates = [plan.clock_rates[n % len(plan.clock_rates)] for n in range(machines)]
    kept = []
    for one in plan.faults:
        change: dict[str, int] = {"group": random.getrandbits(machines) << 1}
        if one.kind != "restart_client" and one.server:
            change["server"] = random.randint(1, machines)
        kept.append(msgspec.structs.replace(one, **change))
    gap = random.choice((30, 80, 200))
    step = 20 + int(random.expovariate(1 / gap))
    while step < plan.steps:
        server = random.choice((0, 0, random.randint(1, machines)))
        group = random.getrandbits(machines) << 1
        amount = round(random.random(), 4)
        kept.append(fault(step, "change", server, 0.0, amount, group))
        if random.random() < 0.2:  # another administrator, at the same time
            other = random.getrandbits(machines) << 1
            kept.append(fault(step, "change", 0, 0.0, round(random.random(), 4), other))
        if random.random() < 0.3:  # whoever seals, or opens, falls at that moment
            soon, seconds = step + random.randint(1, 12), round(random.uniform(0, 1.0), 4)
            kind = random.choice(("crash", "isolate", "crash_before_sync", "crash_after_sync"))
            kept.append(fault(soon, kind, 0, seconds, round(random.random(), 4), group))
        if random.random() < 0.2:
            server, seconds = random.randint(1, machines), round(random.uniform(0, 0.5), 4)
            lost = max(0, step + random.randint(-30, 30))
            kept.append(fault(lost, "lose_disk", server, seconds, 0.0, group))
        if random.random() < 0.15:  # a lost disk was not lost: its server is started on it again
            later, seconds = step + random.randint(1, 60), round(random.uniform(0.2, 2.0), 4)
            kept.append(fault(later, "lost_disk_is_back", 0, seconds, 0.0, group))
        if random.random() < 0.2:  # a copy of a directory from before the change
            server, seconds = random.randint(1, machines), round(random.uniform(0.05, 2.0), 4)
            copied, amount = max(0, step - random.randint(0, 20)), round(random.random(), 4)
            kept.append(fault(copied, "old_copy", server, seconds, amount, group))
        step += 1 + int(random.expovariate(1 / gap))
    plan.faults = kept


def members_after(
    now: Configuration, disks: Mapping[ServerId, int], leader: ServerId, fault: Fault
) -> tuple[Member, ...]:
    """Who is to be a member next: any of the machines, by their directories."""
    kind = KINDS[int(fault.amount * 0.9999 * len(KINDS))]
    asked = [server for server in disks if fault.group >> server & 1] or [min(disks)]
    voters = set(now.voters)
    learners = set(now.servers) - voters
    outside = [server for server in asked if server not in voters] or asked
    if kind == "add":
        voters.add(outside[0])
    elif kind == "remove" and len(voters) > 1:
        voters.discard(sorted(voters)[fault.group % len(voters)])
    elif kind == "swap":
        voters.discard(sorted(voters)[fault.group % len(voters)])
        voters.add(outside[0])
    elif kind == "some":
        voters = set(asked)
    elif kind == "others":
        voters = set(disks) - voters or voters
    elif kind == "learner":
        learners.add(outside[0])
    elif kind == "without leader" and len(voters) > 1:
        voters.discard(leader)
    voters = set(sorted(voters)[:MOST_VOTERS])
    return tuple(
        Member(server, disks[server], server in voters) for server in sorted(voters | learners)
    )


def changes_for(now: Configuration, wanted: tuple[Member, ...]) -> tuple[MemberChange, ...]:
    """What an administrator asks for who wants these members, as far as one change may go.

    Nobody gets a vote before it is a member: so some of it is left for another time.
    """
    held = {member.server: member for member in now.members}
    changes = []
    for member in wanted:
        before = held.pop(member.server, None)
        if before is None:
            changes.append(MemberChange("add", member.server, member.incarnation))
        elif before.incarnation != member.incarnation:
            changes.append(MemberChange("replace", member.server, member.incarnation))
        elif before.voter != member.voter:
            changes.append(MemberChange("promote" if member.voter else "demote", member.server))
    return (*changes, *(MemberChange("remove", server) for server in held))


def was_member(world: World, node: Node, copy: SimulatedDisk) -> bool:
    """Whether this directory has been a member's since it was copied: else it has told nothing."""
    later = world.watch.epochs.configurations[copy.epoch :]
    return any(each.incarnations.get(node.id) == copy.incarnation for each in later)


def notices(world: World, node: Node, copy: SimulatedDisk) -> bool:
    """Whether the cluster promises that this copy of a directory never votes.

    In each epoch, from the copy's own on, in which it has a vote: those who remember a later state
    of it, or know of a later epoch, have to meet every majority. And one at a time.
    """
    others = [other for other in world.nodes.values() if other is not node]
    if any(other.newest is not None or other.away is not None for other in others):
        return False
    if node.away is not None or any(disk.replaced for disk in world.watch.disks.values()):
        return False
    for configuration in world.watch.epochs.configurations[copy.epoch :]:
        held = configuration.find(node.id)
        if held is None or held.incarnation != copy.incarnation:
            continue
        if not held.voter:
            return False  # (a learner tells of its commits: later ones are not its old ones, then)
        sure = 0
        for other in others:
            member = configuration.find(other.id)
            if member is None or not member.voter:
                continue
            remembered = other.disk.remembers().get(node.id, (0, 0))
            sure += (
                other.disk.incarnation != member.incarnation  # it confirms nothing any more
                or other.disk.epoch > configuration.epoch
                or (remembered[0] == copy.incarnation and remembered[1] > copy.count)
            )
        if sure < len(configuration.voters) - configuration.majority + 1:
            return False
    return True


class Administrator:
    """Somebody who asks for a change until he knows how it ended (actors/members.py).

    He may ask again in the same words, ask anybody, and believe whoever answers.
    """

    MOST_ASKED = 40

    def __init__(self, world: World, request: ChangeMembers) -> None:
        self._world = world
        self._request = request
        self._random = Random(f"administrator {world.plan.seed} {request.id}")
        self._asked = 0
        self._last: Node | None = None
        self.ended = ""

    def ask(self, at: Node) -> None:
        """Ask, and once more a moment later; a copy may come after the answer to the first."""
        self._asked += 1
        self._last = at
        at.ask_for_change(self._request)
        if self._random.random() < 0.3:
            late = self._world.now + self._random.random() * 1.5
            self._world.schedule(late, lambda _: at.ask_for_change(self._request), None)
        self._world.schedule(
            self._world.now + 0.02 + self._random.random() * 0.3, self._again, None
        )

    def _again(self, _: object) -> None:
        if self.ended or self._asked >= self.MOST_ASKED:
            return
        node = self._random.choice(list(self._world.nodes.values()))
        if self._random.random() < 0.3:
            self.ask(node)
            return
        self._asked += 1
        node.ask_for_change(AskMembers(self._request.id, self._request.id, self._request.ballot))
        self._world.schedule(
            self._world.now + 0.02 + self._random.random() * 0.3, self._again, None
        )

    def hear(self, reply: QueryReply) -> None:
        """Somebody says how it stands."""
        if reply.status != ReplyStatus.OK:
            return  # too much is waiting there
        outcome = msgspec.msgpack.decode(reply.payload, type=Members).outcome
        if outcome in ("done", "not done", "refused"):
            self.ended = outcome
            self._world.watch.on_change_told(self._request.id, outcome)
            if outcome == "refused":
                self._send_copies()

    def _send_copies(self) -> None:
        """Copies of what was refused come late, when nothing may stand in its way any more."""
        at = self._last
        assert at is not None
        for _ in range(self._random.choice((0, 3))):
            late = self._world.now + self._random.random() * 3.0
            self._world.schedule(late, lambda _: at.ask_for_change(self._request), None)


def leads_for_itself(servers: list[PaxosServer], fault: Fault) -> PaxosServer | None:
    """Somebody who takes itself for the leader, the true one most of the time."""
    leaders = [server for server in servers if server.role == "leader"]
    if not leaders:
        return None
    leaders.sort(key=lambda server: server.promised)
    return leaders[-1] if fault.server == 0 else leaders[fault.server % len(leaders)]

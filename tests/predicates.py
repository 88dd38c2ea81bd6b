"""The names of all that must hold, and what is raised when one does not."""

from __future__ import annotations

__all__ = ["PREDICATES", "InvariantBroken", "require"]

PREDICATES = {
    "none contradicted": "a majority contradicts no server whose state machine is not at fault",
    "one value per slot": "no two servers choose different values for a slot",
    "chosen stays": "a value once accepted by a majority of disks is the only one ever chosen",
    "executes only chosen": "a server executes only what a majority of disks has accepted",
    "one value per ballot": "in one ballot only one value is proposed for a slot",
    "own ballot": "only a ballot's leader proposes and sends heartbeats in it",
    "promise never falls": "an acceptor's durable ballot never falls, nor does it forget one",
    "accepts under promise": "nothing is accepted in a ballot above the durable promise",
    "durable before sent": "a message leaves only after what it relies on is durable",
    "answers under promise": "nothing is answered in a ballot below the promise of before",
    "follows its promise": "a server follows only the leader of the ballot that it has promised",
    "no vote without a disk": "who lost its disk answers nothing that counts till it is replaced",
    "leads by whole promises": "a leader has a majority's promises in its ballot, each whole",
    "lease kept": "who granted a lease neither promises nor campaigns before it has run out",
    "lease covered": "a leader reads by lease only while a majority keeps others from leading",
    "over for good": "who has handed over proposes, beats and reads by lease no more",
    "promise reports all": "a promise reports everything that its acceptor has accepted",
    "equal prefixes": "all servers execute the same values with the same results",
    "in order": "slots are executed in order, each once in a server's life",
    "at most once": "each command of a session takes effect at most once",
    "order kept": "a command that follows another takes effect only after it",
    "nothing needed discarded": "what a server may still need stays, or a snapshot covers it",
    "restart loses nothing": "a restarted server finds all that was durable",
    "acknowledged is durable": "a client is told of a write only after it is chosen for good",
    "equal settings": "after equal slots the same settings are in force on all servers",
    "made once": "a cluster is in force only once all members have stored that, and only one is",
    "snapshots agree": "a snapshot's state is the one that its slot's prefix leads to",
    "equal states": "servers that executed equally far have equal states",
    "revisions": "each write's revision is its own, above all that were told before it was asked",
    "transactions": "a transaction is seen whole, in one revision, and the past as it was",
    "as the model": "what the log's commands come to is what a plain model of the store says",
    "log time": "no leader stamps less than what is executed, nor runs ahead of the fastest clock",
    "history kept": "nothing is said to be compacted that is young, or among the last events",
    "watched once": "a watcher is told each event of its keys once, in order, and none in part",
    "lost in time": "an owner takes its lease for lost before it can have ended",
    "one holder": "whoever holds a lock is its oldest contender, and no two have the same fence",
    "done once": "an item of a queue goes with its claim, and what is done of it is done once",
    "all there": "who goes on from a barrier was there together with all the others",
    "guarded": "a guarded write is done only while its lock is held, and fences never fall",
    "linearizable": "the clients' history has an order that explains all results",
    "progress": "once all faults are healed, everything asked for is answered in bounded time",
    "no failure": "a server stops only for its disk",
    "confirmed first": "a started server stores and answers nothing before a majority confirms it",
    "old copies stay out": "an old copy of a directory that enough others know newer never votes",
    "one configuration a slot": "each slot is decided by the majority of one epoch's voters",
    "only voters vote": "only a directory that is a voter's promises anything in an epoch",
    "removed for good": "a directory that was taken out of the cluster is never a member again",
    "sealed first": "nobody promises or stores in an epoch before the seal is durable there",
    "sealed at once": "a disk that takes a CONFIG for chosen has the seal: no restart looks for it",
    "void above the seal": "nothing that an epoch has left above its seal stays on a disk",
    "changes end as told": "what is told of a change is so: a majority has it, or nobody ever will",
    "reads by leaders": "who answers a read that is to be up to date leads in what it promised",
    "no reads after a CONFIG": "who proposed a CONFIG reads by no lease any more",
    "counts are told": "what is remembered of a directory's commits, its confirmed server told",
    "counts are handed on": "in the end all remember what each directory's server has told",
    "commits are taken back": "nobody asks for long for slots that no server has, nor leads then",
    "counts are taken back": "no count is remembered for long that its server, which runs, denies",
}
"""Every invariant by name, with the sentence that it stands for."""


class InvariantBroken(AssertionError):
    """A predicate does not hold: its name, and what was seen."""

    def __init__(self, predicate: str, text: str) -> None:
        super().__init__(f"{predicate} ({PREDICATES[predicate]}): {text}")
        self.predicate = predicate


def require(condition: object, predicate: str, text: str, *values: object) -> None:
    """Raise `InvariantBroken` unless `condition`; `text % values` is only built then."""
    if not condition:
        raise InvariantBroken(predicate, text % values if values else text)

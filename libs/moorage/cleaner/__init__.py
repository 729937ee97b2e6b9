"""The cleaner's core: which files and which parts of the exchange logs nothing needs any more. Pure; no I/O.

``classify``: every file of a job's prefix gets a verdict with its reason; a plan says what goes, in which order.
``trim``: how far each partition of a job's exchanges may be shortened. ``retention``: whether an ended job keeps its
checkpoints. ``leftovers``: what a job leaves in Kafka besides. ``pace``: how fast. What reads the facts and carries the
plans out is ``moorage.cleaner_process``.

Theory of operation
===================

Mark and sweep, no counting. The marks are what the manifests (``_metadata``) of the retained checkpoints refer to. The
cleaner is neither fenced nor alone: checkpoints complete, attempts start and other cleaners delete while it works, and
it may be stopped between two steps and wake up hours later. So it never asks "is this unreferenced now?" but "can this
be referenced ever again?", and deletes only where the answer stays no for ever. A verdict may then be carried out at
any later time, by several cleaners at once, twice, or not at all. Nothing of the argument rests on clocks.

What it stands on
-----------------
Of the registry:

R1  Checkpoint ids and attempts are given once and ascend, also over the lives of a job name.
R2  A checkpoint is added only under the job's present attempt, by the present epoch. What was written for it carries
    the attempts in which its vertices run then; those of the record's lineage ascend.
R3  A checkpoint is added only while its ``base`` is retained (or is 0), and only above every completed checkpoint, in
    one atomic step. (With two concurrent checkpoints two ``add_checkpoint`` may be under way: the older one must not
    come second.) A savepoint may come late if it writes outside of ``chk-<n>/`` and ``shared/``, where the cleaner
    touches nothing.
R4  A checkpoint that has left the registry does not come back.
R5  What the cleaner takes out of the registry (``remove_checkpoints``, ``purge_job``) is of an ended job and of the
    submission that it names, or nothing. From ``begin_purge`` to ``purge_job`` nothing is submitted under that name.

Of the coordinator:

C1  It says that a checkpoint is aborted (DiscardCheckpoint), or that a job has ended (a terminal status in the
    registry), only when no ``add_checkpoint`` of it can take effect any more: while the outcome of one is unknown, it
    repeats the call until it is refused or done.
C2  It restores only from retained checkpoints, and a checkpoint of the new attempt completes only when every subtask
    has restored. A registry that is rebuilt gets a job's checkpoints before the job.
C3  It restores no checkpoint that the retention of an ended job discards (``retention``); that takes no message: both
    sides compute it from the registry.

Of the workers:

W1  What checkpoint c refers to was written for c (path of ``naming`` with c's id and the attempt in which the subtask
    was started) or is referred to by the manifest of c's base; or, if c has no base, of the checkpoint or savepoint
    that the job has claimed.
W2  Positions start at the restored ones and never go back. Those of an attempt that starts from nothing lie, in its
    checkpoints, behind everything that was in the log when it started (as they do behind a barrier of its own).

Files
-----
Let the facts of a job be read in this order: last id given, then the job's record, then the retained checkpoints (at
time t). The listing may be of any time. Call file f, written for checkpoint n by attempt a, *decided* if at time t

- n is not above the newest retained checkpoint, savepoints not counted (R1, R3), or
- a is below every attempt in which some vertex of the record runs (R2), or n is not above its ``base_checkpoint_id``
  (an earlier life of the name), or
- the record says that the job has ended, and n is not above the last id given (C1; a later life has higher ids), or
- DiscardCheckpoint has named n, before t (C1).

A decided file is written for no checkpoint that is added after t. Claim: a decided file without a mark is never
referred to again. By induction over the checkpoints added after t: c refers to files of its own, which f is not since
f is decided, and to files of its base (W1). The base is retained when c is added (R3): so it was retained at t and
f, without a mark, is not in it; or it was added after t, and the claim holds for it. Nothing else comes back (R4). And
nobody reads f for a restore: that needs a retained checkpoint which refers to it (C2).

Who is not decided is kept as being in progress. The grace age adds nothing to this argument. It is a second line: a
file that neither the registry calls subsumed nor a message calls aborted stays until it is that old.

What a job was submitted to start from is marked, too, whichever job it belongs to, until the job has a checkpoint of
its own, or has ended. If the job has claimed it, its first checkpoints may refer to it (W1), several that are under way
at once: so until it has a checkpoint that builds on one of its own, for then all of those are decided (R3). From then
on the manifests of that job are marks. As long as other jobs have marks in it a job is not purged.

Fail closed: if one manifest can't be read, the marks are unknown and nothing of the job is deleted. The same if the
registry remembers no completed checkpoint of a job whose prefix holds a ``_metadata``: it may have lost its data. A job
that the registry does not know is not looked at; a path that ``naming`` can't take apart is never touched.

Order: the ``_metadata`` files of what goes are deleted first, oldest first, then everything else; and while a
``_metadata`` stays, so do the files that were written for it. So whoever finds one, a registry that is rebuilt from the
storage for instance, finds the whole of what was once a completed checkpoint.

Exchange logs
-------------
An exchange is read from the positions of a retained checkpoint on, by whoever is restored from it. Checkpoints of
another life of the job's name don't count here: what is restored from them begins with empty exchanges. Let s be the
lowest position that any retained checkpoint of the present life has in a partition. Every later checkpoint has
positions not below s, since its attempt started from a retained one or from nothing (C2, W2), so s never falls and the
log before it is needed by nobody. An attempt that starts from nothing begins to read at the first offset that is there;
if what it finds below s is cut meanwhile, it starts again. If a retained checkpoint has no position for the partition,
or if there is no checkpoint at all, nothing is cut.

The exchange of an exactly-once sink is read from the sink's commit marker on. Markers only move forward, and one that
was read some time ago is merely too careful; so within one life of the job only what is new of them is read. A
partition whose marker is missing, or belongs to an earlier life of the job name (``checkpoint <= base_checkpoint_id``),
is not cut.

Void topics are those of which nothing is read again: the job has ended and no checkpoint of it is retained; or an
earlier life of its name had an exchange that neither the present graph names nor a retained checkpoint has positions
in, and every retained checkpoint is of the present life. They are cut to where they ended at a time t0 before the facts
were read: a later life of the name had not begun by then, so what lies below is void for it (lineage), whatever it does
with the topic. The topic itself stays: deleted late, it might be the next life's.

The end of a job
----------------
What its sinks have left open is ended by fencing their transactional ids, those of former parallelisms too: an open
transaction hides everything behind it from read-committed readers, and nobody comes back to end it. A cleaner that does
so too late stops a sink of the name's next life, which costs that life a restart and nothing else (the sink's markers
tell what was committed).

Checkpoints that the retention discards leave the registry at once and their files go with the next sweep. A job of
which nothing is kept, neither checkpoint nor savepoint, is purged when it has been shown for a while; any ended job,
with its checkpoints, when somebody asks for it (PurgeJob). A purge begins with ``begin_purge``, then deletes files,
topics and groups, and forgets the job last, when a whole pass found nothing more to delete. A crash in between leaves a
job that the next cleaner goes on with. Only topics and groups can be deleted too late, after the next life of the name
has made them anew (R5 covers the rest): by a cleaner that is stopped between its look at the registry, right before the
call, and the call. Against that stands the time that the job stays in the registry after the last deletion
(``purge_hold_ms``).

Savepoints are deleted by nobody here, with one exception: as long as the registry holds one, its files and the job's
record stay, and the topics with them. The exception is a savepoint that a job was started from and has claimed
(Flink: RecoveryClaimMode.CLAIM): its files go when the job has moved on from it as above, no manifest names them, the
registry does not hold the savepoint, and no other job may still start from it.

Several cleaners
----------------
By all of the above they do no harm to one another. So that they do not do everything twice, a cleaner claims a job in
the registry before each run and leaves it alone if another one has it; a claim that is not prolonged expires.
"""

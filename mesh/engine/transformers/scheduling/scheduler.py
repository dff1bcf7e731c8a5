"""Decides which tokens of which rows the next step computes.

First come, first served within a priority. A step takes the rows that decode, then as many tokens of started prompts,
then of new ones, as its token budget allows. A row gets the pages of all its tokens when it is admitted and one more
whenever it has filled the last; when there is none left, the row that came last gives all of its pages back and waits
to be computed again, which changes no answer. Rows without credit keep their pages but give them up first.

Rows of one prompt are a fork of the first: they share the full pages that it has computed and copy the last one, which
each goes on to write.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mesh.engine.base import Load
from mesh.engine.transformers.scheduling.blocks import BlockManager, page_digest
from mesh.engine.transformers.scheduling.drafts import Drafter
from mesh.engine.transformers.scheduling.pace import PromptPace
from mesh.engine.transformers.scheduling.sequence import Batch, Chunk, Row, RowPhase, Work

# Most tokens of a prompt whose logits a step keeps in order to report log probabilities: those of 152k tokens are
# 150 MB. Prompts that cannot be computed in pieces keep all.
_MOST_SCORED = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """What a step may hold: rows, tokens, and whether a prompt may be computed in pieces.

    `draft_tokens` are the most that a row may guess ahead. `step_seconds` is how long a step shall last at most that
    computes pieces of prompts while rows decode (see PromptPace), None if it does not matter.
    """

    max_rows: int
    step_tokens: int
    chunked_prefill: bool = True
    draft_tokens: int = 0
    step_seconds: float | None = None


@dataclass(slots=True)
class Counters:
    """Counts since start."""

    preemptions: int = 0
    prefix_hit_tokens: int = 0
    copied_pages: int = 0


class Scheduler:
    """Holds all rows that are not over. Not thread-safe: the engine's thread owns it.

    `on_release` is called with a row that has just lost its slot and pages, while they are still named in it.
    """

    def __init__(
        self, limits: Limits, blocks: BlockManager, on_release: Callable[[Row], None] = lambda row: None
    ) -> None:
        if limits.step_tokens < limits.max_rows:
            raise ValueError(f"step_tokens ({limits.step_tokens}) must be at least max_rows ({limits.max_rows})")
        self.limits = limits
        self.blocks = blocks
        self.counters = Counters()
        self._on_release = on_release
        self._running: list[Row] = []  # by rank
        self._waiting: list[tuple[tuple[int, int, int], int, Row]] = []  # a heap; rows may have left since
        self._outside: dict[Row, None] = {}  # all rows without pages: held, waiting, parked
        self._outside_tokens = 0
        self._parked: set[Row] = set()
        self._paused: list[Row] = []  # rows that the current step found without credit
        self._slots = list(range(limits.max_rows - 1, -1, -1))
        self._pushes = 0
        self._pace: PromptPace | None = None
        if limits.step_seconds is not None and limits.chunked_prefill:
            self._pace = PromptPace(limits.step_seconds)
        self._copies: dict[int, int] = {}  # pages to be filled with the content of others, which are held meanwhile

    # The rows' way in and out

    def add(self, work: Work) -> None:
        """Take in the rows of a request. With a digest root, the first computes the shared prompt for the others."""
        leader = work.rows[0] if work.root is not None and len(work.rows) > 1 else None
        work.leader = leader
        for row in work.rows:
            if leader is None or row is leader:
                self._push(row)
            else:
                row.phase = RowPhase.HELD
                self._step_out(row)

    def _step_out(self, row: Row) -> None:
        if row not in self._outside:
            self._outside[row] = None
            self._outside_tokens += len(row.tokens)

    def _step_in(self, row: Row) -> None:
        del self._outside[row]
        self._outside_tokens -= len(row.tokens)

    def _park(self, row: Row) -> None:
        row.phase = RowPhase.PARKED
        self._step_out(row)
        self._parked.add(row)

    def _push(self, row: Row) -> None:
        row.phase = RowPhase.WAITING
        self._step_out(row)
        self._parked.discard(row)
        self._pushes += 1
        heapq.heappush(self._waiting, (row.rank, self._pushes, row))

    def finish(self, row: Row) -> None:
        """Let a row go, wherever it is."""
        if row.phase is RowPhase.GONE:
            return
        if row.phase is RowPhase.RUNNING:
            self._running.remove(row)
            self._release(row)
        else:
            self._step_in(row)
            self._parked.discard(row)
        row.phase = RowPhase.GONE
        if row is row.work.leader:
            self.release_held(row.work)

    def share_prompt(self, row: Row) -> None:
        """The first row has computed the prompt: the others may begin where it ends."""
        work, size = row.work, self.blocks.page_size
        page, rest = divmod(len(work.prompt) - 1, size)
        if row.computed < (page + 1) * size or rest == size - 1:  # it has not gone on to fill the page
            row.update_digests(size, len(work.prompt))
            parent = row.digests[page - 1] if page else work.root
            assert parent is not None, "rows without a root have no leader"
            work.tail = page_digest(parent, work.keys[page * size :])
            self.blocks.register(row.pages[page], work.tail)
        self.release_held(work)

    def release_held(self, work: Work) -> None:
        """Let the rows wait in line that were held until the shared prompt was computed."""
        work.leader = None
        for row in work.rows:
            if row.phase is RowPhase.HELD:
                self._push(row)

    def grant(self, work: Work, tokens: int) -> None:
        """Allow more tokens."""
        if work.credit is None:
            return
        work.credit += tokens
        for row in work.rows:
            if row.phase is RowPhase.PARKED:
                self._push(row)

    def recompute(self, rows: Sequence[Row]) -> None:
        """Let these rows give up their places and be computed again."""
        for row in rows:
            if row.phase is RowPhase.RUNNING:
                self._evict(row)

    def restart(self) -> None:
        """Take all pages back, forget all their content, and let every row be computed again."""
        rows, self._running = self._running, []
        for row in rows:
            self._release(row)
            self._push(row)
        self.blocks.clear()

    def _release(self, row: Row) -> None:
        self._on_release(row)
        if row in self._paused:
            self._paused.remove(row)
        if self._copies:
            self.blocks.release([self._copies.pop(page) for page in row.pages if page in self._copies])
        if row.unverified:
            self.blocks.distrust(row.pages, forget=False)
        self.blocks.release(row.pages)
        self._slots.append(row.slot)
        row.pages, row.slot, row.computed, row.registered, row.unverified = [], -1, 0, 0, False

    # What there is

    @property
    def running(self) -> int:
        """Rows that hold pages, those without credit included."""
        return len(self._running)

    @property
    def paused(self) -> int:
        """Rows that the last step left out because they have no credit."""
        return len(self._paused) + len(self._parked)

    @property
    def waiting(self) -> int:
        """Rows that wait for a place."""
        return len(self._outside) - len(self._parked)

    @property
    def idle(self) -> bool:
        """Whether no row is there."""
        return not self._running and not self._outside

    def load(self, steps: int) -> Load:
        """The load now."""
        held = sum(row.computed for row in self._running)
        return Load(
            running=len(self._running) - len(self._paused),
            waiting=self.waiting,
            paused=self.paused,
            slots=self.limits.max_rows,
            running_tokens=held,
            pending_tokens=self._outside_tokens + sum(row.remaining - 1 for row in self._running),
            kv_used=self.blocks.used / self.blocks.total,
            steps=steps,
        )

    # One step

    def schedule(self) -> Batch:
        """The next step's work; empty when no row can go on."""
        batch = Batch()
        prefilling: list[Row] = []
        self._paused.clear()
        spare = self.limits.step_tokens - len(self._running)
        for row in self._running[:]:
            if row.phase is not RowPhase.RUNNING:
                continue  # preempted by a row before it
            if len(row.tokens) - row.computed > 1:
                prefilling.append(row)
            elif not row.work.has_credit:
                self._paused.append(row)
            elif self._ensure_page(row):
                row.work.take_credit()
                draft = self._draft(row, spare) if self.limits.draft_tokens else []
                if draft:
                    spare -= len(draft)
                    batch.prefill.append(Chunk(row, 1 + len(draft), 1 + len(draft), draft))
                else:
                    batch.decode.append(row)
        budget = self._prompt_tokens(batch)
        for row in prefilling:
            if row.phase is RowPhase.RUNNING and budget > 0:
                budget -= self._prefill(row, batch, budget)
        self._admit(batch, budget)
        return batch

    def note(self, batch: Batch, seconds: float) -> None:
        """The step that computed the batch has lasted that long."""
        if self._pace is not None:
            self._pace.note(batch, seconds)

    def _prompt_tokens(self, batch: Batch) -> int:
        """How many tokens of prompts may join the rows that decode."""
        left = self.limits.step_tokens - batch.tokens
        most = self._pace.most(batch) if self._pace is not None else None
        return left if most is None else min(left, most)

    def _draft(self, row: Row, spare: int) -> list[int]:
        """What a row guesses to come next, as far as it may be computed and reported; its credit is taken."""
        work = row.work
        most = min(self.limits.draft_tokens, spare, row.most - len(row.tokens) - 1)
        if work.credit is not None:
            most = min(most, work.credit)
        if most < 1:
            return []
        if row.drafter is None:
            row.drafter = Drafter()
        draft = row.drafter.guess(row.tokens, most)
        lacking = self.blocks.pages_for(len(row.tokens) + len(draft)) - len(row.pages)
        # Nobody gives way to a guess.
        if lacking > 0 and self.blocks.available >= lacking + len(self._running):
            row.pages += self.blocks.allocate(lacking) or []
        del draft[len(row.pages) * self.blocks.page_size - len(row.tokens) :]
        if work.credit is not None:
            work.credit -= len(draft)
        return draft

    def has_room_after(self, row: Row) -> bool:
        """Whether a decoding row has a page for the token after its next one, taken now if nobody would lack it."""
        size = self.blocks.page_size
        if row.computed + 1 < len(row.pages) * size:
            return True
        if self.blocks.available <= len(self._running):
            return False
        row.pages += self.blocks.allocate(1) or []
        return True

    def _prefill(self, row: Row, batch: Batch, budget: int) -> int:
        """Add the next piece of a prompt and return its length, 0 if there is no use in one now."""
        remaining = row.remaining
        if not self.limits.chunked_prefill:
            if batch.prefill and remaining > budget:
                return 0
            budget = remaining
        elif row.scores_prompt:
            budget = min(budget, _MOST_SCORED - sum(chunk.kept for chunk in batch.prefill))
            if budget <= 0:
                return 0
        count = row.piece(min(remaining, budget), at_least_one=all(chunk.draft for chunk in batch.prefill))
        if count == remaining and not row.work.take_credit():
            count = row.piece(count - 1, at_least_one=False)
            if not count or not self.limits.chunked_prefill:
                self._paused.append(row)
                return 0
        if count:
            batch.prefill.append(Chunk(row, count, _kept(row, count)))
        return count

    def _admit(self, batch: Batch, budget: int) -> None:
        while budget > 0 and (row := self._peek()) is not None:
            if not row.work.has_credit:
                heapq.heappop(self._waiting)
                self._park(row)
            elif not self._slots or not self._place(row):
                if not self._paused:
                    return
                # Who cannot go on anyway holds up nobody.
                self._evict(self._paused[-1])
            else:
                heapq.heappop(self._waiting)
                count = self._begin(row, batch, budget)
                if not count:
                    return
                budget -= count

    def _begin(self, row: Row, batch: Batch, budget: int) -> int:
        """Add the first tokens of a row that has just got its place, and return their number."""
        if row.remaining > 1:
            return self._prefill(row, batch, budget)
        if not row.work.take_credit():
            return 0
        batch.decode.append(row)
        return 1

    def _peek(self) -> Row | None:
        while self._waiting:
            row = self._waiting[0][2]
            if row.phase is RowPhase.WAITING:
                return row
            heapq.heappop(self._waiting)
        return None

    def _place(self, row: Row) -> bool:
        """Give a waiting row a slot and pages for all its tokens, known ones as far as there are."""
        blocks = self.blocks
        known: list[bytes] = []
        if row.work.root is not None:
            # The last token is always computed: its logits choose the next one. Cached pages have none.
            most = len(row.work.scores or ()) if row.scores_prompt else len(row.tokens) - 1
            row.update_digests(blocks.page_size, most)
            usable = row.digests[: most // blocks.page_size]
            known = usable[: blocks.lookup(usable)]
        tail = self._tail(row, len(known))
        fresh = blocks.pages_for(len(row.tokens)) - len(known)
        # One page of reserve for each row that goes on: else the next to fill a page would push this one out again.
        reserve = len(self._running) - len(self._paused)
        if fresh + blocks.cached_among(known + tail) + reserve > blocks.available and self._running:
            return False
        shared = blocks.share(known + tail)
        pages = blocks.allocate(fresh)
        if pages is None:
            blocks.release(shared)
            return False
        row.computed = len(known) * blocks.page_size
        if tail:
            self._copies[pages[0]] = shared.pop()
            self.counters.copied_pages += 1
            row.computed = min(len(row.work.prompt), len(row.tokens) - 1)
        row.pages = shared + pages
        row.registered = len(known)
        self._enter(row)
        return True

    def _tail(self, row: Row, known: int) -> list[bytes]:
        """The digest of the prompt's last page, if it can be copied for a row that has so many pages before it."""
        work = row.work
        if work.tail is None or known != (len(work.prompt) - 1) // self.blocks.page_size:
            return []
        return [work.tail] if self.blocks.lookup([work.tail]) else []

    def take_copies(self) -> dict[int, int]:
        """Pages that are to be filled before the next forward, and the pages that hold their content until then."""
        copies, self._copies = self._copies, {}
        self.blocks.release(list(copies.values()))
        return copies

    def _enter(self, row: Row) -> None:
        work = row.work
        self.counters.prefix_hit_tokens += row.computed
        if row is work.rows[0] and work.first_step is None:
            work.cached_tokens = min(row.computed, len(work.prompt))
        row.slot = self._slots.pop()
        row.phase = RowPhase.RUNNING
        self._step_in(row)
        insort(self._running, row, key=lambda other: other.rank)

    def _ensure_page(self, row: Row) -> bool:
        """See to it that the row's next token has a page; False when the row itself had to give up its own.

        Pages are taken from the last row that was found paused in this step, else from the last of all.
        """
        if row.computed < len(row.pages) * self.blocks.page_size:
            return True
        while True:
            pages = self.blocks.allocate(1)
            if pages is not None:
                row.pages += pages
                return True
            # Rows are scheduled by rank, so the last one is not part of the step yet, unless it is the one that asks.
            victim = self._paused[-1] if self._paused else self._running[-1]
            self._evict(victim)
            if victim is row:
                return False

    def _evict(self, row: Row) -> None:
        """Take a running row's place; it is computed again later."""
        self.counters.preemptions += 1
        self._running.remove(row)
        self._release(row)
        if row.work.has_credit:
            self._push(row)
        else:
            self._park(row)


def _kept(row: Row, count: int) -> int:
    """How many of a row's next `count` tokens must show their logits."""
    end = row.computed + count
    if row.scores_prompt:
        return max(0, end - max(row.computed, len(row.work.scores or ())))
    return int(count == row.remaining)

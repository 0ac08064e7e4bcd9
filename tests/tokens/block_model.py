"""What a paged cache does, block by block: slow, and without a count that could be wrong."""

from itertools import count

from policies import EvictionPolicy
from tests.tokens.sequences import chunk_keys


class Content:
    """What some blocks hold and can be found for: by its key, or, without one, by one sequence alone."""

    def __init__(self, name: int, key: int | None, blocks: list[object]) -> None:
        self.name, self.key, self.blocks = name, key, blocks


class BlockModel:
    """Every sequence has a list of blocks, every content too; all else is found by looking at all of them."""

    def __init__(self, total: int, block_tokens: int, eviction: EvictionPolicy) -> None:
        self.total, self.size, self.eviction = total, block_tokens, eviction
        self.lists: dict[int, list[object]] = {}
        self.contents: dict[int, list[Content]] = {}
        self.findable: list[Content] = []
        """The oldest of each key first."""
        self.own: dict[int, tuple[int, list[Content]]] = {}
        self.names = count()
        self.spare = 0
        eviction.emptied(total, 0.0)

    def holders(self, block: object) -> int:
        return sum(block in blocks for blocks in self.lists.values())

    def used(self) -> int:
        return len({block for blocks in self.lists.values() for block in blocks})

    def candidates(self) -> list[Content]:
        return [content for content in self.findable if not self.holders(content.blocks[0])]

    def cached(self) -> int:
        return sum(len(content.blocks) for content in self.candidates())

    def held_alone(self, sequence) -> int:
        return sum(self.holders(block) == 1 for block in self.lists[sequence.id])

    def oldest(self, key: int, blocks: int) -> Content | None:
        of_key = [one for one in self.findable if one.key == key and len(one.blocks) == blocks]
        return of_key[0] if of_key else None

    def hits(self, sequence) -> tuple[list[Content], int]:
        """What it finds, and how many tokens that is."""
        keys, tokens = chunk_keys(sequence, self.size)
        hits, own = [], []
        for number, key in enumerate(keys):
            content = self.oldest(key, tokens // self.size)
            if content is None or (number + 1) * tokens >= sequence.total_tokens:
                break
            hits.append(content)
        covered = len(hits) * tokens
        before, left = self.own.get(sequence.id, (-1, []))
        if before == covered:
            for content in left:
                if content not in self.findable or covered + self.size >= sequence.total_tokens:
                    break
                own.append(content)
                covered += self.size
        return hits + own, covered

    def admit(self, sequence) -> None:
        hits, _ = self.hits(sequence)
        self.lists[sequence.id], self.contents[sequence.id] = [], []
        for content in hits:
            self.hold(sequence, content)
        self.own.pop(sequence.id, None)

    def hold(self, sequence, content: Content) -> None:
        if content in self.candidates():
            self.eviction.reused(content.name, 0.0)
        else:
            self.eviction.shared(content.name, 0.0)
        self.lists[sequence.id] += content.blocks
        if content.key is None:
            self.findable.remove(content)
        else:
            self.contents[sequence.id].append(content)

    def take(self) -> object:
        """A block that nobody holds: an empty one or the victim's, whichever is first."""
        if self.spare:
            self.spare -= 1
        elif self.total == self.used() + self.cached() or not self.eviction.empties(1, 0.0):
            name = self.eviction.victim(0.0)
            [victim] = [content for content in self.candidates() if content.name == name]
            self.findable.remove(victim)
            self.spare = len(victim.blocks) - 1
        return object()

    def grow(self, sequence, tokens: int) -> None:
        while len(self.lists[sequence.id]) * self.size < tokens:
            self.lists[sequence.id].append(self.take())

    def extend(self, sequence, tokens: int) -> None:
        covered = sequence.computed_tokens + tokens
        self.grow(sequence, covered)
        self.fill(sequence, covered)

    def fill(self, sequence, tokens: int) -> None:
        keys, per_chunk = chunk_keys(sequence, self.size)
        per, mine = per_chunk // self.size, self.contents[sequence.id]
        for number in range(len(mine), min(len(keys), tokens // per_chunk)):
            part = self.lists[sequence.id][number * per : (number + 1) * per]
            mine.append(Content(next(self.names), keys[number], part))
            self.findable.append(mine[-1])

    def release(self, sequence, keep: bool = True, comes_back: bool = False) -> None:
        _, per_chunk = chunk_keys(sequence, self.size)
        held, contents = self.lists.pop(sequence.id), self.contents.pop(sequence.id)
        shared = len(contents) * per_chunk
        named = [block for content in contents for block in content.blocks]
        private = [block for block in held if block not in named]
        released = []
        for number, content in enumerate(contents):
            if self.holders(content.blocks[0]):
                continue
            if keep and (number + 1) * per_chunk <= sequence.computed_tokens:
                released.append(content)
            else:
                self.findable.remove(content)
                private += content.blocks
        if comes_back and keep:
            full = (sequence.computed_tokens - shared) // self.size
            own = [Content(next(self.names), None, [block]) for block in private[:full]]
            self.own[sequence.id] = shared, own
            self.findable += own
            released += own
            private = private[full:]
        if private:
            self.eviction.emptied(len(private), 0.0)
        if released:
            self.eviction.released([content.name for content in released], 0.0)

    def swap_in(self, sequence) -> None:
        keys, per_chunk = chunk_keys(sequence, self.size)
        per = per_chunk // self.size
        found = [self.oldest(key, per) for key in keys[: sequence.computed_tokens // per_chunk]]
        self.lists[sequence.id], self.contents[sequence.id] = [], []
        for content in found:
            if content is not None:
                self.hold(sequence, content)
        self.grow(sequence, sequence.computed_tokens)
        left = [
            one
            for one in self.lists[sequence.id]
            if not any(one in mine.blocks for mine in self.contents[sequence.id])
        ]
        mine = []
        for key, content in zip(keys, found, strict=False):
            if content is None:
                self.findable.append(Content(next(self.names), key, [left.pop(0) for _ in range(per)]))
            mine.append(content or self.findable[-1])
        self.contents[sequence.id] = mine
        self.lists[sequence.id] = [block for content in mine for block in content.blocks] + left

"""What a paged cache does, block by block: slow, and without a count that could be wrong."""

from policies import EvictionPolicy
from tests.tokens.sequences import chunk_keys


class Block:
    """One block, known by its identity."""


class BlockModel:
    """Every sequence has a list of blocks, every findable chunk too; all else is found by looking at all of them."""

    def __init__(self, total: int, block_tokens: int, eviction: EvictionPolicy) -> None:
        self.total, self.size, self.eviction = total, block_tokens, eviction
        self.lists: dict[int, list[Block]] = {}
        self.filled: dict[int, int] = {}
        self.found: dict[int, list[Block]] = {}

    def holders(self, block: Block) -> int:
        return sum(block in blocks for blocks in self.lists.values())

    def used(self) -> int:
        return len({block for blocks in self.lists.values() for block in blocks})

    def candidates(self) -> list[int]:
        return [key for key, blocks in self.found.items() if not self.holders(blocks[0])]

    def cached(self) -> int:
        return sum(len(self.found[key]) for key in self.candidates())

    def held_alone(self, sequence) -> int:
        return sum(self.holders(block) == 1 for block in self.lists[sequence.id])

    def hits(self, sequence) -> list[int]:
        keys, tokens = chunk_keys(sequence, self.size)
        hits = []
        for number, key in enumerate(keys):
            if key not in self.found or (number + 1) * tokens >= sequence.total_tokens:
                break
            hits.append(key)
        return hits

    def admit(self, sequence) -> None:
        hits = self.hits(sequence)
        blocks = [block for key in hits for block in self.find(key)]
        self.lists[sequence.id], self.filled[sequence.id] = blocks, len(hits)

    def find(self, key: int) -> list[Block]:
        if self.holders(self.found[key][0]):
            self.eviction.shared(key, 0.0)
        else:
            self.eviction.reused(key, 0.0)
        return self.found[key]

    def extend(self, sequence, tokens: int, share: bool = False) -> None:
        covered = sequence.computed_tokens + tokens
        blocks = self.lists[sequence.id]
        while len(blocks) * self.size < covered:
            blocks.append(Block())
        keys, chunk_tokens = chunk_keys(sequence, self.size)
        per = chunk_tokens // self.size
        for number in range(self.filled[sequence.id], min(len(keys), covered // chunk_tokens)):
            key, part = keys[number], slice(number * per, (number + 1) * per)
            if key not in self.found:
                self.found[key] = blocks[part]
            elif share or not self.holders(self.found[key][0]):
                blocks[part] = self.find(key)
            self.filled[sequence.id] = number + 1
        while self.used() + self.cached() > self.total:
            victim = self.eviction.victim(0.0)
            assert victim in self.candidates()
            del self.found[victim]

    def release(self, sequence, keep: bool = True) -> None:
        blocks, filled = self.lists.pop(sequence.id), self.filled.pop(sequence.id)
        keys, chunk_tokens = chunk_keys(sequence, self.size)
        per = chunk_tokens // self.size
        released = []
        for number, key in enumerate(keys[:filled]):
            part = blocks[number * per : (number + 1) * per]
            if keep:
                self.found.setdefault(key, part)
            if self.found.get(key) == part and not self.holders(part[0]):
                if keep:
                    released.append(key)
                else:
                    del self.found[key]
        if released:
            self.eviction.released(released, 0.0)

    def swap_in(self, sequence) -> None:
        self.lists[sequence.id], self.filled[sequence.id] = [], 0
        self.extend(sequence, 0, share=True)

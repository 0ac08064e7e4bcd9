"""Sequences for the tests of the token level, whose hashes follow from what their prompts say."""

from collections.abc import Sequence

from fleet.messages import Work
from fleet.tokens.sequence import SequenceState
from traces.schema import Request


def sequence(
    number: int, path: Sequence[int] = (), prompt_tokens: int = 1, hashed_tokens: int | None = 4
) -> SequenceState:
    """One that waits. `path` is what its hashed blocks say, one digit below 9 each: equal beginnings, equal hashes."""
    hashes = tuple(int("9" + "".join(map(str, path[: end + 1]))) for end in range(len(path)))
    request = Request(
        id=str(number), arrived_s=0.0, prompt_tokens=prompt_tokens, blocks=hashes, block_tokens=hashed_tokens
    )
    return SequenceState(number, Work(request, 1), 0, 0.0)


def chunk_keys(state: SequenceState, block_tokens: int) -> tuple[list[int], int]:
    """Which hashes name the chunks of its prompt in a cache with such blocks, and the tokens in each, told slowly."""
    hashed = state.request.block_tokens
    sizes = [tokens for tokens in (hashed, block_tokens) if tokens % hashed == tokens % block_tokens == 0]
    if not sizes:
        return [], block_tokens
    ends = range(sizes[0], state.prompt_tokens + 1, sizes[0])
    return [state.request.blocks[end // hashed - 1] for end in ends], sizes[0]


def compute(state: SequenceState, tokens: int) -> None:
    """What the scheduler does when so many of its tokens have been computed."""
    state.computed_tokens += tokens
    if state.computed_tokens >= state.total_tokens:
        state.generated_tokens += state.computed_tokens + 1 - state.total_tokens
        state.total_tokens = state.computed_tokens + 1

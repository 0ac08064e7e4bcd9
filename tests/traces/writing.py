"""The same few requests written in each foreign format, from any beginning."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

PROMPT, OUTPUT = 600, 9


def json_lines(rows):
    """Objects, one a line."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def csv(header, rows):
    """A header and rows of cells."""
    return "".join(f"{line}\n" for line in [header, *(",".join(map(str, row)) for row in rows)]).encode()


def _azure(times_s):
    first = datetime(2023, 11, 16, tzinfo=UTC)
    stamps = [(first + timedelta(seconds=at_s)).strftime("%Y-%m-%d %H:%M:%S.%f") for at_s in times_s]
    return csv("TIMESTAMP,ContextTokens,GeneratedTokens", [(stamp, PROMPT, OUTPUT) for stamp in stamps])


def _burstgpt(times_s):
    rows = [(at_s, "ChatGPT", PROMPT, OUTPUT, PROMPT + OUTPUT, "API log") for at_s in times_s]
    return csv("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type", rows)


def _vidur(times_s):
    return csv(
        "arrived_at,num_prefill_tokens,num_decode_tokens", [(at_s, PROMPT, OUTPUT) for at_s in times_s]
    )


def _splitwise(times_s):
    rows = [(row, at_s, PROMPT, OUTPUT) for row, at_s in enumerate(times_s)]
    return csv("request_id,arrival_timestamp,prompt_size,token_size", rows)


def mooncake(times_s, *, per_s=1000, **more):
    """Mooncake's keys, with whatever else each row has."""
    rows = [
        {"timestamp": round(at_s * per_s), "input_length": PROMPT, "output_length": OUTPUT}
        for at_s in times_s
    ]
    return json_lines([row | more for row in rows])


def _bailian(times_s):
    return json_lines(
        {
            "chat_id": row,
            "parent_chat_id": -1,
            "timestamp": at_s,
            "input_length": PROMPT,
            "output_length": OUTPUT,
        }
        for row, at_s in enumerate(times_s)
    )


def _workload(times_s):
    return json_lines(
        {"input_toks": PROMPT, "output_toks": OUTPUT, "arrival_time_ns": round(at_s * 1e9)}
        for at_s in times_s
    )


def _measured(times_s):
    return json_lines(
        {"request_id": f"r{row}", "input_toks": PROMPT, "output_toks": OUTPUT, "arrival_time": at_s}
        for row, at_s in enumerate(times_s)
    )


def azure_functions(times_s, took_s=0.5):
    """Invocations of one function that came at these times, which the file has the ends of; they have no tokens."""
    return csv("app,func,end_timestamp,duration", [("a", "f", at_s + took_s, took_s) for at_s in times_s])


FOREIGN: dict[str, Callable[[Sequence[float]], bytes]] = {
    "azure-llm": _azure,
    "burstgpt": _burstgpt,
    "vidur": _vidur,
    "splitwise": _splitwise,
    "mooncake": mooncake,
    "bailian": _bailian,
    "llmservingsim-workload": _workload,
    "measured-run": _measured,
}
"""By the format's name: a file of requests at these times in seconds, each of `PROMPT` and `OUTPUT` tokens."""

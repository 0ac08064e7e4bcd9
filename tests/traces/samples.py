"""A small file of each format that nests, of many fields or without times, by name."""

import msgspec

from tests.traces.writing import json_lines


def pretty(value):
    """JSON over many lines."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2)


RUN = {
    "date": "20260401-120000",
    "backend": "vllm",
    "model_id": "llama",
    "num_prompts": 3,
    "request_rate": "inf",
    "max_concurrency": 2,
    "duration": 4.0,
    "completed": 2,
    "failed": 1,
    "total_input_tokens": 30,
    "request_throughput": 0.5,
    "input_lens": [10, 20, 30],
    "output_lens": [3, 1, 0],
    "ttfts": [0.5, 0.25, 0.0],
    "itls": [[0.125, 0.375], [], []],
    "latencies": [1.0, 0.25, 0.0],
    "start_times": [5000.5, 5001.0, 5002.5],
    "queue_times": [0.0, 0.5, 0.25],
    "generated_texts": ["a b c", "d", ""],
    "errors": ["", "", "Connection refused"],
    "mean_ttft_ms": 375.0,
}
RECORDS = [
    {
        "metadata": {
            "session_num": 0,
            "x_request_id": "r-1",
            "x_correlation_id": "user-1",
            "conversation_id": "talk",
            "turn_index": 0,
            "credit_issued_ns": 1_759_813_207_000_000_000,
            "request_start_ns": 1_759_813_207_500_000_000,
            "request_end_ns": 1_759_813_208_500_000_000,
            "benchmark_phase": "profiling",
            "was_cancelled": False,
            "cancellation_time_ns": None,
        },
        "metrics": {
            "input_sequence_length": {"value": 550, "unit": "tokens"},
            "output_sequence_length": {"value": 9, "unit": "tokens"},
            "output_token_count": {"value": 7, "unit": "tokens"},
            "time_to_first_token": {"value": 250.0, "unit": "ms"},
            "inter_token_latency": {"value": 0.0625, "unit": "sec"},
            "request_latency": {"value": 1_000_000_000, "unit": "ns"},
            "inter_chunk_latency": {"value": [60.0, 65.0], "unit": "ms"},
            "time_to_second_token": {"value": 62.5, "unit": "ms"},
        },
        "error": None,
    },
    {
        "metadata": {
            "session_num": 0,
            "x_request_id": "r-2",
            "x_correlation_id": "user-1",
            "turn_index": 1,
            "request_start_ns": 1_759_813_209_500_000_000,
            "request_end_ns": 1_759_813_209_500_500_000,
            "was_cancelled": True,
        },
        "metrics": {"error_isl": {"value": 600, "unit": "tokens"}},
        "error": {"code": 499, "type": "RequestCancellationError"},
    },
]
SENT = {
    "type_": "generative_request_stats",
    "request_id": "g-1",
    "request_args": "{}",
    "output": "x y",
    "request_start_time": 1_744_728_125.5,
    "request_end_time": 1_744_728_127.5,
    "request_latency": 2.0,
    "prompt_tokens": 512,
    "output_tokens": 5,
    "time_to_first_token_ms": 500.0,
    "inter_token_latency_ms": 375.0,
    "info": {
        "request_id": "g-1",
        "conversation_id": "c",
        "turn_index": 0,
        "status": "completed",
        "error": None,
    },
}
CUT = {**SENT, "request_id": "g-2", "request_start_time": 1_744_728_126.0, "request_latency": 1.5, "info": {}}
NEVER = {
    "request_id": "g-3",
    "request_start_time": None,
    "request_latency": None,
    "info": {"status": "queued"},
}
LATER = {**SENT, "request_id": "g-4", "request_start_time": 1_744_728_140.0}
REPORT = {
    "metadata": {"version": 1, "guidellm_version": "0.6.0"},
    "args": {"profile": "sweep"},
    "benchmarks": [
        {
            "type_": "generative_benchmark",
            "metrics": {"request_totals": {"successful": 4, "incomplete": 2, "errored": 0, "total": 6}},
            "requests": {"successful": [SENT], "incomplete": [CUT, NEVER], "errored": [], "total": None},
        },
        {
            "type_": "generative_benchmark",
            "requests": {"successful": [], "incomplete": [], "errored": [LATER]},
        },
    ],
}
VLLM, AIPERF, GUIDELLM = msgspec.json.encode(RUN), json_lines(RECORDS), msgspec.json.encode(REPORT)


EVENTS = [
    {
        "schema": "dynamo.request.trace.v1",
        "event_type": "request_end",
        "event_time_unix_ms": 1_777_312_803_000,
        "event_source": "dynamo",
        "agent_context": {"session_id": "run:researcher", "parent_session_id": "run:planner"},
        "request": {
            "request_id": "d-1",
            "x_request_id": "call-1",
            "model": "m",
            "output_tokens": 16,
            "cached_tokens": 64,
            "request_received_ms": 1_777_312_801_000,
            "prefill_wait_time_ms": 125.0,
            "ttft_ms": 500.0,
            "total_time_ms": 2000.0,
            "avg_itl_ms": 100.0,
            "worker": {"decode_worker_id": 3},
            "replay": {
                "trace_block_size": 64,
                "input_length": 130,
                "input_sequence_hashes": [14_879_255_164_371_896_291, 7, 8],
            },
        },
    },
    {
        "schema": "dynamo.request.trace.v1",
        "event_type": "tool_end",
        "event_time_unix_ms": 1_777_312_803_500,
        "event_source": "harness",
        "agent_context": {"session_id": "run:researcher"},
        "tool": {"tool_call_id": "t", "tool_class": "web_search"},
    },
]
OLD_EVENT = {
    "timestamp": 1234,
    "event": {
        "schema": "dynamo.agent.trace.v1",
        "event_type": "request_end",
        "event_time_unix_ms": 1_777_312_805_000,
        "agent_context": {"session_type_id": "research", "session_id": "run", "trajectory_id": "run:planner"},
        "request": {"request_id": "d-2", "input_tokens": 50, "output_tokens": 4, "total_time_ms": 1500.0},
    },
}


def call(t, hash_ids, *, type_="n", api_time=None, **more):
    """A call of 64-token blocks, all full."""
    took = {} if api_time is None else {"api_time": api_time}
    return (
        {"t": t, "type": type_, "model": "m", "in": 64 * len(hash_ids), "out": 8, "hash_ids": hash_ids}
        | took
        | more
    )


SESSION = {
    "id": "s",
    "models": ["m"],
    "block_size": 64,
    "hash_id_scope": "local",
    "tool_tokens": 12,
    "requests": [
        call(10.0, [1, 2], api_time=2.0, type_="s", ttft=0.5, stop="tool_use", input_types=["text"]),
        {
            "t": 13.0,
            "type": "subagent",
            "agent_id": "agent_001",
            "subagent_type": "Explore",
            "status": "completed",
            "models": ["m"],
            "requests": [call(13.5, [1, 7], api_time=1.0), call(15.0, [1, 7, 8], api_time=1.0)],
        },
        call(20.0, [1, 2, 3], api_time=1.0, think_time=99.0),
    ],
}


def attribute(key, value):
    """As OTLP writes one."""
    kinds = {str: "stringValue", int: "intValue", float: "doubleValue", bool: "boolValue"}
    return {"key": key, "value": {kinds[type(value)]: str(value) if type(value) is int else value}}


def span(span_id, start_s, end_s, *, trace_id="t1", parent="", status=None, **said):
    """A span, its attributes with `__` for the dot."""
    return {
        "traceId": trace_id,
        "spanId": span_id,
        "parentSpanId": parent,
        "name": "n",
        "kind": 3,
        "startTimeUnixNano": str(round(1_700_000_000e9) + round(start_s * 1e9)),
        "endTimeUnixNano": str(round(1_700_000_000e9) + round(end_s * 1e9)),
        "attributes": [attribute(name.replace("__", "."), value) for name, value in said.items()],
        "status": status or {},
    }


CHAT = {"gen_ai__operation__name": "chat", "gen_ai__request__model": "gpt"}
USAGE = {"gen_ai__usage__input_tokens": 100, "gen_ai__usage__output_tokens": 20}
SPANS = [
    span("a0", 0.0, 9.0, gen_ai__operation__name="invoke_agent", **USAGE),
    span("a1", 0.5, 2.5, parent="a0", gen_ai__response__time_to_first_chunk=0.25, **CHAT, **USAGE),
    span("a2", 3.0, 3.5, parent="a0", gen_ai__operation__name="execute_tool"),
    span("a3", 4.0, 5.0, parent="a0", gen_ai__input__messages="[...]", server__port=443, **CHAT, **USAGE),
    span(
        "b1", 6.0, 7.0, trace_id="t2", status={"code": 2, "message": "late"}, gen_ai__usage__prompt_tokens=5
    ),
    span("c1", 8.0, 9.0, trace_id="t3", gen_ai__conversation__id="talk", **CHAT),
    span("d1", 8.5, 9.0, trace_id="t4", http__method="GET"),
]
RESOURCE = {
    "resource": {"attributes": [attribute("service.name", "shop")]},
    "scopeSpans": [{"scope": {}, "spans": SPANS}],
}
BLIS_COLUMNS = (
    "request_id,client_id,tenant_id,slo_class,vllm_priority,session_id,round_index,prefix_group,prefix_length,streaming,"
    "input_tokens,output_tokens,text_tokens,image_tokens,audio_tokens,video_tokens,reason_ratio,model,deadline_us,"
    "slo_target_us,server_input_tokens,arrival_time_us,send_time_us,first_chunk_time_us,last_chunk_time_us,num_chunks,"
    "status,error_message,finish_reason,adapter"
)
BLIS_ROWS = [
    "0,c1,acme,critical,0,s1,0,,0,true,100,5,100,0,0,0,0,llama,7000000,250000,110,900000,1000000,1500000,3500000,5,ok,,stop,lora",
    "1,c1,acme,batch,3,s1,1,sys,64,true,36,1,36,0,0,0,0,llama,0,0,99,2000000,2000000,2500000,2500000,1,ok,,stop,",
    "2,c2,,,2,,0,,0,false,50,0,50,0,0,0,0,,0,0,0,4000000,0,0,0,0,timeout,slow,,",
]
TALKS = [
    {
        "id": "x",
        "conversations": [
            {"from": "human", "value": "a" * 10},
            {"from": "gpt", "value": "b" * 7},
            {"from": "human", "value": "c" * 3},
            {"from": "gpt", "value": "d" * 9},
            {"from": "human", "value": "never answered"},
        ],
    },
    {"id": "y", "conversations": [{"from": "gpt", "value": "e" * 8}]},
    {
        "id": "z",
        "source": "web",
        "conversations": [{"from": "user", "value": "f"}, {"from": "chatgpt", "value": "g"}],
    },
]
LENGTHS = [{"prompt_len": 10, "output_len": 3, "dataset": "a"}, {"prompt_len": 20, "output_len": 4}]
OFFLINE = [
    {"request_id": 0, "type": "text", "input_length": 61, "output_length": 2370, "duration": 14_000},
    {"request_id": 1, "type": "text", "input_length": 54, "output_length": 2031, "duration": 11_630},
]
OFFLINE_HASHES = [
    {
        "request_id": 0,
        "type": "multimodal",
        "input_length": 33,
        "hash_ids": [5, 6, 7],
        "img_ids": ["img_00001"],
    },
    {"request_id": 1, "type": "text", "input_length": 32, "hash_ids": [5, 8], "img_ids": []},
]
AZURE_DAY = (
    "HashOwner,HashApp,HashFunction,Trigger,1,2,61\n"
    "o1,a1,f1,http,2,0,1\n"
    "o1,a1,f2,timer,0,0,0\n"
    "o2,a2,f1,queue,0,3,0\n"
)
SERVEGEN_CSV = "request_id,timestamp,input_tokens,output_tokens\n0,0.5,10,20\n1,1.25,15,25\n"

DYNAMO = json_lines([*EVENTS, OLD_EVENT])
WEKA = msgspec.json.encode(SESSION)
OTLP = msgspec.json.encode({"resourceSpans": [RESOURCE]})
BLIS = "\n".join([BLIS_COLUMNS, *BLIS_ROWS]).encode()
SHAREGPT = msgspec.json.encode(TALKS)
SAMPLES: dict[str, bytes] = {
    "vllm-bench": VLLM,
    "vllm-bench, two runs": json_lines([RUN, RUN]),
    "vllm-bench, many lines": pretty(RUN),
    "aiperf-records": AIPERF,
    "guidellm": GUIDELLM,
    "guidellm, many lines": pretty(REPORT),
    "dynamo-request-trace": DYNAMO,
    "dynamo-request-trace, wrapped": json_lines([OLD_EVENT]),
    "weka-sessions": WEKA,
    "weka-sessions, many lines": pretty(SESSION),
    "weka-sessions, many": json_lines([SESSION, SESSION | {"id": "s2"}]),
    "otel-genai": OTLP,
    "otel-genai, many lines": pretty({"resourceSpans": [RESOURCE]}),
    "otel-genai, export": json_lines([{"resourceSpans": [RESOURCE]}]),
    "otel-genai, spans": json_lines(SPANS),
    "blis-trace-v2": BLIS,
    "azure-functions-2019": AZURE_DAY.encode(),
    "servegen": SERVEGEN_CSV.encode(),
    "servegen-offline": json_lines(OFFLINE),
    "servegen-offline, hashes": json_lines(OFFLINE_HASHES),
    "sharegpt": SHAREGPT,
    "sharegpt, many lines": pretty(TALKS),
    "sharegpt, a line each": json_lines(TALKS),
    "lengths": json_lines(LENGTHS),
    "lengths, list": pretty(LENGTHS),
    "lengths, CSV": b"input_tokens,output_tokens\n10,3\n20,4\n",
}
"""A small file of each format, by its name and, after a comma, its shape."""

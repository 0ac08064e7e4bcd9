"""Published trace files, known by the SHA-256 of their bytes, and what their authors say of them.

The one thing to know: a licence, a citation and the provenance "recorded" belong to a file, not to its format. What
is not the published file to the last bit (a cut, another tool's replay file with the same keys) is of unknown source.
"""

from __future__ import annotations

from traces.schema import Header, Provenance
from traces.source import Source

_BURSTGPT = "Wang et al., BurstGPT: A Real-World Workload Dataset to Optimize LLM Serving Systems, KDD 2025"
_BAILIAN = "Wang et al., KVCache Cache in the Wild, USENIX ATC 2025"
_SPLITWISE = "Patel et al., Splitwise: Efficient Generative LLM Inference Using Phase Splitting, ISCA 2024"
_LLMSERVINGSIM = "LLMServingSim, CASYS Lab, KAIST"


def _file(source: str, licence: str, citation: str, provenance: Provenance = "recorded") -> Header:
    return Header(source=source, licence=licence, citation=citation, provenance=provenance)


PUBLISHED: dict[str, Header] = {
    "b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df": _file(
        "Mooncake, conversation_trace.jsonl",
        "Apache-2.0",
        "Qin et al., Mooncake: Trading More Storage for Less Computation, FAST 2025",
    ),
    "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8": _file(
        "Azure LLM inference trace, AzureLLMInferenceTrace_conv.csv", "CC-BY-4.0", _SPLITWISE
    ),
    "4048699985519151427ba5ba47bb39176db94bc21c8b253bfc84531c6dbd3391": _file(
        "Splitwise, test_trace.csv", "MIT", _SPLITWISE, "synthetic"
    ),
    "5a6f2a0b09d5eb84bd75b30ed625d883c22b4bcc0a839cd1128ae42f74ecc90d": _file(
        "measured run, requests.jsonl", "MIT", _LLMSERVINGSIM
    ),
    "a468e198f65c3c8a4b2b9d7ffb848555ad64734553638591195bc2fd90397539": _file(
        "LLMServingSim workload, sharegpt-llama-3.1-8b-300-sps10, token ids left out",
        "MIT",
        _LLMSERVINGSIM,
        "derived",
    ),
    # The next ones are in their repositories as large files, each under its SHA-256.
    "4bb3783693d0a435686fbfc885615d2349bd067239079fa4b749f2e679e12122": _file(
        "BurstGPT, BurstGPT_1.csv", "CC-BY-4.0", _BURSTGPT
    ),
    "44bf5942b03fca42c01a226a545ad3a750ec62688faecd67b6831c56a8928bf7": _file(
        "BurstGPT, BurstGPT_2.csv", "CC-BY-4.0", _BURSTGPT
    ),
    "a4d068a7113ec0290e74063a1b3447dc6001a30e4298eb313581b71006dda1f4": _file(
        "BurstGPT, BurstGPT_without_fails_1.csv", "CC-BY-4.0", _BURSTGPT, "derived"
    ),
    "56193aa9b2bb26128ded43d2d29a960df6bf5af062bcfc9b005f3fcaa4e6e501": _file(
        "BurstGPT, BurstGPT_without_fails_2.csv", "CC-BY-4.0", _BURSTGPT, "derived"
    ),
    "3d74974cebb7bccb69b1ca6ea210a44d9a3033443c0271ed015327284dea1aff": _file(
        "Bailian usage trace, qwen_coder_blksz_16.jsonl", "Apache-2.0", _BAILIAN
    ),
    "41ac36d9d1b54d084eeb6b05e9d142ba9d02f8bf79cfc9fff418d8ab7cdee906": _file(
        "Bailian usage trace, qwen_thinking_blksz_16.jsonl", "Apache-2.0", _BAILIAN
    ),
}
"""By SHA-256 of the file's bytes, any compression undone."""


def header_of(source: Source, maker: str | None = None) -> Header:
    """What is known of a file, in the format of `maker` if it is in anybody's.

    All of it for a published one, else only its name and hash.
    """
    known = PUBLISHED.get(source.sha256)
    if known is not None:
        return known
    format = "" if maker is None else f" in {maker}'s format"
    name = f"{source.path.name}, SHA-256 {source.sha256[:12]}"
    return Header(source=f"unknown source{format}: {name}")

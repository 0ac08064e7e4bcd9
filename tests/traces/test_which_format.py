"""Every format is told from every other by what a file holds, and a file of none is told what it is."""

import pytest

from tests.traces.samples import SAMPLES
from tests.traces.test_readers import ALL
from traces import TraceError
from traces.readers import FORMATS
from traces.source import Source

NEEDED = {
    "sharegpt": {"arrivals": "poisson:4", "chars_per_token": 4},
    "lengths": {"arrivals": "poisson:4"},
    "weka-sessions, many": {"arrivals": "poisson:4"},
}
every_sample = pytest.mark.parametrize("name", SAMPLES)


def needed(name):
    return NEEDED.get(name, NEEDED.get(name.split(",")[0], {}))


@pytest.mark.parametrize("name", [*ALL, *SAMPLES])
def test_exactly_one_reader_recognises_a_file(tmp_path, name):
    (tmp_path / "x").write_bytes((ALL | SAMPLES)[name])
    source = Source(tmp_path / "x")

    assert len([reader.NAME for reader in FORMATS if reader.sniff(source)]) == 1


@every_sample
def test_a_sample_is_read_as_what_it_is_and_every_row_is_accounted_for(reading, name):
    trace = reading(SAMPLES[name], **needed(name))

    assert trace.report.format == name.split(",")[0]
    assert trace.report.rows_in == trace.report.rows_kept + sum(trace.report.dropped.values())
    assert len(trace) > 0
    assert trace.start_s == 0.0
    assert trace.header.licence is None


@every_sample
@pytest.mark.parametrize(
    "disguise",
    [
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: b"\n" + content.rstrip(b"\n"),
        lambda content: content + b"\n\n",
    ],
    ids=["byte-order mark", "CRLF", "no newline", "blank lines"],
)
def test_line_ends_do_not_matter(reading, name, disguise):
    plain, disguised = (
        reading(content, **needed(name)) for content in (SAMPLES[name], disguise(SAMPLES[name]))
    )

    assert disguised.sha256 == plain.sha256


@every_sample
def test_a_format_that_is_named_is_the_one_that_is_read(reading, name):
    content, options = SAMPLES[name], needed(name)

    assert reading(content, format=name.split(",")[0], **options).sha256 == reading(content, **options).sha256


@every_sample
def test_a_file_that_breaks_off_is_an_error_or_has_fewer_rows(reading, name):
    content, options = SAMPLES[name], needed(name)
    whole = len(reading(content, **options))

    for end in range(1, len(content), max(len(content) // 40, 1)):
        try:
            assert len(reading(content[:end], on_bad="drop", **options)) <= whole
        except TraceError:
            continue


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"0,1.25,8.5,Weibull,0.375,0.4\n600,0,0,,0,0\n", "holds rates and laws of a client of ServeGen"),
        (
            b'{"0": {"input_tokens": "{256: 1.0}", "output_tokens": "{1: 1}"}}',
            "holds laws of lengths of a client",
        ),
        (
            b"HashOwner,HashApp,HashFunction,Average,Count\n",
            "holds durations of functions, not requests; invoc",
        ),
        (b"HashOwner,HashApp,SampleCount,AverageAllocatedMb\n", "holds memory of applications, not requests"),
        (
            b"trace_version: 3\ntime_unit: us\n",
            "holds the header of a TraceV2, not requests; read the CSV file",
        ),
        (b"prompt_len,output_len,arrived\n1,2,3\n", "which is no known format"),
    ],
)
def test_a_file_without_requests_is_told_what_it_is(reading, content, complaint):
    with pytest.raises(TraceError, match=complaint):
        reading(content)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"arrivals": "poisson:4"},
            r"arrivals= \(--arrivals\) does not apply to servegen: the format says itself",
        ),
        (
            {"chars_per_token": 4},
            r"chars_per_token= \(--chars-per-token\) does not apply to servegen: the format has",
        ),
    ],
)
def test_what_a_format_says_itself_cannot_be_told(reading, options, complaint):
    with pytest.raises(TraceError, match=complaint):
        reading(SAMPLES["servegen"], **options)

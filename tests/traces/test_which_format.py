"""Every format is told from every other by what a file holds, and a file of none is told what it is."""

import msgspec
import pytest

from tests.traces.samples import SAMPLES
from tests.traces.test_readers import ALL
from tests.traces.writing import csv, json_lines
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


def places(value, place=()):
    """Where in a JSON value something stands; of a list the first two."""
    yield place
    inner = enumerate(value[:2]) if isinstance(value, list) else ()
    for key, one in value.items() if isinstance(value, dict) else inner:
        yield from places(one, (*place, key))


def replaced(value, place, new):
    """The value with something else in one place."""
    if not place:
        return new
    copied = value.copy()
    copied[place[0]] = replaced(value[place[0]], place[1:], new)
    return copied


def in_wrong_places(content):
    """The content with something wrong in each place, one at a time."""
    if content.startswith((b"{", b"[")):
        lines = [msgspec.json.decode(line) for line in content.splitlines()]
        wrong = [None, -1, "x", [], {}, 2**63, 1e300]
        return (json_lines(replaced(lines, place, one)) for place in places(lines) if place for one in wrong)
    rows = [line.split(",") for line in content.decode().splitlines()]
    cells = [(row, cell) for row in range(1, len(rows)) for cell in range(len(rows[0]))]
    wrong = ["", "x", "-1", "1.5", "1e300", "nan"]
    return (csv(",".join(rows[0]), replaced(rows, at, one)[1:]) for at in cells for one in wrong)


@pytest.mark.parametrize("name", [name for name in SAMPLES if "," not in name])
def test_something_wrong_in_any_place_is_kept_counted_or_one_clear_error(reading, name):
    for content in in_wrong_places(SAMPLES[name]):
        try:
            trace = reading(content, format=name.split(",")[0], **needed(name))
        except TraceError:
            continue
        assert trace.report.rows_in == trace.report.rows_kept + sum(trace.report.dropped.values())


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

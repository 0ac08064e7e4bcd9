"""Laws of values: what they are called, how likely each is, and the text that says them exactly."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import TraceError, choice, uniform, zipf
from traces.laws import law_of

WORDS = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=6)
VALUES = st.none() | WORDS.filter(bool)
SHARES = st.floats(0, 1e9).filter(lambda share: share == 0 or share > 1e-9)
COUNTS = st.integers(1, 50)
LAWS = st.one_of(
    st.builds(zipf, COUNTS, st.floats(0, 50), st.none() | WORDS),
    st.builds(uniform, COUNTS, st.none() | WORDS),
    st.dictionaries(VALUES, SHARES, min_size=1, max_size=5)
    .filter(lambda shares: sum(shares.values()) > 0)
    .map(choice),
)


@given(LAWS)
def test_its_text_makes_a_law_again_exactly(law):
    assert law_of(law.text) == law
    assert law_of(law) is law


@given(COUNTS, st.floats(0, 5))
def test_shares_of_zipf_fall_as_a_power_of_the_rank(count, exponent):
    shares = zipf(count, exponent).shares

    for rank, (above, below) in enumerate(pairwise(shares), start=1):
        assert above / below == pytest.approx(((rank + 1) / rank) ** exponent)


def test_an_exponent_of_zero_is_uniform_and_a_large_one_leaves_the_first():
    assert zipf(4, 0).shares == uniform(4).shares == (1.0,) * 4
    assert zipf(4, 1e308).shares == (1.0, 0.0, 0.0, 0.0)


def test_values_are_numbered_after_their_column_or_a_prefix():
    assert zipf(2, 1.1).values_of("tenant") == ("tenant-0", "tenant-1")
    assert zipf(2, 1.1, prefix="customer-").values_of("tenant") == ("customer-0", "customer-1")
    assert uniform(2, prefix="").values_of("user") == ("0", "1")
    assert choice({"-a": 1, "b": 2}).values_of("user") == ("-a", "b")


@pytest.mark.parametrize(
    ("law", "text"),
    [
        (zipf(20, 1.1), "zipf:20:1.1"),
        (zipf(5), "zipf:5:1"),
        (zipf(3, 1 / 3, prefix="a:b-"), "zipf:3:0.3333333333333333:a:b-"),
        (uniform(8, prefix="u"), "uniform:8:u"),
        (choice({"chat": 0.7, "code": 0.3}), "choice:chat=0.7,code=0.3"),
        (choice({0: 9, 1: 1}), "choice:0=9,1=1"),
        (choice({"tools,vision": 1, "a=b": 1, None: 2}), 'choice:"tools,vision"=1,a=b=1,=2'),
        (law_of("chat@2"), "chat@2"),
        (law_of("llama3:8b"), "llama3:8b"),
        (law_of("tools,vision"), "tools,vision"),
        (law_of(3), "3"),
    ],
)
def test_laws_are_written_as_short_as_says_them(law, text):
    assert law.text == text
    assert law_of(text) == law


def test_one_value_is_a_law_too():
    assert (law_of("chat").values, law_of("chat").shares) == (("chat",), (1.0,))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        *((text, "is no law; write zipf:COUNT") for text in ("zipf", "zipf:none", "zipf:3:x", "uniform:2.5")),
        *((text, "is no law; write zipf:COUNT") for text in ("choice:a", "choice:a=x", "choice:a=1,", "choice:")),
        ('choice:"a=1', "is no law; write zipf:COUNT"),
        ("choice", "did you mean choice:VALUE=SHARE"),
        ("chat=0.7,code=0.3", "did you mean choice:VALUE=SHARE"),
        ("zipff:20:1.1", r"did you mean zipf\? write"),
        ("Uniform:3", r"did you mean uniform\? write"),
        ("choice:a=1,a=2", "has a value twice"),
        ("choice:a=-1", "none below 0"),
        ("choice:a=0", "some above"),
        ("choice:a=nan", "give finite shares"),
        ("zipf:0", r"zipf\(count=0\) is not possible; give a whole number from 1 to 1,000,000"),
        ("zipf:9999999999", "from 1 to 1,000,000"),
        ("uniform:-1", r"uniform\(count=-1\)"),
        ("zipf:3:-1", r"zipf\(exponent=-1.0\)"),
        ("zipf:3:inf", r"zipf\(exponent=inf\)"),
        ("", "is no law"),
        (" chat", "no space around it"),
        ("a\nb", "nothing unprintable"),
        ("\udcff", "nothing unprintable"),
    ],
)  # fmt: skip
def test_text_that_says_no_law_is_told_what_would(text, complaint):
    with pytest.raises(TraceError, match=complaint):
        law_of(text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: zipf(2.0),
        lambda: zipf(True),
        lambda: zipf(3, "1"),
        lambda: zipf(3, math.nan),
        lambda: zipf(3, 1.0, prefix="\n"),
        lambda: uniform(0),
        lambda: choice({}),
        lambda: choice({"a": "1"}),
        lambda: choice({"a": True}),
        lambda: choice({"a": 1e308, "b": 1e308}),
        lambda: choice({"a": 10**400}),
        lambda: choice({1: 0.5, "1": 0.5}),
        lambda: choice({None: 0.5, "": 0.5}),
        lambda: choice({1.5: 1}),
        lambda: law_of(1.5),
        lambda: law_of(None),
        lambda: law_of(True),
    ],
)
def test_what_is_no_law_in_python_is_none_either(make):
    with pytest.raises(TraceError):
        make()

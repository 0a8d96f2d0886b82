"""Weights and statistics go to PyTorch and back without a change."""

import subprocess
import sys

import jax
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments import torch_baseline
from jax_lenet import VARIANTS, init
from jax_lenet.torch_weights import from_torch, to_torch
from tests.torch_reference import perturbed

BATCH_NORM = "LeNet_BN_Dropout"


def random_state_dict(variant, dtype):
    """Every entry random, so that no two can be exchanged unseen."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: value
        if key.endswith("num_batches_tracked")
        else torch.rand(value.shape, generator=generator, dtype=dtype)
        for key, value in torch_baseline.build(variant).state_dict().items()
    }


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_state_dict_comes_back_bit_for_bit(variant, dtype):
    state_dict = random_state_dict(variant, dtype)
    back = to_torch(from_torch(state_dict))
    assert list(back) == list(state_dict)
    for key, value in state_dict.items():
        assert back[key].dtype == value.dtype, key
        assert torch.equal(back[key], value), key


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_variables_come_back_bit_for_bit(variant, dtype):
    variables = perturbed(variant, dtype=dtype)
    back = from_torch(to_torch(variables))
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), back, variables)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_of_either_library_takes_the_others_weights(variant):
    model = torch_baseline.build(variant)
    model.load_state_dict(to_torch(init(VARIANTS[variant], seed=0).variables))  # strict
    expected = jax.tree.map(np.shape, init(VARIANTS[variant], seed=0).variables)
    assert jax.tree.map(np.shape, from_torch(model.state_dict())) == expected


def test_kernels_are_transposed_and_statistics_find_their_place():
    state_dict = random_state_dict(BATCH_NORM, torch.float32)
    variables = from_torch(state_dict)
    params, batch_stats = variables["params"], variables["batch_stats"]
    # By hand: PyTorch's [out, in, height, width] is Flax's [height, width, in, out].
    assert params["c3"]["kernel"][1, 2, 3, 4] == state_dict["convnet.c3.weight"][4, 3, 1, 2]
    assert params["f6"]["kernel"][5, 6] == state_dict["fc.f6.weight"][6, 5]
    for name, torch_name in [("scale", "weight"), ("bias", "bias")]:
        np.testing.assert_array_equal(
            params["bn3"][name], state_dict[f"convnet.bn3.{torch_name}"].numpy()
        )
    for name in ("mean", "var"):
        np.testing.assert_array_equal(
            batch_stats["bn5"][name], state_dict[f"convnet.bn5.running_{name}"].numpy()
        )


def test_num_batches_tracked_is_ignored_and_written_as_zero():
    state_dict = random_state_dict(BATCH_NORM, torch.float32)
    counters = [key for key in state_dict if key.endswith("num_batches_tracked")]
    assert len(counters) == 3
    without = {key: value for key, value in state_dict.items() if key not in counters}
    for key in counters:
        state_dict[key] = torch.tensor(391)
    jax.tree.map(np.testing.assert_array_equal, from_torch(state_dict), from_torch(without))
    back = to_torch(from_torch(state_dict))
    assert [(back[key].item(), back[key].dtype) for key in counters] == [(0, torch.int64)] * 3


def test_neither_way_shares_memory():
    state_dict = random_state_dict(BATCH_NORM, torch.float32)
    variables = from_torch(state_dict)
    back = to_torch(variables)
    for key in ("convnet.bn1.running_mean", "fc.f7.weight"):
        original = state_dict[key].clone()
        back[key].zero_()
        state_dict[key].fill_(7)
        again = to_torch(variables)[key]
        assert torch.equal(again, original), key


def test_parameters_that_require_gradients_and_arrays_are_taken_too():
    model = torch_baseline.build(BATCH_NORM)
    tensors = dict(model.state_dict(keep_vars=True))
    assert tensors["fc.f7.weight"].requires_grad
    arrays = {key: value.detach().numpy() for key, value in tensors.items()}
    jax.tree.map(np.testing.assert_array_equal, from_torch(tensors), from_torch(arrays))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fc.f7.bias", None, "state_dict lacks fc.f7.bias"),
        ("convnet.bn5.running_var", None, "state_dict lacks convnet.bn5.running_var"),
        (
            "fc.f8.bias",
            torch.zeros(10),
            "state_dict holds fc.f8.bias, which this LeNet-5 does not have",
        ),
        (
            "convnet.c1.weight",
            torch.zeros(6, 3, 5, 5),
            "convnet.c1.weight: expected shape [6, 1, 5, 5], found [6, 3, 5, 5]",
        ),
        (
            "convnet.c1.bias",
            torch.zeros(6, dtype=torch.int64),
            "convnet.c1.bias: expected float16, float32 or float64, found torch.int64",
        ),
        (
            "convnet.c1.bias",
            torch.zeros(6, dtype=torch.bfloat16),
            "convnet.c1.bias: expected float16, float32 or float64, found torch.bfloat16"
            " (Got unsupported ScalarType BFloat16)",
        ),
        (
            "convnet.c1.bias",
            torch.zeros(6, dtype=torch.complex64),
            "convnet.c1.bias: expected float16, float32 or float64, found torch.complex64",
        ),
        (
            "convnet.bn1.running_var",
            torch.full((6,), torch.nan),
            "convnet.bn1.running_var: expected finite values, found NaN or infinity",
        ),
        (
            "fc.f6.bias",
            np.full(84, np.inf),
            "fc.f6.bias: expected finite values, found NaN or infinity",
        ),
        (
            "fc.f6.bias",
            np.full(84, -np.inf, np.float16),
            "fc.f6.bias: expected finite values, found NaN or infinity",
        ),
        (
            "convnet.bn3.running_var",
            torch.linspace(-0.5, 1, 16),
            "convnet.bn3.running_var: expected variances of at least 0, found -0.5",
        ),
        (
            "fc.f6.bias",
            "a string",
            "fc.f6.bias: expected shape [84], found []",
        ),
        ("fc.f6.bias", {}, "fc.f6.bias: expected shape [84], found []"),
        ("fc.f6.bias", [[1.0], []], "fc.f6.bias: expected shape [84], found rows of different"),
        ("fc.f6.bias", ["x"] * 84, "fc.f6.bias: expected float16, float32 or float64, found list"),
        (
            "fc.f6.bias",
            np.full(84, None),
            "fc.f6.bias: expected float16, float32 or float64, found object",
        ),
        (
            "fc.f6.bias",
            np.zeros(84, ">f4"),  # as on another kind of machine: PyTorch does not take them
            "fc.f6.bias: expected float16, float32 or float64, found >f4",
        ),
        (
            "fc.f6.bias",
            torch.zeros(84, device="meta"),
            "fc.f6.bias: expected float16, float32 or float64, found torch.float32 (Cannot copy",
        ),
        (
            "fc.f6.bias",
            torch.zeros(84).to_sparse(),
            "fc.f6.bias: expected float16, float32 or float64, found torch.float32 (can't convert",
        ),
        (
            "fc.f6.bias",
            torch.zeros(84, dtype=torch.complex64).conj(),
            "fc.f6.bias: expected float16, float32 or float64, found torch.complex64",
        ),
        (
            "fc.f8.num_batches_tracked",
            torch.zeros(()),
            "state_dict holds fc.f8.num_batches_tracked, which this LeNet-5 does not have",
        ),
        (3, torch.zeros(10), "state_dict holds 3, which this LeNet-5 does not have"),
        (
            "convnet.bn10.weight",
            torch.zeros(10),
            "state_dict holds convnet.bn10.weight, which this LeNet-5 does not have",
        ),
    ],
)
def test_from_torch_names_the_entry_that_is_wrong(key, value, message):
    state_dict = random_state_dict(BATCH_NORM, torch.float32)
    if value is None:
        del state_dict[key]
    else:
        state_dict[key] = value
    assert refusal(state_dict).startswith(message)


def refusal(state_dict):
    """What `from_torch` says about the state_dict: one line."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared where it is called
        from_torch(state_dict)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_key_of_another_name_is_told_with_the_one_that_is_lacking():
    state_dict = random_state_dict("LeNet", torch.float32)
    state_dict["module.fc.f7.bias"] = state_dict.pop("fc.f7.bias")
    assert refusal(state_dict) == (
        "state_dict lacks fc.f7.bias and holds module.fc.f7.bias, which this LeNet-5 does not have"
    )


def test_counters_of_a_model_without_batch_norm_are_unknown():
    state_dict = random_state_dict("LeNet", torch.float32)
    state_dict["fc.num_batches_tracked"] = torch.zeros(())
    assert refusal(state_dict).startswith("state_dict holds fc.num_batches_tracked")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "state_dict lacks convnet.c1.bias, convnet.c1.weight, "),
        ({"state_dict": {}, "epoch": 3}, "state_dict lacks convnet.c1.bias, "),
        (None, "state_dict: expected a mapping of names, found NoneType"),
        (["fc.f6.bias"], "state_dict: expected a mapping of names, found list"),
    ],
)
def test_what_is_no_state_dict_is_told_by_what_it_lacks(content, message):
    assert refusal(content).startswith(message)


@pytest.mark.parametrize("content", [None, 3, [], "params"])
def test_what_is_no_mapping_has_no_variables(content):
    with pytest.raises(ValueError, match=r"^variables: expected a mapping of names, found"):
        to_torch(content)


def test_a_tensor_that_is_marked_as_negated_has_the_values_that_it_shows():
    state_dict = random_state_dict("LeNet", torch.float32)
    expected = from_torch(state_dict)["params"]["f7"]["bias"]
    state_dict["fc.f7.bias"] = torch._neg_view(-state_dict["fc.f7.bias"])
    assert state_dict["fc.f7.bias"].is_neg()
    np.testing.assert_array_equal(from_torch(state_dict)["params"]["f7"]["bias"], expected)


# Any state_dict


def random_arrays(variant):
    state_dict = random_state_dict(variant, torch.float32)
    return {k: v.numpy() for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}


ARRAYS = {variant: random_arrays(variant) for variant in ("LeNet", BATCH_NORM)}
ENTRIES = st.sampled_from(sorted(ARRAYS[BATCH_NORM]))
OTHERS = st.one_of(
    st.none(),
    st.text(),
    st.floats(),
    st.lists(st.floats(), max_size=5),  # the smallest entry has six
    st.lists(st.lists(st.integers(), max_size=2)),
    st.dictionaries(st.text(), st.floats(), max_size=2),
)


@given(key=ENTRIES, value=OTHERS)
def test_any_other_value_is_refused_by_its_key(key, value):
    text = refusal(ARRAYS[BATCH_NORM] | {key: value})
    assert text.startswith(f"{key}: expected shape {list(ARRAYS[BATCH_NORM][key].shape)}, found ")


@given(key=ENTRIES, place=st.integers(0), wrong=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_one_value_that_is_not_finite_is_found_wherever_it_is(key, place, wrong):
    array = ARRAYS[BATCH_NORM][key].copy()
    array.flat[place % array.size] = wrong
    assert refusal(ARRAYS[BATCH_NORM] | {key: array}) == (
        f"{key}: expected finite values, found NaN or infinity"
    )


@given(
    lacking=st.sets(st.sampled_from(sorted(ARRAYS["LeNet"])), min_size=1), more=st.sets(st.text())
)
def test_every_key_that_is_lacking_or_unknown_is_named(lacking, more):
    state_dict = dict.fromkeys(more) | ARRAYS["LeNet"]
    for key in lacking:
        del state_dict[key]
    text = refusal(state_dict)
    assert text.startswith("state_dict lacks ")
    for key in lacking | more - {*ARRAYS["LeNet"]}:
        assert key in text or repr(key) in text


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("batch_stats",), None, "variables lacks batch_stats.bn1.mean, batch_stats.bn1.var, "),
        (("params", "f6", "bias"), None, "variables lacks params.f6.bias"),
        (
            ("intermediates",),
            {"drop6": {"keep": np.ones(1)}},
            "variables holds intermediates.drop6.keep, which this LeNet-5 does not have",
        ),
        (
            ("params", "f6", "kernel"),
            np.zeros((3, 120, 84)),  # three runs'
            "params.f6.kernel: expected shape [120, 84], found [3, 120, 84]",
        ),
        (
            ("params", "c1", "bias"),
            np.zeros(6, int),
            "params.c1.bias: expected float16, float32 or float64, found int64",
        ),
        (
            ("batch_stats", "bn3", "var"),
            np.full(16, np.inf),
            "batch_stats.bn3.var: expected finite values, found NaN or infinity",
        ),
        (
            ("batch_stats", "bn3", "var"),
            np.full(16, -1.0),
            "batch_stats.bn3.var: expected variances of at least 0, found -1.0",
        ),
        (("params",), np.zeros(3), "variables lacks params.bn1.bias, "),
        (("params", 6), np.zeros(3), "variables holds params.6, which this LeNet-5 does not have"),
    ],
)
def test_to_torch_names_the_entry_that_is_wrong(path, value, message):
    variables = perturbed(BATCH_NORM)
    *parents, name = path
    place = variables
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[name]
    else:
        place[name] = value
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared as a whole below
        to_torch(variables)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_variables_with_empty_statistics_are_a_model_without_batch_norm():
    variables = perturbed("LeNet")
    state_dict = to_torch({**variables, "batch_stats": {}})
    assert list(state_dict) == list(torch_baseline.build("LeNet").state_dict())


def test_from_torch_of_arrays_imports_no_torch():
    program = """
import sys
import numpy as np
from jax_lenet.torch_weights import from_torch
try:
    from_torch({"fc.f6.bias": np.zeros(84)})
except ValueError as error:
    assert "lacks convnet.c1.bias" in str(error)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)

"""Recipes as data: what is shipped is legal where a profile says so, and refused elsewhere."""

import pytest

from jepa_edge.contract import PRECISIONS, InputError, WrongUseError
from jepa_edge.devices.targets import target, target_names
from jepa_edge.quantize.recipe import Recipe, check_legal, read_recipe, recipe_for


@pytest.mark.parametrize("name", target_names())
def test_every_precision_of_a_target_has_a_legal_recipe_and_every_other_a_reason(name):
    chosen = target(name)
    for precision in PRECISIONS:
        recipe = recipe_for(precision, chosen.engine)
        if precision in chosen.precisions:
            check_legal(recipe, precision, chosen)
            continue
        with pytest.raises(WrongUseError, match=f"does not run {precision}: .{{20}}"):
            check_legal(recipe, precision, chosen)


@pytest.mark.parametrize(
    ("board", "changes", "says"),
    [
        ("jetson", {"symmetric": False}, "zero points of 0 only"),
        ("jetson", {"weights": "fp8", "activations": "fp8"}, "Orin .* no fp8 tensor cores"),
        ("jetson", {"activations": "float", "weights": "int4"}, "opset 21"),
        ("x86-cpu", {"weights": "int4"}, "int8 activations go with int8 weights"),
        ("jetson-agx-thor", {"weights": "fp8"}, "weights and activations together"),
        ("generic-onnx", {"floats": "bf16"}, "do not compute in bf16"),
    ],
)
def test_a_recipe_of_ones_own_is_held_to_the_board(board, changes, says):
    chosen = target(board)
    fields = {"weights": "int8", "activations": "int8", "symmetric": True} | changes
    with pytest.raises(WrongUseError, match=says):
        check_legal(Recipe(**fields), "int8", chosen)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("weight = 'int8'", "unknown field `weight`"),
        ("weights = 'int3'", "int3"),
        ("a =", "a =|line"),
    ],
)
def test_a_broken_recipe_says_where(tmp_path, text, says):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"own\.toml: .*"):
        read_recipe(path, "openvino")


def test_an_engines_table_overrides(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text("smooth_alpha = 0.5\n[engines.tensorrt]\nsmooth_alpha = 0.8\n")
    assert read_recipe(path, "tensorrt").smooth_alpha == 0.8
    assert read_recipe(path, "openvino").smooth_alpha == 0.5

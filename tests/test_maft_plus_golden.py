"""The check of MAFT+ against golden files, on one that our own model fills in."""

import json

import pytest
import torch
from click.testing import CliRunner
from maft_plus_small import single_thread, small_model
from safetensors.torch import save_file

from evaluation.maft_golden.__main__ import main as golden_main
from evaluation.maft_golden.compare import difference
from evaluation.maft_golden.forward import forward_tensors
from evaluation.maft_golden.golden import Golden
from transmitter.relevance.prompts import ensemble


@pytest.fixture(autouse=True)
def one_thread():
    with single_thread():
        yield


SETTINGS = {"heads": 8, "text_heads": 1, "panoptic": False, "outs": [[40, 50], [64, 64]]}


@pytest.fixture(scope="module")
def golden_tensors():
    """A file in the original's form, as our own model fills it in."""
    model = small_model()
    tokens = torch.zeros(28, 77, dtype=torch.int64)
    tokens[:, 0], tokens[:, 1], tokens[:, 2] = 62, torch.arange(28), 63
    given = {
        "input.image0": torch.rand(3, 40, 50) * 255,
        "input.image1": torch.rand(3, 64, 60) * 255,
        "text.tokens": tokens,
        "query.tokens": tokens[:14],
        "text.num_templates": torch.tensor([2]),
        "query.t": ensemble(model.backbone.encode_text(tokens[:14]))[None],
    }
    state = {f"state_dict.{key}": value for key, value in model.state_dict().items()}
    tensors = state | given | forward_tensors(model, Golden(SETTINGS, {}, given))
    return {name: value.contiguous().clone() for name, value in tensors.items()}


def checked(tensors, folder):
    """Exit code and checks of a golden file with these tensors."""
    save_file(tensors, folder / "golden.safetensors", metadata={"config": json.dumps(SETTINGS)})
    arguments = [str(folder / "golden.safetensors"), "--json", str(folder / "out.json")]
    result = CliRunner().invoke(golden_main, arguments)
    return result.exit_code, json.loads((folder / "out.json").read_text())["checks"]


def test_the_golden_check_passes_its_own_numbers(golden_tensors, tmp_path):
    code, checks = checked(golden_tensors, tmp_path)
    assert code == 0, [check for check in checks if not check["ok"]]
    assert set(checks[0]) == {"name", "value", "unit", "bar", "ok"}


@pytest.mark.parametrize("name", ["V", "dec.pred1.attn_mask", "eq7.S_inf_raw", "pd.enc.layer0.msda"])
def test_the_golden_check_fails_on_one_number(golden_tensors, tmp_path, name):
    value = golden_tensors[name].clone()
    first = value.view(-1)[:1]
    first.copy_(1 - first if name.endswith("attn_mask") else first + 3e-4 + 3e-5 * first.abs())
    code, checks = checked(golden_tensors | {name: value}, tmp_path)
    missed = [check["name"] for check in checks if not check["ok"]]
    assert code == 1
    assert missed
    assert all(name in each for each in missed)


def test_the_golden_check_fails_on_a_tensor_that_we_do_not_compute(golden_tensors, tmp_path):
    code, checks = checked(golden_tensors | {"pd.unheard": torch.zeros(1)}, tmp_path)
    assert code == 1
    assert [check["name"] for check in checks if not check["ok"]] == ["pixel decoder: worst of 18, pd.unheard"]


def test_the_golden_check_says_what_is_no_golden_file(tmp_path):
    (tmp_path / "text").write_text("no tensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign", metadata={"config": json.dumps(SETTINGS)})
    save_file({"a": torch.zeros(1)}, tmp_path / "unset", metadata={"config": "{}"})
    for name in ("text", "bare", "foreign", "unset"):
        result = CliRunner().invoke(golden_main, [str(tmp_path / name)])
        assert result.exit_code == 2, name
        assert isinstance(result.exception, SystemExit)


def test_numbers_that_are_none_are_out_of_tolerance():
    found = difference("x", torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.0]), absolute=1e-4, relative=1e-5)
    assert found.excess == float("inf")
    assert difference("x", None, torch.zeros(1), absolute=1e-4, relative=1e-5).excess == float("inf")

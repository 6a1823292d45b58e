"""Training of MAFT+: where a run begins, that it learns, goes on, and is the same on one process as on two."""

import multiprocessing
import os
import socket
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from maft_training_data import SETTINGS, SMALL, small_model, small_step, write_label_maps
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shared.errors import InvalidInputError, MmscError, WeightsError
from training.maft_plus import __main__ as command
from training.maft_plus import start, trainer
from training.maft_plus.checkpoint import read_checkpoint_of
from training.maft_plus.photos import open_photos
from training.maft_plus.processes import Processes
from training.maft_plus.samples import Samples, Share, Stream
from training.maft_plus.start import start_model, text_encoder
from training.maft_plus.trainer import Pace, Trainer
from transmitter.relevance.maft_plus.checkpoint import load, write
from transmitter.relevance.maft_plus.model import MaftPlus

CPU = torch.device("cpu")
ALONE = Processes(CPU)
PACE = Pace(workers=0, log_every=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_label_maps(tmp_path_factory.mktemp("training") / "data", 4)


def trained(data, out, *, settings=SETTINGS, until=None, step=None, check=None, pace=PACE):
    made = Trainer(step or small_step(), open_photos(data), settings, pace=pace, out=out, processes=ALONE)
    made.run(check, until=until)
    return made


def one_of_two(rank, port, arguments):
    """The command as torchrun starts it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo"}
    command.main(arguments, standalone_mode=False)


# ---- a run ------------------------------------------------------------------


def test_the_loss_falls_and_the_curves_tell(data, tmp_path):
    scores = iter([{"mean_iou": 0.5}, {"mean_iou": 0.75}])
    pace = Pace(workers=0, log_every=1, check_every=20)
    trained(data, tmp_path, settings=replace(SETTINGS, iterations=40, rate=3e-3), check=lambda: next(scores), pace=pace)
    curves = EventAccumulator(str(tmp_path / "log")).Reload()
    losses = [point.value for point in curves.Scalars("loss/total")]
    assert len(losses) == 40
    assert losses[0] > 20
    assert sum(losses[-5:]) / 5 < 6
    assert [point.value for point in curves.Scalars("check/mean_iou")] == [0.5, 0.75]
    assert {"loss/rc_loss", "rate", "gradient_norm", "seconds_per_iteration"} < set(curves.Tags()["scalars"])


def test_an_interrupted_run_gives_the_numbers_of_an_uninterrupted_one(data, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "STUDENT_DEPTH_FROM", 1)
    whole = trained(data, tmp_path / "whole")
    first = trained(data, tmp_path / "parts", until=2)
    assert first.iteration == 2
    # Another beginning and other numbers in between: all that counts is in the checkpoint.
    torch.manual_seed(99)
    second = trained(data, tmp_path / "parts", step=small_step(seed=5))
    assert second.iteration == 4
    expected, found = whole.step.model.state_dict(), second.step.model.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in found.items())
    assert any(not torch.equal(value, expected[name]) for name, value in first.step.model.state_dict().items())


def test_a_run_cut_off_while_it_writes_keeps_its_checkpoint(data, tmp_path, monkeypatch):
    trained(data, tmp_path, until=1)
    before = (tmp_path / "last.pt").read_bytes()

    def fail(_state, file):
        file.write(b"half")
        raise RuntimeError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(InvalidInputError, match="no space left"):
        trained(data, tmp_path, until=2)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_run_with_other_settings_or_photos_is_not_gone_on_with(data, tmp_path):
    trained(data, tmp_path / "run", until=1)
    with pytest.raises(InvalidInputError, match=r"seed: the run in .* has 123, not 5; another folder"):
        trained(data, tmp_path / "run", settings=replace(SETTINGS, seed=5))
    other = write_label_maps(tmp_path / "other", 2)
    with pytest.raises(InvalidInputError, match=r"photos: the run in .* has 4 photos, .* not 2 photos"):
        trained(other, tmp_path / "run")


def test_damaged_and_foreign_checkpoints_are_told(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(WeightsError, match=r"last\.pt"):
        read_checkpoint_of(path, {})
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="no checkpoint of this training"):
        read_checkpoint_of(path, {})


def test_a_loss_that_is_no_number_ends_the_run(data, tmp_path):
    step = small_step()
    step.model.cdt.cross_atten.MLP.bias.data.fill_(torch.nan)
    with pytest.raises(MmscError, match=r"iteration 0: the loss is not finite .ranking_loss nan"):
        trained(data, tmp_path, step=step)


def test_damaged_photos_are_told_from_reading_processes_too(data, tmp_path):
    broken = write_label_maps(tmp_path / "broken", 2)
    (broken / "images" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InvalidInputError, match=r"images/001\.png is"):
        trained(broken, tmp_path / "run", pace=Pace(workers=1))


def test_two_processes_have_the_gradients_of_one(data, tmp_path):
    init = tmp_path / "small.safetensors"
    write(init, small_model().state_dict(), SMALL, {})
    options = [f"--data={data}", f"--init={init}", "--iterations=1", "--batch=2", "--shortest=64", "--longest=128"]
    options += ["--points=64", "--workers=0", "--no-stochastic-depth", "--device=cpu"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not forked from here: autograd cannot go on in a fork of a process that used it.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["training.maft_plus.__main__"])  # imported once, which takes seconds
    both = [*options, f"--out={tmp_path / 'two'}"]
    running = [server.Process(target=one_of_two, args=(rank, port, both), daemon=True) for rank in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(timeout=50)
    for process in running:
        if process.is_alive():
            process.kill()
            process.join()
    assert [process.exitcode for process in running] == [0, 0]
    alone = CliRunner().invoke(command.main, [*options, f"--out={tmp_path / 'one'}"])
    assert alone.exit_code == 0, alone.output
    # After one update AdamW's first moment is a tenth of the gradient.
    one, two = (torch.load(tmp_path / name / "last.pt")["optimiser"]["state"] for name in ("one", "two"))
    assert one.keys() == two.keys()
    norm = torch.stack([state["exp_avg"].norm() for state in one.values()]).norm()
    apart = torch.stack([(one[key]["exp_avg"] - two[key]["exp_avg"]).norm() for key in one]).norm()
    assert float(norm) == pytest.approx(0.001, rel=1e-3)
    assert float(apart / norm) < 1e-4
    assert load(tmp_path / "two" / command.WEIGHTS).config == SMALL


# ---- which photo comes when -------------------------------------------------


def test_every_photo_comes_once_before_one_comes_again():
    stream = Stream(5, seed=1)
    epochs = [[stream.photo(position) for position in range(start, start + 5)] for start in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert [Stream(5, seed=2).photo(position) for position in range(15)] != [*epochs[0], *epochs[1], *epochs[2]]


def test_processes_share_the_batches():
    shares = [Share(6, rank, 3) for rank in range(3)]
    assert [list(share.positions(2)) for share in shares] == [[12, 13], [14, 15], [16, 17]]
    with pytest.raises(InvalidInputError, match="7 photos cannot be shared among 3"):
        Share(7, 0, 3)


def test_samples_depend_on_their_position_only(data):
    samples = Samples(open_photos(data), Stream(4, 1), SETTINGS.sizes)
    again = Samples(open_photos(data), Stream(4, 1), SETTINGS.sizes)
    assert torch.equal(samples[7].image, again[7].image)
    assert samples[7].seed == again[7].seed
    assert len({samples[position].seed for position in range(8)}) == 8
    # Mirrored half of the time: a photo is met both ways.
    met = [samples[position] for position in range(40) if Stream(4, 1).photo(position) == 0]
    assert len({tuple(sample.image.flatten().tolist()) for sample in met}) == 2


# ---- where it begins --------------------------------------------------------


def test_a_maft_file_begins_with_its_own_clip_as_teacher(tmp_path):
    path = tmp_path / "maft.safetensors"
    model = small_model(seed=3)
    write(path, model.state_dict(), SMALL, {})
    begun = start_model(str(path), None)
    assert begun.config == SMALL
    assert all(torch.equal(value, begun.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(WeightsError, match="holds the custom variant, not base"):
        start_model(str(path), "base")


def test_a_clip_file_begins_student_and_teacher(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "_CONFIGS", {"large": replace(SMALL, trunk_dims=(8, 16, 16, 32)), "base": SMALL})
    clip = small_model(seed=3).backbone.clip_model.state_dict()
    save_file({name: value.clone() for name, value in clip.items()}, tmp_path / "clip.safetensors")
    begun = start_model(str(tmp_path / "clip.safetensors"), None)
    for trunk in (begun.backbone, begun.backbone_t):
        assert all(torch.equal(value, clip[name]) for name, value in trunk.clip_model.state_dict().items())
    with pytest.raises(InvalidInputError, match="holds base, not large"):
        start_model(str(tmp_path / "clip.safetensors"), "large")


def test_files_and_tags_that_are_none_are_told(tmp_path):
    with pytest.raises(InvalidInputError, match="'laion5b' is neither a file nor one of convnext_base_w_320's tags"):
        start_model("laion5b", "base")
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="neither a MAFT"):
        start_model(str(tmp_path / "foreign.safetensors"), None)
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(WeightsError, match=r"cut\.safetensors"):
        start_model(str(tmp_path / "cut.safetensors"), None)


def test_names_are_read_by_the_models_own_text_tower():
    model = small_model()
    encode = text_encoder(model)
    assert encode(["a photo of a cat.", "a photo of a dog."]).shape == (2, 32)
    with pytest.raises(InvalidInputError, match="knows 512 tokens only"):
        text_encoder(MaftPlus(replace(SMALL, vocab_size=512)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--data=/nowhere"], "data: /nowhere is no folder"),
        (["--data={data}", "--val={empty}"], "data: {empty} holds neither instances.json nor a folder of label maps"),
        (["--data={data}", "--names=/nowhere.txt"], "names: /nowhere.txt cannot be read"),
        (["--data={data}", "--init=soup"], "init: 'soup' is neither a file nor one of convnext_large_d_320's tags"),
        (["--data={data}", "--amp=fp16", "--device=cpu"], "amp: fp16 needs a GPU"),
        (["--data={data}", "--shortest=800", "--longest=400"], "longest: 400 is less than --shortest"),
        (["--data={data}", "--device=tpu9"], "device: 'tpu9' cannot be used here"),
        (["--data={data}", "--variant=huge"], "Invalid value for '--variant'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(data, tmp_path, options, told):
    places = {"data": str(data), "empty": str(tmp_path)}
    given = [option.format(**places) for option in options]
    result = CliRunner().invoke(command.main, [*given, f"--out={tmp_path / 'out'}"])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(f"Error: {told.format(**places)}")
    assert not (tmp_path / "out" / "last.pt").exists()


def test_the_modules_own_help_names_the_folder_layout():
    told = CliRunner().invoke(command.main, ["--help"]).output
    assert "instances.json" in told
    assert "names.txt" in told
    assert Path(command.__file__).name == "__main__.py"

"""`mmsc encode` and `mmsc decode` as a person runs them, with the shipped codec."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from client_fakes import photo
from commands import assert_refused, run_mmsc
from fakes import LeftHalf
from PIL import Image

from client.commands import encode
from shared.codec.registry import CODECS, codec_named, codec_numbered
from shared.container import read_frames
from shared.errors import InvalidInputError, StreamError
from shared.level_map import decode_level_map
from shared.pictures import png_bytes, read_picture


@pytest.fixture
def mmsc(tmp_path, monkeypatch, capfd):
    """Runs a command line, by the ladder unless it names a codec; gives exit code, output and lines of errors."""
    (tmp_path / "photo.png").write_bytes(png_bytes(photo()))
    mask = np.zeros((80, 120), np.uint8)
    mask[16:48, 64:] = 255
    (tmp_path / "mask.png").write_bytes(png_bytes(mask))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        chosen = ("--codec", "ladder") if arguments[0] == "encode" and "--codec" not in arguments else ()
        return run_mmsc(capfd, *arguments, *chosen)

    return run


@pytest.fixture
def asked(monkeypatch):
    """What the extractor was asked; a stand-in answers."""
    queries = []

    class Listening(LeftHalf):
        def __call__(self, image, query):
            queries.append(query)
            return super().__call__(image, query)

    monkeypatch.setattr(encode, "load_extractor", lambda _: Listening())
    return queries


def _pixels(path):
    return read_picture(Path(path).read_bytes())


def _psnr_db(picture):
    return 10 * np.log10(255**2 / np.mean((picture.astype(float) - photo()) ** 2))


def test_lossless_there_and_back(mmsc):
    code, out, errors = mmsc("encode", "photo.png", "--lossless", "-o", "a.mms", "--json")
    summary = json.loads(out)
    assert (code, errors) == (0, [])
    assert summary["file_bytes"] == Path("a.mms").stat().st_size
    assert [level["patches"] for level in summary["levels"]] == [0, 0, 0, 0, 150]
    assert (summary["present"], summary["mean_relevance"], summary["budget_bytes"]) == (None, None, None)
    assert mmsc("decode", "a.mms", "-o", "b.png")[0] == 0
    assert np.array_equal(_pixels("b.png"), photo())


def test_the_mask_gets_the_bytes(mmsc):
    code, out, _ = mmsc("encode", "photo.png", "--relevance", "mask.png", "--bytes", "1500", "-o", "a.mms", "--json")
    summary = json.loads(out)
    assert code == 0
    assert 1485 <= summary["file_bytes"] == Path("a.mms").stat().st_size <= 1500 == summary["budget_bytes"]
    assert (summary["extractor"], summary["present"]) == ("client", True)
    assert summary["mean_relevance"] == pytest.approx(32 * 56 / 9600)
    assert {"read_s", "load_s", "encode_s", "allocate_s", "pack_s"} <= set(summary["stages_s"])
    code, out, errors = mmsc("decode", "a.mms", "-o", "b.png", "--json")
    decoded = json.loads(out)
    assert (code, errors, decoded["complete"], decoded["codec"]) == (0, [], True, "ladder")
    assert [each["patches"] for each in decoded["levels"]] == [each["patches"] for each in summary["levels"]]
    levels = _levels("a.mms")
    inside = np.zeros_like(levels, bool)
    inside[2:6, 8:] = True
    assert levels[inside].min() >= 1
    assert levels[inside].mean() > 2 * levels[~inside].mean()
    assert levels[inside].max() > 1 >= levels[~inside].max()
    error = np.abs(_pixels("b.png").astype(int) - photo())
    assert error[16:48, 64:].mean() < error.mean()


def _levels(path):
    from client.files import stream_header

    header = stream_header(read_frames(Path(path).read_bytes()))
    levels = decode_level_map(header.level_map, header.level_map_table, header.grid)
    return levels.reshape(header.grid.rows, header.grid.columns)


def test_the_query_reaches_the_extractor_and_percent_is_of_raw(mmsc, asked):
    code, out, errors = mmsc("encode", "photo.png", "square", "--percent", "5", "-o", "a.mms", "--json")
    summary = json.loads(out)
    assert (code, errors, asked) == (0, [], ["square"])
    assert (summary["extractor"], summary["present"], summary["budget_bytes"]) == ("embedded", True, 1440)
    assert 0.99 * 1440 <= summary["file_bytes"] <= 1440
    levels = _levels("a.mms")
    assert levels[:, :7].mean() > levels[:, 8:].mean()


def test_without_a_query_the_extractor_is_asked_for_what_is_salient(mmsc, asked):
    assert mmsc("encode", "photo.png", "--bytes", "900", "-o", "a.mms")[0] == 0
    assert asked == [""]


def test_what_is_not_there_is_said(mmsc, asked):
    _, out, _ = mmsc("encode", "photo.png", "unicorn", "--bytes", "900", "-o", "a.mms")
    assert "of 900 bytes" in out
    assert "nothing of it found; bytes spread by content" in out


def test_a_map_takes_the_place_of_the_query(mmsc, asked):
    assert mmsc("encode", "photo.png", "square", "--relevance", "mask.png", "--bytes", "900", "-o", "a.mms")[0] == 0
    assert asked == []


def test_a_beginning_gives_a_picture_and_a_warning(mmsc):
    mmsc("encode", "photo.png", "--relevance", "mask.png", "--bytes", "4000", "-o", "a.mms")
    data = Path("a.mms").read_bytes()
    quality = []
    for length in (1000, 2500, len(data)):
        Path("cut.mms").write_bytes(data[:length])
        code, out, errors = mmsc("decode", "cut.mms", "-o", "b.png", "--json")
        summary = json.loads(out)
        assert code == 0
        assert summary["cut"] == (length < len(data)) == bool(errors)
        quality.append(_psnr_db(_pixels("b.png")))
    assert quality == sorted(quality)
    Path("cut.mms").write_bytes(data[:1000])
    (line,) = mmsc("decode", "cut.mms", "-o", "b.png")[2]
    assert line.startswith("mmsc: warning: cut.mms ends too early: ")


def test_damage_is_warned_of(mmsc):
    mmsc("encode", "photo.png", "--lossless", "-o", "a.mms")
    data = bytearray(Path("a.mms").read_bytes())
    data[-100] ^= 1
    Path("a.mms").write_bytes(data)
    code, out, (line,) = mmsc("decode", "a.mms", "-o", "b.png")
    assert code == 0
    assert "sketch only" in out
    assert line == "mmsc: warning: a.mms is damaged: 0 of 150 patches read"
    assert _pixels("b.png").shape == (80, 120, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["encode", "photo.png", "-o", "a"], "give one of --bytes, --percent and --lossless"),
        (["encode", "photo.png", "--bytes", "9", "--lossless", "-o", "a"], "not --bytes and --lossless"),
        (["encode", "photo.png", "--percent", "0", "-o", "a"], "must be above 0"),
        (["encode", "photo.png", "--percent", "nan", "-o", "a"], "must be above 0"),
        (["encode", "photo.png", "--bytes", "-5", "-o", "a"], "--bytes"),
        (["encode", "photo.png", "--bytes", "20", "--relevance", "mask.png", "-o", "a"], "the headers alone take"),
        (["encode", "photo.png", "--bytes", "900"], "'-o'"),
        (["encode", "photo.png", "--bytes", "900", "--codec", "zip", "-o", "a"], "'ladder'"),
        (["encode", "nowhere.png", "--bytes", "900", "-o", "a"], "cannot read nowhere.png"),
        (["encode", "text.mms", "--bytes", "900", "-o", "a"], "is no picture of a known format"),
        (["encode", "photo.png", "--bytes", "900", "--relevance", "small.png", "-o", "a"], "--relevance: map is 8x8"),
        (["encode", "photo.png", "--lossless", "--relevance", "small.png", "-o", "a"], "--relevance: map is 8x8"),
        (["encode", "photo.png", "--bytes", "900", "--relevance", "no.png", "-o", "a"], "--relevance: cannot read"),
        (["decode", "text.mms", "-o", "a"], "text.mms: is no file of this kind and version"),
        (["decode", "photo.png", "-o", "a"], "photo.png: is no file of this kind and version"),
        (["decode", "empty.mms", "-o", "a"], "empty.mms: is empty"),
        (["decode", "start.mms", "-o", "a"], "start.mms: ends within its header"),
        (["decode", "nowhere.mms", "-o", "a"], "cannot read nowhere.mms"),
        (["decode", "text.mms"], "'-o'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(mmsc, tmp_path, arguments, said):
    (tmp_path / "text.mms").write_text("just some words, nothing more")
    (tmp_path / "empty.mms").touch()
    (tmp_path / "start.mms").write_bytes(bytes.fromhex("0100104d4d5331000000"))
    Image.new("L", (8, 8)).save(tmp_path / "small.png")
    assert_refused(mmsc(*arguments), said)
    assert not (tmp_path / "a").exists()


def test_an_output_that_cannot_be_written_is_one_line(mmsc, tmp_path):
    (tmp_path / "folder").mkdir()
    code, _, (line,) = mmsc("encode", "photo.png", "--lossless", "-o", "folder")
    assert code == 2
    assert line.startswith("mmsc: -o: cannot write folder")


def test_what_was_there_stays_until_the_new_file_is_whole(mmsc, tmp_path, monkeypatch):
    (tmp_path / "a.mms").write_bytes(b"old")
    mmsc("encode", "photo.png", "--lossless", "-o", "a.mms")
    assert (tmp_path / "a.mms").stat().st_size > 28_800
    (tmp_path / "a.mms").write_bytes(b"old")

    def full(self, _):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    code, _, (line,) = mmsc("encode", "photo.png", "--lossless", "-o", "a.mms")
    assert (code, line) == (2, "mmsc: -o: cannot write a.mms: No space left on device")
    assert (tmp_path / "a.mms").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mms", "mask.png", "photo.png"]


def test_a_link_stays_a_link(mmsc, tmp_path):
    (tmp_path / "real.mms").write_bytes(b"old")
    (tmp_path / "a.mms").symlink_to("real.mms")
    mmsc("encode", "photo.png", "--lossless", "-o", "a.mms")
    assert (tmp_path / "a.mms").is_symlink()
    assert (tmp_path / "real.mms").stat().st_size > 28_800


def test_foreign_files_and_the_help_need_no_torch(tmp_path):
    (tmp_path / "text.mms").write_text("just some words, nothing more")
    script = (
        "import sys\nfrom client import cli\n"
        f"assert cli.run(['decode', {str(tmp_path / 'text.mms')!r}, '-o', 'a']) == 2\n"
        "assert cli.run(['encode', '--help']) == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("codec", list(CODECS))
def test_every_codec_writes_files_that_say_by_which_they_are_read(mmsc, codec):
    code, out, _ = mmsc("encode", "photo.png", "--relevance", "mask.png", "--percent", "5", "--codec", codec,
                        "-o", "a.mms", "--json")  # fmt: skip
    encoded = json.loads(out)
    assert (code, encoded["codec"]) == (0, codec)
    assert encoded["content_bytes"] < encoded["file_bytes"] <= encoded["budget_bytes"] == 1440
    assert [level["patch_bytes"] for level in encoded["levels"]] == list(CODECS[codec].patch_bytes)
    code, out, errors = mmsc("decode", "a.mms", "-o", "a.png", "--json")
    decoded = json.loads(out)
    assert (code, errors, decoded["codec"], decoded["complete"]) == (0, [], codec, True)
    assert [level["read"] for level in decoded["levels"][1:]] == [level["patches"] for level in encoded["levels"][1:]]


def test_the_registry_names_and_numbers_every_codec():
    assert list(CODECS) == ["ladder", "entropy"]
    for name, entry in CODECS.items():
        assert codec_named(name) is codec_numbered(entry.number) is entry
    with pytest.raises(InvalidInputError, match="unknown codec 'zip'; there are: ladder, entropy"):
        codec_named("zip")
    with pytest.raises(StreamError, match="codec 99 is not known here"):
        codec_numbered(99)

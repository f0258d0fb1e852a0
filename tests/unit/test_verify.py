"""`dna-ray verify` where every path is trained alone already: its answer, and aligned ratings."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from dna_ray.errors import UserError
from dna_ray.ranking import LEAST, Training, drawn_rows
from dna_ray.rundir import RunFolder
from dna_ray.search import load_ratings, select, to_arrow
from dna_ray.verification import Verification, rated
from dna_ray_cli.select import command as select_command
from dna_ray_cli.verify import command
from tests.runs import Sketch, make_run

OFFSETS = {1: (5.0, -0.5, 0.0), 2: (4.0, -1.0)}
PATHS = 4


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run whose paths lose their rating and the offset of their cell when trained alone."""
    made = make_run(tmp_path / "run", Sketch())
    ratings = rated(made, 2)
    verification = Verification(made, 2, ratings, 384)
    for number, block in enumerate(ratings.blocks, 1):
        for row in drawn_rows(ratings, number, PATHS, LEAST):
            cell = int(block.cell[row])
            training = Training(number, cell, block.ops[row], 384, 1)
            verification.add(training, float(block.loss[row] + OFFSETS[number][cell]))
    return made


def call(run: RunFolder, *words: Any) -> Result:
    asked = [str(run.place), "--paths", str(PATHS), *map(str, words)]
    return CliRunner().invoke(command, asked, catch_exceptions=False)


def test_aligned_ratings_are_written_for_select(run: RunFolder, tmp_path: Path) -> None:
    """Nothing is left to train: so neither pictures nor Ray are asked for."""
    file, before = tmp_path / "aligned.parquet", rated(run, 2)
    tree = json.loads(call(run, "--aligned", file, "--json").stdout)
    assert tree["aligned_ratings"] == str(file)
    assert tree["aligned"]["kendall"] == pytest.approx(1)
    assert tree["gain"]["kendall"] > 0
    found = load_ratings(file)
    for number, (old, new) in enumerate(zip(before.blocks, found.blocks, strict=True), 1):
        offsets = [OFFSETS[number][cell] for cell in old.cell.tolist()]
        assert new.loss.tolist() == pytest.approx((old.loss + offsets).tolist())
    kept = to_arrow(before).drop_columns("loss")
    assert to_arrow(found).drop_columns("loss").equals(kept)
    done = CliRunner().invoke(select_command, [str(file), "--json"], catch_exceptions=False)
    chosen = json.loads(done.stdout)["architecture"]
    assert chosen == select(found, {}).found.text != select(before, {}).found.text


def test_people_read_where_they_are(run: RunFolder, tmp_path: Path) -> None:
    file = tmp_path / "aligned.parquet"
    shown = call(run, "--aligned", file)
    assert "with cells aligned: 1.00 (1.00 to 1.00), a gain of " in shown.stdout
    assert f"dna-ray select {file}" in shown.stdout
    assert call(run, "--aligned", file).exit_code == 0  # over what it made before


def test_a_foreign_file_is_left_alone(run: RunFolder, tmp_path: Path) -> None:
    foreign = tmp_path / "mine.parquet"
    pq.write_table(to_arrow(rated(run, 2)), foreign)
    before = foreign.read_bytes()
    with pytest.raises(UserError, match=r"--aligned must be a new file .* is neither"):
        call(run, "--aligned", foreign)
    with pytest.raises(UserError, match=r"--aligned must be a \.parquet file"):
        call(run, "--aligned", tmp_path / "aligned.csv")
    assert foreign.read_bytes() == before
    assert not (tmp_path / "aligned.csv").exists()

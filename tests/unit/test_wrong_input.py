"""Every wrong input that `dna-ray` can be given: one clear line, exit status 2, nothing written.

The line says what must hold, what was given, and what to do. Ray is never started for it.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import timm
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file

from dna_ray.config import job_from_tree, job_to_toml
from dna_ray.rundir import RunFolder
from dna_ray.space import Architecture
from dna_ray_cli.main import main
from tests import tiny
from tests.processes import small_files_only
from tests.runs import Sketch, make_run


def noise(path: Path, number: int) -> None:
    """A small picture, another one for every number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def classes(folder: Path, **counts: int) -> None:
    for name, count in counts.items():
        for number in range(count):
            noise(folder / name / f"{number}.png", number)


def rows(path: Path, metadata: dict[str, str] | None = None, **columns: object) -> None:
    """A Parquet file of 24 rows: bytes in column `image` unless other columns are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns if "caption" in columns else {"image": [b"x"] * 24, **columns})
    parquet.write_table(table.replace_schema_metadata(metadata), path)


def parts(folder: Path, train: dict[str, int], val: dict[str, int]) -> None:
    classes(folder / "train", **train)
    classes(folder / "val", **val)


def run_folder(path: Path) -> None:
    job = job_from_tree(
        {"data": "pictures", "space": "tiny.toml", "teacher": "test_resnet:net.safetensors"}
    )
    RunFolder.create(path, job_to_toml(job), 0, tiny.SPACE)


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """What is wrong, how it is given, and what the line must say of it."""

    name: str
    words: str
    said: tuple[str, ...]
    place: Callable[[Path], object] = lambda _: None  # what has to be there for it
    shut: str | None = None  # a folder that may not be written to
    hidden: str | None = None  # a package that is not installed


def _broken_run(path: Path) -> None:
    run_folder(path)
    (path / "manifest.json").write_text("{")


def _run_of_a_broken_config(path: Path) -> None:
    run_folder(path)
    (path / "config.toml").write_text("seed = ")


def _damaged_result(path: Path) -> None:
    make_run(path, Sketch())
    (path / "generation-1" / "result.json").write_text("{}")


def _weights(path: Path, name: str = "test_resnet", **changed: torch.Tensor) -> None:
    state = timm.create_model(name).state_dict()
    save_file(state | changed, path)


def _put_tables(here: Path) -> None:
    """Ratings tables and a bench."""
    head = "block,ops,loss,macs,ms\n"
    (here / "good.csv").write_text(f"{head}1,a,0.5,3,8\n1,c,0.25,7,6\n")
    (here / "hole.csv").write_text(f"{head}1,a,0.5,3,8\n1,c,nan,7,6\n")
    (here / "gap.csv").write_text(f"{head}1,a,0.5,3,8\n3,c,0.25,7,6\n")
    archs = [{"code": [digit], "top1": 70 + int(digit)} for digit in "012"]
    (here / "bench.json").write_text(json.dumps({"ops": ["a", "b", "c"], "archs": archs}))


SPACE = "search --data pictures --teacher test_resnet:net.safetensors --space"
WRONG = [
    # Data
    Wrong(name="data missing", words="search --data nowhere", said=("no folder 'nowhere'",)),
    Wrong(
        name="data misspelt",
        words="search --data solr",
        said=("did you mean 'solar'?",),
    ),
    Wrong(
        name="data empty",
        words="search --data empty",
        said=("must hold some", "empty' holds none"),
        place=lambda here: (here / "empty").mkdir(),
    ),
    Wrong(
        name="data without pictures",
        words="search --data texts",
        said=("must hold some", "texts' holds none"),
        place=lambda here: ((here / "texts").mkdir(), (here / "texts" / "a.txt").write_text("a")),
    ),
    Wrong(
        name="data a file",
        words="search --data pictures/a/0.png",
        said=("no folder", "pictures/a/0.png'"),
    ),
    Wrong(
        name="one class only",
        words="search --data one",
        said=("two class folders or more", "one/a' for pictures"),
        place=lambda here: classes(here / "one", a=20),
    ),
    Wrong(
        name="pictures beside class folders",
        words="search --data both",
        said=("holds both", "move"),
        place=lambda here: (classes(here / "both", a=9, b=9), noise(here / "both" / "x.png", 1)),
    ),
    Wrong(
        name="a class of one picture",
        words="search --data single",
        said=("4 pictures or more", "'b' has 1", "add pictures"),
        place=lambda here: classes(here / "single", a=20, b=1),
    ),
    Wrong(
        name="too few pictures",
        words="search --data few",
        said=("split empty", "give more pictures"),
        place=lambda here: [noise(here / "few" / f"{n}.png", n) for n in range(2)],
    ),
    *(
        Wrong(name=name, words=f"search --data {words}", said=said, place=place)
        for name, words, said, place in (
            ("Parquet missing", "no.parquet", ("no file 'no.parquet'",), lambda here: None),
            ("store unknown", "ftq://bucket/set", ("filesystem that pyarrow",), lambda here: None),
            (
                "Parquet cut short",
                "a.parquet",
                ("must be whole", "a.parquet'", "write it again"),
                lambda here: (here / "a.parquet").write_bytes(b"PAR1 and no more"),
            ),
            (
                "Parquet without pictures",
                "a.parquet",
                ("called image", "a.parquet' has caption (string), label (int64)", "rename"),
                lambda here: rows(here / "a.parquet", caption=["x"] * 24, label=[1] * 24),
            ),
            (
                "two columns of bytes",
                "a.parquet",
                ("only column of bytes", "has caption (binary), mask (binary)"),
                lambda here: rows(here / "a.parquet", caption=[b"x"] * 24, mask=[b"x"] * 24),
            ),
            (
                "Parquet without rows",
                "set",
                ("holds no row",),
                lambda here: rows(here / "set" / "a.parquet", caption=pa.array([], pa.binary())),
            ),
            (
                "labels of fractions",
                "a.parquet",
                ("integers or texts", "column label", "holds double"),
                lambda here: rows(here / "a.parquet", label=[0.5] * 24),
            ),
            (
                "a row without a label",
                "a.parquet",
                ("must have a label", "label is empty in", "a.parquet row 3;", "fill it"),
                lambda here: rows(here / "a.parquet", label=[1, 2, None] * 8),
            ),
            (
                "label below zero",
                "a.parquet",
                ("0 or more", "label is -1 in", "a.parquet row 2;"),
                lambda here: rows(here / "a.parquet", label=[1, -1] * 12),
            ),
            (
                "label without a name",
                "a.parquet",
                ("0 to 1, as 2 have names", "label is 7 in", "row 2;"),
                lambda here: rows(
                    here / "a.parquet",
                    {"huggingface": '{"info": {"features": {"label": {"names": ["a", "b"]}}}}'},
                    label=[0, 7] * 12,
                ),
            ),
            (
                "names of classes damaged",
                "a.parquet",
                ("huggingface metadata", "a.parquet' does not"),
                lambda here: rows(here / "a.parquet", {"huggingface": "{"}, label=[0, 1] * 12),
            ),
            (
                "a class of one row",
                "a.parquet",
                ("4 pictures or more", "'b' has 1"),
                lambda here: rows(here / "a.parquet", label=["b", *["a"] * 23]),
            ),
            (
                "Parquet of two kinds",
                "set",
                ("the same columns", "b.parquet' differs from", "a.parquet'"),
                lambda here: (
                    rows(here / "set" / "a.parquet", label=[0, 1] * 12),
                    rows(here / "set" / "b.parquet", label=["a", "b"] * 12),
                ),
            ),
            (
                "pictures beside Parquet",
                "set",
                ("holds both Parquet files and pictures", "move some"),
                lambda here: (rows(here / "set" / "a.parquet"), noise(here / "set" / "x.png", 1)),
            ),
            (
                "pictures beside parts",
                "set",
                ("holds both the parts train and val and pictures", "move some"),
                lambda here: (
                    parts(here / "set", {"a": 9, "b": 9}, {"a": 1, "b": 1}),
                    noise(here / "set" / "x.png", 1),
                ),
            ),
            (
                "parts of two kinds",
                "set",
                ("both parts", "must hold Parquet", "set/val' holds none"),
                lambda here: (
                    rows(here / "set" / "train" / "a.parquet"),
                    classes(here / "set" / "val", a=9, b=9),
                ),
            ),
            (
                "parts of other classes",
                "set",
                ("'train' and 'val' must have the same classes", "'val' has no picture of b"),
                lambda here: parts(here / "set", {"a": 9, "b": 9, "c": 9}, {"a": 1, "c": 1}),
            ),
            (
                "a part without classes",
                "set",
                ("both parts", "must have class folders", "set/val' has none"),
                lambda here: (
                    classes(here / "set" / "train", a=9, b=9),
                    noise(here / "set" / "val" / "x.png", 1),
                ),
            ),
            (
                "a folder above the pictures",
                "set",
                ("set' holds none", "give '", "set/train' if that does"),
                lambda here: classes(here / "set" / "train", a=9, b=9),
            ),
        )
    ),
    Wrong(
        name="missing extra",
        words="search",
        said=("'elpv_dataset', which is not installed", "pip install 'dna-ray[demo]'"),
        hidden="elpv_dataset",
    ),
    # Space
    Wrong(name="unknown space", words="search --space demos", said=("did you mean 'demo'?",)),
    Wrong(name="space missing", words="search --space my.toml", said=("readable", "'my.toml'")),
    Wrong(
        name="space no TOML",
        words="search --space bad.toml",
        said=("must be TOML", "line 3"),
        place=lambda here: (here / "bad.toml").write_text("\nname = 'bad'\nops =\n"),
    ),
    Wrong(
        name="space of a wrong stride",
        words="search --space bad.toml",
        said=("line 15", "block 2", "'stride' must be 1 or 2, but is 5"),
        place=lambda here: changed_space(here, "stride = 2", "stride = 5", last=True),
    ),
    Wrong(
        name="space of a wrong width",
        words="search --space bad.toml",
        said=("line 16", "block 2, cell 1", "'width' must be 1 or more, but is 0"),
        place=lambda here: changed_space(here, "width = 16", "width = 0"),
    ),
    Wrong(
        name="space of two equal cells",
        words="search --space bad.toml",
        said=("line 12", "block 1", "differ in layers or width"),
        place=lambda here: changed_space(here, "layers = 2, width = 8", "layers = 1, width = 8"),
    ),
    Wrong(
        name="space of an unknown op",
        words="search --space bad.toml",
        said=("line 4", "k3x2"),
        place=lambda here: changed_space(here, "k3e2", "k3x2"),
    ),
    Wrong(
        name="space with an unknown key",
        words="search --space bad.toml",
        said=("line 5", "'se_ration' is no known key", "did you mean 'se_ratio'?"),
        place=lambda here: changed_space(here, "se_ratio", "se_ration"),
    ),
    Wrong(
        name="space without blocks",
        words="search --space bad.toml",
        said=("blocks",),
        place=lambda here: (here / "bad.toml").write_text(tiny.SPACE.split("[[blocks]]")[0]),
    ),
    # Teacher
    Wrong(
        name="unknown teacher",
        words="search --data pictures --space tiny.toml --teacher resnet81",
        said=("'resnet81' is none", "did you mean 'resnet1"),
    ),
    Wrong(
        name="misspelt lite0",
        words="search --data pictures --space tiny.toml --teacher lite1",
        said=("did you mean 'lite0'?",),
    ),
    Wrong(
        name="weights not on the machine",
        words="search --data pictures --space tiny.toml --teacher resnet18.a1_in1k",
        said=("weights of resnet18.a1_in1k", "--teacher resnet18.a1_in1k:FILE.safetensors"),
    ),
    Wrong(
        name="weights missing",
        words="search --data pictures --space tiny.toml --teacher test_resnet:no.safetensors",
        said=("'no.safetensors'",),
    ),
    Wrong(
        name="weights of the wrong shape",
        words="search --data pictures --space tiny.toml --teacher test_resnet:bad.safetensors",
        said=("must fit", "size mismatch for conv1.0.weight", "bad.safetensors"),
        place=lambda here: _weights(
            here / "bad.safetensors", **{"conv1.0.weight": torch.zeros(1, 2, 3)}
        ),
    ),
    Wrong(
        name="weights of another network",
        words="search --data pictures --space tiny.toml --teacher test_resnet:bad.safetensors",
        said=("must fit", "bad.safetensors", "Missing key", "..."),
        place=lambda here: _weights(here / "bad.safetensors", "test_efficientnet"),
    ),
    Wrong(
        name="weights that are pickled",
        words="search --data pictures --space tiny.toml --teacher test_resnet:bad.safetensors",
        said=("bad.safetensors",),
        place=lambda here: torch.save({"a": torch.zeros(1)}, here / "bad.safetensors"),
    ),
    Wrong(
        name="a folder that is no teacher",
        words="search --data pictures --space tiny.toml --teacher pictures",
        said=("pictures/model.safetensors",),
    ),
    Wrong(
        name="teacher of fewer stages than blocks",
        words="search --data pictures --space mbconv6 --teacher test_resnet:net.safetensors",
        said=("a stage for every block", "choose a space of fewer blocks"),
    ),
    # Limits
    Wrong(
        name="limit below all",
        words=f"{SPACE} tiny.toml --max macs=1",
        said=("macs", "smallest"),
    ),
    Wrong(
        name="limits that clash",
        words=f"{SPACE} tiny.toml --max macs=105376 --max params=1264",
        said=("none meets macs=105376 and params=1264 together", "macs=106240 or params=1266"),
    ),
    Wrong(
        name="limit of an unknown cost",
        words=f"{SPACE} tiny.toml --max mac=1M",
        said=("'mac'", "did you mean 'macs'?"),
    ),
    Wrong(name="limit without a value", words="search --max macs", said=("COST=VALUE",)),
    Wrong(name="limit of no number", words="search --max macs=many", said=("'macs=many'",)),
    Wrong(name="limit below zero", words="search --max macs=-5M", said=("-5M",)),
    Wrong(
        name="two limits on one cost", words="search --max macs=5M --max macs=6M", said=("macs",)
    ),
    # Settings and counts
    Wrong(
        name="unknown key",
        words="search --set rate.imags=5",
        said=("'rate.imags'", "did you mean 'images'?"),
    ),
    Wrong(name="unknown section", words="search --set rat.images=5", said=("'rat'", "'rate'?")),
    Wrong(
        name="unknown key in a file",
        words="search --config bad.toml",
        said=("'sed'", "did you mean 'seed'?"),
        place=lambda here: (here / "bad.toml").write_text("sed = 5\n"),
    ),
    Wrong(name="configuration missing", words="search --config no.toml", said=("'no.toml'",)),
    Wrong(
        name="configuration no TOML",
        words="search --config bad.toml",
        said=("TOML", "line 2"),
        place=lambda here: (here / "bad.toml").write_text("seed = 5\nout\n"),
    ),
    *(
        Wrong(name=f"{key}={value}", words=f"search --set {key}={value}", said=(key,))
        for key in (
            "features.images",
            "features.window",
            "features.views",
            "distill.epochs",
            "distill.batch",
            "distill.learning_rate",
            "rate.images",
            "rate.recalibration",
            "adapt.passes",
            "tune.trials",
            "tune.passes",
            "tune.images",
            "retrain.passes",
            "retrain.scaled_passes",
            "retrain.batch",
            "retrain.shards",
        )
        for value in (0, -1)
    ),
    *(
        Wrong(name=name, words=f"{command} --set distill.strategy={words}", said=said)
        for name, command, words, said in (
            ("strategy unknown", "search", "progressive", ("did you mean 'progressive_",)),
            ("no beam", "search", "progressive_a --set distill.beam=0", ("distill.beam",)),
            (
                "progressive with shards",
                "search",
                "progressive_a --set distill.shards=2",
                ("distill.strategy=progressive_a", "distill.shards is 2", "set distill.shards=1"),
            ),
            (
                "progressive with members",
                "search",
                "progressive_b --set distill.members=2",
                ("distill.strategy=progressive_b", "distill.members is 2", "distill.members=1"),
            ),
            (
                "progressive and streamed",
                "search",
                "progressive_b --set features.cache=stream",
                ("windows must be kept", "set features.cache=all"),
            ),
            (
                "plan of a progressive search",
                "plan",
                "progressive_b",
                ("is progressive_b", "set distill.strategy=concurrent"),
            ),
        )
    ),
    *(
        Wrong(
            name=f"{command} of a progressive run",
            words=f"{command} searched",
            said=("distill.strategy=progressive_b", "search with distill.strategy=concurrent"),
            place=lambda here: make_run(here / "searched", Sketch(strategy="progressive_b")),
        )
        for command in ("verify", "stability")
    ),
    Wrong(name="no generation", words="search --generations 0", said=("generations",)),
    Wrong(name="less than none", words="search --generations -1", said=("generations",)),
    Wrong(name="no worker", words="search --workers 0", said=("workers",)),
    Wrong(name="generations no number", words="search --generations many", said=("many",)),
    Wrong(name="seed below zero", words="search --seed -1", said=("seed",)),
    Wrong(name="unknown option", words="search --generation 3", said=("--generations",)),
    Wrong(name="unknown command", words="serch", said=("serch", "search")),
    # Clusters
    Wrong(
        name="address where no cluster answers",
        words=f"{SPACE} tiny.toml --address 127.0.0.1:1 --out run",
        said=("must answer", "'127.0.0.1:1'", "check --address"),
    ),
    Wrong(
        name="address that is none",
        words=f"{SPACE} tiny.toml --address head --out run",
        said=("must be HOST:PORT", "'head'"),
    ),
    # Run folders
    Wrong(
        name="run folder exists",
        words=f"{SPACE} tiny.toml --out pictures",
        said=("new or empty", "'pictures'", "--resume"),
    ),
    Wrong(
        name="run folder a file",
        words=f"{SPACE} tiny.toml --out tiny.toml",
        said=("new or empty", "'tiny.toml'"),
    ),
    Wrong(
        name="run folder read-only",
        words=f"{SPACE} tiny.toml --out shut/run",
        said=("must be writable", "shut/run", "--out"),
        place=lambda here: (here / "shut").mkdir(mode=0o555),
        shut="shut",
    ),
    Wrong(
        name="resumed folder read-only",
        words="search --resume run",
        said=("must be writable", "'run'"),
        place=lambda here: (run_folder(here / "run"), (here / "run").chmod(0o555)),
        shut="run",
    ),
    Wrong(name="resumed folder missing", words="search --resume no", said=("manifest", "'no'")),
    Wrong(
        name="resumed folder not ours",
        words="search --resume pictures",
        said=("manifest.json of ours", "'pictures'", "check the path"),
    ),
    Wrong(
        name="resumed folder damaged",
        words="search --resume run",
        said=("manifest.json of ours", "'run'"),
        place=lambda here: _broken_run(here / "run"),
    ),
    Wrong(
        name="resumed configuration damaged",
        words="search --resume run",
        said=("config.toml",),
        place=lambda here: _run_of_a_broken_config(here / "run"),
    ),
    Wrong(
        name="resumed with another setting",
        words="search --resume run --seed 9",
        said=("seed would differ", "start a new run"),
        place=lambda here: run_folder(here / "run"),
    ),
    Wrong(
        name="resumed and new at once",
        words="search --resume run --out other",
        said=("--out", "--resume"),
        place=lambda here: run_folder(here / "run"),
    ),
    Wrong(name="report of no run", words="report pictures", said=("manifest.json of ours",)),
    # Reports
    *(
        Wrong(name=f"report of {place}", words=f"report {place} --json", said=(place,), place=make)
        for place, make in {
            "nowhere": lambda _: None,
            "file": lambda here: (here / "file").write_text("mine"),
            "unfinished": lambda here: make_run(here / "unfinished", Sketch(finished=0)),
            "damaged": lambda here: _damaged_result(here / "damaged"),
        }.items()
    ),
    # Architectures and spaces
    Wrong(name="unknown network", words="cost dna-z --json", said=("dna-a, dna-b",)),
    Wrong(name="no network", words="cost", said=("ARCH",)),
    Wrong(name="two networks", words="cost dna-c dna-d --json", said=("dna-d",)),
    Wrong(name="too few blocks", words="cost 24:k3e3 --json", said=("6 blocks",)),
    Wrong(name="unreadable block", words="cost 24:k3e3/x\ny --json", said=("block 2",)),
    Wrong(name="network's file missing", words="cost nowhere.json", said=("nowhere.json",)),
    Wrong(
        name="network's file wrong",
        words="cost bad.json --json",
        said=("bad.json",),
        place=lambda here: (here / "bad.json").write_text('{"blocks": 5}'),
    ),
    Wrong(
        name="network of another space",
        words="cost net.json --space demo",
        said=("'mine'",),
        place=lambda here: (here / "net.json").write_text(
            json.dumps(Architecture.parse("8:k3e3").to_json("mine"))
        ),
    ),
    Wrong(name="no resolution", words="cost dna-c --resolution 0", said=("--resolution",)),
    Wrong(name="scale too large", words="cost dna-c --scale 8", said=("between 0 and 7",)),
    Wrong(name="space misspelt", words="space mbcon6 --json", said=("did you mean 'mbconv6'?",)),
    # Ratings tables
    *(
        Wrong(name=name, words=words, said=said, place=_put_tables)
        for name, words, said in (
            ("table missing", "select no.csv", ("readable", "'no.csv'")),
            ("table a folder", "select pictures", ("readable", "'pictures'")),
            ("table a picture", "select pictures/a/0.png", ("Parquet or CSV", "pictures/a/0.png'")),
            ("table with a hole", "select hole.csv", ("'loss' must be a finite number", "row 2;")),
            ("table with a gap", "select gap.csv --json", ("block 2 is missing", "row 2")),
            ("cost misspelt", "select good.csv --max mac=3", ("did you mean 'macs'?",)),
            ("cost without a limit", "select good.csv --max macs", ("COST=VALUE", "'macs'")),
            ("limit too small", "select good.csv --max macs=1", ("macs=1;", "is macs=3")),
            (
                "limits that clash",
                "select good.csv --max macs=4 --max ms=6 --json",
                ("macs=4 and ms=6 together", "macs=7 or ms=8"),
            ),
            ("no best", "select good.csv --top 0", ("--top", "0")),
            ("different from none", "select good.csv --diverse 2", ("--diverse 2", "--top 2")),
            (
                "several of Algorithm 2",
                "select good.csv --top 2 --algorithm traversal",
                ("Algorithm 2 finds one", "--top 2", "pareto or milp"),
            ),
            ("algorithm unknown", "select good.csv --algorithm sat", ("'sat'", "'milp'")),
            ("negative time", "select good.csv --time-limit -1", ("--time-limit", "-1")),
            ("front as text", "select good.csv --front a.txt", (".parquet or .csv", "'a.txt'")),
            ("front nowhere", "select good.csv --front no/a.csv", ("a folder", "'no/a.csv'")),
            ("plot as a page", "select good.csv --plot a.pdf", (".svg or .png", "'a.pdf'")),
            ("bench missing", "evaluate no.json good.csv", ("readable", "'no.json'")),
            ("bench a table", "evaluate good.csv good.csv --json", ("JSON", "'good.csv'")),
            (
                "bench of another space",
                "evaluate bench.json good.csv",
                ("block 1 of architecture 2", "is b", "not there"),
            ),
            (
                "bench plot nowhere",
                "evaluate bench.json good.csv --plot no/a.png",
                ("a folder", "'no/a.png'"),
            ),
            ("space of no latency", "measure --space demmo", ("did you mean 'demo'?",)),
            ("no batch", "measure --space demo --batch 0", ("--batch", "0")),
            ("no GPU", "measure --space demo --device cuda", ("a GPU must be there", "use cpu")),
            ("latencies elsewhere", "measure --space tiny.toml --out good.csv", ("'good.csv'",)),
            (
                "ratings of another space",
                "measure --space tiny.toml --ratings good.csv",
                ("space 'tiny'",),
            ),
            (
                "ratings missing",
                "measure --space demo --joined a.parquet",
                ("--joined a.parquet", "give --ratings"),
            ),
        )
    ),
]


def changed_space(here: Path, old: str, new: str, last: bool = False) -> None:
    text = tiny.SPACE
    assert old in text
    at = text.rindex(old) if last else text.index(old)
    (here / "bad.toml").write_text(text[:at] + new + text[at + len(old) :])


def put_materials(here: Path) -> None:
    """What is right: pictures in two classes, a space, a teacher's weights."""
    classes(here / "pictures", a=12, b=12)
    (here / "tiny.toml").write_text(tiny.SPACE)
    _weights(here / "net.safetensors")


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("materials")
    put_materials(here)
    return here


def snapshot(here: Path) -> dict[str, bytes | None]:
    """All files and folders below a place, with what the files hold."""
    return {
        str(p.relative_to(here)): p.read_bytes() if p.is_file() else None for p in here.rglob("*")
    }


@contextmanager
def unwritable(path: Path | None) -> Iterator[None]:
    """Root may write into any folder: for it every write fails, as on a full disk."""
    if path is not None and os.access(path, os.W_OK):
        with small_files_only(0):
            yield
    else:
        yield


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_wrong_input_is_one_clear_line(
    wrong: Wrong,
    materials: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for child in materials.iterdir():
        (tmp_path / child.name).symlink_to(child)
    wrong.place(tmp_path)
    before = snapshot(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dna-ray", *wrong.words.split(" ")])
    monkeypatch.setattr(ray, "init", unreachable)
    if wrong.hidden:
        monkeypatch.setitem(sys.modules, wrong.hidden, None)
    with unwritable(wrong.shut and tmp_path / wrong.shut), pytest.raises(SystemExit) as end:
        main()
    out, shown = capsys.readouterr()
    assert end.value.code == 2, shown
    assert out == ""
    *notes, line = shown.splitlines()
    assert line.startswith("error: "), shown
    assert all(note.startswith("[") for note in notes), shown  # the progress lines of a log file
    assert [said for said in wrong.said if said not in line] == [], line
    assert snapshot(tmp_path) == before


def unreachable(*_: object, **__: object) -> None:
    raise AssertionError("Ray is started only for what is right")

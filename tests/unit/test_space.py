"""Spaces, architectures and exact costs, against the paper's figures and naive counts."""

import json
import math
from itertools import groupby, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dna_ray.errors import UserError
from dna_ray.space import (
    COSTS,
    ZOO,
    Architecture,
    Block,
    BlockChoice,
    Cell,
    NetworkSpec,
    Op,
    Space,
    Trunk,
    builtin_names,
    cost_range,
    cost_table,
    load_space,
    network_costs,
    network_spec,
    read_architecture,
    scale,
)
from dna_ray.space.scaling import COMPOUND
from dna_ray.space.spaces import parse_space

few = settings(max_examples=40, deadline=None)

ops = st.builds(Op, st.integers(0, 5).map(lambda half: 2 * half + 1), st.integers(1, 9))
choices = st.builds(
    BlockChoice, st.integers(1, 4096), st.lists(ops, min_size=1, max_size=5).map(tuple)
)
architectures = st.builds(Architecture, st.lists(choices, min_size=1, max_size=7).map(tuple))


# Sizes


@pytest.mark.parametrize(
    ("name", "size"),
    [("mbconv6", 195_898_498_887_057_408), ("mbconv4", 4**19), ("demo", 96**4)],
)
def test_sizes_of_the_built_in_spaces_are_exact(name: str, size: int) -> None:
    assert load_space(name).architectures == size


@pytest.mark.parametrize("name", builtin_names())
def test_a_cell_has_as_many_distinct_paths_as_it_counts(name: str) -> None:
    for block in load_space(name).blocks:
        for index, cell in enumerate(block.cells):
            paths = list(block.paths(index))
            assert len(set(paths)) == len(paths) == block.count(index)
            assert {len(path) for path in paths} == {cell.layers}


def test_reductions_are_those_of_the_papers_stages() -> None:
    assert load_space("mbconv6").reductions == (4, 8, 16, 16, 32, 32)


# Costs


@pytest.mark.parametrize(
    ("name", "params", "macs", "paper_flops"),
    [
        ("dna-a", 4_243_318, "335.14", "348.16"),
        ("dna-b", 4_918_180, "392.49", "405.78"),
        ("dna-c", 5_273_896, "450.14", "465.92"),
        ("dna-d", 6_409_486, "592.84", "611.20"),
        ("efficientnet-b0", 5_288_548, "385.81", "399.36"),
    ],
)
def test_zoo_costs_are_the_papers(name: str, params: int, macs: str, paper_flops: str) -> None:
    spec = network_spec(load_space("mbconv6"), Architecture.parse(ZOO[name]))
    total = network_costs(spec, 224).total
    assert total.params == params
    assert f"{total.macs / 1e6:.2f}" == macs
    assert f"{total.paper_flops / 1e6:.2f}" == paper_flops


def convolution_side(size: int, kernel: int, stride: int) -> int:
    """Where a kernel can stand: the textbook formula, padded by half the kernel on both sides."""
    return (size + 2 * (kernel // 2) - kernel) // stride + 1


def naive_costs(spec: NetworkSpec, resolution: int) -> tuple[int, int]:
    """Parameters and multiply-adds by a walk that lists every convolution and linear layer."""
    trunk, side = spec.trunk, resolution
    params = macs = 0

    def convolution(inputs: int, outputs: int, kernel: int, stride: int, bias_or_norm: int) -> None:
        """`inputs` counts the channels that one output reads."""
        nonlocal params, macs, side
        side = convolution_side(side, kernel, stride)
        params += inputs * outputs * kernel**2 + bias_or_norm * outputs
        macs += inputs * outputs * kernel**2 * side**2

    def layer(op: Op, width_in: int, width_out: int, stride: int) -> None:
        nonlocal params, macs
        hidden, squeezed = width_in * op.expansion, int(width_in * trunk.se_ratio)
        if op.expansion != 1:
            convolution(width_in, hidden, 1, 1, 2)
        convolution(1, hidden, op.kernel, stride, 2)
        if squeezed:
            params += 2 * hidden * squeezed + squeezed + hidden
            macs += 2 * hidden * squeezed
        convolution(hidden, width_out, 1, 1, 2)

    convolution(3, trunk.stem_width, 3, 2, 2)
    width = trunk.stem_width
    for _ in range(trunk.stem_layers):
        layer(Op(3, 1), width, trunk.stem_out, 1)
        width = trunk.stem_out
    for block in spec.blocks:
        for index, op in enumerate(block.ops):
            layer(op, width, block.width, 1 if index else block.stride)
            width = block.width
    convolution(width, trunk.head_width, 1, 1, 2)
    classifier = trunk.head_width * spec.classes
    return params + classifier + spec.classes, macs + classifier


@pytest.mark.parametrize("resolution", [1, 2, 31, 33, 95, 96, 97, 127, 224, 225, 299])
@pytest.mark.parametrize("coefficient", [0, 3])
@pytest.mark.parametrize(
    ("space", "text"),
    [
        ("mbconv6", ZOO["dna-d"]),
        ("mbconv6", "24:k5e1/40:k9e6/80:k3e3/96:k3e1/160:k5e6/320:k3e6"),
        ("demo", "16:k3e3,k5e6/40:k5e3,k3e3/64:k3e6,k3e3,k5e3/160:k5e6,k5e3"),
    ],
)
def test_costs_equal_a_naive_walk_at_odd_and_even_resolutions(
    space: str, text: str, coefficient: int, resolution: int
) -> None:
    spec = scale(network_spec(load_space(space), Architecture.parse(text), 7), coefficient)
    costs = network_costs(spec, resolution)
    assert (costs.total.params, costs.total.macs) == naive_costs(spec, resolution)


def random_choice(
    space: Space, rng: np.random.Generator
) -> tuple[Architecture, list[tuple[int, int]]]:
    """An architecture, and for each block the cell and the place of the path in `Block.paths`."""
    blocks, places = [], []
    for block in space.blocks:
        cell = int(rng.integers(len(block.cells)))
        digits = rng.integers(len(block.ops), size=block.cells[cell].layers).tolist()
        place = 0
        for digit in digits:
            place = place * len(block.ops) + digit
        path = tuple(block.ops[digit] for digit in digits)
        blocks.append(BlockChoice(block.cells[cell].width, path))
        places.append((cell, place))
    return Architecture(tuple(blocks)), places


@pytest.mark.parametrize("resolution", [96, 97, 224])
@pytest.mark.parametrize("name", ["mbconv6", "demo"])
def test_rows_of_the_cost_table_add_up_to_the_networks(name: str, resolution: int) -> None:
    space, rng = load_space(name), np.random.default_rng(resolution)
    table = cost_table(space, resolution, 10)
    last_widths = list(dict.fromkeys(cell.width for cell in space.blocks[-1].cells))
    for _ in range(300):
        architecture, places = random_choice(space, rng)
        costs = network_costs(network_spec(space, architecture, 10), resolution)
        width = space.trunk.stem_out
        for k, (cell, place) in enumerate(places):
            row = table.paths[k][cell][space.input_widths(k).index(width)][place]
            assert row.tolist() == [costs.blocks[k].params, costs.blocks[k].macs]
            width = space.blocks[k].cells[cell].width
        fixed = table.fixed[last_widths.index(width)]
        assert fixed.tolist() == [costs.fixed.params, costs.fixed.macs]


def test_the_cost_table_holds_every_path_in_the_order_of_paths() -> None:
    space = load_space("demo")
    table = cost_table(space, 96, 2)
    for k, block in enumerate(space.blocks):
        for cell in range(len(block.cells)):
            for costs in table.paths[k][cell]:
                assert costs.shape == (len(list(block.paths(cell))), len(COSTS))
                assert costs.dtype == np.int64


def every_architecture(space: Space) -> list[Architecture]:
    per_block = [
        [
            BlockChoice(cell.width, path)
            for c, cell in enumerate(block.cells)
            for path in block.paths(c)
        ]
        for block in space.blocks
    ]
    return [Architecture(blocks) for blocks in product(*per_block)]


def assert_range_is_that_of_all_networks(space: Space, resolution: int) -> None:
    totals = [
        network_costs(network_spec(space, architecture, 5), resolution).total
        for architecture in every_architecture(space)
    ]
    found = cost_range(space, cost_table(space, resolution, 5))
    assert found == {
        name: (min(values), max(values))
        for name, values in (
            ("params", [total.params for total in totals]),
            ("macs", [total.macs for total in totals]),
        )
    }


MIXED = """
name = "mixed"
resolution = 33
ops = ["k3e3", "k5e1"]
se_ratio = 0.25
head = 24
stem = { width = 8, out = 4 }
[[blocks]]
stride = 2
cells = [{ layers = 1, width = 64 }, { layers = 2, width = 8 }, { layers = 1, width = 8 }]
[[blocks]]
stride = 1
ops = ["k7e6"]
cells = [{ layers = 1, width = 12 }, { layers = 2, width = 4 }]
[[blocks]]
stride = 2
cells = [{ layers = 1, width = 96 }, { layers = 2, width = 16 }, { layers = 1, width = 100 }]
"""


@pytest.mark.parametrize("resolution", [1, 32, 33])
def test_cost_range_of_a_space_with_mixed_widths(resolution: int) -> None:
    space = parse_space(MIXED, "mixed.toml")
    assert space.architectures == len(set(every_architecture(space)))
    assert_range_is_that_of_all_networks(space, resolution)


cells = st.builds(lambda n, w: Cell(layers=n, width=w), st.integers(1, 2), st.integers(1, 40))
small_blocks = st.builds(
    lambda stride, ops, cells: Block(stride=stride, ops=tuple(ops), cells=tuple(cells)),
    st.integers(1, 2),
    st.lists(ops, min_size=1, max_size=2, unique=True),
    st.lists(cells, min_size=1, max_size=3, unique=True),
)


@settings(max_examples=20, deadline=None)
@given(st.lists(small_blocks, min_size=1, max_size=2), st.integers(1, 40), st.integers(1, 20))
def test_cost_range_equals_brute_force(blocks: list[Block], resolution: int, out: int) -> None:
    trunk = Trunk(stem_width=4, stem_out=out, head_width=8)
    space = Space(name="s", resolution=resolution, trunk=trunk, blocks=tuple(blocks))
    assert_range_is_that_of_all_networks(space, resolution)


# Scaling


def test_dna_c_scaled_at_seven_has_the_published_size() -> None:
    spec = network_spec(load_space("mbconv6"), Architecture.parse(ZOO["dna-c"]))
    assert network_costs(scale(spec, 7), 224).total.params == 64_895_312


@few
@given(st.lists(choices, min_size=4, max_size=4), st.integers(0, 7))
def test_scaling_deepens_every_block_and_keeps_its_ops_in_order(
    blocks: list[BlockChoice], coefficient: int
) -> None:
    spec = network_spec(load_space("demo"), Architecture(tuple(blocks)))
    scaled = scale(spec, coefficient)
    if coefficient == 0:
        assert scaled == spec
    for before, after in zip(spec.blocks, scaled.blocks, strict=True):
        assert len(after.ops) == math.ceil(len(before.ops) * COMPOUND[coefficient].depth)
        assert [op for op, _ in groupby(after.ops)] == [op for op, _ in groupby(before.ops)]
        assert after.stride == before.stride
        assert after.width >= 0.9 * before.width * COMPOUND[coefficient].width


@pytest.mark.parametrize("coefficient", [-1, 8])
def test_a_compound_coefficient_out_of_range_is_refused(coefficient: int) -> None:
    spec = network_spec(load_space("mbconv6"), Architecture.parse(ZOO["dna-c"]))
    with pytest.raises(UserError, match=f"between 0 and 7, but is {coefficient}"):
        scale(spec, coefficient)


# Text and JSON forms


@few
@given(architectures)
def test_the_text_form_round_trips(architecture: Architecture) -> None:
    assert Architecture.parse(str(architecture)) == architecture


@few
@given(architectures, st.sampled_from(["", " ", "  \t"]))
def test_blanks_in_the_text_form_do_not_matter(architecture: Architecture, blank: str) -> None:
    text = str(architecture)
    for mark in "/,":
        text = text.replace(mark, f"{blank}{mark}{blank}")
    assert Architecture.parse(blank + text.replace(":", f":{blank}") + blank) == architecture


@few
@given(architectures, st.text('aZ5-/"\\é', max_size=9))
def test_the_json_form_round_trips(architecture: Architecture, space: str) -> None:
    tree = json.loads(json.dumps(architecture.to_json(space)))
    assert tree["space"] == space
    assert Architecture.from_json(tree, "here") == architecture


@few
@given(st.lists(choices, min_size=4, max_size=4), st.integers(1, 2000), st.integers(0, 7))
def test_a_network_specification_round_trips(
    blocks: list[BlockChoice], classes: int, coefficient: int
) -> None:
    spec = scale(
        network_spec(load_space("demo"), Architecture(tuple(blocks)), classes), coefficient
    )
    assert NetworkSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "second",
    ["", "40", "40:", ":k3e3", "0:k3e3", "-8:k3e3", "4.5:k3e3", "x:k3e3"]
    + [f"40:{op}" for op in ("k3", "k4e3", "k3e0", "k0e3", "3e3", "k3e3,", "k3e3,,k5e3", "k3e3;")],
)
def test_a_wrong_text_names_its_block(second: str) -> None:
    with pytest.raises(UserError, match="block 2"):
        Architecture.parse(f"24:k3e3/{second}/80:k3e6")


def one_block(**entries: object) -> object:
    return {"space": "demo", "blocks": [{"width": 24, "ops": ["k3e3"]} | entries]}


@pytest.mark.parametrize(
    "tree",
    [
        None,
        5,
        "24:k3e3",
        [],
        {},
        {"blocks": 5},
        {"blocks": []},
        {"blocks": [5]},
        {"blocks": [{}]},
        {"blocks": [{"width": 24}]},
        {"blocks": [{"ops": ["k3e3"]}]},
        one_block(width="wide"),
        one_block(width=None),
        one_block(width=24.5),
        one_block(width=True),
        one_block(width=0),
        one_block(width=-24),
        one_block(ops=5),
        one_block(ops=[]),
        one_block(ops=[3]),
        one_block(ops=[None]),
        one_block(ops=["k4e3"]),
        one_block(ops="k3e3"),
    ],
    ids=json.dumps,
)
def test_wrong_json_is_refused(tree: object) -> None:
    with pytest.raises(UserError):
        Architecture.from_json(tree, "'net.json'")


@pytest.mark.parametrize("name", ["mbconv6", "demo"])
def test_an_architecture_finds_its_cells(name: str) -> None:
    space, rng = load_space(name), np.random.default_rng(0)
    for _ in range(50):
        architecture, places = random_choice(space, rng)
        assert architecture.cells(space) == tuple(cell for cell, _ in places)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("16:k3e1,k3e1/32:k3e1,k3e1/64:k3e1,k3e1", "4 blocks"),
        ("16:k3e1,k3e1/33:k3e1,k3e1/64:k3e1,k3e1/128:k3e1,k3e1", "block 2"),
        ("16:k3e1,k3e1/32:k3e1,k3e1/64:k3e1/128:k3e1,k3e1", "block 3"),
        ("16:k3e1,k3e1/32:k3e1,k3e1/64:k3e1,k3e1/128:k3e1,k7e1", "block 4"),
        ("16:k3e1,k3e1/32:k3e1,k3e1/64:k3e1,k3e1/160:k3e1,k3e1,k3e1", "block 4"),
    ],
)
def test_an_architecture_of_another_space_is_told_where_it_differs(text: str, place: str) -> None:
    with pytest.raises(UserError, match=place):
        Architecture.parse(text).cells(load_space("demo"))


def test_an_architecture_is_read_from_zoo_text_and_file(tmp_path: Path) -> None:
    text = ZOO["dna-b"]
    file = tmp_path / "net.json"
    file.write_text(json.dumps(Architecture.parse(text).to_json("mbconv6")))
    expected = Architecture.parse(text)
    assert read_architecture("dna-b", ZOO) == (expected, None)
    assert read_architecture(text, ZOO) == (expected, None)
    assert read_architecture(str(file), ZOO) == (expected, "mbconv6")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe\x00"])
def test_a_wrong_architecture_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "net.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"net\.json"):
        read_architecture(str(file), ZOO)


def test_the_space_that_an_architecture_file_names_is_a_name(tmp_path: Path) -> None:
    file = tmp_path / "net.json"
    file.write_text(json.dumps(Architecture.parse("24:k3e3").to_json("demo") | {"space": 5}))
    with pytest.raises(UserError, match=r"net\.json"):
        read_architecture(str(file), ZOO)


def test_a_word_that_is_no_architecture_lists_the_zoo() -> None:
    with pytest.raises(UserError, match=r"dna-a.*'dna-z' is given"):
        read_architecture("dna-z", ZOO)


# Spaces in TOML

MINE = """\
name = "mine"
resolution = 64
ops = ["k3e3", "k5e3"]
se_ratio = 0.5
activation = "relu"
head = 32
stem = { width = 8, out = 4 }

[[blocks]]
stride = 2
cells = [{ layers = 1, width = 6 }]

[[blocks]]
stride = 1
ops = ["k7e6"]
cells = [{ layers = 2, width = 9 }, { layers = 1, width = 9 }]
"""


def test_a_space_of_ones_own_is_read_as_written(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(MINE)
    assert load_space(str(file)) == Space(
        name="mine",
        resolution=64,
        trunk=Trunk(stem_width=8, stem_out=4, head_width=32, se_ratio=0.5, activation="relu"),
        blocks=(
            Block(stride=2, ops=(Op(3, 3), Op(5, 3)), cells=(Cell(layers=1, width=6),)),
            Block(
                stride=1, ops=(Op(7, 6),), cells=(Cell(layers=2, width=9), Cell(layers=1, width=9))
            ),
        ),
    )


def test_a_single_space_keeps_the_first_cell_of_every_block() -> None:
    whole, single = load_space("demo"), load_space("demo-single")
    assert single.name == "demo-single"
    assert [block.cells for block in single.blocks] == [block.cells[:1] for block in whole.blocks]
    assert single.architectures == 16**4
    assert (single.trunk, single.reductions) == (whole.trunk, whole.reductions)


FIRST = "{ layers = 1, width = 6 }"
BLOCKS = MINE[MINE.index("[[blocks]]") :]


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('"mine"', "mine", "must be TOML"),
        ('name = "mine"', "", "'name'"),
        ('name = "mine"', "name = 3", "'name'"),
        ('name = "mine"', 'nane = "mine"', "'name'"),
        ("resolution = 64", 'resolution = "64"', "'resolution'"),
        ("resolution = 64", "resolution = true", "'resolution'"),
        ("resolution = 64", "resolution = 64.0", "'resolution'"),
        ("resolution = 64", "resolution = 0", "'resolution'"),
        ("resolution = 64", "resolutoin = 64", "did you mean 'resolution'"),
        ("head = 32", "head = -1", "'head'"),
        ("head = 32", "head = [32]", "'head'"),
        ("se_ratio = 0.5", "se_ratio = 1.5", "se_ratio"),
        ("se_ratio = 0.5", "se_ratio = -0.5", "se_ratio"),
        ("se_ratio = 0.5", "se_ratio = nan", "se_ratio"),
        ("se_ratio = 0.5", "se_ratio = '0.5'", "'se_ratio'"),
        ("se_ratio = 0.5", "se_ratio = false", "'se_ratio'"),
        ('"relu"', '"rellu"', "activation.*did you mean 'relu'"),
        ('"relu"', "5", "'activation'"),
        ("{ width = 8, out = 4 }", "8", "'stem'"),
        ("{ width = 8, out = 4 }", "{ width = 0, out = 4 }", "stem: 'width'"),
        ("{ width = 8, out = 4 }", "{ width = 8, out = 4.5 }", "stem: 'out'"),
        ("{ width = 8, out = 4 }", "{ width = 8, outs = 4 }", "stem.*did you mean 'out'"),
        ('ops = ["k3e3", "k5e3"]', "", "'ops'"),
        ('ops = ["k3e3", "k5e3"]', 'ops = "k3e3"', "'ops'"),
        ('ops = ["k3e3", "k5e3"]', "ops = []", "ops"),
        ('ops = ["k3e3", "k5e3"]', 'ops = ["k3e3", "k3e3"]', "ops"),
        ('ops = ["k3e3", "k5e3"]', 'ops = ["k3e3", "x5e3"]', "ops"),
        ('ops = ["k3e3", "k5e3"]', 'ops = ["k3e3", "k4e3"]', "ops"),
        ('ops = ["k3e3", "k5e3"]', "ops = [3]", "ops"),
        (BLOCKS, "", "'blocks'"),
        (BLOCKS, "blocks = []", "block"),
        (BLOCKS, "blocks = 2", "'blocks'"),
        (BLOCKS, "blocks = [2]", "block 1"),
        ("stride = 1", "", "block 2.*'stride'"),
        ("stride = 1", "stride = 3", "block 2.*'stride'"),
        ("stride = 1", "stride = 0", "block 2.*'stride'"),
        ("stride = 1", "stride = true", "block 2.*'stride'"),
        ("stride = 1", 'stride = "1"', "block 2.*'stride'"),
        ("stride = 1", "stride = 1\nstrides = 1", "block 2.*did you mean 'stride'"),
        ('["k7e6"]', "[]", "block 2.*ops"),
        ('["k7e6"]', '["k8e6"]', "block 2.*ops"),
        ('["k7e6"]', '["seven"]', "block 2.*ops"),
        ('["k7e6"]', '["k7e6", "k7e6"]', "block 2.*ops"),
        ('["k7e6"]', '"k7e6"', "block 2.*'ops'"),
        (f"cells = [{FIRST}]", "", "block 1.*'cells'"),
        (f"cells = [{FIRST}]", "cells = []", "block 1.*cell"),
        (f"cells = [{FIRST}]", "cells = 3", "block 1.*'cells'"),
        (f"cells = [{FIRST}]", "cells = [3]", "block 1, cell 0"),
        (f"cells = [{FIRST}]", f"cells = [{FIRST}, {FIRST}]", "block 1.*cell"),
        (FIRST, "{ layers = 1 }", "block 1, cell 0.*'width'"),
        (FIRST, "{ width = 6 }", "block 1, cell 0.*'layers'"),
        (FIRST, "{ layers = 0, width = 6 }", "block 1, cell 0.*'layers'"),
        (FIRST, "{ layers = 1, width = -6 }", "block 1, cell 0.*'width'"),
        (FIRST, "{ layers = 1, width = 6.0 }", "block 1, cell 0.*'width'"),
        (FIRST, "{ layers = 1, width = 6, depth = 1 }", "block 1, cell 0.*'depth'"),
        ("{ layers = 1, width = 9 }", "{ layers = 1, width = 0 }", "block 2, cell 1.*'width'"),
    ],
)
def test_a_wrong_space_file_is_told_its_place(old: str, new: str, place: str) -> None:
    assert MINE.count(old) == 1
    with pytest.raises(UserError, match=place) as caught:
        parse_space(MINE.replace(old, new), "mine.toml")
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)
    missing = "must have" in str(caught.value) or "must be TOML" in str(caught.value)
    if not missing:  # something wrong is written, and where is said
        line = 1 + MINE[: MINE.index(old)].count("\n") + new.count("\n")
        assert f"mine.toml, line {line}: " in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe name", b"= 5"])
def test_an_unreadable_space_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.toml"):
        load_space(str(file))


def test_a_misspelt_space_is_given_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'mbconv6'"):
        load_space("mbcon6")

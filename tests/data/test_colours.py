"""Colours to ids: exactly, from every kind of table; what no class has is named, never guessed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adapt.data.colour_tables import ignored_colours, is_table, read_colour_table
from adapt.data.colours import ColourTable, UnknownColours, colours_of
from adapt.data.label_maps import LABEL_SPACES
from adapt.data.raw_labels import read_colours
from adapt.errors import DataError, JobError

TABLES = {
    "classes.csv": "name,r,g,b,id\nroad,128,64,128,7\n# a comment\n\ncar, 0, 0, 142, 26\n",
    "ids.csv": "id,Red,Green,Blue,label\n7,128,64,128,road\n26,0,0,142,car\n",
    "hex.csv": "name,colour,id\nroad,#804080,7\ncar,00008E,26\n",
    "classes.tsv": "name\tr\tg\tb\tid\nroad\t128\t64\t128\t7\ncar\t0\t0\t142\t26\n",
    "excel.CSV": "name;r;g;b;id;\nroad;128;64;128;7;\ncar;0;0;142;26;\n",
    "triple.csv": "name;colour;id\nroad;128,64,128;7\ncar;0,0,142;26\n",
    "hash.csv": "colour,name,id\n# a comment\n#804080,road,7\n#00008e,car,26\n",
    "classes.yaml": "- {name: road, colour: [128, 64, 128], id: 7}\n"
    "- {name: car, color: '#00008e', id: 26}\n",
}
UNNUMBERED = {
    "order.csv": "name,r,g,b\nroad,128,64,128\ncar,0,0,142\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nroad:128,64,128::\ncar:0,0,142::\n",
    "order.yaml": "road: [128, 64, 128]\ncar: [0, 0, 142]\n",
}
PIXELS = np.array([[[128, 64, 128], [0, 0, 142]], [[0, 0, 142], [0, 0, 142]]], np.uint8)


@pytest.mark.parametrize("name", [*TABLES, *UNNUMBERED])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_every_kind(name: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text({**TABLES, **UNNUMBERED}[name], encoding=encoding)
    assert is_table(tmp_path / name)
    table = read_colour_table(tmp_path / name)
    assert [one.name for one in table.classes] == ["road", "car"]
    road, car = (7, 26) if name in TABLES else (0, 1)
    assert table.ids_of(PIXELS, tmp_path).tolist() == [[road, car], [car, car]]


def test_the_colours_of_a_label_space_become_the_dataset_s_ids() -> None:
    space = LABEL_SPACES["cityscapes19"]
    table = colours_of(space, "synthia")
    assert table.ids_of(PIXELS, Path()).tolist() == [[3, 8], [8, 8]]
    with pytest.raises(JobError, match="expected ids for dataset 'mine'"):
        colours_of(space, "mine")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_labels_in_every_mode(mode: str, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).convert(mode, palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    table = read_colour_table_of("order.csv", tmp_path)
    assert read_colours(tmp_path / "a.png", table).tolist() == [[0, 1], [1, 1]]


def read_colour_table_of(name: str, folder: Path) -> ColourTable:
    (folder / name).write_text({**TABLES, **UNNUMBERED}[name])
    return read_colour_table(folder / name)


def test_unknown_colours_are_named_with_pixels_and_the_nearest_class(tmp_path: Path) -> None:
    pixels = PIXELS.copy()
    pixels[1] = [[127, 64, 128], [0, 0, 0]]
    pixels = np.concatenate([pixels, np.zeros_like(pixels)])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(UnknownColours) as caught:
        read_colours(tmp_path / "a.png", read_colour_table_of("order.csv", tmp_path))
    assert caught.value.pixels == {(127, 64, 128): 1, (0, 0, 0): 5}
    assert (
        "a.png: 2 unknown colours: (0, 0, 0) in 5 pixels, nearest 'car' (0, 0, 142); "
        "(127, 64, 128) in 1 pixel, nearest 'road' (128, 64, 128)" in str(caught.value)
    )


def test_many_unknown_colours_are_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UnknownColours, match=r"81 unknown colours: .*; and 76 more colours"):
        read_colours(tmp_path / "a.png", read_colour_table_of("order.csv", tmp_path))


def test_ignored_colours_are_255(tmp_path: Path) -> None:
    table = read_colour_table_of("order.csv", tmp_path).with_ignored(ignored_colours(["0,0,0"]))
    assert table.ids_of(np.zeros((1, 1, 3), np.uint8), tmp_path).tolist() == [[255]]


@pytest.mark.parametrize("value", ["0,0", "0,0,256", "black", "0,0,-1", "1,2,3,4"])
def test_an_ignored_colour_that_is_none(value: str) -> None:
    with pytest.raises(JobError, match=r"--ignore-colour: expected R,G,B with numbers from 0"):
        ignored_colours([value])


def test_transparent_pixels_are_refused(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS).convert("RGBA")
    image.putpixel((0, 0), (128, 64, 128, 0))
    image.save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png: expected opaque colours, got transparent pixels"):
        read_colours(tmp_path / "a.png", read_colour_table_of("order.csv", tmp_path))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["P", "RGB"])
@pytest.mark.parametrize("form", ["bytes", "colour"])
def test_a_transparent_palette_or_colour_is_refused_where_it_is_used(
    mode: str, form: str, tmp_path: Path
) -> None:
    image = Image.fromarray(PIXELS).convert(mode, palette=Image.Palette.ADAPTIVE, colors=2)
    first, unused = {
        ("P", "bytes"): (b"\x80\xff", b"\xff\xff\0"),
        ("P", "colour"): (0, 200),
        ("RGB", "bytes"): ((128, 64, 128), (9, 9, 9)),
        ("RGB", "colour"): ((0, 0, 142), (1, 2, 3)),
    }[mode, form]
    table = read_colour_table_of("order.csv", tmp_path)
    image.save(tmp_path / "a.png", transparency=first)
    with pytest.raises(DataError, match=r"expected opaque colours, got transparent pixels"):
        read_colours(tmp_path / "a.png", table)
    image.save(tmp_path / "b.png", transparency=unused)
    assert read_colours(tmp_path / "b.png", table).tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "road,128,64,128\n", "expected the header name,r,g,b or name,r,g,b,id"),
        ("a.csv", "", "expected the header"),
        ("a.csv", "name,r,g,b\n", "expected rows of name and colour, got none"),
        ("a.csv", "name,r,g,b\nroad,128,64\n", "row 1: expected a name, a colour of three"),
        ("a.csv", "name,r,g,b,id\nroad,1,2,3,256\n", "row 1: expected a name"),
        (
            "a.csv",
            "name,r,g,b,id\nroad,1,2,3,0\ncar,1,2,3,1\n",
            "'road' and 'car' for (1, 2, 3)",
        ),
        (
            "a.csv",
            "name,r,g,b,id\nroad,1,2,3,1\nhouse,4,5,6,\ncar,7,8,9,5\n",
            "row 2: expected an id",
        ),
        ("a.csv", "name,r,g,b,id\nroad,1,2,3,\n", "row 1: expected an id"),
        ("a.csv", "name,r,g,b,id\nroad,1,2,3,0\ncar,4,5,6\n", "row 2: expected an id"),
        ("a.csv", "name,r,g,b,train_id\nroad,1,2,3,10\n", "and id, each once, got 'train_id'"),
        ("a.csv", "name,r,g,b,id,id\nroad,1,2,3,10,11\n", "two columns 'id'"),
        ("a.csv", "class,label,r,g,b\nroad,x,1,2,3\n", "each once, got 'label'"),
        ("a.csv", "name,r,g,b\nroad,1,2,3,10\n", "got a cell without a column"),
        ("a.csv", ",name,r,g,b\n0,road,1,2,3\n", "each once, got ''"),
        ("a.yaml", "- {name: road, colour: [1, 2, 3], ids: 3}\n", "each once, got 'ids'"),
        (
            "a.yaml",
            "- {colour: [1, 2, 3], id: 0}\n- {colour: [4, 5, 6]}\n",
            "row 2: expected an id",
        ),
        ("a.yaml", "road\n", "expected a list of classes"),
        ("a.yaml", "[", "expected valid YAML, got: "),
        ("a.yaml", "- {name: road}\n", "row 1: expected a name"),
        ("a.txt", "road:1,2,3::\ncar\n", "row 2: expected a name"),
    ],
)
def test_wrong_tables_are_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(JobError) as caught:
        read_colour_table(tmp_path / name)
    assert "--colours: " in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "road: [1, 2, 3]\ncar: [4, 5, 6]\nroad: [7, 8, 9]\n",
            "road: expected once, got it on lines 1 and 3. Fix: keep one.",
        ),
        (
            "- {name: road, colour: [1, 2, 3], colour: [4, 5, 6]}\n",
            "colour: expected once, got it twice on line 1",
        ),
        ("road: [1, 2, 3\n", "classes.yaml: line 2: expected valid YAML, got: "),
        ("&a road: [1, 2, 3]\ncar: !!set {}\n", "got the tag !!set. Fix: remove the tag."),
    ],
)
def test_yaml_tables_are_read_strictly(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text(content)
    for read in (is_table, read_colour_table):
        with pytest.raises(JobError) as caught:
            read(tmp_path / "classes.yaml")
        assert str(caught.value).startswith(f"--colours: {tmp_path / 'classes.yaml'}: ")
        assert message in str(caught.value)


def test_names_that_yaml_1_1_takes_for_other_values_are_names(tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text("off: [1, 2, 3]\nno: [4, 5, 6]\n2024-01-01: [7, 8, 9]\n")
    table = read_colour_table(tmp_path / "classes.yaml")
    assert [one.name for one in table.classes] == ["off", "no", "2024-01-01"]

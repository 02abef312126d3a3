"""Pairs: what is read from sources, what is left out, one's own, and that no copy crosses the split."""

import sysconfig

import pytest

from matgpt.embeddings.pairs import Pairs, as_pairs, load_pairs, words

from .conftest import assert_refused

LONG = "x = first_thing(1)\n    y = second_thing(x)\n    return [x, y, 'and this makes the code long enough']"
FILE = f'''
class Reader:
    def read_file(self):
        """Read the file from disk. And more of it."""
        {LONG.replace(chr(10), chr(10) + "    ")}

    def bare_name(self, other):
        {LONG.replace(chr(10), chr(10) + "    ")}

async def short():
    """A docstring that is long enough."""
    return 1

def one_line(): """A docstring that is long enough."""; return {"'" + "x" * 90 + "'"}

async def wait_for_it():
    """
    Wait until
    it is there

    A second paragraph.
    """
    {LONG}
'''


@pytest.fixture
def folder(tmp_path):
    files = dict.fromkeys(("a.py", "b/tests/inner.py", "test/c.py"), FILE)
    files |= {"broken.py": "def (", "nulls.py": "a\0", "latin.py": "# caf\xe9"}
    files["b/inner.py"] = FILE.replace("Read the file", "Open the file").replace("x", "z")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" * (name == "a.py") + text.encode("latin-1"))
    return tmp_path


def test_words_split_names_at_capitals_and_underscores():
    expected = ["parse", "http", "header", "2", "foo", "bar", "get", "url", "über", "maß"]
    assert words("parse_HTTPHeader2 fooBar getURL Über_maß!") == expected


def test_the_first_sentence_against_the_code_without_docstring(folder):
    pairs = load_pairs(folder)
    functions = ("Reader.read_file", "wait_for_it")
    assert pairs.names == [f"{module}.{name}" for module in ("a", "b.inner") for name in functions]
    assert pairs.modules == ["a", "a", "b", "b"] and len(pairs) == 4
    assert pairs.queries[:2] == ["Read the file from disk.", "Wait until it is there"]
    assert pairs.documents[0] == f"def read_file(self):\n    {LONG}"
    assert "Wait" not in pairs.documents[1] and pairs.documents[1].startswith("async def wait_for_it():\n")


def test_a_pair_needs_20_characters_of_docstring_and_80_of_code(tmp_path):
    for docstring, code in ((19, 80), (20, 79), (20, 80)):
        doc, value = "d" * docstring, "1" * (code - len("def f():.    return "))
        (tmp_path / "a.py").write_text(f'def f():\n    """{doc}"""\n    return {value}\n')
        if (docstring, code) != (20, 80):
            assert_refused("holds no Python source", load_pairs, tmp_path)
    (tmp_path / "b.py").write_text((tmp_path / "a.py").read_text().replace(doc, "e" * 20))
    pairs = load_pairs(tmp_path)
    assert len(pairs.documents[0]) == 80 and pairs.queries == [doc], "the same code again makes no pair"


def test_lines_are_those_of_the_parser(tmp_path):
    """A form feed or a separator in a string ends no line."""
    (tmp_path / "a.py").write_bytes(("\x0c\nx = '\x1c \u2028'\n" + FILE).replace("\n", "\r\n").encode())
    pairs = load_pairs(tmp_path)
    assert pairs.queries[0] == "Read the file from disk."
    assert pairs.documents[0] == f"def read_file(self):\n    {LONG}"


def test_functions_without_docstring_are_asked_for_by_name(folder):
    pairs = load_pairs(folder, queries="names")
    assert pairs.names == ["a.Reader.bare_name", "b.inner.Reader.bare_name"]
    assert pairs.queries == ["bare name"] * 2 and "bare_name" not in pairs.documents[0]
    assert pairs.plain().documents[0].startswith("def self other x first thing 1 y second")


def test_split_holds_out_modules_and_leaves_copies_out():
    documents = [" ".join(f"{letter}{i}" for letter in "abcdefgh") for i in range(40)]
    modules = [f"m{i % 10}" for i in range(40)]
    names = [f"{module}.f{i}" for i, module in enumerate(modules)]
    pairs = Pairs([f"q{i}" for i in range(40)], documents, names, modules)
    train, test = pairs.split(held_out=0.2, seed=1)
    assert len(set(test.modules)) == 2 and len(train) + len(test) == 40
    assert not set(train.modules) & set(test.modules)
    assert pairs.split(0.2, 1)[1].names == test.names != pairs.split(0.2, 2)[1].names
    question, same_name = test.queries[0], "o." + test.names[0].partition(".")[2]
    others = [
        ("new", f"def g {test.documents[0]} end", "o.copy"),
        ("new", "all else is new", "o.new"),
        (question, "x " * 9, same_name),
        (question, "y " * 9, "o.another"),
    ]
    assert Pairs(*zip(*others), ["o"] * 4).without(test).names == ["o.new", "o.another"]
    copies = Pairs(["q", "r", "s"], documents[:1] * 3, ["a.f", "b.g", "c.h"], ["a", "b", "c"])
    assert_refused("held_out=0.34 of 3 modules leaves a part empty", copies.split, 0.34)


def test_copies_share_half_of_their_runs_of_five_words():
    original = "def f a b: return sum of all the things that are in a and b"
    documents = [original, original.replace("def f", "def g"), "return sum of nothing", "b a"]
    pairs = as_pairs("pairs", (tuple("abcd"), documents))
    assert as_pairs("pairs", pairs) is pairs and pairs.names == pairs.modules == [""] * 4
    assert pairs.without(as_pairs("test", (["x"], [original]))).queries == ["c", "d"]
    assert pairs.without(as_pairs("test", (["c"], ["new"]))).queries == ["a", "b", "d"]
    assert pairs.without(pairs.take([])).queries == list("abcd")
    one_of_two_runs = as_pairs("pairs", (["e"], ["1 2 3 4 5 6"]))
    assert not len(one_of_two_runs.without(as_pairs("test", (["x"], ["1 2 3 4 5 7"]))))
    assert pairs.digest() == pairs.take(range(4)).digest() != pairs.take([1, 0, 2, 3]).digest()


def test_pairs_are_two_lists_of_texts():
    unequal, empty, none, number = (["a", "b"], ["c"]), (["a", ""], ["c", "d"]), (["a"], [None]), (["a"], 3)
    for pairs in unequal, empty, none, number, ("a", "c"), (None, ["c"]), 3, [("a", "b")], (["a"],) * 3:
        assert_refused("val_pairs=.* must be Pairs or two lists", as_pairs, "val_pairs", pairs)


def test_errors_name_what_is_wrong(folder, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(empty)})
    message = "empty holds no Python source with functions for queries='docstrings'"
    assert_refused(message, load_pairs, empty)
    assert_refused("empty holds no Python source", load_pairs)
    assert_refused("there is no folder '.*missing'", load_pairs, tmp_path / "missing")
    assert_refused("there is no folder", load_pairs, folder / "a.py")
    assert_refused("queries='all'", load_pairs, queries="all")
    assert_refused("held_out=0.1 of 2 modules leaves a part empty", load_pairs(folder).split, 0.1)
    assert_refused("held_out=-0.2 must be", load_pairs(folder).split, -0.2)

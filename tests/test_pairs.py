"""Pairs of a docstring and its code: what is taken, what is left out, and that no copy crosses the split."""

import sysconfig

import pytest

import matgpt
from matgpt.embeddings.pairs import Pairs, as_pairs, copied, load_pairs, words

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
    for name, text in {
        "a.py": FILE,
        "b/inner.py": FILE.replace("Read the file", "Open the file").replace("x", "z"),
        "b/tests/inner.py": FILE,
        "test/c.py": FILE,
        "broken.py": "def (",
        "nulls.py": "a\0",
        "latin.py": "# caf\xe9",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    return tmp_path


def test_words_split_names_at_capitals_and_underscores():
    assert words("parse_HTTPHeader2 fooBar getURL Über_maß!") == [
        "parse",
        "http",
        "header",
        "2",
        "foo",
        "bar",
        "get",
        "url",
        "über",
        "maß",
    ]


def test_the_first_sentence_against_the_code_without_docstring(folder):
    pairs = load_pairs(folder)
    assert pairs.names == [
        "a.Reader.read_file",
        "a.wait_for_it",
        "b.inner.Reader.read_file",
        "b.inner.wait_for_it",
    ]
    assert pairs.modules == ["a", "a", "b", "b"] and len(pairs) == 4
    assert pairs.queries[:2] == ["Read the file from disk.", "Wait until it is there"]
    assert pairs.documents[0] == f"def read_file(self):\n    {LONG}"
    assert "Wait" not in pairs.documents[1] and pairs.documents[1].startswith("async def wait_for_it():\n")


def test_lines_are_those_of_the_parser(tmp_path):
    """Neither a form feed nor a separator in a string ends one."""
    (tmp_path / "a.py").write_bytes(("\x0c\nx = '\x1c \u2028'\n" + FILE).replace("\n", "\r\n").encode())
    pairs = load_pairs(tmp_path)
    assert pairs.queries[0] == "Read the file from disk."
    assert pairs.documents[0] == f"def read_file(self):\n    {LONG}"


def test_functions_without_docstring_are_asked_for_by_name(folder):
    pairs = load_pairs(folder, queries="names")
    assert pairs.names == ["a.Reader.bare_name", "b.inner.Reader.bare_name"]
    assert pairs.queries == ["bare name"] * 2 and "bare_name" not in pairs.documents[0]
    assert pairs.plain().documents[0].startswith("def self other x first thing 1 y second")


def test_split_parts_by_module_and_takes_copies_out():
    bodies = [f"a{i} b{i} c{i} d{i} e{i} f{i} g{i} h{i}" for i in range(40)]
    pairs = Pairs(
        [f"q{i}" for i in range(40)],
        bodies,
        [f"m{i % 10}.f{i}" for i in range(40)],
        [f"m{i % 10}" for i in range(40)],
    )
    train, test = pairs.split(held_out=0.2, seed=1)
    assert len(set(test.modules)) == 2 and len(train) + len(test) == 40
    assert not set(train.modules) & set(test.modules)
    assert pairs.split(0.2, 1)[1].names == test.names != pairs.split(0.2, 2)[1].names
    body = test.documents[0]
    others = Pairs(
        ["new"] * 4,
        [f"def g {body} end", "all else is new here and there", "only a few words of it", "x " * 9],
        ["o.g", "o.h", "o.i", "o." + test.names[0].partition(".")[2]],
        ["o"] * 4,
    )
    others.queries[3] = test.queries[0]
    assert others.without(test).names == [
        "o.h",
        "o.i",
    ]  # a copy, and the same question of the same name, are gone


def test_copies_are_found_by_runs_of_words():
    original = "def f a b: return sum of all the things that are in a and b"
    assert copied(
        [original, original.replace("def f", "def g"), "return sum of nothing", "b a"], [original]
    ) == [True, True, False, False]


@pytest.mark.slow
def test_the_library_of_this_python():
    pairs = matgpt.load_pairs("python-stdlib")
    assert len(pairs) > 2000 and len(set(pairs.modules)) > 80
    assert all(len(column) == len(pairs) for column in vars(pairs).values())
    assert not {"test", "idlelib", "site-packages"} & set(pairs.modules)
    train, test = pairs.split(held_out=0.2, seed=0)
    assert not any(copied(train.documents, test.documents))


def test_errors_name_what_is_wrong(folder, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    for source, match in (
        (tmp_path / "empty", "empty holds no"),
        (tmp_path / "missing", "there is no folder .*missing"),
    ):
        with pytest.raises(ValueError, match=match):
            load_pairs(source)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "empty")})
    with pytest.raises(ValueError, match="empty holds no Python source"):
        load_pairs()
    with pytest.raises(ValueError, match="queries='all'"):
        load_pairs(folder, queries="all")
    for share in (0, 1, 0.1, "x"):
        with pytest.raises(ValueError, match="held_out"):
            load_pairs(folder).split(share)


def test_a_digest_tells_pairs_apart():
    pairs = Pairs(["a", "b"], ["c", "d"], ["m.e", "m.f"], ["m", "m"])
    assert pairs.digest() == pairs.take([0, 1]).digest() != pairs.take([1, 0]).digest()
    assert len(pairs.digest()) == 16


@pytest.mark.parametrize(
    "queries, documents, match",
    [
        (["a"], ["b", "c"], "1 queries need as many documents, not 2"),
        (["a", ""], ["b", "c"], r"queries\[1\]='' must be a text"),
        (["a"], [3], r"documents\[0\]=3 must be a text"),
        ("a", ["b"], "queries='a' must be a list"),
        (["a"], None, "documents=None must be a list"),
    ],
)
def test_two_lists_of_texts_are_checked(queries, documents, match):
    with pytest.raises(ValueError, match=match):
        Pairs(queries, documents)
    assert Pairs(("a",), iter(["b"])).names == [""]
    with pytest.raises(ValueError, match="pairs=3 must be Pairs or two lists"):
        as_pairs("pairs", 3)

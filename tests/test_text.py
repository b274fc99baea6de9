"""Sequences of tokens: language models of characters, sentiment of sentences, vocabularies, corruptions."""

import inspect
import itertools
import statistics

import numpy as np
import pytest
import torch
from bayesprune.datasets import ood, shift
from bayesprune.datasets.errors import UsageError
from bayesprune.datasets.load import load
from bayesprune.datasets.source import Source, checked
from bayesprune.datasets.text import characters
from bayesprune.datasets.tokens import RESERVED, encoded, known, numbered, padded, sentences

ABC = (*RESERVED, "a", "b", "c")


@pytest.fixture
def sentiment(tmp_path, monkeypatch):
    """A folder with the published layouts of SST-2 and of the movie review sentences, small."""
    monkeypatch.setenv("BAYESPRUNE_DATA", str(tmp_path))
    (tmp_path / "sst2").mkdir()
    (tmp_path / "mr_polarity").mkdir()
    for part, words in (("train", "good bad fine"), ("dev", "good poor"), ("test", "bad dull")):
        lines = [f"a {word} film number {i}\t{i % 2}" for i in range(20) for word in words.split()]
        (tmp_path / "sst2" / f"{part}.tsv").write_text("\n".join(lines) + "\n")
    for kind in ("neg", "pos"):
        text = "\n".join(f"{kind} caf\xe9 {i}" for i in range(30))
        (tmp_path / "mr_polarity" / f"rt-polarity.{kind}").write_bytes(f"{text}\n".encode("latin-1"))
    return tmp_path


def decoded(data, tokens):
    return "".join(data.vocabulary[t] for t in tokens.flatten().tolist())


def file_of(tmp_path, content, name="own.txt"):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return path


def test_windows_are_the_text_in_three_stretches_and_targets_what_follows(tmp_path):
    text = "".join(chr(97 + (i * i + i // 7) % 26) for i in range(1000))
    data = load(f"text:{file_of(tmp_path, text)}", length=9)
    stretches = [(data.train, text[:800]), (data.validation, text[800:900]), (data.test, text[900:])]
    for split, stretch in stretches:
        used = len(split) * 9
        assert used >= len(stretch) - 10, "no more than an incomplete window is left over"
        assert decoded(data, split.x) == stretch[:used]
        assert decoded(data, split.y) == stretch[1 : used + 1]
    assert (data.kind, data.input_shape, data.outputs) == ("tokens", (9, 26), 26)
    assert (data.train.terms, len(data.train)) == (data.train.y.numel(), data.train.y.numel() // 9)
    assert load(f"text:{tmp_path / 'own.txt'}", seed=3, length=9).train.x.equal(data.train.x), "whatever the seed"


def test_the_vocabulary_is_that_of_the_training_stretch(tmp_path):
    data = load(f"text:{file_of(tmp_path, 'abba' * 300 + 'zebra' * 40)}", length=5)
    assert sorted(data.vocabulary) == sorted((*RESERVED, "a", "b"))
    assert set(decoded(data, data.test.x).replace("<unknown>", "?")) == set("?ab")
    assert data.test.x.max() < data.outputs
    assert data.test.y.max() < data.outputs


def test_docstrings_are_those_of_the_running_python_and_always_the_same():
    one, two = load("docstrings"), load("docstrings", seed=5)
    assert one.digest != load("docstrings", length=49).digest
    assert one.train.x.equal(two.train.x)
    assert one.train.x.dtype == one.train.y.dtype == torch.int64
    text = decoded(one, one.train.x) + decoded(one, one.validation.x)
    first = inspect.cleandoc(statistics.mean.__doc__ or "").partition("\n")[0]
    assert first in text
    assert 50_000 < one.train.terms < 200_000


def test_known_orders_by_frequency_and_forgets_what_training_lacks():
    vocabulary = numbered(["abracadabra", "xyz"])
    train = encoded("abracadabra", vocabulary)
    numbers, kept = known(train, vocabulary, None)
    assert kept == (*RESERVED, "a", "b", "r", "c", "d")
    assert [kept[i] for i in numbers[encoded("bax", vocabulary)]] == ["b", "a", "<unknown>"]
    assert known(train, vocabulary, 2)[1] == (*RESERVED, "a", "b")


def test_sst2_keeps_its_splits_words_and_start(sentiment):
    data = load("sst2", length=4)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [60, 40, 40]
    assert " ".join(data.vocabulary[t] for t in data.test.x[1].tolist()) == "<start> a <unknown> film", "dull is new"
    assert data.test.x[0].tolist()[1:] == data.train.x[1].tolist()[1:], "a bad film"
    wide = load("sst2", length=8)
    assert " ".join(wide.vocabulary[t] for t in wide.train.x[0].tolist()) == (
        "<padding> <padding> <start> a good film number 0"
    )
    assert (data.train.terms, data.classes, data.outputs) == (60, ("negative", "positive"), 2)
    assert len(load("sst2", vocabulary=4).vocabulary) == 4 + len(RESERVED)
    assert len(load("sst2", subset=10).train) == 10


def test_movie_reviews_are_split_by_the_seed_and_stratified(sentiment):
    one, two = load("mr-polarity"), load("mr-polarity", seed=1)
    assert "caf\xe9" in one.vocabulary
    assert [len(s) for s in (one.train, one.validation, one.test)] == [36, 12, 12]
    assert one.test.y.bincount().tolist() == [6, 6]
    assert one.digest != two.digest


def test_own_sentences(tmp_path):
    lines = "".join(f"word{i % 3} again\t{i % 2}\n" for i in range(40))
    data = load(f"sentences:{file_of(tmp_path, lines)}", length=3)
    assert data.input_shape == (3, len(data.vocabulary))
    assert (data.train.x[:, 0] == 1).all()
    with pytest.raises(UsageError, match=r"line 2 .* must end in a tab and 0 or 1"):
        load(f"sentences:{file_of(tmp_path, 'fine' + chr(9) + '1' + chr(10) + 'no label')}")
    with pytest.raises(UsageError, match="sentence 1 is empty"):
        load(f"sentences:{file_of(tmp_path, 'fine' + chr(9) + '1' + chr(10) + chr(9) + '0')}")


@pytest.mark.parametrize("name", ["tinyshakespeare", "sst2", "mr-polarity", "imdb"])
def test_absent_files_say_where_they_belong(name, tmp_path, monkeypatch):
    monkeypatch.setenv("BAYESPRUNE_DATA", str(tmp_path))
    with pytest.raises(UsageError, match=rf"{name}' is not in .* missing; .*BAYESPRUNE_DATA"):
        load(name)


@pytest.mark.parametrize(("content", "message"), [("", "is empty"), ("ab" * 20, "40 characters are too few")])
def test_an_empty_or_short_text_is_refused(content, message):
    with pytest.raises(UsageError, match=message):
        characters("own", content, 10)


def test_a_text_that_is_none_is_refused(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UsageError, match="cannot be read as UTF-8"):
        load(f"text:{path}")
    with pytest.raises(UsageError, match="holds sequences of tokens; resize"):
        load("docstrings", resize=8)


def test_unknown_tokens_empty_and_long_sequences_are_refused():
    with pytest.raises(UsageError, match="token 'z' is not among the 6"):
        encoded("abz", ABC)
    with pytest.raises(UsageError, match="sequence 1 has 0 tokens; give 1 to 3"):
        padded([[1, 2], []], 3)
    with pytest.raises(UsageError, match="sequence 0 has 4 tokens; give 1 to 3"):
        padded([[1, 2, 3, 4]], 3)
    with pytest.raises(UsageError, match="sequence 0 has 4 tokens"):
        sentences("own", [["a", "b", "c"]], 3)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[0, 1, 3], [0, 1, 6]], [0, 1], "token 6 in x of example 1 is unknown; the vocabulary has tokens 0 to 5"),
        ([[0, 1, 3], [0, -1, 3]], [0, 1], "token -1 in x of example 1 is unknown"),
        ([[0, 0, 0], [0, 1, 3]], [0, 1], "example 0 is empty"),
        ([[3, 0, 4], [3, 4, 5]], [0, 1], "example 0 has padding .* after a token"),
        ([[3, 4, 5], [3, 4, 5]], [[4, 5, 9], [3, 3, 3]], "token 9 in y of example 0 is unknown"),
        ([[0, 4, 5], [3, 4, 5]], [[4, 5, 3], [3, 3, 3]], "x holds padding"),
        ([[3, 4, 5], [3, 4, 5]], [[4, 5], [3, 3]], r"or the next tokens \(2, 3\)"),
        ([[3.5, 4, 5], [3, 4, 5]], [0, 1], "tokens must be whole numbers"),
    ],
)
def test_bad_tokens_are_refused(x, y, message):
    with pytest.raises(UsageError, match=message):
        checked("own", Source(x=np.array(x), y=np.array(y), vocabulary=ABC))


def test_a_vocabulary_begins_with_the_reserved_tokens():
    with pytest.raises(UsageError, match="begins with <padding>, <start>, <unknown>"):
        checked("own", Source(x=np.array([[1, 2]]), y=np.array([0]), vocabulary=("a", "b", "c", "d")))


def test_a_function_may_return_a_source_of_tokens(tmp_path, monkeypatch):
    file_of(tmp_path, (
        "import numpy as np\nfrom bayesprune.datasets.source import Source\nfrom bayesprune.datasets.tokens import "
        "RESERVED\ndef data():\n    return Source(x=np.arange(60).reshape(20, 3) % 2 + 3, y=np.arange(20) % 2, "
        "vocabulary=(*RESERVED, 'a', 'b'))\n"
    ), "token_source.py")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    data = load("token_source:data")
    assert (data.kind, data.outputs, data.classes) == ("tokens", 2, ("0", "1"))


@pytest.mark.parametrize("kind", ["swapped", "unknown"])
def test_corruptions_hit_a_share_of_tokens_and_grow(kind, sentiment):
    x = torch.randint(3, 50, (300, 20), generator=torch.Generator().manual_seed(0))
    x[:, :4] = torch.tensor([0, 0, 0, 1])
    corrupted = [shift.TOKENS[kind](x, level, 0) for level in shift.SEVERITIES["tokens"][kind]]
    hit = [c != x for c in corrupted]
    for less, more in itertools.pairwise(hit):
        assert not (less & ~more).any(), "what is hit stays hit"
    for level, h in zip(shift.SEVERITIES["tokens"][kind], hit, strict=True):
        assert not h[:, :4].any(), "padding and starts stay"
        assert h[:, 4:].float().mean().item() == pytest.approx(level, abs=0.03)
    data = load("sst2")
    assert data.shifts == ("swapped", "unknown")
    assert data.shifted(kind, 2).x.equal(data.shifted(kind, 2).x)
    assert data.shifted(kind, 2).x.dtype == torch.int64


def test_the_twin_has_the_words_of_each_sentence_in_another_order():
    x = torch.randint(3, 500, (200, 20), generator=torch.Generator().manual_seed(0))
    x[:, :3] = torch.tensor([0, 0, 1])
    twin = ood.shuffled(x, 0)
    assert twin[:, :3].equal(x[:, :3])
    assert twin.sort(1).values.equal(x.sort(1).values)
    assert (twin != x)[:, 3:].float().mean() > 0.9


@pytest.mark.real_data
def test_published_texts():
    """The sizes that the literature quotes."""
    from bayesprune.datasets.files import data_root

    if not (data_root() / "tinyshakespeare" / "input.txt").exists() or not (data_root() / "sst2").exists():
        pytest.skip(f"no texts in {data_root()}")
    data = load("tinyshakespeare")
    assert len(data.vocabulary) - len(RESERVED) == 65
    assert (data.train.terms + data.validation.terms + data.test.terms) == pytest.approx(1_115_394, abs=301)
    assert [len(s) for s in (load("sst2").train, load("sst2").validation, load("sst2").test)] == [6920, 872, 1821]

"""Leaderboards: against scipy, against brute force, and against a thousand leaderboards of equal methods."""

import itertools

import numpy as np
import pytest
from bayesprune.reports.leaderboard.groups import holm, letters, marks, stepped_down
from bayesprune.reports.leaderboard.paired import Block, differences
from bayesprune.reports.leaderboard.planning import needed
from bayesprune.reports.leaderboard.profiles import profile
from bayesprune.reports.leaderboard.stability import places, stability, tau
from bayesprune.reports.leaderboard.standings import leaderboard
from bayesprune.reports.leaderboard.student import t_quantile, two_sided_p
from scipy import stats

NAMES = tuple("ABCDEF")


def block(rng, seeds=5, examples=200, skill=(0.0,) * 6, crossed=False, noise=0.3):
    """Networks of several methods: every example has its difficulty, every network its own luck."""
    shared = rng.normal(size=examples) if crossed else None

    def scores():
        hard = rng.normal(size=examples) if shared is None else shared
        luck = rng.normal(0, noise, size=(len(skill), 1))
        own = rng.normal(size=(len(skill), examples))
        return (np.array(skill)[:, None] + luck + hard + own > -1.5).astype(float)

    return Block("block", NAMES[: len(skill)], tuple(scores() for _ in range(seeds)), crossed)


@pytest.mark.parametrize("df", [0.7, 1, 2, 4.3, 16, 250.5, 1e5])
def test_the_t_distribution_is_that_of_scipy(df):
    for t in (0.0, 0.3, 1.0, 2.77, 9.4, 60.0, -2.0):
        assert two_sided_p(t, df) == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-10, abs=1e-300)
    assert t_quantile(df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-9)


def test_small_t_keep_their_digits():
    assert two_sided_p(1e-8, 1) == pytest.approx(1 - 2 * np.arctan(1e-8) / np.pi, abs=1e-15)


def test_with_one_block_it_is_the_paired_t_test_over_seeds():
    rng = np.random.default_rng(0)
    one = block(rng, noise=1.0)  # the luck of networks outweighs that of examples
    found, means = differences([one]), one.means
    expected = stats.ttest_rel(means[:, 0], means[:, 1])
    assert found.p[0, 1] == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = expected.confidence_interval()
    assert found.interval(0, 1) == pytest.approx((low, high), rel=1e-8)


def test_blocks_weigh_and_not_runs():
    rng = np.random.default_rng(1)
    many, few = block(rng, seeds=9), block(rng, seeds=2)
    found = differences([many, few]).values
    assert found[0, 1] == pytest.approx(np.mean([b.means.mean(0)[0] - b.means.mean(0)[1] for b in (many, few)]))


def test_two_seeds_that_agree_by_luck_do_not_undercut_the_spread_of_examples():
    scores = np.array([[1.0] * 60 + [0.0] * 40, [0.0] * 10 + [1.0] * 50 + [0.0] * 40])
    same = Block("b", ("A", "B"), (scores, scores[:, ::-1]))
    gap = scores[0] - scores[1]
    assert differences([same]).errors[0, 1] == pytest.approx(np.sqrt(gap.var(ddof=1) / 100 / 2))


def test_on_a_shared_test_set_examples_count_beside_seeds():
    """The variance of a mean with random seeds and random examples, by simulating both."""
    rng = np.random.default_rng(2)
    seeds, examples, repetitions = 6, 40, 3000
    estimated, means = [], []
    for _ in range(repetitions):
        gap = rng.normal(size=(seeds, 1)) + 2 * rng.normal(size=examples) + 3 * rng.normal(size=(seeds, examples))
        cube = tuple(np.stack([row, np.zeros(examples)]) for row in gap)
        estimated.append(differences([Block("b", ("A", "B"), cube, True)]).errors[0, 1] ** 2)
        means.append(gap.mean())
    assert np.mean(estimated) == pytest.approx(np.var(means), rel=0.08)


def test_one_seed_tells_nothing_about_methods():
    found = differences([block(np.random.default_rng(3), seeds=1, skill=(5.0, -5.0))])
    assert (found.p == 1).all()
    assert np.isnan(found.interval(0, 1)).all()


def test_holm_against_its_definition():
    rng = np.random.default_rng(4)
    raw = rng.uniform(size=6) ** 4
    p, upper = np.ones((4, 4)), np.triu_indices(4, 1)
    p[upper] = raw
    p = np.minimum(p, p.T)
    expected, running = {}, 0.0
    for rank, k in enumerate(np.argsort(raw)):
        running = max(running, min(1.0, raw[k] * (6 - rank)))
        expected[int(k)] = running
    assert holm(p)[upper] == pytest.approx([expected[k] for k in range(6)])


@pytest.mark.parametrize("seed", range(20))
def test_entrants_share_a_letter_if_and_only_if_they_are_not_told_apart(seed):
    rng = np.random.default_rng(seed)
    apart = np.triu(rng.random((7, 7)) < 0.4, 1)
    apart |= apart.T
    shown = letters(apart)
    for i, j in itertools.combinations(range(7), 2):
        assert bool(marks(shown[i]) & marks(shown[j])) == (not apart[i, j])


def test_letters_beyond_the_alphabet_are_told_apart():
    """Thirty pairs, each apart from nobody else: the sets of who is alike are many."""
    rng = np.random.default_rng(0)
    apart = np.triu(rng.random((16, 16)) < 0.5, 1)
    apart |= apart.T
    shown = letters(apart)
    assert any(character.isdigit() for one in shown for character in one)
    for i, j in itertools.combinations(range(16), 2):
        assert bool(marks(shown[i]) & marks(shown[j])) == (not apart[i, j])


@pytest.mark.parametrize("crossed", [False, True])
def test_a_thousand_leaderboards_of_equal_methods_are_rarely_wrong(crossed):
    """At most 5 % of them may tell any two apart; the margin is that of a thousand draws."""
    rng = np.random.default_rng(5)
    skills = [(0.0,) * 6, (0.4,) * 6, (-0.5,) * 6]
    wrong = 0
    for _ in range(1000):
        blocks = [
            block(rng, 3, 80, skill, crossed, noise) for skill, noise in zip(skills, (0.1, 0.3, 0.6), strict=True)
        ]
        wrong += bool((holm(differences(blocks).p) <= 0.05).any())
    assert wrong / 1000 <= 0.05


def test_methods_that_differ_are_told_apart_and_bounds_hold_their_places():
    rng = np.random.default_rng(6)
    board = leaderboard([block(rng, skill=(2.0, 2.0, 1.0, 0.0, -1.0, -2.0), noise=0.1) for _ in range(4)])
    assert set(board.entrants[:2]) == {"A", "B"}
    assert board.entrants[2:] == ("C", "D", "E", "F")
    assert board.separates("A", "F")
    assert not board.separates("A", "B")
    for s in board.standings:
        assert s.best <= s.place <= s.worst
    assert board.standing("F").best == 6


def test_one_entrant_named_beforehand_is_a_family_of_its_own():
    rng = np.random.default_rng(12)
    board = leaderboard([block(rng, skill=(0.0, 0.0, 0.5, 1.0, -1.0, -2.0), noise=0.2) for _ in range(3)])
    better, worse = board.versus("A")
    assert "D" in better
    assert {"E", "F"} <= set(worse)
    assert "B" not in [*better, *worse]
    apart = {s.entrant for s in board.standings if s.entrant != "A" and board.separates("A", s.entrant)}
    assert apart <= {*better, *worse}  # what all pairs tell, this tells too
    raw = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(stepped_down(raw), [0.03, 0.06, 0.06, 0.02])


def test_a_part_of_the_entrants_is_ranked_anew():
    rng = np.random.default_rng(7)
    blocks = [block(rng, skill=(0.0, 0.4, 0.8, 1.2, 1.6, 2.0)) for _ in range(3)]
    board, part = leaderboard(blocks), leaderboard(blocks).among(("A", "C", "F"))
    assert part.standings == leaderboard([b.of(("A", "C", "F")) for b in blocks]).standings
    assert [s.place for s in part.standings] == [1, 2, 3]
    assert part.standing("C").mean_rank == 2 != board.standing("C").mean_rank


def test_places_share_ties_and_tau_is_that_of_scipy():
    scores = np.array([3.0, 1.0, 3.0, 2.0])
    assert list(places(scores)) == [1.5, 4.0, 1.5, 3.0]
    rng = np.random.default_rng(8)
    a, b = rng.integers(0, 5, (2, 12)).astype(float)
    assert tau(a, b) == pytest.approx(stats.kendalltau(a, b)[0])


def test_halves_agree_where_methods_differ_and_not_where_they_are_equal():
    rng = np.random.default_rng(9)
    clear = stability([block(rng, skill=(-3.0, -2.0, -1.0, 0.0, 1.0, 2.0), noise=0.1) for _ in range(3)])
    equal = stability([block(rng) for _ in range(3)])
    assert clear.splits == equal.splits == 15  # three ways for each seed left out
    assert clear.agreement > 0.9 > 0.5 > equal.agreement
    assert clear.moved.max() < equal.moved.max()


def test_the_seeds_that_are_said_to_be_needed_have_the_power():
    rng = np.random.default_rng(10)

    def blocks(seeds):
        gaps = rng.normal(0.5, 1.0, (2, seeds))
        return [
            Block(str(i), ("A", "B"), tuple(np.array([[g, g], [0.0, 0.0]]) for g in row)) for i, row in enumerate(gaps)
        ]

    n = needed(blocks(40_000), "A", "B").seeds
    assert n is not None
    found = np.mean([differences(blocks(n)).p[0, 1] <= 0.05 for _ in range(1500)])
    assert found == pytest.approx(0.8, abs=0.05)


def test_blocks_are_needed_more_than_seeds_where_the_sign_changes_between_them():
    rng = np.random.default_rng(11)
    blocks = [block(rng, 5, 2000, (gap, 0.0), noise=0.01) for gap in (2.0, -0.5, 1.6, -0.4)]
    told = needed(blocks, "A", "B")
    assert told.seeds is not None
    assert told.blocks is not None
    assert told.blocks > len(blocks)
    assert told.seeds <= 5
    assert needed(blocks[:1], "A", "B").blocks is None


def test_a_profile_counts_blocks_within_a_distance_of_the_best():
    rows = [(0.9, 0.8), (0.7, 0.9), (0.6, 0.55)]
    blocks = [Block(str(i), ("A", "B"), (np.array(row)[:, None],)) for i, row in enumerate(rows)]
    np.testing.assert_allclose(
        profile(blocks, np.array([0.0, 0.05, 0.1, 0.2])), [[2 / 3, 2 / 3, 2 / 3, 1], [1 / 3, 2 / 3, 1, 1]]
    )

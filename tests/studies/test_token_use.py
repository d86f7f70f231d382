"""What each vocabulary entry needs, against plain counts and hand-made cases; kinds of tokens against Unicode."""

import math
import unicodedata

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import greedy, tiny_llama
from hypothesis import given
from hypothesis import strategies as st
from neuron_uses import activity, measurement, suite_of
from scipy.stats import spearmanr

import sparsinglib as sl
from sparsinglib.studies.neurons import claims
from sparsinglib.studies.neurons import tokens as token_use
from sparsinglib.studies.neurons.frequency import pairs
from sparsinglib.suites import survey

WIDTH, APART = 1000, 0.05


def made_up(entries, vocabulary=2048):
    """A measurement of one layer of 1,000 neurons; ``entries`` maps a token id to (activation ratio, occurrences).

    Half of an entry's occurrences lie ``APART`` above its ratio, half as far below.
    """
    squares = torch.zeros(vocabulary, dtype=torch.float64)
    counts, tokens = torch.zeros(1, vocabulary, dtype=torch.long), torch.zeros(vocabulary, dtype=torch.long)
    for i, (ratio, times) in entries.items():
        counts[0, i], tokens[i], squares[i] = round(ratio * WIDTH * times), times, times * (ratio**2 + APART**2)
    return measurement(
        neuron_counts=[torch.zeros(WIDTH, dtype=torch.long)],
        position_counts=torch.zeros(1, 1, dtype=torch.long),
        position_tokens=tokens.sum()[None],
        vocabulary_counts=counts,
        vocabulary_squares=squares,
        vocabulary_tokens=tokens,
    )


def use(name, entries, scale="0.1M", activation="relu", halves=(), vocabulary=2048, **options):
    whole = made_up(entries, vocabulary)
    return activity(name, whole, map(made_up, halves), scale, activation, **options)


@pytest.fixture
def tokenizer(ladder):
    return ladder[1]


def test_texts_in_parts_are_one_text():
    model = tiny_llama(seed=2, act="relu")
    ids = greedy(model, 20, rows=6)
    one, two = (
        token_use.together([sl.measure(model, [p], sl.FAT(0.05)) for p in parts])
        for parts in ([ids], [ids[:2], ids[2:]])
    )
    pd.testing.assert_frame_equal(one, two)


def test_pairs_are_neighbours_and_ends_of_one_activation():
    uses = [use(f"{a}{s}", {0: (0.1, 1)}, s, a) for a in ("relu", "silu") for s in ("0.1M", "0.2M", "0.4M", "0.8M")]
    names = [(a.name, b.name) for a, b in pairs(uses, ends=True)]
    chain = [("0.1M", "0.2M"), ("0.2M", "0.4M"), ("0.4M", "0.8M"), ("0.1M", "0.8M")]
    assert names[:4] == [(f"relu{a}", f"relu{b}") for a, b in chain]
    assert len(names) == 8
    assert pairs(uses[:1], ends=True) == []
    assert len(pairs(uses[:2], ends=True)) == 1
    assert len(pairs(uses)) == 6


def two(a, b, **options):
    return [use("a", a, "0.1M", **options), use("b", b, "0.4M", **options)]


def test_a_pair_by_hand():
    a = {1: (0.10, 5), 2: (0.20, 5), 3: (0.30, 5), 4: (0.40, 5), 5: (0.5, 2)}
    b = {1: (0.12, 5), 2: (0.26, 5), 3: (0.24, 5), 4: (0.39, 5), 5: (0.1, 2)}
    (row,) = token_use.pair_table(two(a, b), 5).itertuples()
    assert row.entries == 4  # the fifth occurs twice only
    assert row.rank_correlation == pytest.approx(1 - 6 * (1 + 1) / (4 * 15))  # Spearman's formula: two ranks swapped
    assert row.share_near == pytest.approx(3 / 4)  # 0.26 is 30 % above 0.20; 0.24 is 0.30 / 1.25
    assert row.median_ratio == pytest.approx((1.2 + 0.975) / 2)
    assert np.isnan(row.halves_correlation)


def test_halves_show_what_noise_leaves():
    whole = {i: (0.1 * i, 10) for i in range(1, 6)}
    same = [{i: (0.1 * i, 5) for i in range(1, 6)}] * 2
    swapped = [same[0], {i: (0.1 * (6 - i), 5) for i in range(1, 6)}]
    uses = [use("a", whole, "0.1M", halves=same), use("b", whole, "0.4M", halves=swapped)]
    (row,) = token_use.pair_table(uses, 5).itertuples()
    assert row.rank_correlation == pytest.approx(1)
    assert row.halves_correlation == pytest.approx(-1)  # the worse of the two models
    assert row.halves_near == pytest.approx(1 / 5)


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=1, max_size=20))
def test_within_is_the_same_from_either_side(ratios):
    a, b = (pd.Series(x) for x in zip(*ratios, strict=True))
    assert token_use.within(a, b) == token_use.within(b, a)
    assert token_use.within(a, a) == 1
    assert token_use.within(a, 1.3 * a) == 0


def test_models_that_read_other_tokens_are_not_compared():
    entries = {1: (0.1, 5), 2: (0.2, 5)}
    uses = two(entries, {1: (0.1, 5), 3: (0.2, 5)})
    assert token_use.pair_table(uses, 1).empty
    assert token_use.unlike(uses) == "Other token ids on the same text, so not compared: a and b."
    # An embedding padded further is still the same vocabulary.
    uses = [uses[0], use("b", entries, "0.4M", vocabulary=2112)]
    assert token_use.unlike(uses) == ""
    assert len(token_use.pair_entries(uses, 5)) == 2


def test_too_rare_entries_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="at most 5"):
        token_use.pair_table(two({1: (0.1, 5)}, {1: (0.1, 5)}), 6)


def id_of(tokenizer, text):
    (found,) = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


@pytest.mark.parametrize(
    ("text", "kind"),
    [(" the", "word start"), ("in", "word continuation"), ("7", "digit"), ("(", "punctuation"),
     ("\uff0c", "punctuation"), ("中", "Chinese character"), ("\n", "space or line end"), (" =", "punctuation"),
     ("    ", "space or line end")],
)  # fmt: skip
def test_kinds(tokenizer, text, kind):
    assert token_use.kind(tokenizer, id_of(tokenizer, text)) == kind


def test_every_entry_has_a_kind_and_it_agrees_with_unicode(tokenizer):
    found = {i: token_use.kind(tokenizer, i) for i in range(len(tokenizer))}
    assert set(found.values()) <= set(token_use.KINDS)
    assert {found[i] for i in tokenizer.all_special_ids} == {"special"}
    for i, name in found.items():
        text = tokenizer.decode([i]).strip()
        first = unicodedata.category(text[0])[0] if text else ""
        letters = dict.fromkeys(("Chinese character", "word start", "word continuation"), "L")
        expected = letters | {"digit": "N"}
        if name in expected:
            assert first == expected[name], (i, text)


def test_kinds_of_a_text_are_weighted_by_occurrence(tokenizer, monkeypatch):
    monkeypatch.setattr(survey, "loaded", lambda _c: (None, tokenizer))
    three, four, word = (id_of(tokenizer, t) for t in ("3", "4", " the"))
    table = token_use.kind_table([use("m", {three: (0.1, 30), four: (0.2, 10), word: (0.9, 5)})], 10)
    row, both = table.itertuples()
    assert (row.kind, row.tokens, both.corpus, both[4:]) == ("digit", 40, token_use.ALL, row[4:])
    apart = [use("m", {three: (0.1, 30)}), use("m", {four: (0.2, 10)}, corpus="wikipedia")]
    assert [*token_use.kind_table(apart, 10).itertuples()][-1][4:] == row[4:]  # the same tokens in two corpora
    assert row.activation_ratio == pytest.approx(0.125)
    # 30 occurrences 0.025 below and 10 of them 0.075 above: two entries, each with a sum of 0.75 off.
    half = 1.645 * np.sqrt(2 / (2 - 1) * 2 * 0.75**2) / 40
    assert (row.low, row.high) == (pytest.approx(0.125 - half), pytest.approx(0.125 + half))


def test_extremes_by_hand(tokenizer, monkeypatch):
    monkeypatch.setattr(survey, "loaded", lambda _c: (None, tokenizer))
    ids = {t: id_of(tokenizer, t) for t in ("3", "(", " the", "中")}
    entries = {ids["3"]: (0.1, 9), ids["("]: (0.2, 9), ids[" the"]: (0.3, 9), ids["中"]: (0.4, 2)}
    uses = [use("m", entries, corpus="code"), use("m", {ids[" the"]: (0.3, 20)}, corpus="wikipedia")]
    table = token_use.extremes(uses, 5, 5)
    assert table.token.tolist() == ["·the", "3"]
    assert table.side.tolist() == ["most", "fewest"]
    assert table.mostly_in.tolist() == ["wikipedia", "code"]
    assert table.tokens.tolist() == [29, 9]
    half = 1.645 * APART / np.sqrt(table.tokens - 1)
    assert ((table.high - table.low) / 2).tolist() == pytest.approx(half.tolist(), rel=1e-3)
    assert (table.low + half).tolist() == pytest.approx([0.3, 0.1], rel=1e-3)


LEVELS = np.linspace(0.1, 0.5, 30)


def pair_of(*ratios):
    """Two models, 30 entries each."""
    return two(*({i: (r, 200) for i, r in enumerate(levels)} for levels in ratios))


def judged(uses):
    (row,) = claims.token_verdicts(suite_of("any"), uses, 1)
    return row


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        (LEVELS, 1.1 * LEVELS, "holds"),
        (LEVELS, 0.5 * LEVELS, "holds"),  # the same order at another level
        (0.3 + LEVELS / 50, 0.31 - LEVELS / 50, "fails"),  # the same level, the order turned round
        (LEVELS, np.roll(LEVELS, 4), "inconclusive"),
    ],
)
def test_the_order_of_tokens_is_judged_beyond_shuffles(a, b, verdict):
    row = judged(pair_of(a, b))
    assert (row.id, row.verdict) == ("C49", verdict)


def test_the_correlation_beyond_shuffles_by_hand():
    b = np.roll(LEVELS, 3)
    found = spearmanr(LEVELS, b).statistic
    error = 1.645 * math.sqrt((1 + found**2 / 2) / 27)
    low, high = (math.tanh(math.atanh(found) + z) for z in (-error, error))
    said = judged(pair_of(LEVELS, b)).our_value
    value, ends = said.removeprefix("a, b: ").split(" (")
    ends = [float(x) for x in ends.rstrip(") ").split(" to ")]
    chance = found - float(value)
    assert 0.2 < chance < 0.4  # 1.645 over the root of 29 is 0.31
    assert ends == pytest.approx([low - chance, high - chance], abs=0.012)


def test_a_shuffle_keeps_levels_and_loses_pairs():
    a = pd.Series(LEVELS)
    apart = token_use.within(a, a.sample(frac=1, random_state=0, ignore_index=True))
    assert apart <= token_use.shuffled(token_use.within, a, a) < 0.6
    assert token_use.shuffled(token_use.within, a * 0 + 0.3, a * 0 + 0.31) == 1


def test_one_checkpoint_has_no_pair():
    uses = [use("a", {1: (0.2, 5), 2: (0.3, 5)})]
    assert judged(uses).verdict == "no data"
    assert token_use.pair_entries(uses, 1).empty

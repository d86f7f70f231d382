"""Which tokens need many neurons and which few: Figure 10, model against model, and what sort of text costs most.

The activation ratio of a vocabulary entry is its mean over occurrences and layers at CETT-PPL-p % (Sec 5.3), here over
all corpora of a suite together.
"""

import unicodedata
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from transformers import PreTrainedTokenizerBase

from ...core import arguments
from ...core.forward import Z90
from ...core.measure import Measurement
from ...suites import survey
from ...texts.pieces import BROKEN, token_pieces
from .frequency import NeuronActivity, by_activation, by_checkpoint, pairs

NEAR = 1.25  # ratios from 0.8 to 1.25 are "within 20 %", seen from either model
SHUFFLES, SEED = 200, 2411_02335  # of the entries of one model: what the two levels alone give
ALL = "all corpora"
SURE = 0.95  # of the shuffles that real pairs must beat
KINDS = ("word start", "word continuation", "digit", "punctuation", "Chinese character", "part of a character",
         "space or line end", "special")  # fmt: skip
PAIR_COLUMNS = ["activation", "a", "b", "entries", "rank_correlation", "halves_correlation", "share_near",
                "halves_near", "shuffled_near", "median_ratio"]  # fmt: skip


def validate_parameters(min_occurrences: int, shown: int) -> None:
    """Raise ValueError for numbers of entries that make no sense, before anything is loaded."""
    arguments.whole("min_occurrences", min_occurrences, 1)
    arguments.whole("shown", shown, 1)


def together(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """Entries that occur in any of the texts: index token_id, columns activation_ratio, tokens (occurrences), se."""
    return reduce(add, measurements).by_vocabulary.set_index("token_id")


def same_entries(a: Sequence[NeuronActivity], b: Sequence[NeuronActivity]) -> bool:
    """Whether two checkpoints read the same token ids in every corpus: then an id means the same entry to both."""
    counts = [[use.whole.vocabulary_tokens for use in uses] for uses in (a, b)]
    seen = [[(c.nonzero().squeeze(1).tolist(), c[c > 0].tolist()) for c in side] for side in counts]
    return seen[0] == seen[1]


def unlike(uses: Sequence[NeuronActivity]) -> str:
    """A sentence naming the pairs that are left out because their tokenizers differ; "" if none is."""
    groups = by_checkpoint(uses)
    names = [f"{a.name} and {b.name}" for a, b in pairs(uses, ends=True) if not same_entries(groups[a], groups[b])]
    return f"Other token ids on the same text, so not compared: {'; '.join(names)}." if names else ""


def pair_entries(uses: Sequence[NeuronActivity], min_occurrences: int) -> pd.DataFrame:
    """Tidy: activation, a, b (names), token_id, tokens, ratio_a, ratio_b (fractions); entries seen often enough."""
    groups, frames = by_checkpoint(uses), []
    for a, b in pairs(uses, ends=True):
        if same_entries(groups[a], groups[b]):
            x, y = (together([use.whole for use in groups[c]]) for c in (a, b))
            joint = x.rename(columns={"activation_ratio": "ratio_a"}).assign(ratio_b=y.activation_ratio)
            frames.append(_often(joint, min_occurrences).assign(activation=a.activation, a=a.name, b=b.name))
    columns = ["activation", "a", "b", "token_id", "tokens", "ratio_a", "ratio_b"]
    return pd.concat(frames).reset_index()[columns] if frames else pd.DataFrame(columns=columns)


def _often(table: pd.DataFrame, min_occurrences: int) -> pd.DataFrame:
    often = table[table.tokens >= min_occurrences]
    if often.empty:
        found = f"no entry occurs {min_occurrences} times"
        raise ValueError(f"{found}: lower min_occurrences (at most {int(table.tokens.max())}) or read more.")
    return often


def pair_table(uses: Sequence[NeuronActivity], min_occurrences: int) -> pd.DataFrame:
    """One row a pair: entries compared, rank correlation, share within 20 %, median of b / a.

    ``halves_…`` are the same numbers for one model on the two halves of the text, the worse of the two models: what
    noise alone leaves (NaN if the text is too short to be cut). Its entries occur often enough in both halves.
    ``shuffled_near`` is the share within 20 % where each entry is paired with a random one, reached by one shuffle in
    twenty: what the two models' levels alone give.
    """
    groups, rows = by_checkpoint(uses), []
    for (activation, a, b), part in pair_entries(uses, min_occurrences).groupby(["activation", "a", "b"], sort=False):
        halves = [_halves(groups[c], min_occurrences) for c in groups if c.name in (a, b)]
        worst, nearest = (min(values) for values in zip(*halves, strict=True))
        ratios, middle = (part.ratio_a, part.ratio_b), float((part.ratio_b / part.ratio_a).median())
        near = within(*ratios), nearest, shuffled(within, *ratios)
        rows.append((activation, a, b, len(part), correlation(*ratios), worst, *near, middle))
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


def within(a: pd.Series, b: pd.Series) -> float:
    """Share of entries whose two activation ratios differ by at most 20 %: their quotient is from 0.8 to 1.25."""
    return float(((b <= NEAR * a) & (a <= NEAR * b)).mean())


def correlation(a: pd.Series, b: pd.Series) -> float:
    """Spearman's rank correlation."""
    return float(spearmanr(a, b).statistic)


def shuffled(agreement: Callable[[pd.Series, pd.Series], float], a: pd.Series, b: pd.Series) -> float:
    """Agreement with ``b`` in random order (fixed seed): what 95 % of the shuffles stay below or reach."""
    random = np.random.default_rng(SEED)
    found = [agreement(a, pd.Series(random.permutation(b), index=a.index)) for _ in range(SHUFFLES)]
    return float(np.quantile(found, SURE))


def _halves(uses: Sequence[NeuronActivity], min_occurrences: int) -> tuple[float, float]:
    if not all(use.halves for use in uses):
        return np.nan, np.nan
    a, b = (together([use.halves[i] for use in uses]) for i in (0, 1))
    joint = a.join(b, how="inner", rsuffix="_other")
    joint = joint[joint[["tokens", "tokens_other"]].min(axis=1) >= min_occurrences]
    if len(joint) < 2:
        return np.nan, np.nan
    ratios = joint.activation_ratio, joint.activation_ratio_other
    return correlation(*ratios), within(*ratios)


def kind(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """What sort of text an entry is, one of ``KINDS``; a word at the start of a line counts as continuation."""
    if token_id in tokenizer.all_special_ids:
        return "special"
    raw = str(tokenizer.convert_ids_to_tokens(token_id))
    text = str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
    body = text.strip()
    if BROKEN in text:
        return "part of a character"
    if not body:
        return "space or line end"
    if any("CJK" in unicodedata.name(c, "") for c in body if c.isalpha()):
        return "Chinese character"
    if body[0].isalpha():
        # Byte-level BPE and SentencePiece mark a space before a word in these ways; decoding alone may drop it.
        return "word start" if raw.startswith(("Ġ", "▁")) or text[0].isspace() else "word continuation"
    return "digit" if body[0].isdigit() else "punctuation"


def kind_table(uses: Sequence[NeuronActivity], min_occurrences: int) -> pd.DataFrame:
    """Tidy: checkpoint, activation, corpus (last ``ALL``), kind, activation_ratio, low, high, tokens; largest models.

    The ratio is a mean over tokens; low and high are its 90 % interval where the vocabulary entries of a kind are what
    is drawn (their occurrences are not independent).

    Kinds with fewer than ``min_occurrences`` tokens in a corpus are left out.
    """
    frames, groups = [], by_checkpoint(uses)
    for *_, c in by_activation(uses).values():
        tokenizer = survey.loaded(c)[1]
        texts = {use.corpus: use.whole.by_vocabulary for use in groups[c]}
        for corpus, table in (texts | {ALL: together([use.whole for use in groups[c]]).reset_index()}).items():
            kinds = pd.Series([kind(tokenizer, i) for i in table.token_id], name="kind")
            tokens = table.tokens.groupby(kinds).sum()
            ratio = (table.activation_ratio * table.tokens).groupby(kinds).sum() / tokens
            off = table.tokens * (table.activation_ratio - kinds.map(ratio))
            spread = off.groupby(kinds).agg(["std", "size"])  # one entry alone has none
            half = Z90 * spread["std"] * np.sqrt(spread["size"]) / tokens
            numbers = {"activation_ratio": ratio, "low": ratio - half, "high": ratio + half, "tokens": tokens}
            found = pd.DataFrame(numbers).reset_index()
            found = found.assign(checkpoint=c.name, activation=c.activation, corpus=corpus)
            frames.append(found[found.tokens >= min_occurrences])
    names = ["checkpoint", "activation", "corpus", "kind", "activation_ratio", "low", "high", "tokens"]
    return pd.concat(frames, ignore_index=True)[names]


def extremes(uses: Sequence[NeuronActivity], count: int, min_occurrences: int) -> pd.DataFrame:
    """The entries that need most and fewest neurons in the largest models, as readable text.

    Columns checkpoint, activation, side ("most", "fewest"), token, kind, activation_ratio, low, high (90 %, over
    occurrences), tokens, mostly_in (corpus).
    """
    frames, groups = [], by_checkpoint(uses)
    for *_, c in by_activation(uses).values():
        mine, tokenizer = groups[c], survey.loaded(c)[1]
        table = _often(together([use.whole for use in mine]), min_occurrences)
        table = table.sort_values("activation_ratio", ascending=False, kind="stable")
        table = table.assign(low=table.activation_ratio - Z90 * table.se, high=table.activation_ratio + Z90 * table.se)
        number = min(count, len(table) // 2)
        for side, part in (("most", table.head(number)), ("fewest", table.tail(number)[::-1])):
            seen = {i: [int(use.whole.vocabulary_tokens[i]) for use in mine] for i in part.index.tolist()}
            found = part.assign(checkpoint=c.name, activation=c.activation, side=side)
            found["token"] = [token_pieces(tokenizer, [i])[0] for i in seen]
            found["kind"] = [kind(tokenizer, i) for i in seen]
            found["mostly_in"] = [mine[int(np.argmax(counts))].corpus for counts in seen.values()]
            frames.append(found)
    first = ["checkpoint", "activation", "side", "token", "kind", "activation_ratio"]
    return pd.concat(frames).reset_index()[[*first, "low", "high", "tokens", "mostly_in", "token_id"]]

"""Every entry of transformers' mappings is measured exactly or refused in words; ``docs/families.md`` says which.

``python tests/core/test_entries.py`` builds a tiny model of each (minutes) and writes the page.
"""

import sys
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers as tf

sys.path.insert(0, str(Path(__file__).parents[1]))  # when run as a command

from entries import MAPPINGS, VOCABULARY, build
from exactness import exactness, within

import sparsinglib as sl

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
TITLES = {"causal": "Causal language models", "image-text": "Image and text", "seq2seq": "Sequence to sequence"}
LAYOUTS = {"gated": "gated", "fused": "gated, in one matrix", "plain": "not gated", "experts": "experts"}
IDS = torch.randint(6, VOCABULARY - 4, (2, 12), generator=torch.Generator().manual_seed(0))


@cache
def outcome(mapping: str, entry: str) -> tuple[str, str, str]:
    """(class, "works", layouts), (class, "refused", reason) or (class, "not built", the error) of one entry."""
    torch.set_num_threads(1)
    name = MAPPINGS[mapping][entry]
    kind = name if isinstance(name, str) else name[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = build(mapping, entry)
        except Exception as error:  # whatever a config of these sizes does to its classes
            return kind, "not built", type(error).__name__
        try:
            sl.measure(model, [IDS], sl.OutputTopK(0.5))
        except sl.UnsupportedModel as refused:
            return kind, "refused", str(refused)
        except RuntimeError:
            with pytest.raises(RuntimeError) as own, torch.no_grad():
                model(input_ids=IDS, use_cache=False)  # the sizes do not suit it, whoever calls
            return kind, "not built", type(own.value).__name__
        wrong = within(exactness(model, IDS))
    if wrong:
        return kind, "wrong", ", ".join(wrong)
    return kind, "works", ", ".join(LAYOUTS[k] for k in LAYOUTS if k in {ffn.kind for ffn in sl.find_ffns(model)})


def rows(said: str) -> dict[tuple[str, str], tuple[str, str, str]]:
    """What the page says of each entry of each mapping."""
    found = {}
    for mapping, title in TITLES.items():
        for line in said.partition(f"## {title}\n")[2].partition("\n## ")[0].splitlines():
            if line.startswith("| `"):
                entry, kind, result, words = (cell.strip() for cell in line.strip("|").split(" | "))
                found[mapping, entry.strip("`")] = (kind.strip("`"), result, words)
    return found


def written(words: str) -> str:
    return " ".join(words.replace("|", "/").split())


def page() -> str:
    """The whole page."""
    lines = ["# Which models can be measured", ""]
    lines += [f"Made by `python tests/core/test_entries.py` with transformers {tf.__version__}: a tiny random model of"]
    lines += ["each entry of its mappings from config to class. *Works* means: measuring leaves logits as they were,"]
    lines += ["and so do thresholds of zero; masking all neurons equals zero output projections; counts agree with a"]
    lines += ["neuron-by-neuron computation in float64, and CETT to 1e-7; padding changes nothing beyond 1e-6."]
    lines += ["*Not built*: our tiny configuration, made by rule, was not valid for the class, so it was not tried."]
    for mapping, title in TITLES.items():
        results = {entry: outcome(mapping, entry) for entry in MAPPINGS[mapping]}
        counted = [[r[1] for r in results.values()].count(word) for word in ("works", "refused", "not built")]
        lines += ["", f"## {title}", "", "{} work, {} are refused, {} were not built.".format(*counted), ""]
        lines += ["| entry | class | result | FFNs, or the reason |", "| --- | --- | --- | --- |"]
        lines += [f"| `{e}` | `{k}` | {result} | {written(words)} |" for e, (k, result, words) in results.items()]
    return "\n".join(lines) + "\n"


@pytest.mark.slow
@pytest.mark.parametrize(("mapping", "entry"), [(m, e) for m in TITLES for e in MAPPINGS[m]])
def test_measured_exactly_or_refused_in_words(mapping, entry):
    kind, result, words = outcome(mapping, entry)
    assert result in ("works", "refused", "not built"), f"{kind}: {words}"
    assert rows(PAGE.read_text(encoding="utf-8"))[mapping, entry] == (kind, result, written(words))


def test_the_page_has_every_entry_and_most_causal_ones_work():
    said = rows(PAGE.read_text(encoding="utf-8"))
    assert set(said) == {(mapping, entry) for mapping in TITLES for entry in MAPPINGS[mapping]}
    assert {result for _, result, _ in said.values()} == {"works", "refused", "not built"}
    assert sum(result == "works" for (mapping, _), (_, result, _) in said.items() if mapping == "causal") >= 160


if __name__ == "__main__":
    tf.logging.set_verbosity_error()
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")

"""All claims at a glance: how clearly each holds or fails, by kind of evidence."""

from textwrap import fill

import pandas as pd
from matplotlib.lines import Line2D

from . import published, scoreboard, style
from .claims import FURTHEST
from .rules import Verdict

ON = {"paper": "on the paper's numbers", "ladder": "on our ladder", "released": "on released models"}
LOOKS = {kind: style.other(i) for i, kind in enumerate(published.EVIDENCE)}


def claims_forest(recorded: pd.DataFrame) -> style.Picture:
    """Each claim's margin to its bound in half widths of its 90 % interval, a mark a kind of evidence.

    ``recorded`` (``scoreboard.collect``): id, evidence, verdict, margin (``claims.Row``; empty without data).
    """
    known = published.claims()
    ids = known.id.tolist()
    measured = recorded[recorded.verdict != Verdict.NO_DATA]
    with style.context():
        fig, (ax,) = style.axes(1, 1, height=0.29 * len(ids) + 0.9)
        ax.axvspan(0, 2 * FURTHEST, color="#009E73", alpha=0.08, lw=0)
        ax.axvspan(-2 * FURTHEST, 0, color=style.ALARM, alpha=0.08, lw=0)
        clear = measured.dropna(subset=["margin"]).sort_values("margin", kind="stable")
        for row in clear.drop_duplicates(["id", "evidence"]).itertuples():
            y = ids.index(row.id) + 0.36 * (list(LOOKS).index(row.evidence) - 0.5)
            face = "white" if row.verdict == Verdict.INCONCLUSIVE else LOOKS[row.evidence]["color"]
            ax.plot(row.margin, y, ls="", **LOOKS[row.evidence], mfc=face, ms=5)
        for y, claim in enumerate(ids):
            if claim not in set(measured.id):
                ax.text(0, y, "no data", ha="center", va="center", fontsize=7, color="0.45")
        labels = [fill(f"{row.id} {row.claim}", 70) for row in known.itertuples()]
        ax.set_yticks(range(len(ids)), labels, fontsize=7)
        ax.set_xscale("symlog", linthresh=1)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set(xlim=(-1.3 * FURTHEST, 1.3 * FURTHEST), ylim=(len(ids) - 0.4, -0.6))
        ax.set_xlabel(
            "how far the interval stays clear of the claim's bound, in its half widths\n"
            "(left: fails, right: holds, 0: the interval contains the bound)"
        )
        kinds = [kind for kind in LOOKS if kind in set(measured.evidence)]
        keys = [Line2D([], [], ls="", **LOOKS[kind], label=kind) for kind in kinds]
        fig.legend(handles=keys, loc="outside lower left", ncols=len(keys))
        counts = scoreboard.counts(measured, kinds)
        summary = "; ".join(
            f"{ON[kind]} {row[Verdict.HOLDS]} hold, {row[Verdict.FAILS]} fail, {row[Verdict.INCONCLUSIVE]} inconclusive"
            for kind, row in counts.iterrows()
        )
        opposed = scoreboard.in_disagreement(measured[measured.evidence.isin(("paper", "ladder"))]).index
        return fig.says(
            f"{len(ids)} claims: {summary or 'none is measured yet'}"
            + f"; paper and ladder disagree on {', '.join(opposed)}" * bool(len(opposed)),
            "A claim of several parts is drawn at its weakest. Left of zero it fails, right of it holds; hollow: "
            "inconclusive, since the interval contains the bound or a part is not measured. "
            f"At {FURTHEST:g}: as far or further, or numbers without an interval.",
        )

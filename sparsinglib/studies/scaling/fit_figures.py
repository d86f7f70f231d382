"""How far the laws can be trusted: residuals, the choice of warm-up, the coverage of intervals."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import stats

from ...paper import style
from .figures import Laws, around, kinds_of


def residuals(trend: pd.DataFrame, laws: Laws) -> style.Picture:
    """Point less law, in percentage points, along each run, paper above ladder; points left out as warm-up shaded."""
    kinds, columns, words = kinds_of(trend), 6, []
    drift: dict[str, float] = {}  # of runs whose last five points all lie on one side: that farthest from the law
    runs = {kind: style.by_size(trend[trend.evidence == kind].run) for kind in kinds}
    rows = [kind for kind in kinds for _ in range(-(-len(runs[kind]) // columns))]
    with style.context():
        fig, panels = style.axes(len(rows), columns, height=1.4)
        for kind in kinds:
            first = rows.index(kind) * columns
            mine = panels[first : first + rows.count(kind) * columns]
            late = {r: _residual(ax, trend[trend.run == r], laws[r]) for ax, r in zip(mine, runs[kind], strict=False)}
            far = np.abs(np.concatenate(list(late.values())))
            drift |= {r: max(y[-5:], key=abs) for r, y in late.items() if np.ptp(np.sign(y[-5:])) == 0}
            reach = 4 * np.quantile(far, 0.9)
            for k, ax in enumerate(mine):
                ax.set_ylim(-reach, reach)
                ax.tick_params(labelleft=k % columns == 0)
                if k >= len(runs[kind]):
                    ax.set_axis_off()
            words.append(f"{np.median(far):.2f} ({kind})")
        fig.supxlabel("tokens (paper: billions, ladder: millions)", fontsize=9)
        fig.supylabel("measured − law (points)", fontsize=9)
        worst = ""
        if drift:
            run, end = max(drift.items(), key=lambda item: abs(item[1]))
            worst = f", {style.name(run)}'s up to {abs(end):.1f} points {'below' if end < 0 else 'above'}"
        return fig.says(
            f"Median distance from the law after warm-up: {' and '.join(words)} points; in {len(drift)} of {len(laws)} "
            f"runs the last five checkpoints lie on one side of it{worst}",
            "Grey band: warm-up, left out; some of its points lie beyond the axes. One scale for the "
            "paper's runs, one for the ladder's.",
        )


def _residual(ax: Axes, part: pd.DataFrame, law: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """One run's points less its law, drawn; gives the differences (points) of those used, first to last."""
    part = part.sort_values("d")
    run, d, used = str(part.run.iloc[0]), part.d.to_numpy(float), (part.used >= 0.5).to_numpy()
    apart = 100 * (part.activation_ratio.to_numpy(float) - law(d))
    ax.plot(d, apart, **style.look_of(run) | {"ls": ""}, ms=2.5)
    ax.axhline(0, color="0.4", lw=0.8)
    if not used.all():
        ax.axvspan(0, (d[~used].max() + d[used].min()) / 2, color="0.88", zorder=0)
    ax.set_title(style.name(run), fontsize=8)
    ax.set_xlim(0, None)
    return apart[used]


def limit_by_cut(table: pd.DataFrame) -> style.Picture:
    """How each limit of the paper moves with where the warm-up ends; the printed limit as a line, darker: more weight.

    ``table`` is ``limits.by_cut``.
    """
    table, moves = table[table.printed.notna()], []
    runs = style.by_size(table.run)
    with style.context():
        fig, panels = style.grid(len(runs), 4, 1.9)
        for ax, run in zip(panels, runs, strict=True):
            part, ink = table[table.run == run].sort_values("cut"), style.look_of(run)["color"]
            for row in part.itertuples():
                alpha = 0.35 + 0.65 * row.weight / part.weight.max()
                ax.plot([row.cut] * 2, [100 * row.low, 100 * row.high], color=ink, alpha=alpha, lw=1.2)
                ax.plot(row.cut, 100 * row.a0, "o", ms=3.5, color=ink, mfc=ink if row.identified else "white")
            fixed = part[part.identified]
            shown = fixed if len(fixed) else part
            ax.set_ylim(around(100 * pd.concat([shown.low, shown.high, part.printed]), 0.1))
            ax.axhline(100 * part.printed.iloc[0], color=style.FIT, ls="--", lw=1)
            ax.set_title(style.name(run))
            moves.append((100 * np.ptp(fixed.a0) if len(fixed) else 0.0, style.name(run)))
        fig.supxlabel("end of warm-up (tokens a parameter)", fontsize=9)
        fig.supylabel("limit activation ratio (%)", fontsize=9)
        return fig.says(
            f"Where the warm-up ends moves a limit by up to {max(moves)[0]:.1f} points ({max(moves)[1]}), even where "
            "the points fix it",
            "Bars: 90 %, with the end of warm-up taken as known; darker: the points fit better. Dashed: printed in "
            "Table 2. Hollow: not fixed by the points (the bar may leave the panel).",
        )


def coverage(table: pd.DataFrame) -> style.Picture:
    """How often intervals of simulated runs hold the truth, against how often they should: a panel a quantity.

    ``table`` (``data/laws/coverage.csv``): design, activation, quantity, level, intervals, right.
    """
    with style.context():
        fig, panels = style.axes(1, table.quantity.nunique(), height=3.0)
        for ax, (kind, rows) in zip(panels, table.groupby("quantity", sort=False), strict=True):
            ax.plot([0, 100], [0, 100], color="0.5", lw=0.8, ls="--")
            for k, ((design, activation), part) in enumerate(rows.groupby(["design", "activation"])):
                label = f"{style.ACTIVATION_LABELS[str(activation)]}, {design} checkpoints"
                share = part.right / part.intervals
                low, high = stats.beta.ppf([[0.05], [0.95]], part.right + 0.5, part.intervals - part.right + 0.5)
                bars = 100 * style.error_bars(low, share, high)
                ax.errorbar(100 * part.level + 0.25 * k, 100 * share, bars, **style.other(k), ms=4, lw=1, label=label)
            ax.set(xlim=(45, 101), ylim=(45, 101), xlabel="interval (%)", ylabel="holds the truth (%)", title=kind)
        panels[0].legend()
        ninety = table[table.level == 0.9].groupby(["quantity", "activation", "design"], sort=False).sum()
        shares, narrow, wide = 100 * ninety.right / ninety.intervals, _off(ninety, "less"), _off(ninety, "greater")
        return fig.says(
            f"90 % intervals hold the truth in {shares.min():.0f} to {shares.max():.0f} % of simulations, "
            f"{f'clearly too seldom for {narrow}' if narrow else 'never clearly too seldom'}",
            "Simulated sets of seven runs with seeds, slow drift and a warm-up; slope: of the limit over scale. Bars: "
            "90 % interval of the share (Jeffreys). Above the dashed line intervals are wider than they need be"
            f"{f', at 90 % clearly so: {wide}' if wide else ''}.",
        )


def _off(ninety: pd.DataFrame, side: str) -> str:
    """Which 90 % intervals hold the truth less often, or more ("greater"), than chance lets those that are right."""
    return "; ".join(
        f"{kind}, {style.ACTIVATION_LABELS[activation]}, {design} ({row.right} of {row.intervals})"
        for (kind, activation, design), row in ninety[["right", "intervals"]].astype(int).iterrows()
        if stats.binomtest(int(row.right), int(row.intervals), 0.9, side).pvalue < 0.05
    )

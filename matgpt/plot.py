"""Figures. Each function returns a matplotlib Figure; a notebook shows it, a program saves it."""
from statistics import mean, stdev

import matplotlib.pyplot as plt
from matplotlib import colormaps
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from .config import inner_sizes


def close(figure):
    """Forget a figure that was shown, so that a notebook does not draw it a second time."""
    plt.close(figure)


def colors(n):
    """`n` colours, light for the smallest doll and dark for the largest."""
    return [colormaps["viridis_r"](0.08 + 0.92 * (i / (n - 1) if n > 1 else 1)) for i in range(n)]


def _axes(title, xlabel, ylabel, width=7, height=4):
    figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def label(size):
    """Short name of a doll for a legend."""
    inner = "" if size.n_inner == 4 * size.n_embd else f", {size.n_inner} inner"
    return f"{size.n_embd} wide, {size.n_head} head{'s' * (size.n_head > 1)}, " \
           f"{size.n_layer} layer{'s' * (size.n_layer > 1)}{inner}"


def losses(history):
    """Loss of every doll against the step: validation as lines, training dotted."""
    figure, ax = _axes("Loss of every doll in one run", "training step", "cross-entropy, nats per token")
    for size, color in zip(history.sizes, colors(len(history.sizes))):
        last = f"{label(size)}: {history.val[size][-1]:.3f}" if history.steps else label(size)
        ax.plot(history.steps, history.val[size], "o-", color=color, markersize=3, label=last)
        ax.plot(history.steps, history.train[size], ":", color=color, linewidth=1)
    ax.plot([], [], ":", color="gray", label="dotted: training text")
    # the first entry, near ln V, would flatten all that follows
    later = [v for s in history.sizes for d in (history.val, history.train) for v in d[s][1:]]
    if len(history.steps) > 2:
        spread = max(later) - min(later)
        ax.set_ylim(min(later) - 0.1 * spread, max(later) + 0.15 * spread)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize=8, frameon=False)
    return figure


def loss_against_params(params, doll, twin=None, title="One nested model beside twins trained alone"):
    """Validation loss against parameters: dolls of one model, and optionally twins trained alone.

    params: {size: count}; doll, twin: {size: [one loss per seed]}.
    """
    figure, ax = _axes(title, "parameters of the doll", "validation loss, nats per token")
    for name, runs, style, color in (("twins trained alone", twin, "s--", "tab:orange"),
                                     ("dolls of one nested model", doll, "o-", "tab:blue")):
        if runs:
            sizes = sorted(runs, key=params.get)
            means = [sum(runs[s]) / len(runs[s]) for s in sizes]
            errors = [[m - min(runs[s]) for s, m in zip(sizes, means)], [max(runs[s]) - m for s, m in zip(sizes, means)]]
            ax.errorbar([params[s] for s in sizes], means, errors, fmt=style, color=color, capsize=3, label=name)
            below = runs is doll and twin  # labels beside the error bars: twins right of theirs, dolls left
            for size, mean in zip(sizes, means):
                ax.annotate(f"{mean:.3f}", (params[size], mean), textcoords="offset points", fontsize=8, color=color,
                            xytext=(-7, -10) if below else (7, 5), ha="right" if below else "left")
    ax.set_xscale("log")
    ax.set_xticks([params[s] for s in doll], [f"{params[s]:,}\n{s.n_embd} wide" for s in doll], fontsize=8)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(0.12, 0.2)
    ax.legend(fontsize=8, frameon=False)
    return figure


def _corners(ax, title, rows, columns, cuts, note=""):
    """One matrix as a rectangle, rows x columns, with the corner of each doll (largest first) in it."""
    for (r, c), color in zip(cuts, reversed(colors(len(cuts)))):
        ax.add_patch(Rectangle((0, 0), c / columns, r / rows, facecolor=color, edgecolor="white", linewidth=0.8))
    ax.set_title(title, fontsize=9)
    ax.text(0.5, 1.05, note, ha="center", va="top", fontsize=8, color="0.35")
    ax.set(xlim=(-0.02, 1.02), ylim=(1.22, -0.02))
    ax.axis("off")


def _stack(ax, title, names, config, sizes, rows, note):
    """Matrices one behind the other along an axis of heads or layers, of which a doll reads the first."""
    n = len(names)
    for i, name in enumerate(names):
        y = i * 1.12 / n
        height = 1 / n * 0.92
        for size, color in zip(reversed(sizes), reversed(colors(len(sizes)))):
            part = rows(size, i)
            if part:
                ax.add_patch(Rectangle((0, y), part[1], height * part[0], facecolor=color, edgecolor="white", linewidth=0.6))
        ax.text(-0.03, y + height / 2, name, ha="right", va="center", fontsize=8, color="0.35")
    ax.set_title(title, fontsize=9)
    ax.text(0.5, 1.19, note, ha="center", va="top", fontsize=8, color="0.35")
    ax.set(xlim=(-0.16, 1.02), ylim=(1.36, -0.02))
    ax.axis("off")


def nesting(config, sizes=None, output_only=False):
    """Which corner of each weight each doll reads, one colour a doll; areas are to scale.

    output_only: the drawing for MatryoshkaEmbeddingsGPT, which cuts the final residual and the readout alone.
    """
    sizes = list(config.sizes if sizes is None else sizes)
    D, H, S, L = config.n_embd, config.n_head, config.head_size, config.n_layer
    legend = [plt.Line2D([], [], marker="s", linestyle="", markersize=9, color=c) for c in colors(len(sizes))]
    widths = [s.n_embd for s in reversed(sizes)]
    if output_only:
        figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
        _corners(axes[0], "trunk: every weight", 1, 1, [(1, 1)], "always at full size")
        _corners(axes[1], "final residual x", 1, D, [(1, d) for d in widths], "(T, D): the first d columns")
        _corners(axes[2], "readout = tied embedding, transposed", D, 1, [(d, 1) for d in widths],
                 "(D, V): the first d rows")
        names = [f"first {s.n_embd} dimensions" for s in sizes]
    else:
        figure, axes = plt.subplots(2, 4, figsize=(11, 6), layout="constrained")
        F = max(inner_sizes(config.n_inner, L))
        inner = [max(inner_sizes(s.n_inner, s.n_layer)) for s in reversed(sizes)]
        head = config.head_size_of
        _corners(axes[0, 0], "token embedding = readout", 1, D, [(1, d) for d in widths], "(V, D): every row, first d columns")
        _corners(axes[0, 1], "position embedding", 1, D, [(1, d) for d in widths], "(T, D): every row, first d columns")
        _stack(axes[0, 2], "queries; keys and values alike", [f"head {i + 1}" for i in range(H)], config, sizes,
               lambda s, i: i < s.n_head and (head(s) / S, s.n_embd / D), "(H, S, D): first heads, rows and columns")
        _stack(axes[0, 3], "concatenated heads → projection", [f"head {i + 1}" for i in range(H)], config, sizes,
               lambda s, i: i < s.n_head and (head(s) / S, s.n_embd / D), "(D, H, S), drawn transposed")
        _corners(axes[1, 0], "feedforward in", F, D, list(zip(inner, widths)), "(F, D): first f rows, d columns")
        _corners(axes[1, 1], "feedforward out", D, F, list(zip(widths, inner)), "(D, F): first d rows, f columns")
        _corners(axes[1, 2], "norms and biases", 1, D, [(1, d) for d in widths], "(D): the first d")
        _stack(axes[1, 3], "blocks", [f"layer {i + 1}" for i in range(L)], config, sizes,
               lambda s, i: i < s.n_layer and (1, s.n_embd / D), "the first l, at width d")
        names = [label(s) for s in sizes]
    figure.legend(legend, names, loc="outside lower center", ncols=min(4, len(sizes)), fontsize=9, frameon=False)
    return figure


def token_similarity(embeddings, names, title="", groups=None):
    """Heat map of the cosine similarity between tokens.

    embeddings: (V, d); names: V labels; groups: optional {name: how many tokens in a row}, framed and named.
    """
    unit = embeddings / embeddings.norm(dim=-1, keepdim=True)
    figure, ax = plt.subplots(figsize=(6.2, 5.4), layout="constrained")
    image = ax.imshow((unit @ unit.T).cpu(), cmap="RdBu_r", vmin=-1, vmax=1)
    ax.set_title(title)
    ax.set_xticks(range(len(names)), names, fontsize=5)
    ax.set_yticks(range(len(names)), names, fontsize=5)
    start = 0
    for name, count in (groups or {}).items():
        ax.add_patch(Rectangle((start - 0.5, start - 0.5), count, count, fill=False, edgecolor="black", linewidth=1.2))
        ax.text(len(names), start + count / 2 - 0.5, name, fontsize=7, va="center")
        start += count
    figure.colorbar(image, ax=ax, label="cosine similarity", shrink=0.8, pad=0.12 if groups else 0.04)
    return figure


def frontier(groups, x="params", twins=None):
    """Loss against cost for several families of dolls in one picture.

    groups: {name: list of Points}; each family's own front is drawn through. x: "params" or "flops".
    twins: optional list of Points trained alone.
    """
    from .frontier import mark_front
    names = {"params": "parameters of the doll", "flops": "FLOPs per token of the doll"}
    figure, ax = _axes("Which shape for which budget?", names[x], "validation loss, nats per token", 8, 4.6)
    for (name, points), color, marker in zip(groups.items(), plt.rcParams["axes.prop_cycle"].by_key()["color"], "osD^v"):
        front = sorted((p for p in mark_front(points) if p.on_front), key=lambda p: getattr(p, x))
        ax.plot([getattr(p, x) for p in front], [p.loss for p in front], "-", color=color, alpha=0.7)
        ax.plot([getattr(p, x) for p in points], [p.loss for p in points], marker, color=color, label=name)
    if twins:
        ax.plot([getattr(p, x) for p in twins], [p.loss for p in twins], "x", color="black", label="twins trained alone")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(fontsize=8, frameon=False)
    return figure


def loss_grid(points, title="Validation loss over width and depth"):
    """Heat map of the loss of a lattice's dolls: widths across, layers down; a frame marks the Pareto front."""
    widths = sorted({p.size.n_embd for p in points})
    depths = sorted({p.size.n_layer for p in points})
    best = {}  # where several dolls share width and depth, the best of them
    for p in sorted(points, key=lambda p: -p.loss):
        best[p.size.n_layer, p.size.n_embd] = p
    figure, ax = plt.subplots(figsize=(1.4 * len(widths) + 2, 0.9 * len(depths) + 1.2), layout="constrained")
    table = [[best[l, d].loss if (l, d) in best else float("nan") for d in widths] for l in depths]
    image = ax.imshow(table, cmap="viridis_r", aspect="auto")
    middle = (min(p.loss for p in points) + max(p.loss for p in points)) / 2
    for (l, d), p in best.items():
        at = widths.index(d), depths.index(l)
        ax.text(*at, f"{p.loss:.3f}", ha="center", va="center", color="black" if p.loss < middle else "white")
        if p.on_front:
            ax.add_patch(Rectangle((at[0] - 0.48, at[1] - 0.48), 0.96, 0.96, fill=False, edgecolor="red", linewidth=1.5))
    ax.set_xticks(range(len(widths)), widths)
    ax.set_yticks(range(len(depths)), depths)
    ax.set(title=title, xlabel="width", ylabel="layers")
    figure.colorbar(image, ax=ax, label="nats per token")
    return figure


def interpolation(curves, title="Sizes between those that were trained"):
    """Loss along each axis. curves: {axis: (values, losses, the values that were trained)}."""
    figure, axes = plt.subplots(1, len(curves), figsize=(3.4 * len(curves), 3.2), sharey=True, layout="constrained")
    for ax, (axis, (values, losses, trained)) in zip([axes] if len(curves) == 1 else axes, curves.items()):
        ax.plot(values, losses, "o-", markersize=4, markerfacecolor="white", label="never trained")
        known = [(v, loss) for v, loss in zip(values, losses) if v in trained]
        ax.plot(*zip(*known), "o", color="tab:blue", label="trained")
        ax.set_xlabel(axis)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.grid(alpha=0.25)
    figure.axes[0].set_ylabel("validation loss, nats per token")
    figure.axes[0].legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def _dimensions(ax, dims):
    """A log2 axis with a tick at each number of dimensions."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(dims), [str(d) for d in dims])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("dimensions")


def _mean_sd(runs):
    """Mean and standard deviation over runs, point by point; the latter 0 for one run."""
    columns = list(zip(*runs))
    return [mean(c) for c in columns], [stdev(c) if len(c) > 1 else 0 for c in columns]


def retrieval(dims, curves, levels=None, title="Nearest neighbour among passages of the documentation"):
    """Accuracy against dimensions, mean ± sd over runs. curves: {method: runs, each with a share for each of dims};
    levels: {name: share} drawn across, such as chance."""
    figure, ax = _axes(title, "", "passages given the right topic, %")
    for i, (name, runs) in enumerate(curves.items()):
        middle, sd = _mean_sd(runs)
        color = f"C{i}"
        ax.plot(dims, [100 * m for m in middle], "osD^v"[i % 5] + "-", color=color, markersize=5, label=name)
        ax.fill_between(dims, [100 * (m - s) for m, s in zip(middle, sd)], [100 * (m + s) for m, s in zip(middle, sd)],
                        color=color, alpha=0.15, linewidth=0)
    for (name, share), style in zip((levels or {}).items(), (":", "--", "-.")):
        ax.axhline(100 * share, color="0.4", linestyle=style, linewidth=1.2, label=f"{name}, {100 * share:.0f} %")
    _dimensions(ax, dims)
    ax.set_ylim(bottom=0)
    figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=3)
    return figure


def adaptive(curves, full, title="Shortlist with few dimensions, rank again with all"):
    """Accuracy against multiply-adds of one query, as a share of those of a full search.

    curves: {first dimensions: (multiply-adds, shares right, shortlist lengths)}; full: (multiply-adds, share right) of
    searching with every dimension.
    """
    figure, ax = _axes(title, f"multiply-adds per query, % of the {full[0]:,} of a full search", "passages given the right topic, %")
    for (d, (costs, shares, lengths)), color in zip(curves.items(), colors(len(curves))):
        ax.plot([100 * c / full[0] for c in costs], [100 * s for s in shares], "o-", color=color, markersize=5,
                alpha=0.8, label=f"shortlist by {d} dimensions")
    ax.axhline(100 * full[1], color="0.6", linestyle=":", linewidth=1, zorder=0)
    ax.plot(100, 100 * full[1], "*", color="black", markersize=12, label="search with all dimensions")
    ax.set_xscale("log")
    ax.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(0.05, 0.12)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), title_fontsize=8,
              title="dots, left to right: the best\n" + ", ".join(map(str, lengths)) + "\nare ranked again")
    return figure


def pair_trends(trends, dims, title="Which pairs of tokens grow closer as dimensions are added?"):
    """Mean cosine of each kind of pair over sizes, and the same in standard deviations above all pairs.

    trends: as `similarity.pair_trends` gives them. Bars: a standard error over the pairs.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    for i, (kind, trend) in enumerate(trends.items()):
        whole = kind == "all pairs"
        style = dict(color="black" if whole else f"C{i - 1}", linestyle="--" if whole else "-", linewidth=1.8,
                     marker=None if whole else "osD^v"[i % 5], markersize=5, capsize=3, label=f"{kind} ({trend['pairs']})")
        spread = [e / s if s else 1 for e, s in zip(trend["excess"], trend["standing"])]  # sd of all pairs at this size
        axes[0].errorbar(dims, trend["mean"], None if whole else trend["se"], **style)
        axes[1].errorbar(dims, trend["standing"], None if whole else [e / s for e, s in zip(trend["se"], spread)], **style)
    axes[0].set(title="as it is", ylabel="mean cosine similarity")
    axes[1].set(title="beside all pairs", ylabel="standard deviations above all pairs")
    for ax in axes:
        _dimensions(ax, dims)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def overlap(tables, dims, k=10):
    """Share of the k nearest neighbours that two sizes have in common. tables: {model: rows of shares, dims x dims}."""
    figure, axes = plt.subplots(1, len(tables), figsize=(4.4 * len(tables) + 0.8, 4.2), layout="constrained", squeeze=False)
    for ax, (name, table) in zip(axes[0], tables.items()):
        image = ax.imshow(table, cmap="viridis", vmin=0, vmax=1)
        for i, row in enumerate(table):
            for j, share in enumerate(row):
                ax.text(j, i, f"{share:.2f}", ha="center", va="center", fontsize=8, color="black" if share > 0.6 else "white")
        ax.set_xticks(range(len(dims)), dims)
        ax.set_yticks(range(len(dims)), dims)
        ax.set(title=name, xlabel="dimensions", ylabel="dimensions")
    figure.colorbar(image, ax=axes, label=f"common share of the {k} nearest", shrink=0.8)
    return figure


def in_between(dims, trained, losses, curves, title="Sizes that were never trained"):
    """Loss and retrieval at every size: filled where trained, hollow between.

    trained: {model: its trained sizes}; losses, curves: {model: runs, each with a number for each of dims}, the loss
    in nats per token, retrieval as a share.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for ax, values, scale, ylabel in ((axes[0], losses, 1, "validation loss, nats per token"),
                                      (axes[1], curves, 100, "passages given the right topic, %")):
        for i, (name, runs) in enumerate(values.items()):
            middle, sd = _mean_sd(runs)
            ax.errorbar(dims, [scale * m for m in middle], [scale * s for s in sd], color=f"C{i}", capsize=3, label=name)
            for d, m in zip(dims, middle):
                ax.plot(d, scale * m, "o", color=f"C{i}", markersize=6, markerfacecolor=f"C{i}" if d in trained[name] else "white")
        _dimensions(ax, dims)
        ax.tick_params(axis="x", labelsize=8)
        ax.set_ylabel(ylabel)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].plot([], [], "o", color="0.4", label="trained")
    axes[0].plot([], [], "o", color="0.4", markerfacecolor="white", label="never trained")
    axes[0].legend(fontsize=8, frameon=False)
    figure.suptitle(title)
    return figure


def shown(name):
    """A token as people can read it: blanks as ␣, line ends as ⏎."""
    return name.replace(" ", "␣").replace("\n", "⏎")


def neighbours(found, names, tokens):
    """Nearest neighbours of some tokens at each size, nearest on top, shaded by cosine.

    found: {token: {dimensions: (neighbours, their cosines)}}, as `similarity.nearest_tokens` gives them.
    """
    def short(name):
        name = shown(name)
        return name if len(name) < 10 else name[:8] + "…"

    longest = max(len(short(names[other])) for table in found.values() for others, _ in table.values() for other in others)
    width = len(found[tokens[0]]) * max(0.5, 0.1 * longest)
    columns = max(1, min(len(tokens), int(12 / width)))
    rows = -(-len(tokens) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns + 1.4, 3.4 * rows), layout="constrained", squeeze=False)
    for ax in axes.flat[len(tokens):]:
        ax.axis("off")
    for ax, token in zip(axes.flat, tokens):
        table = [values for _, values in found[token].values()]  # a column for each size
        image = ax.imshow(list(zip(*table)), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for x, (others, values) in enumerate(found[token].values()):
            for y, (other, value) in enumerate(zip(others, values)):
                ax.text(x, y, short(names[other]), ha="center", va="center", fontsize=9, family="monospace",
                        color="white" if value > 0.6 else "black")
        ax.set_xticks(range(len(table)), found[token])
        ax.set_yticks([])
        ax.set(title=f"nearest to  {shown(names[token])}", xlabel="dimensions")
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.8)
    return figure


def heat_maps(embeddings, names, groups, dims):
    """Cosine similarity of grouped tokens, one heat map for each number of dimensions.

    embeddings: (V, D); names: V labels; groups: {name: tokens}; dims: how many of the D to look at.
    """
    tokens = [token for group in groups.values() for token in group]
    figure, axes = plt.subplots(1, len(dims), figsize=(2.6 * len(dims) + 1.6, 3.1), layout="constrained", squeeze=False)
    for ax, d in zip(axes[0], dims):
        unit = embeddings[tokens, :d] / embeddings[tokens, :d].norm(dim=-1, keepdim=True)
        image = ax.imshow((unit @ unit.T).tolist(), cmap="RdBu_r", vmin=-1, vmax=1)
        start = 0
        for group in groups.values():
            ax.add_patch(Rectangle((start - 0.5,) * 2, len(group), len(group), fill=False, edgecolor="black", linewidth=1))
            start += len(group)
        edges = [sum(map(len, list(groups.values())[:i])) + len(g) / 2 - 0.5 for i, g in enumerate(groups.values())]
        ax.set_title(f"{d} dimensions", fontsize=10)
        ax.set_xticks([])
        ax.set_yticks(edges if ax is axes[0, 0] else [], groups if ax is axes[0, 0] else [], fontsize=9)
        ax.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.8)
    return figure


def agreement(found):
    """How often each doll's likeliest token is the full one's, and the KL divergence; from `matgpt.agreement`."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for ax, title, ylabel, values, form in (
            (axes[0], "Same next token as the full doll", "% of positions", [100 * a.same for a in found.values()], "%.1f"),
            (axes[1], "KL (full || doll)", "nats per token", [a.kl for a in found.values()], "%.3f")):
        ax.bar_label(ax.bar(range(len(found)), values, color=colors(len(found))), fmt=form, fontsize=8)
        ax.set_xticks(range(len(found)), map(str, found), fontsize=8)
        ax.set(title=title, xlabel="width, heads, layers of the doll", ylabel=ylabel)
        ax.spines[["top", "right"]].set_visible(False)
    return figure

"""A second computation of the study's figures, in plain Python: it shares no code with the tables.

Reads prediction files and works from sums over clips, speakers and folds as a textbook writes them.
"""

import gzip
import json
import random
from statistics import mean, variance

from mpmath import betainc


def t_above(t, freedom):
    """Chance that Student's t is above a value, by the incomplete beta function."""
    half = betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True) / 2
    return float(half if t > 0 else 1 - half)


def t_quantile(chance_above, freedom):
    """Value that Student's t is above with a chance, by bisection."""
    low, high = -1e4, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_above(middle, freedom) > chance_above else (low, middle)
    return (low + high) / 2


def read(paths):
    """Return {(seed, unit): (block, group, label, right)} of the files {(seed, fold): path}."""
    table = {}
    for (seed, fold), path in paths.items():
        record = json.loads(gzip.decompress(path.read_bytes()))
        if "images" in record:
            columns = record["images"]
            for i, name in enumerate(columns["id"]):
                label = columns["label"][i]
                table[seed, name] = (fold, name, label, columns["predicted"][i] == label)
            continue
        for clip in record["utterances"]:
            best = max(range(len(clip["last"])), key=lambda k, clip=clip: clip["last"][k])
            right = record["labels"][best] == clip["label"]
            table[seed, clip["id"]] = (fold, clip["speaker"], clip["label"], right)
    return table


def measure(table, seed, kind):
    """UA or accuracy of one seed, from its definition."""
    rows = [(label, right) for (s, _), (_, _, label, right) in table.items() if s == seed]
    if kind == "accuracy":
        return 100 * mean(right for _, right in rows)
    labels = {label for label, _ in rows}
    return 100 * mean(mean(r for other, r in rows if other == label) for label in labels)


def means_of_half(folder, half, folds):
    """Return {form: mean UA over the seeds} of the cells of a half, from their files' names."""
    parts = {}
    for path in folder.glob(f"ravdess_half{half}-*.json.gz"):
        head, fold = path.name.removesuffix(".json.gz").rsplit("-fold", 1)
        head, seed = head.rsplit("-seed", 1)
        form = head.split("-speaker-")[1].rsplit("-strong", 1)[0]
        parts.setdefault(form, {})[int(seed), int(fold)] = path
        if int(fold) not in folds:
            raise ValueError(f"{path} is of another half")
    out = {}
    for form, files in parts.items():
        table = read(files)
        out[form] = mean(measure(table, seed, "UA") for seed in sorted({s for s, _ in files}))
    return out


def cells_of_choice(folder, form_of_half):
    """Read the cells that test each half's form: those of the other half's folds."""
    files = {}
    for fold in range(6):
        form = form_of_half[2 if fold < 3 else 1]
        for path in folder.glob(f"ravdess-speaker-{form}-strong30-*-fold{fold}.json.gz"):
            files[int(path.name.split("-seed")[1].split("-")[0]), fold] = path
    return read(files)


def figures(ours, base, kind, margin, comparisons):
    """Return every figure of a row; the bootstrap's ends come from draws of its own."""
    seeds = sorted({seed for seed, _ in base})
    labels = {}
    for (seed, unit), (_, _, label, _) in base.items():
        if seed == seeds[0]:
            labels.setdefault(label, []).append(unit)
    units = sum(map(len, labels.values()))
    groups = sorted({(row[0], row[1]) for row in base.values()})
    cell = {(seed, key): 0.0 for seed in seeds for key in groups}
    for (seed, unit), (block, group, label, right) in ours.items():
        weight = 100 / (len(labels) * len(labels[label])) if kind == "UA" else 100 / units
        cell[seed, (block, group)] += (right - base[seed, unit][3]) * weight * len(groups)
    by_seed = [measure(ours, s, kind) - measure(base, s, kind) for s in seeds]
    out = {"difference": mean(by_seed), "ours": mean(measure(ours, s, kind) for s in seeds)}
    out |= {"base": mean(measure(base, s, kind) for s in seeds), "groups": len(groups)}
    error, freedom = error_of(cell, seeds, groups, {key: key[0] for key in groups})
    out |= {"standard_error": error, "degrees_of_freedom": freedom}
    out["low"] = out["difference"] - t_quantile(0.025, freedom) * error
    out["high"] = out["difference"] + t_quantile(0.025, freedom) * error
    size = abs(out["difference"])
    out["p"] = 2 * t_above(size / error, freedom)
    against_low = t_above((out["difference"] + margin) / error, freedom)
    against_high = t_above((margin - out["difference"]) / error, freedom)
    out["equivalence_p"] = max(against_low, against_high)
    sure, power = t_quantile(0.025 / comparisons, freedom), t_quantile(0.2, freedom)
    out["detectable"] = (sure + power) * error
    error, freedom = error_of(cell, seeds, groups, dict.fromkeys(groups, "all"))
    out["boot_low"], out["boot_high"], out["boot_sd"] = bootstrap_ends(cell, seeds, groups)
    out["seed_low"] = out["difference"] - t_quantile(0.025, freedom) * error
    out["seed_high"] = out["difference"] + t_quantile(0.025, freedom) * error
    return out


def bootstrap_ends(cell, seeds, groups, resamples=10_000):
    """Ends of the percentile interval, and the standard deviation of the resampled differences.

    Each resample draws groups with replacement, and in each block seeds with replacement.
    """
    chance, blocks = random.Random(1), sorted({block for block, _ in groups})
    share = 1 / (len(groups) * len(seeds))
    differences = []
    for _ in range(resamples):
        runs = {block: chance.choices(seeds, k=len(seeds)) for block in blocks}
        drawn = chance.choices(groups, k=len(groups))
        differences.append(share * sum(cell[s, key] for key in drawn for s in runs[key[0]]))
    differences.sort()
    low, high = (differences[round(resamples * end)] for end in (0.025, 0.975))
    return low, high, variance(differences) ** 0.5


def error_of(cell, seeds, groups, block_of):
    """Standard error and degrees of freedom of the two-way layout in each block."""
    run_terms, squares, blocks = [], 0.0, sorted(set(block_of.values()))
    for block in blocks:
        inside = [key for key in groups if block_of[key] == block]
        seed_means = {s: mean(cell[s, key] for key in inside) for s in seeds}
        overall = mean(seed_means.values())
        share = len(inside) / len(groups)
        run_terms.append(share**2 * variance(seed_means.values()) / len(seeds))
        for key in inside:
            group_mean = mean(cell[s, key] for s in seeds)
            squares += sum(
                (cell[s, key] - seed_means[s] - group_mean + overall) ** 2 for s in seeds
            )
    rest_freedom = (len(seeds) - 1) * (len(groups) - len(blocks))
    rest = squares / rest_freedom / len(seeds) / len(groups)
    group = variance(mean(cell[s, key] for s in seeds) for key in groups) / len(groups)
    run = sum(run_terms)
    total = max(run, group, run + group - rest)
    noise = sum(term**2 for term in run_terms) / (len(seeds) - 1)
    noise += group**2 / (len(groups) - 1) + rest**2 / rest_freedom
    return total**0.5, max(total**2 / noise, len(seeds) - 1)


def holm(values):
    """Holm's step-down p-values, in the order given."""
    order = sorted(range(len(values)), key=values.__getitem__)
    out, largest = [0.0] * len(values), 0.0
    for step, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - step) * values[index]))
        out[index] = largest
    return out

"""Model cards and the comparison table, generated from report.json."""

from collections.abc import Sequence
from typing import Any

from training.precision import INT8_MAY_LOSE

_TRAINED_ON = {
    "random": "stratified random 70/15/15",
    "spatial": "by longitude 60/20/20 (TorchGeo's EuroSATSpatial)",
}


def percent(value: float) -> str:
    """0.98765 -> ``98.77 %``."""
    return f"{100 * value:.2f} %"


def with_interval(report: dict[str, Any], figure: str) -> str:
    """``98.77 % (98.40-99.09)``: a figure with its 95 % bootstrap interval."""
    low, high = report["intervals"][figure]
    return f"{percent(report[figure])} ({100 * low:.2f}-{100 * high:.2f})"


def comparison(reports: list[tuple[dict[str, Any], dict[str, Any] | None]]) -> str:
    """One Markdown table of all releases; the int8 file of a release has a line of its own.

    Args:
        reports: for each release its report and, if there is one, the report of the same training
            on the spatial split.
    """
    lines = [
        "| model | accuracy, random split | macro F1 | accuracy, spatial split | macro F1 | ECE | "
        "accuracy, L2A-like | size | one tile, one thread |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for report, spatial in reports:
        shifted = {row["shift"]: row["accuracy"] for row in report.get("robustness", [])}
        l2a = next((percent(v) for k, v in shifted.items() if k.startswith("L2A")), "-")
        lines.append(
            f"| {report['model']} {report['version']} "
            f"| {with_interval(report, 'accuracy')} | {percent(report['macro_f1'])} "
            f"| {with_interval(spatial, 'accuracy') if spatial else '-'} "
            f"| {percent(spatial['macro_f1']) if spatial else '-'} "
            f"| {percent(report['calibration']['ece'])} | {l2a} "
            f"| {report['size_bytes'] / 1e6:.2f} MB | {report['latency']['median_ms']:.1f} ms |"
        )
        if "int8" in report:
            int8 = report["int8"]
            lines.append(
                f"| {report['model']} {report['version']}, int8 "
                f"| {with_interval(int8, 'accuracy')} | {percent(int8['macro_f1'])} | - | - "
                f"| {percent(int8['calibration']['ece'])} | - "
                f"| {int8['size_bytes'] / 1e6:.2f} MB | {int8['latency']['median_ms']:.1f} ms |"
            )
    return "\n".join(lines) + "\n"


def model_card(report: dict[str, Any], spatial: dict[str, Any] | None) -> str:
    """The model card of a release, in Markdown.

    Args:
        report: of the released file, on the random split.
        spatial: of the same training on the spatial split, if it was made.
    """
    training, config = report["training"], report["training"]["config"]
    sections = [
        f"# {report['model']} {report['version']}",
        "Ten EuroSAT land-use classes from Sentinel-2 tiles (64 x 64 px, 10 m GSD, RGB). "
        f"TorchScript, {report['size_bytes'] / 1e6:.2f} MB, sha256 `{report['model_sha256']}`.",
        "## Data",
        "EuroSAT RGB, 27,000 tiles (Helber et al., 2019; MIT licence); imagery: Copernicus "
        f"Sentinel data. Trained on the split {_TRAINED_ON[report['split']['name']]}; lists by "
        "sha256: "
        + ", ".join(f"{part} `{digest}`" for part, digest in report["split"]["sha256"].items())
        + ".",
        "## Weights",
        " ".join(filter(None, (training["weights_origin"], training.get("teacher_origin", "")))),
        "## Figures",
        f"On {sum(report['split']['counts']['test'].values()):,} test tiles that were used for "
        "nothing else; epoch, temperature and threshold were chosen on validation tiles. In "
        f"brackets: 95 % bootstrap intervals. Best epoch {training['epoch']}, validation accuracy "
        f"{percent(training['val_accuracy'])}.",
        _figures(report, spatial),
        "Random splits put neighbouring tiles of one scene on both sides, so the spatial figure is "
        "the one to expect elsewhere in Europe. "
        + (_spatial_training(config, spatial) if spatial else "It was not measured yet."),
        *(["### In int8", _int8(report)] if "int8" in report else []),
        "### Classes",
        _table(
            ("class", "precision", "recall", "F1", "tiles"),
            [
                (
                    line["label"],
                    percent(line["precision"]),
                    percent(line["recall"]),
                    percent(line["f1"]),
                    str(line["support"]),
                )
                for line in report["per_class"]
            ],
        ),
        "Most confused: "
        + ", ".join(
            f"{'/'.join(pair['classes'])} {pair['count']}" for pair in report["confused_pairs"][:5]
        )
        + ".",
        "![Confusion matrix](confusion.svg)",
        "### Confidence",
        _confidence(report),
        "![Reliability diagram](reliability.svg)",
    ]
    if "robustness" in report:
        sections += ["### Robustness", _robustness(report)]
    sections += [
        "## Training",
        f"{len(training['history'])} epochs, commit `{training['git_commit'][:12]}`. "
        "All knobs (`training/config.py` says what they mean):",
        "```yaml\n" + "\n".join(f"{key}: {value}" for key, value in config.items()) + "\n```",
        "![Learning curves](history.svg)",
        "## Limits",
        "European scenes without clouds; one class a tile, although many tiles "
        "show several; no class for what is none of the ten (snow, desert, cloud): such tiles get "
        "one of the ten, and only sometimes a low confidence. EuroSAT's pixels are L1C-like; for "
        "other products see the robustness table. Not for decisions about people or property "
        "without a check by eye.",
        "## Licence",
        "MIT, like EuroSAT.",
    ]
    return "\n\n".join(sections) + "\n"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _figures(report: dict[str, Any], spatial: dict[str, Any] | None) -> str:
    columns = [("random split", report)] + ([("spatial split", spatial)] if spatial else [])
    rows: list[tuple[str, ...]] = [
        (name, *(with_interval(column, key) for _, column in columns))
        for name, key in (
            ("accuracy", "accuracy"),
            ("macro F1", "macro_f1"),
            ("macro precision", "macro_precision"),
            ("macro recall", "macro_recall"),
        )
    ]
    rows += [
        ("ECE", *(percent(column["calibration"]["ece"]) for _, column in columns)),
    ]
    if "test_time_augmentation" in report:
        # Not served: eight times the work for every tile.
        rows.append(
            (
                "accuracy, mean over 8 flips and turns (not served)",
                *(
                    percent(column["test_time_augmentation"]["accuracy"])
                    if "test_time_augmentation" in column
                    else "-"
                    for _, column in columns
                ),
            )
        )
    latency = report["latency"]
    rows.append(
        (
            "one tile, one thread",
            f"{latency['median_ms']:.2f} ms (p95 {latency['p95_ms']:.2f}), {latency['cpu']}",
            *("-" for _ in columns[1:]),
        )
    )
    return _table(("", *(name for name, _ in columns)), rows)


def _int8(report: dict[str, Any]) -> str:
    """What is served by default, against the file that all other figures are of."""
    int8 = report["int8"]
    lost = max(
        report["accuracy"] - int8["accuracy"],
        int8["calibration"]["ece"] - report["calibration"]["ece"],
    )
    forced = (
        f" That is {100 * lost:.2f} points lost, more than the {100 * INT8_MAY_LOSE:.1f} that a "
        "release may lose: it was released all the same (FORCE=1)."
        if lost > INT8_MAY_LOSE
        else ""
    )
    return (
        "Served by default is the same model in 8-bit integers (static, calibrated on training "
        f"tiles), {int8['size_bytes'] / 1e6:.2f} MB, sha256 `{int8['model_sha256']}`: accuracy "
        f"{with_interval(int8, 'accuracy')}, macro F1 {percent(int8['macro_f1'])}, ECE "
        f"{percent(int8['calibration']['ece'])} (temperature "
        f"{int8['calibration']['temperature']:.3f}, uncertain below "
        f"{int8['uncertainty']['threshold']:.3f}), one tile in "
        f"{int8['latency']['median_ms']:.2f} ms. It answers {percent(int8['agreement'])} of the "
        f"test tiles with the class that fp32 gives.{forced} All other figures are "
        "those of fp32, which `make archive PRECISION=fp32` packs."
    )


def _spatial_training(config: dict[str, Any], spatial: dict[str, Any]) -> str:
    """What was trained for the spatial figure: it cannot be the released file."""
    other = spatial["training"]["config"]
    differ = [
        f"{key} {other[key]!r} instead of {value!r}"
        for key, value in config.items()
        if key not in {"split", "version"} and other[key] != value
    ]
    return (
        "It was measured on a model of the same architecture, trained on the spatial training list "
        f"with {', '.join(differ) if differ else 'the same knobs'}; not on the released file."
    )


def _confidence(report: dict[str, Any]) -> str:
    calibration, doubt = report["calibration"], report["uncertainty"]
    return (
        f"ECE {percent(calibration['ece_before'])} before and {percent(calibration['ece'])} after "
        f"temperature scaling (temperature {calibration['temperature']:.3f}). Answers below a "
        f"confidence of {doubt['threshold']:.3f} are marked uncertain: that costs a mark on "
        f"{percent(doubt['flagged'])} of the tiles, catches {percent(doubt['errors_caught'])} of "
        f"the errors and leaves {percent(doubt['accuracy_of_the_rest'])} accuracy among the others."
    )


def _robustness(report: dict[str, Any]) -> str:
    rows = [("none", percent(report["accuracy"]), percent(report["macro_f1"]), "")]
    rows += [
        (
            row["shift"],
            percent(row["accuracy"]),
            percent(row["macro_f1"]),
            f"{100 * (row['accuracy'] - report['accuracy']):+.2f}",
        )
        for row in report["robustness"]
    ]
    table = _table(("change of the test tiles", "accuracy", "macro F1", "points"), rows)
    config = report["training"]["config"]
    varied = [key for key in ("haze", "brightness", "noise", "degrade") if config.get(key)]
    kinds = "L2A-like is one of haze"
    if config.get("degrade"):
        kinds += "; JPEG, blur, noise and half resolution are of degrade"
    if not varied:
        return table
    return (
        f"{table}\n\nTraining varied {', '.join(varied)} itself, so rows of that kind ({kinds}) "
        "are no surprise to the model; the others are."
    )

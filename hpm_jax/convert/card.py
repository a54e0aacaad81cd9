"""Writes the model card of a folder, from facts of the run only."""

import json
from pathlib import Path
from typing import Any

from hpm_jax.convert.about import About
from hpm_jax.convert.read import BEST
from hpm_jax.convert.weights import Architecture, WeightsError
from hpm_jax.fields import as_dict
from hpm_jax.text_files import read_json

_LOADS = {
    "timm": 'import timm\n\nmodel = timm.create_model("local-dir:FOLDER", pretrained=True)',
    "hugging_face": "from transformers import AutoImageProcessor, {0}\n\n"
    'model = {0}.from_pretrained("FOLDER")\n'
    'processor = AutoImageProcessor.from_pretrained("FOLDER")',
}


def card(
    a: Architecture, names: str, known: About, config: dict[str, Any], scores: list[str] | None
) -> str:
    """Returns README.md: method, data, results and loading; the licence is left open."""
    library = {"timm": "timm", "hugging_face": "transformers"}[names]
    kind = "AutoModel" if not a.classes else config["architectures"][0] if names != "timm" else ""
    task = "video" if a.grid[0] * a.tubelet > 1 else "image"
    lines = ["---", f"library_name: {library}"]
    lines += [f"pipeline_tag: {task}-{'classification' if a.classes else 'feature-extraction'}"]
    lines += ["tags:", "- hpm_jax", "# license: choose one, and remove the #", "---", ""]
    lines += [f"# {Path(known.source).name}", "", *_about(a, known), ""]
    lines += ["## Results", ""]
    found = scores or list(known.results)
    lines += [*found, ""] if found else ["No results come with this model.", ""]
    lines += ["## Use", "", "```python", _LOADS[names].format(kind), "```", ""]
    if config.get("model_type") == "vit_mae":
        lines += [
            "Features of whole images need `mask_ratio=0.0` in `from_pretrained`: "
            "ViT-MAE hides patches by default.",
            "",
        ]
    mean, std = (", ".join(f"{x:g}" for x in values) for values in (known.mean, known.std))
    lines += [f"Images are divided by 255, less {mean}, over {std} (each channel).", ""]
    if known.command:
        lines += ["## How it was made", "", f"    {known.command}", ""]
    if known.versions:
        lines += ["With " + ", ".join(f"{name} {v}" for name, v in known.versions) + ".", ""]
    if known.config is not None:
        text = json.dumps(as_dict(known.config), indent=2)
        lines += ["<details><summary>All options</summary>", "", "```json", text, "```", ""]
        lines += ["</details>", ""]
    return "\n".join(lines)


def _about(a: Architecture, known: About) -> list[str]:
    size = " x ".join(str(n * p) for n, p in zip(a.grid[1:], a.patch[1:], strict=True))
    clip = f"{a.grid[0] * a.tubelet} frames of " if a.grid[0] * a.tubelet > 1 else ""
    lines = [
        f"A vision transformer of width {a.width} with {a.depth} blocks and {a.heads} heads, for "
        f"{clip}{size} pixels and {a.channels} channel(s), in patches of {a.patch_size} pixels.",
    ]
    config = known.config
    if config is None:
        return [*lines, "", f"Converted from `{known.source}` by hpm_jax."]
    data = config.data
    lines += ["", "| | |", "| --- | --- |", f"| task | {config.task} |"]
    lines.append(f"| data | {' '.join(filter(None, (data.source, data.name)))} |")
    if config.task == "pretrain":
        lines.append(f"| mask | `{config.mask.strategy}`, {config.mask.ratio:.0%} hidden |")
        lines.append(f"| target | `{config.target}` |")
        terms = ", ".join(f"`{term}`" for term in config.losses) or "reconstruction alone"
        lines.append(f"| losses beside reconstruction | {terms} |")
        lines.append(f"| teacher | `{config.teacher}` |")
    lines.append(f"| epochs | {config.optimizer.epochs} |")
    lines.append(f"| batch size | {config.optimizer.batch_size} |")
    return lines


def read_scores(report: Path, source: str) -> list[str]:
    """Returns the table of a report's `report.json`, with baselines, for the card of `source`.

    Raises:
        WeightsError: if there is none, or it belongs to other weights.
    """
    there = report / "report.json"
    if not there.exists():
        raise WeightsError(f"{report} has no report.json: run configs/report.py on the model first")
    found = read_json(there, WeightsError)
    model = Path(source).parent if Path(source).name == BEST else Path(source)
    measured = Path(str(found.get("init_from")))
    measured = measured.parent if measured.name == BEST else measured
    if measured.name != model.name:
        raise WeightsError(f"{there} measures {found.get('init_from')}, expected {source}")
    try:
        rows = [
            f"| {row['title']} | {row['accuracy']:.2%} | {row['note']} |" for row in found["rows"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{there} is damaged ({error}): run the report again") from None
    return ["| | accuracy | |", "| --- | --: | --- |", *rows]

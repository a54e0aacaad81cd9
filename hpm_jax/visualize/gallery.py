"""The pictures of a page: each patch of the fixed images, over the steps of one or several runs."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from hpm_jax.visualize.snapshot import data_uri
from hpm_jax.visualize.view import FATE_COLORS, HARD, HIDDEN

BYTES = 3_000_000  # of pictures in a page, all runs together
PANELS = {
    "input": ("input",),
    "masked": ("input", "mask"),  # the mask lies over the input
    "rebuilt": ("rebuilt",),
    "predicted loss": ("predicted_map",),
    "true loss": ("true_map",),
    "attention": ("attention",),
}
ABOUT = {
    "input": "the image itself",
    "masked": "which patches are hidden",
    "rebuilt": "hidden patches as the model rebuilds them",
    "predicted loss": "the loss that the model predicts for every patch",
    "true loss": "the loss of the hidden patches",
    "attention": "the attention of the cls token to every patch",
}
RANKS = (
    "The predicted loss may tell the order of the patches alone, as in HPM: compare its ranks with "
    "those of the true loss, not its values"
)
LEGEND = (
    '<ul class="legend"><li><i style="background:{}"></i>hidden</li>'
    '<li><i style="background:{}"></i>hidden because hard</li>'
    '<li><i class="ramp"></i>loss, from the lowest to the highest of each image</li></ul>'
)

Snapshot = dict[str, Any]


def gallery(
    runs: Mapping[str, Sequence[Snapshot]], slider: str = "Step of training"
) -> tuple[list[str], dict[str, Any] | None]:
    """The elements of the pictures, and the data of `page.js`; ([], None) where there are none.

    Runs that have no snapshot are left out. The elements show the last step of each run.

    Args:
        runs: the snapshots of each run, as `read_snapshots` gives them, by its name. One may
            have a `label`, which the slider tells instead of its step.
        slider: what it moves over.
    """
    runs = {name: some for name, some in runs.items() if some and some[-1]["items"]}
    if not runs:
        return [], None
    share = BYTES // len(runs)
    kept = {name: thin(snapshots, share) for name, snapshots in runs.items()}
    frames = {name: [_frame(one) for one in some] for name, some in kept.items()}
    steps = sorted({frame["step"] for some in frames.values() for frame in some})
    data = {
        "steps": steps,
        "runs": [{"name": name, "frames": some} for name, some in frames.items()],
    }
    several = " several" if len(runs) > 1 else ""
    groups = "".join(
        _group(number, name if several else "", some[-1])
        for number, (name, some) in enumerate(frames.items())
    )
    last = [item for some in frames.values() for item in some[-1]["items"]]
    panels = max(sum(kinds[-1] in item for kinds in PANELS.values()) for item in last)
    notes = list(dict.fromkeys(some[-1]["note"] for some in kept.values()))
    if any(item["predicted"] for item in last):
        notes.append(RANKS)
    left_out = sum(map(len, runs.values())) - sum(map(len, kept.values()))
    elements = [
        _bar(len(steps), slider),
        f'<div class="runs{several}" style="--panels: {panels}">{groups}</div>',
        LEGEND.format(*FATE_COLORS[HIDDEN : HARD + 1]),
        f'<p class="soft">{html.escape(". ".join(notes))}.</p>',
    ]
    if left_out:
        elements.append(
            f'<p class="soft">{left_out} of the steps are not in this file, to keep it small; '
            "the folder pictures/ has them all.</p>"
        )
    return elements, data


def thin(snapshots: Sequence[Snapshot], limit: int) -> list[Snapshot]:
    """As many of the snapshots as fit into `limit` bytes, evenly spread, the last one always."""
    sizes = [sum(len(item["rebuilt"]) for item in one["items"]) + 4000 for one in snapshots]
    count = max(2, int(len(sizes) * min(1.0, limit / sum(sizes))))
    places = np.linspace(0, len(sizes) - 1, min(count, len(sizes))).round().astype(int)
    return [snapshots[place] for place in sorted({*places.tolist(), len(sizes) - 1})]


def _frame(snapshot: Snapshot) -> dict[str, Any]:
    """What the script shows of one step."""
    names = ("step", "epoch", "title", "label")
    shown = {name: snapshot[name] for name in names if name in snapshot}
    items = []
    for item in snapshot["items"]:
        maps = {"mask": _mask_uri(item), "true_map": _heat_uri(item, "true")}
        if item["predicted"]:
            maps["predicted_map"] = _heat_uri(item, "predicted")
        items.append(item | maps)
    return shown | {"items": items}


def _mask_uri(item: dict[str, Any]) -> str:
    """One pixel a patch, transparent where it is visible."""
    colors = np.zeros((HARD + 1, 4), np.uint8)
    for status in (HIDDEN, HARD):
        text = FATE_COLORS[status]
        colors[status] = [*(int(text[i : i + 2], 16) for i in (1, 3, 5)), 255]
    pixels = colors[np.array(item["status"]).reshape(item["grid"])]
    return data_uri(Image.fromarray(pixels), "png")


def _heat_uri(item: dict[str, Any], name: str) -> str:
    """One pixel a patch, dark at the lowest loss of the image; transparent where there is none."""
    values = np.array([np.nan if v is None else v for v in item[name]], float)
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    heat = colormaps["magma"].with_extremes(bad=(0, 0, 0, 0))
    scaled = (np.ma.masked_invalid(values) - low) / max(high - low, 1e-12)
    return data_uri(Image.fromarray(heat(scaled.reshape(item["grid"]), bytes=True)), "png")


def _bar(steps: int, name: str) -> str:
    """The slider and the line of numbers; the script shows the slider."""
    return (
        '<div class="bar"><div class="controls" hidden>'
        '<button type="button" aria-label="Play the steps">▶</button>'
        f'<input type="range" id="step" min="0" max="{steps - 1}" value="{steps - 1}" '
        f'aria-label="{name}">'
        '<output for="step"></output></div>'
        '<p class="readout" role="status"></p></div>'
    )


def _group(number: int, name: str, frame: dict[str, Any]) -> str:
    """The images of one run."""
    head = f"<h3>{html.escape(name)}</h3>" if name else ""
    items = "".join(_item(number, place, item) for place, item in enumerate(frame["items"]))
    return (
        f'<div class="run">{head}<p class="soft about">{html.escape(frame["title"])}</p>'
        f'<div class="items">{items}</div></div>'
    )


def _item(run: int, place: int, item: dict[str, Any]) -> str:
    name = html.escape(item["name"], quote=True)
    rows, columns = item["grid"]
    panels = []
    for title, kinds in PANELS.items():
        if kinds[-1] in item:
            images = "".join(
                _image(item, kind, title if kind == kinds[-1] else "input") for kind in kinds
            )
            panels.append(
                f'<figure class="panel"><div class="picture">{images}<span class="spot"></span>'
                f"</div><figcaption>{title}</figcaption></figure>"
            )
    return (
        f'<div class="item" role="group" data-run="{run}" data-item="{place}" aria-label="{name}: '
        f'arrow keys go over its {rows} x {columns} patches"><div class="panels">'
        f"{''.join(panels)}</div></div>"
    )


def _image(item: dict[str, Any], kind: str, title: str) -> str:
    uri = item[kind]
    is_map = kind not in ("input", "rebuilt")
    # small pictures are stored as PNG, and their pixels stay squares
    style = "map" if is_map else "small" if uri.startswith("data:image/png") else ""
    alt = html.escape(f"{item['name']}, {title}: {ABOUT[title]}", quote=True)
    style = f' class="{style}"' if style else ""
    return f'<img{style} data-kind="{kind}" alt="{alt}" src="{uri}">'

"use strict";
// The pictures over the steps of training, and the numbers of the patch under the pointer.
// Without this script the page shows the pictures of the last step.
(() => {
  const store = document.getElementById("snapshots");
  if (!store) return;
  // {steps: [number], runs: [{name, frames: [{step, epoch, title, items: [...]}]}]}
  const { steps, runs } = JSON.parse(store.textContent);
  const controls = document.querySelector(".controls");
  const slider = controls.querySelector("input");
  const play = controls.querySelector("button");
  const label = controls.querySelector("output");
  const readout = document.querySelector(".readout");
  const items = [...document.querySelectorAll(".item")];
  const STATUS = ["visible", "hidden", "hidden because hard"];
  let chosen = null; // {item, patch}: the patch whose numbers are shown

  /** The newest frame of a run that is no later than the step, or its first one. */
  function frameOf(run, step) {
    const past = run.frames.filter((frame) => frame.step <= step);
    return past.length ? past[past.length - 1] : run.frames[0];
  }

  function current(element) {
    const run = runs[element.dataset.run];
    return frameOf(run, steps[slider.value]).items[element.dataset.item];
  }

  function show() {
    const step = steps[slider.value];
    const frames = runs.map((run) => frameOf(run, step));
    const epoch = frames.reduce((newest, frame) => (frame.step > newest.step ? frame : newest)).epoch;
    label.textContent = frames[0].label ?? `step ${step.toLocaleString("en")} · epoch ${Number(epoch.toPrecision(4))}`;
    slider.setAttribute("aria-valuetext", label.textContent);
    for (const line of document.querySelectorAll("svg .now")) {
      const { left, width, end } = line.dataset;
      const x = Number(left) + (Number(width) * Math.min(epoch, end)) / end;
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
    }
    document.querySelectorAll(".about").forEach((text, run) => {
      text.textContent = frames[run].title;
    });
    for (const item of items) {
      const found = current(item);
      item.hidden = !found;
      if (!found) continue;
      for (const image of item.querySelectorAll("img[data-kind]")) {
        const source = found[image.dataset.kind];
        if (source && image.getAttribute("src") !== source) image.src = source;
      }
    }
    tell();
  }

  function escaped(text) {
    const element = document.createElement("i");
    element.textContent = text;
    return element.innerHTML;
  }

  /** "0.123 (rank 4 of 36)", the highest loss first. */
  function ranked(values, patch) {
    const known = values.filter((value) => value !== null);
    const rank = 1 + known.filter((value) => value > values[patch]).length;
    return `<b>${values[patch].toPrecision(3)}</b> (rank ${rank} of ${known.length})`;
  }

  function numbers(found, patch) {
    const told = [STATUS[found.status[patch]]];
    if (found.predicted) told.push(`predicted loss ${ranked(found.predicted, patch)}`);
    if (found.true[patch] !== null) told.push(`true loss ${ranked(found.true, patch)}`);
    return told.join(" · ");
  }

  /** The numbers of the chosen patch, of every run that has it, and a frame around it. */
  function tell() {
    document.querySelectorAll(".spot.on").forEach((spot) => spot.classList.remove("on"));
    if (!chosen) return;
    const same = items.filter((item) => item.dataset.item === chosen.item.dataset.item && !item.hidden);
    const [rows, columns] = current(chosen.item).grid;
    const row = Math.floor(chosen.patch / columns);
    const column = chosen.patch % columns;
    const lines = [];
    for (const item of same) {
      const found = current(item);
      if (found.grid[0] !== rows || found.grid[1] !== columns) continue;
      for (const spot of item.querySelectorAll(".spot")) {
        spot.classList.add("on");
        spot.style.left = `${(100 * column) / columns}%`;
        spot.style.top = `${(100 * row) / rows}%`;
        spot.style.width = `${100 / columns}%`;
        spot.style.height = `${100 / rows}%`;
      }
      const name = runs.length > 1 ? `${escaped(runs[item.dataset.run].name)}: ` : "";
      lines.push(name + numbers(found, chosen.patch));
    }
    const where = `${escaped(current(chosen.item).name)}, row ${row + 1}, column ${column + 1}`;
    readout.innerHTML = `${where}: ${lines.join("<br>")}`;
  }

  function choose(item, patch) {
    chosen = { item, patch };
    tell();
  }

  function point(event) {
    const picture = event.target.closest(".picture");
    if (!picture) return;
    const box = picture.getBoundingClientRect();
    const item = picture.closest(".item");
    const [rows, columns] = current(item).grid;
    const place = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
    const row = place((event.clientY - box.top) / box.height, rows);
    const column = place((event.clientX - box.left) / box.width, columns);
    choose(item, row * columns + column);
  }

  const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

  function move(event) {
    const by = MOVES[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const item = event.currentTarget;
    const [rows, columns] = current(item).grid;
    const from = chosen && chosen.item === item ? chosen.patch : 0;
    const row = Math.max(0, Math.min(rows - 1, Math.floor(from / columns) + by[0]));
    const column = Math.max(0, Math.min(columns - 1, (from % columns) + by[1]));
    choose(item, row * columns + column);
  }

  for (const item of items) {
    item.tabIndex = 0;
    item.addEventListener("pointermove", point);
    item.addEventListener("pointerdown", point);
    item.addEventListener("keydown", move);
    item.addEventListener("focus", () => {
      if (!chosen || chosen.item !== item) choose(item, 0);
    });
  }

  let timer = null;
  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶";
    play.setAttribute("aria-label", "Play the steps");
  }
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(slider.value) === steps.length - 1) slider.value = 0;
    play.textContent = "❚❚";
    play.setAttribute("aria-label", "Pause");
    const next = () => {
      slider.value = Number(slider.value) + 1;
      show();
      if (Number(slider.value) === steps.length - 1) stop();
    };
    timer = setInterval(next, 700);
    show();
  });
  slider.addEventListener("input", () => {
    stop();
    show();
  });
  if (steps.length > 1) controls.hidden = false;
  readout.textContent = "Point at a patch, or focus an image and use the arrow keys, to read its losses.";
  slider.max = steps.length - 1;
  slider.value = steps.length - 1;
  show();
})();

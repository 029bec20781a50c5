// Draws the page's figures, follows the system's light or dark, and shows a clicked token's
// experts and its step's timeline. All texts in the data are escaped already.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const linked = data.linked;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const expert = new Int16Array(bytes(linked.expert).buffer);
  const weight = bytes(linked.weight);
  const action = bytes(linked.action);
  const start = bytes(linked.place);
  const change = new Int32Array(bytes(linked.change).buffer);
  const changeStep = new Int32Array(bytes(linked.change_step).buffer);
  const work = {
    start: new Float32Array(bytes(linked.work_start).buffer),
    length: new Float32Array(bytes(linked.work_length).buffer),
    kind: bytes(linked.work_kind),
    lane: bytes(linked.work_lane),
    layer: new Int16Array(bytes(linked.work_layer).buffer),
    expert: new Int16Array(bytes(linked.work_expert).buffer),
    critical: bytes(linked.work_critical),
  };
  const UNDER = 0.45; // from a lane's middle to the critical path's line
  const MOST_BARS = 3000; // of one step; more are left as a raster
  let shown = null; // the token shown; null: the whole run

  // A theme is its colours: in the dark, every light one is replaced, wherever it stands.
  function themed(figure) {
    let text = JSON.stringify(figure);
    if (dark.matches) {
      for (const [light, other] of Object.entries(data.colors)) text = text.replaceAll(light, other);
    }
    return JSON.parse(text);
  }

  function draw(name, figure) {
    const { data: traces, layout } = themed(figure);
    const config = { responsive: true, displaylogo: false, displayModeBar: false };
    Plotly.react(name, traces, layout, config);
  }

  function places(step) {
    const place = start.slice();
    for (let i = 0; i < change.length && changeStep[i] <= step; i++) place[change[i] >> 2] = change[i] & 3;
    return place;
  }

  // As fiddler_viz/figures/outline.py: an outline in large cells, a dash in small ones.
  function marks(cells) {
    const around = linked.few
      ? [[-0.38, -0.38], [0.38, -0.38], [0.38, 0.38], [-0.38, 0.38], [-0.38, -0.38]]
      : [[-0.25, 0], [0.25, 0]];
    const x = [], y = [];
    for (const cell of cells) {
      const column = cell % linked.experts, row = Math.floor(cell / linked.experts);
      for (const [dx, dy] of around) { x.push(column + dx); y.push(row + dy); }
      x.push(null); y.push(null);
    }
    return { x, y };
  }

  const centres = (cells) => ({
    x: cells.map((cell) => cell % linked.experts),
    y: cells.map((cell) => Math.floor(cell / linked.experts)),
  });

  // The order of traces is that of fiddler_viz/figures/heatmap.py.
  function tokenFigure(token) {
    const size = linked.layers * linked.experts, per = linked.layers * linked.top_k;
    const z = new Array(size).fill(null), ran = new Map();
    for (let i = 0; i < per; i++) {
      const at = token * per + i;
      if (expert[at] < 0) continue;
      const cell = Math.floor(i / linked.top_k) * linked.experts + expert[at];
      z[cell] = (z[cell] ?? 0) + weight[at] / 255;
      ran.set(cell, action[at]);
    }
    const place = places(linked.step[token]), all = [...place.keys()];
    const text = all.map((cell) => linked.places[place[cell]]
      + (z[cell] === null ? "" : `<br>weight ${z[cell].toFixed(2)}`)
      + (linked.actions[ran.get(cell)] ? `<br>ran ${linked.actions[ran.get(cell)]}` : ""));
    const inks = (kind) => {
      const here = all.filter((cell) => place[cell] === kind);
      const used = here.filter((cell) => z[cell] !== null);
      const [white, black] = linked.few ? [used, used]
        : [used.filter((cell) => z[cell] < 0.5), used.filter((cell) => z[cell] >= 0.5)];
      return [here.filter((cell) => z[cell] === null), white, black];
    };
    const by = (kind) => centres([...ran.keys()].filter((cell) => ran.get(cell) === kind));
    const figure = structuredClone(data.figures.token);
    Object.assign(figure.data[0], { z, text });
    [...inks(1).map(marks), ...inks(2).map(centres), by(0), by(1), by(2)].forEach(
      (points, i) => Object.assign(figure.data[i + 1], points));
    figure.layout.title.text = figure.layout.title.text.replace("@", () => linked.caption[token]);
    figure.layout.annotations[0].visible = false;
    return figure;
  }

  // The order of traces is that of fiddler_viz/figures/timeline.py.
  function stepFigure(step) {
    const figure = structuredClone(data.figures.timeline);
    const [from, to] = linked.step_range[step].map((ns) => ns * 1e-9);
    const first = step ? linked.work_until[step - 1] : 0, last = linked.work_until[step];
    figure.layout.xaxis.range = [from, to];
    figure.layout.title.text = figure.layout.title.text.replace("Timeline", `Timeline of step ${step}`)
      .replace(linked.finding, () => "Underlined: the critical path, what everyone waits for.");
    if (last === first || last - first > MOST_BARS) return figure;
    const bars = linked.kinds.map(() => ({ base: [], x: [], y: [], hovertext: [] }));
    const path = { x: [], y: [] };
    const busy = linked.lanes.map(() => 0);
    for (let i = first; i < last; i++) {
      const bar = bars[work.kind[i]], ms = (1e3 * work.length[i]).toPrecision(3);
      const where = work.layer[i] < 0 ? "output head"
        : `layer ${work.layer[i]}` + (work.expert[i] < 0 ? "" : `, expert ${work.expert[i]}`);
      bar.base.push(from + work.start[i]);
      bar.x.push(work.length[i]);
      bar.y.push(work.lane[i]);
      bar.hovertext.push(`<b>${linked.kinds[work.kind[i]]}</b>: ${where}<br>${ms} ms`);
      busy[work.lane[i]] += work.length[i] / (to - from);
      if (!work.critical[i]) continue;
      bar.hovertext[bar.hovertext.length - 1] += "<br>on the critical path";
      path.x.push(from + work.start[i], from + work.start[i] + work.length[i], null);
      path.y.push(work.lane[i] + UNDER, work.lane[i] + UNDER, null);
    }
    bars.forEach((bar, i) => Object.assign(figure.data[i + 3], bar));
    Object.assign(figure.data[bars.length + 3], { base: [], x: [], y: [], hovertext: [] });
    Object.assign(figure.data[bars.length + 4], path);
    figure.data[0].z = null;
    Object.assign(figure.data[1], { x: [], y: [] });
    Object.assign(figure.data[2], { x: [], y: [], text: [] });
    figure.layout.images[0].visible = false;
    figure.layout.yaxis.ticktext = linked.lanes.map(
      (lane, i) => `<b>${lane}</b><br>${(100 * busy[i]).toFixed(busy[i] < 0.0995 ? 1 : 0)}% busy`);
    return figure;
  }

  function drawLinked() {
    draw("heatmap", shown === null ? data.figures.heatmap : tokenFigure(shown));
    draw("timeline", shown === null ? data.figures.timeline : stepFigure(linked.step[shown]));
  }

  function drawAll() {
    drawLinked();
    draw("memory", data.figures.memory);
  }

  const buttons = [...document.querySelectorAll("#tokens button[data-token]")];
  function show(button) {
    const again = button.getAttribute("aria-pressed") === "true";
    buttons.forEach((other) => other.setAttribute("aria-pressed", "false"));
    shown = again ? null : Number(button.dataset.token);
    if (!again) button.setAttribute("aria-pressed", "true");
    buttons.forEach((other) => { other.tabIndex = other === button ? 0 : -1; });
    drawLinked();
  }
  buttons.forEach((button, i) => {
    button.addEventListener("click", () => show(button));
    button.addEventListener("keydown", (event) => {
      const next = buttons[i + { ArrowRight: 1, ArrowLeft: -1 }[event.key]];
      if (!next) return;
      event.preventDefault();
      next.focus();
      show(next);
    });
  });
  if (buttons.length) buttons[0].tabIndex = 0;
  dark.addEventListener("change", drawAll);
  drawAll();
})();

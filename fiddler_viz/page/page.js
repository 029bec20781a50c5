// Draws the page's figures, of the run or of a prediction; follows the system's light or dark; shows
// a clicked token's experts and its step's timeline. All texts in the data are escaped already.

const data = JSON.parse(document.getElementById("data").textContent);
const { linked, names } = data;
const dark = matchMedia("(prefers-color-scheme: dark)");
const MOST_BARS = 3000; // of one step; more are left as a raster
const UNDER = 0.45; // from a lane's middle to the critical path's line
const PIXELS = 1800, HOVER_COLUMNS = 300;
const size = linked.layers * linked.experts, per = linked.layers * linked.top_k;
const expert = unpacked(linked.expert, Int16Array);
const weight = unpacked(linked.weight, Uint8Array);

// ------------------------------------------------------------------ what is shown: run or prediction

// Both give where experts are at the end of a step, how a token's choice ran (255: it did not), and
// what lanes did, rows ascending by step; times of `work` since the start of `from(step)`.
function recorded() {
  const action = unpacked(linked.action, Uint8Array), start = unpacked(linked.place, Uint8Array);
  const change = unpacked(linked.change, Int32Array), changeStep = unpacked(linked.change_step, Int32Array);
  return {
    answer: null,
    until: linked.work_until,
    range: (step) => linked.step_range[step],
    work: {
      start: unpacked(linked.work_start, Float32Array), length: unpacked(linked.work_length, Float32Array),
      kind: unpacked(linked.work_kind, Uint8Array), lane: unpacked(linked.work_lane, Uint8Array),
      layer: unpacked(linked.work_layer, Int16Array), expert: unpacked(linked.work_expert, Int16Array),
      critical: unpacked(linked.work_critical, Uint8Array),
    },
    actionOf: (token, i) => action[token * per + i],
    places(step) {
      const place = start.slice();
      for (let i = 0; i < change.length && changeStep[i] <= step; i++) place[change[i] >> 2] = change[i] & 3;
      return place;
    },
  };
}

function predictedRun(sent, answer, plan) {
  const { course } = sent, { made, work, ends } = answer, steps = ends.length;
  const range = (step) => [step ? ends[step - 1] : 0, ends[step]];
  const until = [], recordUntil = [];
  for (let step = 0, i = 0, r = 0; step < steps; step++) {
    while (i < work.step.length && work.step[i] <= step) i++;
    while (r < course.step.length && course.step[r] <= step) r++;
    until.push(i);
    recordUntil.push(r);
  }
  const ran = new Map(); // of a step: how each of its experts ran, by flat index
  function actionsOf(step) {
    if (!ran.has(step)) {
      const found = new Uint8Array(size).fill(255);
      for (let r = step ? recordUntil[step - 1] : 0; r < recordUntil[step]; r++) {
        for (let i = course.first[r]; i < course.first[r + 1]; i++) {
          found[course.layer[r] * course.columns + course.expert[i]] = made.action[i];
        }
      }
      ran.set(step, found);
    }
    return ran.get(step);
  }
  const seconds = (ns) => ns * 1e-9;
  return {
    answer, plan, until, range,
    work: {
      start: work.start.map((ns, i) => seconds(ns - range(work.step[i])[0])),
      length: work.start.map((ns, i) => seconds(work.end[i] - ns)),
      kind: work.kind, lane: work.lane, layer: work.layer, expert: work.expert,
    },
    actionOf: (token, i) => actionsOf(linked.step[token])[
      Math.floor(i / linked.top_k) * linked.experts + expert[token * per + i]],
    places(step) {
      const place = new Uint8Array(size), last = recordUntil[step];
      for (const flat of answer.pinned) place[flat] = PINNED;
      for (let r = 0; r < last; r++) {
        for (const flat of made.evict[r] ?? NONE) place[flat] = 0;
        for (let i = course.first[r]; i < course.first[r + 1]; i++) {
          if (made.keep[i]) place[course.layer[r] * course.columns + course.expert[i]] = CACHED;
        }
        for (const flat of made.fetch[r] ?? NONE) place[flat] = CACHED;
      }
      return place;
    },
  };
}

const sent = data.rehearsal.why === undefined ? unpack(data.rehearsal) : null;
const itself = recorded();
let source = itself; // what the figures show
let shown = null; // the token shown; null: the whole run

// ------------------------------------------------------------------ drawing

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
  document.getElementById(name).style.height = `${layout.height}px`; // else a resize takes it away
  Plotly.react(name, traces, layout, config);
}

// A figure of a prediction says so, and by which clock.
function marked(figure, caption) {
  const title = figure.layout.title;
  title.text = title.text.replace(data.clock, () => data.modelled).replace("<br>", () =>
    `<span style="font-size:12px">   <b>predicted</b>${caption}</span><br>`);
  return figure;
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

// Amounts, places and how each cell ran (a Map), put into a heatmap's figure; the order of traces is
// that of fiddler_viz/figures/heatmap.py.
function heat(figure, z, place, ran, text) {
  const all = [...place.keys()];
  const inks = (kind) => {
    const here = all.filter((cell) => place[cell] === kind), used = here.filter((cell) => z[cell] !== null);
    const [white, black] = linked.few ? [used, used]
      : [used.filter((cell) => z[cell] < 0.5), used.filter((cell) => z[cell] >= 0.5)];
    return [here.filter((cell) => z[cell] === null), white, black];
  };
  const by = (kind) => centres([...ran.keys()].filter((cell) => ran.get(cell) === kind));
  Object.assign(figure.data[0], { z, text: all.map(text) });
  [...inks(PINNED).map(marks), ...inks(CACHED).map(centres), by(0), by(1), by(2)].forEach(
    (points, i) => Object.assign(figure.data[i + 1], points));
  return figure;
}

function tokenFigure(token) {
  const z = new Array(size).fill(null), ran = new Map(), place = source.places(linked.step[token]);
  for (let i = 0; i < per; i++) {
    const at = token * per + i;
    if (expert[at] < 0) continue;
    const cell = Math.floor(i / linked.top_k) * linked.experts + expert[at];
    z[cell] = (z[cell] ?? 0) + weight[at] / 255;
    ran.set(cell, source.actionOf(token, i));
  }
  const figure = heat(structuredClone(data.figures.token), z, place, ran, (cell) =>
    names.places[place[cell]] + (z[cell] === null ? "" : `<br>weight ${z[cell].toFixed(2)}`)
      + (names.actions[ran.get(cell)] ? `<br>ran ${names.actions[ran.get(cell)]}` : ""));
  figure.layout.title.text = figure.layout.title.text.replace("@", () => linked.caption[token]);
  figure.layout.annotations[0].visible = false;
  return source.answer ? marked(figure, "") : figure;
}

// Tokens of each expert, which no plan changes, and its calls in the whole prediction.
function popularity() {
  const { course } = sent, { made, place } = source.answer;
  const calls = [0, 1, 2].map(() => new Float64Array(size));
  for (let r = 0; r < course.layer.length; r++) {
    for (let i = course.first[r]; i < course.first[r + 1]; i++) {
      const flat = course.layer[r] * course.columns + course.expert[i];
      calls[made.action[i]][flat]++;
    }
  }
  return { tokens: data.popularity, calls, place };
}

function popularityFigure() {
  if (!source.answer) return data.figures.heatmap;
  const { tokens, calls, place } = popularity(), most = Math.max(...tokens);
  const z = tokens.map((n) => n / most);
  return marked(heat(structuredClone(data.figures.heatmap), z, place, new Map(), (cell) => {
    const many = `<br>${counted(tokens[cell], "token")}, ${percent(z[cell])} of the hottest`;
    const [resident, stream, cpu] = calls.map((n) => grouped(n[cell]));
    return names.places[place[cell]] + (tokens[cell] ? many
      + `<br>calls: ${resident} resident, ${stream} streamed, ${cpu} on the CPU` : "");
  }), "");
}

const busyWords = (shares) => names.lanes.map((lane, i) => `<b>${lane}</b><br>${percent(shares[i])} busy`);

// The order of traces is that of fiddler_viz/figures/timeline.py.
function stepFigure(step) {
  const figure = source.answer ? rasterFigure() : structuredClone(data.figures.timeline), { work } = source;
  const [from, to] = source.range(step).map((ns) => ns * 1e-9);
  const first = step ? source.until[step - 1] : 0, last = source.until[step];
  figure.layout.xaxis.range = [from, to];
  figure.layout.title.text = figure.layout.title.text.replace("Timeline", `Timeline of step ${step}`)
    .replace(data.finding, () => (work.critical ? "Underlined: the critical path, what everyone waits for." : ""));
  if (last === first || last - first > MOST_BARS) return figure;
  const bars = names.kinds.map(() => ({ base: [], x: [], y: [], hovertext: [] }));
  const path = { x: [], y: [] }, busy = names.lanes.map(() => 0);
  for (let i = first; i < last; i++) {
    const bar = bars[work.kind[i]], took = formatNs(Math.round(1e9 * work.length[i]));
    const where = work.layer[i] < 0 ? "output head"
      : `layer ${work.layer[i]}` + (work.expert[i] < 0 ? "" : `, expert ${work.expert[i]}`);
    bar.base.push(from + work.start[i]);
    bar.x.push(work.length[i]);
    bar.y.push(work.lane[i]);
    bar.hovertext.push(`<b>${names.kinds[work.kind[i]].label}</b>: ${where}<br>${took}`);
    busy[work.lane[i]] += work.length[i] / (to - from);
    if (!work.critical?.[i]) continue;
    bar.hovertext[bar.hovertext.length - 1] += "<br>on the critical path";
    path.x.push(from + work.start[i], from + work.start[i] + work.length[i], null);
    path.y.push(work.lane[i] + UNDER, work.lane[i] + UNDER, null);
  }
  bars.forEach((bar, i) => Object.assign(figure.data[i + 3], bar));
  waits(figure, path);
  figure.data[0].z = null;
  Object.assign(figure.data[1], { x: [], y: [] });
  Object.assign(figure.data[2], { x: [], y: [], text: [] });
  figure.layout.images[0].visible = false;
  figure.layout.yaxis.ticktext = busyWords(busy);
  return figure;
}

// No idle gaps, and this critical path: the traces after the bars'. Its entry in the legend is the last.
function waits(figure, path) {
  figure.data[figure.data.length - 1].showlegend = path.x.length > 0;
  Object.assign(figure.data[names.kinds.length + 3], { base: [], x: [], y: [], hovertext: [] });
  Object.assign(figure.data[names.kinds.length + 4], path);
}

// All of a prediction, as how busy each lane was.
function rasterFigure() {
  const figure = marked(structuredClone(data.figures.timeline), "");
  figure.layout.title.text = figure.layout.title.text.replace(data.finding, "");
  waits(figure, { x: [], y: [] });
  const { work, ends, summary } = source.answer, { duration } = summary, kinds = names.kinds.length;
  const shares = occupancy(work, 0, duration, kinds, PIXELS), wide = PIXELS / HOVER_COLUMNS;
  const z = names.lanes.map((_, lane) => Array.from({ length: HOVER_COLUMNS }, (__, column) => {
    let sum = 0;
    for (let kind = 0; kind < kinds; kind++) {
      const at = (lane * kinds + kind) * PIXELS + column * wide;
      for (let x = 0; x < wide; x++) sum += shares[at + x];
    }
    return sum / wide;
  }));
  const length = duration * 1e-9, starts = [0, ...ends.slice(0, -1)].map((ns) => ns * 1e-9);
  const seen = figure.data[2].text?.length ? starts : [];
  Object.assign(figure.data[0], { z, x0: length / HOVER_COLUMNS / 2, dx: length / HOVER_COLUMNS });
  Object.assign(figure.data[1], { x: seen.flatMap((x) => [x, x, null]), y: seen.flatMap(() => [-0.86, 3.5, null]) });
  Object.assign(figure.data[2], { x: seen, y: seen.map(() => -0.66) });
  names.kinds.forEach((_, i) => Object.assign(figure.data[i + 3], { base: [], x: [], y: [], hovertext: [] }));
  Object.assign(figure.layout.images[0], {
    source: paint(shares, names.kinds, PIXELS), x: 0, y: -0.5, sizex: length, sizey: 4, visible: true });
  figure.layout.yaxis.ticktext = busyWords(summary.busy);
  figure.layout.xaxis.range = [0, length];
  return figure;
}

// Bytes of each part of the budget, in the order of fiddler_viz.theme.MEMORY.
function memoryParts() {
  const { answer, plan } = source, of = sent.plan, one = of.expert_bytes;
  const cached = answer.place.filter((place) => place === CACHED).length;
  const parts = [of.dense_bytes, of.kv_bytes, of.workspace_bytes, answer.pinned.length * one, cached * one];
  const used = parts.reduce((sum, bytes) => sum + bytes, 0);
  const text = (i, bytes) => i === 3 || i === 4
    ? `${names.memory[i].name} ${formatBytes(bytes)} (${counted(i === 3 ? answer.pinned.length : cached, "expert")})`
    : `${names.memory[i].label} ${formatBytes(bytes)}`;
  const title = `GPU memory: ${formatBytes(used)} of ${formatBytes(plan.budget)} used`;
  return { title, parts: [...parts, plan.budget - used].map((bytes, i) => [bytes, text(i, bytes), bytes / plan.budget]) };
}

function memoryFigure() {
  if (!source.answer) return data.figures.memory;
  const figure = structuredClone(data.figures.memory), { title, parts } = memoryParts();
  parts.forEach(([bytes, text, share], i) => {
    const { name, letter } = names.memory[i], inside = share >= 0.1 ? name.replace("kv", "KV") : share >= 0.02 ? letter : "";
    Object.assign(figure.data[i], { x: [bytes], name: text, text: [inside],
      hovertext: [`<b>${text}</b><br>${percent(share)} of the budget`] });
  });
  figure.layout.xaxis.range = [0, source.plan.budget];
  figure.layout.title.text = figure.layout.title.text.replace(/^<b>.*?<\/b>/, () => `<b>${title}</b>`);
  return marked(figure, "");
}

function drawLinked() {
  draw("heatmap", shown === null ? popularityFigure() : tokenFigure(shown));
  if (shown !== null) draw("timeline", stepFigure(linked.step[shown]));
  else draw("timeline", source.answer ? rasterFigure() : data.figures.timeline);
}

function drawAll() {
  drawLinked();
  draw("memory", memoryFigure());
}

// ------------------------------------------------------------------ the text

const buttons = [...document.querySelectorAll("#tokens button[data-token]")];
const before = buttons.map((button) => [button.getAttribute("style"), button.title]);
const key = document.getElementById("token-key");

// Cells of a prediction's text: each token's share of its step, and the hits among its experts.
function drawText() {
  key.textContent = source.answer ? "" : key.dataset.run;
  if (!source.answer) {
    buttons.forEach((button, i) => {
      button.setAttribute("style", before[i][0] ?? "");
      button.title = before[i][1];
    });
    return;
  }
  const cost = (token) => {
    const step = linked.step[token], [from, to] = source.range(step);
    return (to - from) / Math.max(sent.step_tokens[step], 1);
  };
  const made = buttons.filter((button) => button.classList.contains("generated"));
  const costs = made.map((button) => cost(Number(button.dataset.token)));
  const low = Math.min(...costs), high = Math.max(...costs);
  if (costs.length) key.textContent = `${formatNs(Math.round(low))} to ${formatNs(Math.round(high))} a token, predicted`;
  const hits = tokenHits();
  for (const button of buttons) {
    const token = Number(button.dataset.token), ns = cost(token);
    const share = percent(hits[token]) === "-" ? "" : `, ${percent(hits[token])} of its expert calls on the GPU`;
    button.title = `token ${token}: ${formatNs(Math.round(ns))} predicted${share}`;
    if (!button.classList.contains("generated")) continue;
    const step = Math.round((high > low ? (ns - low) / (high - low) : 0.5) * 9);
    button.setAttribute("style", `background:${data.shades[step]};color:${step < 5 ? "#ffffff" : "#000000"}`);
  }
}

function tokenHits() {
  return Array.from({ length: linked.tokens }, (_, token) => {
    let hits = 0, calls = 0;
    for (let i = 0; i < per; i++) {
      if (expert[token * per + i] < 0) continue;
      const action = source.actionOf(token, i);
      calls += action !== 255;
      hits += action === RESIDENT;
    }
    return calls ? hits / calls : NaN;
  });
}

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
    if (event.key === "Escape" && shown !== null) show(buttons.find((each) => Number(each.dataset.token) === shown));
    const next = buttons[i + { ArrowRight: 1, ArrowLeft: -1 }[event.key]];
    if (!next) return;
    event.preventDefault();
    next.focus();
    show(next);
  });
});
if (buttons.length) buttons[0].tabIndex = 0;

// ------------------------------------------------------------------ words and tables

const twins = [...document.querySelectorAll("details[data-twin]")].map((twin) => {
  const words = twin.querySelector("p"), tables = [...twin.querySelectorAll("table")];
  const run = [words.textContent, tables.map((table) => table.tBodies[0])];
  twin.addEventListener("toggle", () => twin.open && fillTwins());
  return { twin, words, tables, run, figure: document.getElementById(twin.dataset.twin) };
});

function predictedTwin(name) {
  const { answer } = source, { work, ends, summary, place } = answer;
  if (name === "heatmap") {
    const pinned = answer.pinned.length, cached = place.filter((where) => where === CACHED).length;
    const [resident, stream, cpu] = summary.calls.map(grouped);
    return [`Of ${size} experts, ${pinned} are pinned and ${cached} cached at the end. Expert calls: `
      + `${resident} resident, ${stream} streamed, ${cpu} on the CPU.`, () => [expertRows(popularity(), names, linked.experts)]];
  }
  if (name === "memory") {
    const { title, parts } = memoryParts();
    const label = (i, text) => (i === 3 || i === 4 ? `${names.memory[i].label} ${text.match(/\((\d+)/)[0]})` : names.memory[i].label);
    return [`${title}: ${parts.map(([, text]) => text).join(", ")}.`,
      () => [parts.map(([bytes, text, share], i) => [label(i, text), formatBytes(bytes), percent(share)])]];
  }
  const busy = names.lanes.map((lane, i) => `${lane} ${percent(summary.busy[i])}`).join("; ");
  return [`0 ns to ${formatNs(summary.duration)}, ${data.modelled}. Busy: ${busy}.`, () => {
    const hits = tokenHits(), byStep = new Map();
    hits.forEach((share, token) => {
      const step = linked.step[token];
      if (!Number.isNaN(share)) byStep.set(step, [...(byStep.get(step) ?? []), share]);
    });
    const mean = [...ends.keys()].map((step) => {
      const of = byStep.get(step) ?? [];
      return of.reduce((sum, share) => sum + share, 0) / of.length;
    });
    return [laneRows(work, summary.duration, names), stepRows(sent, ends, mean)];
  }];
}

// Tables are filled where they are open: they are thousands of cells.
function fillTwins() {
  for (const { twin, words, tables, run, figure } of twins) {
    if (!source.answer) {
      words.textContent = run[0];
      tables.forEach((table, i) => table.tBodies[0].replaceWith(run[1][i]));
    } else {
      const [text, rows] = predictedTwin(twin.dataset.twin);
      words.textContent = `Predicted. ${text}`;
      if (twin.open) rows().forEach((made, i) => fillTable(tables[i], made));
    }
    figure.setAttribute("aria-label", words.textContent);
  }
}

// ------------------------------------------------------------------ off it goes

dark.addEventListener("change", drawAll);
let page = null;
if (sent) {
  page = whatIf(sent, data.run, (answer, plan) => {
    source = answer === null ? itself : predictedRun(sent, answer, plan);
    document.body.classList.toggle("predicted", answer !== null);
    drawAll();
    drawText();
    fillTwins();
  });
} else drawAll();

// What frames of a run under way are painted with: once a page, with the beat that brings them.

// A canvas of a place in the plot, in CSS pixels, ready to be painted on.
function placed(canvas, left, top, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [wide, tall] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== tall) [canvas.width, canvas.height] = [wide, tall];
  const place = `left:${left}px;top:${top}px;width:${width}px;height:${height}px`;
  if (canvas.dataset.place !== place) {
    canvas.dataset.place = place;
    canvas.style.cssText = place;
  }
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, wide, tall);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

function typed(buffer, type) {
  const { buffer: bytes, byteOffset, byteLength } = buffer;
  return new type(bytes.slice(byteOffset, byteOffset + byteLength)); // aligned, whatever came
}

// Amounts of all cells (float32; NaN: none), their places (uint8), what ran where (int8; -1:
// nothing), which colours are dark (uint8), and dots (uint8).
function paintHeatmap(canvas, plot, look, frame, buffers, memo) {
  const { xaxis, yaxis } = plot._fullLayout, [layers, experts] = frame.shape;
  const context = placed(canvas, xaxis._offset, yaxis._offset, xaxis._length, yaxis._length);
  const amounts = typed(buffers[0], Float32Array), places = typed(buffers[1], Uint8Array);
  const ran = typed(buffers[2], Int8Array), darks = typed(buffers[3], Uint8Array);
  const dots = buffers[4] ? typed(buffers[4], Uint8Array) : [];
  relabel(plot, frame.labels, memo);
  const cells = plot._fullData[0], data = plot.data; // of empty traces only that has the looks
  if (memo.scale !== cells.colorscale) {
    memo.scale = cells.colorscale;
    memo.colours = colours(cells.colorscale);
  }
  const gap = cells.xgap || 0, span = cells.zmax - cells.zmin;
  const x = (column) => xaxis.c2p(column), y = (row) => yaxis.c2p(row);
  const [wide, tall] = [x(1) - x(0), y(1) - y(0)];
  for (let i = 0; i < amounts.length; i++) {
    if (Number.isNaN(amounts[i])) continue;
    const share = Math.min(Math.max((amounts[i] - cells.zmin) / span, 0), 1);
    context.fillStyle = memo.colours[Math.round(share * 255)];
    const [left, top] = [x((i % experts) - 0.5) + gap / 2, y(Math.floor(i / experts) - 0.5) + gap / 2];
    context.fillRect(left, top, wide - gap, tall - gap);
  }
  const centre = (i, aside = [0, 0]) => [x((i % experts) + aside[0]), y(Math.floor(i / experts) + aside[1])];
  const dark = (i) => darks[i] === 1;
  for (const [place, traces] of Object.entries(look.places)) {
    const inks = traces.map((at) => [data[at], new Path2D()]);
    places.forEach((is, i) => {
      if (is !== Number(place)) return;
      const [across, down] = centre(i);
      // As figures/heatmap.py chooses: one ink for blank cells, a line on a halo or one that shows.
      const used = Number.isNaN(amounts[i]) ? [0] : look.few ? [1, 2] : dark(i) ? [1] : [2];
      for (const [trace, path] of used.map((ink) => inks[ink])) {
        if (trace.mode !== "lines") outline(path, trace.marker.symbol, across, down, trace.marker.size / 2);
        else if (look.few) path.rect(across - 0.38 * wide, down - 0.38 * tall, 0.76 * wide, 0.76 * tall);
        else path.rect(across - 0.25 * wide, down, 0.5 * wide, 0);
      }
    });
    for (const [trace, path] of inks) {
      context.strokeStyle = trace.mode === "lines" ? trace.line.color : trace.marker.color;
      context.lineWidth = trace.mode === "lines" ? trace.line.width : trace.marker.line.width;
      context.stroke(path);
    }
  }
  const where = (all, wanted) => Array.from(all.keys()).filter((i) => wanted(all[i], i));
  look.ran.forEach((at, action) => {
    const cellsOf = where(ran, (what) => what === action);
    symbols(context, data[at].marker, cellsOf.map((i) => centre(i)));
  });
  for (const [color, edge] of [["#fff", "#000"], ["#000", "#fff"]]) {
    const marked = where(dots, (is, i) => is && dark(i) === (color === "#fff"));
    const { marker } = data[look.dots], line = { ...marker.line, color: edge };
    symbols(context, { ...marker, color, line }, marked.map((i) => centre(i, look.aside)));
  }
  memo.marks ??= look.by_hand.map((at) => plot._fullData[at]).filter((trace) => trace.visible === true && trace.x);
  for (const { x: columns, y: rows, marker } of memo.marks) {
    const path = new Path2D(), symbol = (i) => [marker.symbol].flat()[i] ?? marker.symbol;
    Array.from(columns).forEach((column, i) =>
      outline(path, symbol(i), x(column), y(rows[i]), marker.size / 2));
    context.strokeStyle = marker.color;
    context.lineWidth = marker.line.width;
    context.stroke(path);
  }
}

// The colour scale's labels are those of the frame: its cells are shares of what is most by now.
// plotly keeps a label's node as long as it thinks that its text is the same: it gets it back.
function relabel(plot, labels, memo) {
  const ticks = [...plot.querySelectorAll(".colorbar .cbaxis text")];
  if (ticks.length !== labels.length) return; // empty ones are not drawn
  memo.labels ??= ticks.map((tick) => [tick, tick.textContent]);
  ticks.forEach((tick, i) => tick.textContent !== labels[i] && (tick.textContent = labels[i]));
}

// 256 colours of a scale of plotly's: places from 0 to 1 and colours in hexadecimal or rgb().
function colours(scale) {
  const parse = (text) => text.startsWith("#")
    ? [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16))
    : text.match(/[\d.]+/g).slice(0, 3).map(Number);
  const stops = scale.map(([at, colour]) => [at, parse(colour)]);
  return Array.from({ length: 256 }, (_, i) => {
    const share = i / 255;
    const next = Math.max(stops.findIndex(([at]) => at >= share), 1);
    const [[from, low], [to, high]] = [stops[next - 1], stops[next]];
    const part = to > from ? (share - from) / (to - from) : 0;
    return `rgb(${low.map((value, c) => Math.round(value + (high[c] - value) * part)).join()})`;
  });
}

function symbols(context, marker, places) {
  if (!places.length) return;
  const path = new Path2D();
  for (const [x, y] of places) outline(path, marker.symbol, x, y, marker.size / 2);
  context.fillStyle = marker.color;
  context.fill(path);
  if (!marker.line.width) return; // a canvas would keep the width it had
  context.strokeStyle = marker.line.color;
  context.lineWidth = marker.line.width;
  context.stroke(path);
}

// plotly's symbols that our figures use, with its proportions.
function outline(path, symbol, x, y, r) {
  const to = (points, close = true) => {
    points.forEach(([across, down], i) => path[i ? "lineTo" : "moveTo"](x + across * r, y + down * r));
    if (close) path.closePath();
  };
  const name = String(symbol).replace(/-open$/, "");
  if (name === "circle") {
    path.moveTo(x + r, y);
    path.arc(x, y, r, 0, 2 * Math.PI);
  } else if (name === "triangle-up") {
    const wide = 2 / Math.sqrt(3);
    to([[-wide, 0.5], [wide, 0.5], [0, -1]]);
  } else if (name === "x") {
    const n = Math.SQRT1_2, f = 0.8 * Math.SQRT2 * n, a = f / 2;
    to([[0, a], [a, f], [f, a], [a, 0], [f, -a], [a, -f], [0, -a], [-a, -f], [-f, -a], [-a, 0],
      [-f, a], [-a, f]].map(([across, down]) => [across, down]));
  } else if (name === "cross-thin") {
    const arm = 1.4;
    to([[0, arm], [0, -arm]], false);
    to([[arm, 0], [-arm, 0]], false);
  } else if (name === "line-ne") {
    const arm = 1.4 / Math.SQRT2;
    to([[arm, -arm], [-arm, arm]], false);
  } else {
    to([[-1, -1], [1, -1], [1, 1], [-1, 1]]);
  }
}

// Stretches of lanes in view: kind and lane (uint8), start and end (float32, shares of the width).
function paintTimeline(canvas, plot, look, frame, buffers, memo) {
  const { _size: size, width, height, xaxis, yaxis } = plot._fullLayout;
  const context = placed(canvas, 0, 0, width, height);
  const ratio = canvas.width / width, [low, top] = yaxis.range;
  const y = (value) => size.t + ((value - top) / (low - top)) * size.h;
  const x = (second) => size.l + ((second - frame.start_s) / (frame.end_s - frame.start_s)) * size.w;
  const codes = typed(buffers[0], Uint8Array), kinds = look.kinds.length;
  const work = { lane: codes.map((code) => code >> 4), kind: codes.map((code) => code & 15),
    start: typed(buffers[1], Float32Array), end: typed(buffers[2], Float32Array) };
  memo.inks ??= inksOf(look.kinds);
  const unit = y(1) - y(0), lane = Math.round(0.8 * unit * ratio);
  const pixels = Math.max(Math.round(size.w * ratio), 1);
  const shares = occupancy(work, 0, 1, kinds, pixels);

  context.fillStyle = look.panel_color;
  context.fillRect(size.l, size.t, size.w, size.h);
  context.strokeStyle = look.rule;
  context.lineWidth = 1;
  const { size: px, family } = xaxis.tickfont;
  context.font = `${px}px ${family}`;
  context.textBaseline = "alphabetic";
  context.textAlign = "center";
  for (const [at, label] of ticks(frame.start_s, frame.end_s)) {
    line(context, x(at), size.t, x(at), size.t + size.h + 5);
    context.fillStyle = look.muted;
    context.fillText(label, x(at), size.t + size.h + 5 + px);
  }
  if (!memo.image || memo.image.width !== pixels || memo.tall !== lane) {
    memo.tall = lane;
    memo.image = context.createImageData(pixels, 4 * lane);
    memo.sheet = new OffscreenCanvas(pixels, 4 * lane);
  } else memo.image.data.fill(0);
  stack(memo.image, shares, memo.inks, lane, 0);
  memo.sheet.getContext("2d").putImageData(memo.image, 0, 0);
  for (let at = 0; at < 4; at++) {
    context.fillStyle = look.empty;
    context.fillRect(size.l, y(at - 0.4), size.w, 0.8 * unit);
    context.drawImage(memo.sheet, 0, at * lane, pixels, lane, size.l, y(at - 0.4), size.w, 0.8 * unit);
    let busy = 0;
    for (let i = 0, first = at * kinds * pixels; i < kinds * pixels; i++) busy += shares[first + i];
    const share = percent(busy / pixels);
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.fillStyle = look.muted;
    context.fillText(share, size.l - 4, y(at));
    const wide = context.measureText(share + " ").width;
    context.font = `bold ${px}px ${family}`;
    context.fillText(look.lanes[at], size.l - 4 - wide, y(at));
    context.font = `${px}px ${family}`;
  }
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.strokeStyle = look.rule;
  context.fillStyle = look.muted;
  for (const [at, label] of frame.steps) {
    line(context, x(at), size.t, x(at), size.t + size.h);
    context.fillText(label, x(at) + 4, y((top - 0.5) / 2));
  }
  // What is dragged or clicked is where it is seen.
  xaxis.range = [frame.start_s, frame.end_s];
  xaxis._rl = [frame.start_s, frame.end_s]; // which a drag is read from
  xaxis.setScale();
}

// As fiddler_viz.theme.percent: small shares with a decimal.
function percent(share) {
  return `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)}%`;
}

function line(context, fromX, fromY, toX, toY) {
  context.beginPath();
  context.moveTo(Math.round(fromX) + 0.5, fromY);
  context.lineTo(Math.round(toX) + 0.5, toY);
  context.stroke();
}

// At most nine round times and how they are written, as plotly writes them.
function ticks(from, to) {
  const rough = (to - from) / 9, power = 10 ** Math.floor(Math.log10(rough));
  const each = power * [1, 2, 5, 10].find((n) => n * power >= rough * (1 - 1e-9));
  const found = [];
  for (let n = Math.ceil(from / each); n * each <= to; n++) {
    const at = n * each, [unit, scale] = at === 0 || at >= 1 - 1e-12 ? ["s", 1]
      : at >= 1e-3 - 1e-15 ? ["ms", 1e3] : ["µs", 1e6];
    found.push([at, `${Number((at * scale).toPrecision(6))}${unit}`]);
  }
  return found;
}

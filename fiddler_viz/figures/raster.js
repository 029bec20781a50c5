// A picture of the lanes, as fiddler_viz/figures/raster.py paints it: exact shares of time by pixel.

const TILE = 24, LANE_PIXELS = 40, GAP_PIXELS = 10;

// Share of each pixel's time that each lane spent on each kind: lanes x kinds x pixels, flat.
function occupancy(work, from, to, kinds, pixels) {
  const width = pixels + 1, scale = pixels / (to - from);
  const spans = new Float64Array(4 * kinds * width), parts = new Float64Array(4 * kinds * width);
  const within = (value) => Math.min(Math.max((value - from) * scale, 0), pixels);
  for (let i = 0; i < work.lane.length; i++) {
    const start = within(work.start[i]), end = within(work.end[i]);
    const row = (work.lane[i] * kinds + work.kind[i]) * width;
    const first = Math.floor(start), last = Math.floor(end);
    spans[row + first]++;
    spans[row + last]--;
    parts[row + first] += first - start;
    parts[row + last] += end - last;
  }
  const shares = new Float64Array(4 * kinds * pixels);
  for (let row = 0; row < 4 * kinds; row++) {
    for (let x = 0, run = 0; x < pixels; x++) {
      run += spans[row * width + x];
      shares[row * pixels + x] = Math.min(Math.max(run + parts[row * width + x], 0), 1);
    }
  }
  return shares;
}

function stroked(pattern, x, y) {
  const rising = (x + y) % 12 < 2, falling = (((x - y) % 12) + 12) % 12 < 2;
  return { "/": falling, "\\": rising, "x": rising || falling, ".": x % 8 < 2 && y % 8 < 2 }[pattern] ?? false;
}

// What each kind is painted with: its colour, the same where a stroke lightens it, its strokes.
function inksOf(looks) {
  return looks.map(({ color, pattern }) => {
    const rgb = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
    const packed = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
    const lighter = rgb.map((value) => value + Math.floor(((255 - value) * 35) / 100));
    const strokes = Array.from({ length: TILE * TILE }, // every pattern repeats after so many
      (_, i) => (stroked(pattern, i % TILE, Math.floor(i / TILE)) ? 1 : 0));
    return { plain: packed(rgb), lighter: packed(lighter), strokes };
  });
}

// Each lane a stack of its kinds, as high as they are busy, half a gap above and below it.
function stack(image, shares, inks, lanePixels, gapPixels, tileOf = (x) => x % TILE) {
  const out = new Uint32Array(image.data.buffer), pixels = image.width, kinds = inks.length;
  const tall = lanePixels + gapPixels;
  for (let lane = 0; lane < 4; lane++) {
    const bottom = lane * tall + Math.floor(gapPixels / 2) + lanePixels - 1;
    for (let x = 0; x < pixels; x++) {
      const tile = tileOf(x);
      for (let kind = 0, level = 0; kind < kinds; kind++) {
        const share = shares[(lane * kinds + kind) * pixels + x], ink = inks[kind];
        let high = Math.round(share * lanePixels);
        if (share > 1e-9 && high < 2) high = 2;
        for (const top = Math.min(level + high, lanePixels); level < top; level++) {
          const stroke = ink.strokes[(level % TILE) * TILE + tile];
          out[(bottom - level) * pixels + x] = stroke ? ink.lighter : ink.plain;
        }
      }
    }
  }
}

// The shares as an address that holds a picture; `looks`: colour and pattern of each kind.
function paint(shares, looks, pixels) {
  const canvas = document.createElement("canvas");
  canvas.width = pixels;
  canvas.height = 4 * (LANE_PIXELS + GAP_PIXELS);
  const context = canvas.getContext("2d"), image = context.createImageData(pixels, canvas.height);
  const tileOf = (x) => Math.floor((x * 1200) / pixels) % TILE;
  stack(image, shares, inksOf(looks), LANE_PIXELS, GAP_PIXELS, tileOf);
  context.putImageData(image, 0, 0);
  return canvas.toDataURL("image/png");
}

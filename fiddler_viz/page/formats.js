// Numbers as text: engine/units.py and fiddler_viz/theme.py, to three digits.

const MINUS = (value, text) => (value < 0 ? `-${text}` : text);

function scaled(value, units) {
  if (!Number.isFinite(value)) return `${value} ${units[0]}`;
  let size = Math.abs(value), unit = 0;
  if (Number.isInteger(size) && size < 1000) return MINUS(value, `${size} ${units[0]}`);
  while (unit + 1 < units.length && Number(size.toPrecision(3)) >= 1000) {
    size /= 1000;
    unit++;
  }
  return MINUS(value, `${three(size)} ${units[unit]}`);
}

function three(value) {
  const rounded = Number(value.toPrecision(3));
  return rounded.toFixed(rounded >= 100 ? 0 : rounded >= 10 ? 1 : 2);
}

const formatBytes = (n) => scaled(n, ["B", "KB", "MB", "GB", "TB", "PB"]);
const formatNs = (ns) => scaled(ns, ["ns", "µs", "ms", "s"]);
const grouped = (n) => n.toLocaleString("en-US");
const counted = (n, noun) => `${grouped(n)} ${noun}${n === 1 ? "" : "s"}`;
const formatRate = (speed) => (Number.isFinite(speed) ? `${three(speed)} tok/s` : "-");
const percent = (share) => !Number.isFinite(share) ? "-"
  : `${fixed(100 * share, share > 0 && share < 0.0995 ? 1 : 0)}%`;

// As Python writes it: what lies exactly between two digits becomes the even one, with toFixed the larger.
function fixed(value, digits) {
  const between = Math.abs(value * 2 ** (digits + 1)) % 2 === 1, scale = 10 ** digits;
  return (between ? 2 * Math.round(value * scale / 2) / scale : value).toFixed(digits);
}

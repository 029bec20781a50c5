// The text's cells can be picked: with the mouse, or with the arrow keys once the box has the focus.

const LINE_PX = 20; // style.css: what is scrolled to shows whole lines

async function render({ model, el }) {
  let drawn = null; // the token that the last drawing marked
  let at = null; // the token that is picked: known here before the kernel has drawn it
  let added = 0; // cells of tokens that came after the last drawing
  let frames = null;
  let picks = 0; // of this page; a drawing that knows fewer of them shows the past
  const page = crypto.getRandomValues(new Uint32Array(2)).join("-");
  const box = () => el.querySelector(".fv-text");
  const marked = () => el.querySelector("i.s");
  let tall = 0; // the box, in pixels
  const sizes = new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.height < tall && marked()) reveal(box(), marked()); // not lost to a smaller box
    tall = contentRect.height;
  });

  function pick(cell) {
    at = cell?.dataset.t ?? null;
    mark(cell);
    model.send({ event: "pick", token: cell ? Number(at) : null, page, number: ++picks });
  }

  function mark(cell) {
    marked()?.classList.remove("s");
    cell?.classList.add("s");
  }

  function draw() {
    added = 0;
    frames?.drop(); // what it would add, this drawing has
    const before = box();
    const focused = before !== null && before === document.activeElement;
    const top = before?.scrollTop ?? 0;
    const followed = before?.classList.contains("live");
    const read = followed && top < 0 ? firstInView(before) : null;
    el.innerHTML = model.get("value");
    const now = box();
    sizes.disconnect();
    if (now === null) return;
    sizes.observe(now);
    if (!now.classList.contains("live")) now.scrollTop = followed ? now.scrollHeight : top;
    else if (read) keep(now, read); // who reads back goes on to
    if (focused) now.focus({ preventScroll: true });
    if ((model.get("knows")[page] ?? 0) < picks) {
      mark(at === null ? null : el.querySelector(`i[data-t="${at}"]`));
      return;
    }
    const token = marked()?.dataset.t ?? null;
    const ended = followed && !now.classList.contains("live");
    if (token === drawn && !ended) return;
    drawn = at = token;
    if (marked() !== null) reveal(now, marked());
  }

  // A frame of a run under way: all tokens after the last drawing.
  function grow({ text }) {
    const inner = el.querySelector(".fv-text.live > div");
    if (!text || inner === null) return;
    for (const shown of text.cells.slice(added)) {
      const cell = document.createElement("i"), ends = shown.endsWith("\n"); // a line
      cell.textContent = ends ? shown.slice(0, -1) : shown;
      inner.append(cell, ends ? "\n" : "");
      added += 1;
    }
  }

  el.addEventListener("click", (event) => {
    const cell = event.target.closest?.("i[data-t]");
    if (cell) pick(cell);
  });
  el.addEventListener("keydown", (event) => {
    const cells = [...el.querySelectorAll("i[data-t]")];
    const place = cells.findIndex((cell) => cell.dataset.t === at);
    const to = {
      ArrowRight: place + 1,
      ArrowLeft: place < 0 ? cells.length - 1 : place - 1,
      Home: 0,
      End: cells.length - 1,
    }[event.key];
    if (event.key === "Escape") pick(null);
    else if (to === undefined) return;
    else if (cells[to]) pick(cells[to]);
    event.preventDefault();
    event.stopPropagation(); // JupyterLab would walk to another cell
  });
  draw();
  model.on("change:value", draw);
  const known = model.get("beat") ? model.widget_manager.get_model(model.get("beat")) : null;
  const beat = await Promise.resolve(known).catch(() => null); // none: drawings alone
  if (beat) frames = onFrames(beat, grow);
  return () => {
    model.off("change:value", draw);
    sizes.disconnect();
    frames?.off();
  };
}

// The token that begins what is in view, and how far below the box's top it stands.
function firstInView(box) {
  const top = box.getBoundingClientRect().top;
  for (const cell of box.querySelectorAll("i[data-t]")) {
    const below = cell.getBoundingClientRect().top - top;
    if (below >= 0) return { token: cell.dataset.t, below };
  }
  return null;
}

// Scrolls there again; to the beginning where that token is shown no more.
function keep(box, { token, below }) {
  const cell = box.querySelector(`i[data-t="${token}"]`);
  if (cell === null) box.scrollTop = -box.scrollHeight;
  else box.scrollTop += cell.getBoundingClientRect().top - box.getBoundingClientRect().top - below;
}

function reveal(box, cell) {
  const [outer, inner] = [box.getBoundingClientRect(), cell.getBoundingClientRect()];
  if (inner.top < outer.top || inner.bottom > outer.bottom)
    box.scrollTop += Math.floor((inner.top - outer.top - outer.height / 2) / LINE_PX) * LINE_PX;
}

export default { render };

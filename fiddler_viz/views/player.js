// A row that plays a run. The kernel says where the run is and how fast it goes; between two of its
// messages the clock goes on here, so that a second of nothing new costs no message.

const ICONS = {
  back: "M4 2h2.4v12H4zM14 2v12L7 8z",
  play: "M4 2v12l10-6z",
  pause: "M3.5 2h3.2v12H3.5zM9.3 2h3.2v12H9.3z",
  on: "M9.6 2H12v12H9.6zM2 2v12l7-6z",
};

function icon(name) {
  return `<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${ICONS[name]}"/></svg>`;
}

function render({ model, el }) {
  el.innerHTML =
    `<div class="fv-player" role="group" aria-label="player" tabindex="-1">` +
    `<button data-by="-1" title="A step back" aria-label="step back">${icon("back")}</button>` +
    `<button class="play"></button>` +
    `<button data-by="1" title="A step on" aria-label="step on">${icon("on")}</button>` +
    `<input type="range" min="0" step="1" aria-label="step of the run" ` +
    `title="All views show the run up to here. Arrow keys: a step; space: play, pause.">` +
    `<select aria-label="playing speed" title="How fast to play. Real time: as the run's clock says."></select>` +
    `<span class="at"></span></div>`;
  const row = el.firstChild;
  const [play, slider, menu, words] = [".play", "input", "select", ".at"].map((of) =>
    row.querySelector(of),
  );
  for (const speed of model.get("speeds")) menu.add(new Option(speed, speed));
  const page = crypto.getRandomValues(new Uint32Array(2)).join("-");
  let number = 0; // of the newest event sent from here
  let held = false; // the slider's handle, by the mouse
  let since = 0; // when the kernel's last message came, ms
  let frame = null;

  function send(event, value) {
    number += 1;
    model.send({ event, value, page, number });
  }

  function told() {
    const shown = model.get("view");
    if (shown.off) return shown.off;
    const [at, last] = [Number(slider.value) - 1, shown.steps - 1];
    const passed = ((performance.now() - since) / 1000) * shown.pace;
    const now = Math.min(shown.at_s + passed, shown.playing ? shown.next_s : shown.end_s);
    const digits = shown.end_s >= 10 ? 1 : shown.end_s >= 1 ? 2 : 3;
    const step = at < 0 ? "before step 0" : `step ${at} of ${last}`;
    return `${step}, ${now.toFixed(digits)} s of ${shown.end_s.toFixed(digits)} s`;
  }

  function tell() {
    const text = told();
    // Where it has no room for one line it breaks at the comma, not before a unit.
    const shown = text.split(", ").map((part) => part.replaceAll(" ", "\u00a0")).join(", ");
    if (words.textContent !== shown) words.textContent = shown;
    if (slider.getAttribute("aria-valuetext") !== text) slider.setAttribute("aria-valuetext", text);
  }

  function tick() {
    tell();
    frame = model.get("view").playing ? requestAnimationFrame(tick) : null;
  }

  function draw() {
    const shown = model.get("view");
    if (shown.steps === undefined) return;
    since = performance.now();
    for (const control of row.querySelectorAll("button, input, select"))
      control.disabled = Boolean(shown.off);
    slider.max = shown.steps;
    // What was drawn before the newest event got there is of the past.
    if (!held && (shown.knows[page] ?? 0) >= number) slider.value = shown.place;
    if (document.activeElement !== menu) menu.value = shown.speed;
    const does = shown.playing ? "pause" : "play";
    if (play.dataset.does !== does) {
      play.dataset.does = does;
      play.innerHTML = icon(does);
      play.title = shown.playing ? "Pause (space)" : "Play, from the start where it is at the end (space)";
      play.setAttribute("aria-label", does);
    }
    tell();
    if (shown.playing && frame === null) frame = requestAnimationFrame(tick);
  }

  row.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.by) send("step", Number(button.dataset.by));
    else if (button) send("toggle");
  });
  slider.addEventListener("pointerdown", () => (held = true));
  for (const name of ["pointerup", "pointercancel"]) slider.addEventListener(name, () => (held = false));
  slider.addEventListener("input", () => {
    send("seek", Number(slider.value));
    tell();
  });
  menu.addEventListener("change", () => send("speed", menu.value));
  row.addEventListener("keydown", (event) => {
    if (event.target === menu) return event.stopPropagation();
    if (event.key === " " && event.target.tagName !== "BUTTON") {
      if (!slider.disabled) send("toggle");
      event.preventDefault();
    }
    event.stopPropagation(); // JupyterLab would walk to another cell
  });
  draw();
  model.on("change:view", draw);
  return () => {
    model.off("change:view", draw);
    if (frame !== null) cancelAnimationFrame(frame);
  };
}

export default { render };

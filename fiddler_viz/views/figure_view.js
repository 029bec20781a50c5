// The browser's side of FigureView: plotly's own widget, loaded late and once, opened with what
// the kernel has now. Two traps of anywidget 0.11 and plotly 7.1 make it necessary:
//  - a widget whose module takes more than two seconds to load never hears a message again, and
//    plotly's 5 MB can, so this module is small and plotly's comes from the model of a `Plotly`;
//  - updates change the drawing but not the model, so a view made later shows the past.

const ANSWER_MS = 2000;

function load(model) {
  const loaded = (globalThis.fiddlerVizPlotly ??= {}); // one evaluation per page and version
  const version = model.get("_plotly_version");
  loaded[version] ??= fetchModule(model).catch((error) => {
    delete loaded[version];
    throw error;
  });
  return loaded[version];
}

async function fetchModule(model) {
  const library = await model.widget_manager.get_model(model.get("_plotly_id"));
  const url = URL.createObjectURL(new Blob([library.get("code")], { type: "text/javascript" }));
  try {
    const plotly = await import(/* webpackIgnore: true */ url);
    quieten(plotly.FigureView.prototype);
    return plotly;
  } finally {
    URL.revokeObjectURL(url);
  }
}

// After every update plotly's widget compares all it drew with all it was given and sends the
// difference to the kernel, as it does for every point the mouse passes. Nobody here asks for it.
function quieten(view) {
  for (const name of ["_sendTraceDeltas", "_sendLayoutDelta", "handle_plotly_hover",
    "handle_plotly_unhover"]) {
    view[name] = () => {};
  }
}

async function render({ model, el }) {
  const plotly = await load(model);
  let end = null;
  let late = false;
  if (model.get("label")) {
    el.setAttribute("role", "group");
    el.setAttribute("aria-label", model.get("label"));
  }
  const start = () => {
    clearTimeout(timer);
    late = false;
    end?.();
    el.dispatchEvent(new CustomEvent("fv-restart"));
    const widget = plotly.default();
    const heard = listening(model);
    widget.initialize({ model: heard });
    const close = widget.render({ model: heard, el });
    end = () => {
      heard.off();
      close();
    };
    el.dataset.opened = model.get("_opened");
  };
  // The kernel answers with the current data, then counts `_opened`. Drawing in the same turn as
  // that change means that no update falls between the two.
  model.on("change:_opened", () => (end === null || late) && start());
  model.on("change:_replaced", () => end !== null && start());
  const timer = setTimeout(() => {
    start(); // a busy kernel, or none: show what the model has, and again when it answers
    late = true;
  }, ANSWER_MS);
  model.send({ event: "open" });
  const watch = new ResizeObserver(follow(el));
  watch.observe(el);
  const words = new MutationObserver(() => leaveOut(el));
  words.observe(el, { childList: true, subtree: true }); // whatever plotly draws anew
  const leave = await followFrames(model, el).catch(() => () => {}); // no beat: no frames
  return () => {
    leave();
    clearTimeout(timer);
    watch.disconnect();
    words.disconnect();
    end?.();
  };
}

// plotly's widget listens to the model for ever; one that takes its place must not hear double.
function listening(model) {
  const heard = [];
  return {
    get: (name) => model.get(name),
    set: (name, value) => model.set(name, value),
    save_changes: () => model.save_changes(),
    on: (name, callback) => {
      heard.push([name, callback]);
      model.on(name, callback);
    },
    off: () => heard.forEach(([name, callback]) => model.off(name, callback)),
  };
}

// Words that a figure marked as optional go where their line would be cut at the figure's edge.
function leaveOut(el) {
  for (const words of el.querySelectorAll('tspan[style*="--fv-optional"]')) {
    words.style.display = "";
    const [line, figure] = [words.closest("text"), el].map((each) => each.getBoundingClientRect());
    const wide = line.left < figure.left || line.right > figure.right;
    if (wide || line.top < figure.top || line.bottom > figure.bottom) words.style.display = "none";
  }
}

// Plotly follows the window's width, not its container's: tell it when the latter changed.
function follow(el) {
  let width = el.clientWidth;
  return () => {
    if (el.clientWidth && el.clientWidth !== width) {
      width = el.clientWidth;
      requestAnimationFrame(() => window.dispatchEvent(new Event("resize")));
    }
  };
}

export default { render };

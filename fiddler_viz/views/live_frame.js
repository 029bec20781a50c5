// Frames of a run under way, painted on a canvas over plotly's drawing: a few milliseconds, where
// plotly's own update takes a hundred. The frame comes with the explorer's beat, all panels in one
// message; the next drawing of plotly's, or word of one, takes the canvas away.

async function followFrames(model, el) {
  const look = model.get("_live");
  if (!look.panel) return () => {};
  const beat = await model.widget_manager.get_model(look.beat);
  const canvas = document.createElement("canvas");
  canvas.className = "fv-live";
  const memo = {}; // what a painter keeps from frame to frame
  let watched = null;
  let seen = true; // nothing is painted where nobody looks
  const watch = new IntersectionObserver((all) => (seen = all[all.length - 1].isIntersecting));
  watch.observe(el);

  function hide() {
    el.classList.remove(`fv-live-${look.panel}`);
    canvas.remove();
    for (const [tick, text] of memo.labels ?? []) tick.textContent = text;
    memo.marks = memo.labels = null;
  }

  function show(content, buffers) {
    const frame = content[look.panel];
    const plot = el.querySelector(".js-plotly-plot") ?? el;
    if (!frame || !seen || !plot._fullLayout?._size) return;
    if (plot._dragging) return; // what is dragged over stays, and so does the axis it is read from
    if (watched !== plot) {
      watched = plot;
      plot.on("plotly_afterplot", hide);
    }
    if (!canvas.isConnected) {
      plot.querySelector(".main-svg").after(canvas); // hover labels stay above
      el.classList.add(`fv-live-${look.panel}`);
    }
    const paint = globalThis.fiddlerVizPainters[look.panel]; // the beat's, which brought the frame
    paint(canvas, plot, look, frame, frame.buffers.map((at) => buffers[at]), memo);
    el.dispatchEvent(new CustomEvent("fv-painted", { bubbles: true }));
  }

  function restart() { // plotly's drawing begins anew, without the canvas and without who listened
    hide();
    watched = null;
  }

  const frames = onFrames(beat, show, hide);
  el.addEventListener("fv-restart", restart);
  return () => {
    frames.off();
    el.removeEventListener("fv-restart", restart);
    watch.disconnect();
    hide();
  };
}

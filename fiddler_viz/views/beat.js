// Says when a frame has been painted. A frame counts as shown at the second animation frame after
// its messages were handled: the first one paints. A hidden tab paints nothing and answers late,
// which slows the pump down: nobody is looking. A page that opens answers, too: what was last sent
// is in what it opens with. Frames of a run under way are not answered, for every answer makes
// JupyterLab show a kernel that is busy, and idle again: dearer than a frame.

function initialize({ model }) {
  globalThis.fiddlerVizPainters = { heatmap: paintHeatmap, timeline: paintTimeline };
  nameHandles();
  function answer(frame) {
    requestAnimationFrame(() => requestAnimationFrame(() => model.send({ shown: frame })));
  }
  answer(model.get("sent"));
  model.on("change:sent", () => answer(model.get("sent")));
}

export default { initialize };

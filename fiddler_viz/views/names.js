// ipywidgets gives the handle of a slider no name, and a screen reader says a number of nothing: it
// gets its label's when the focus first comes to it.

function nameHandles() {
  if (globalThis.fiddlerVizNames) return; // several explorers may be on a page
  globalThis.fiddlerVizNames = true;
  document.addEventListener("focusin", ({ target }) => {
    if (!target.matches?.(".fv-root .noUi-handle:not([aria-label])")) return;
    const label = target.closest(".widget-hslider")?.querySelector(".widget-label")?.textContent;
    if (label) target.setAttribute("aria-label", label);
  });
}

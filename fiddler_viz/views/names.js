// What ipywidgets leaves out for who has no mouse: names of sliders, and a focus that is not lost.

const LOST_MS = 150; // the button that takes over may be enabled in a later message

function nameHandles() {
  if (globalThis.fiddlerVizNames) return; // several explorers may be on a page
  globalThis.fiddlerVizNames = true;
  document.addEventListener("focusin", ({ target }) => {
    if (!target.matches?.(".fv-root *")) return;
    keepFocus(target);
    // A screen reader says a number of nothing: the handle gets its label's name.
    if (!target.matches(".noUi-handle:not([aria-label])")) return;
    const label = target.closest(".widget-hslider")?.querySelector(".widget-label")?.textContent;
    if (label) target.setAttribute("aria-label", label);
  });
  // A key still held down presses what it was pressed on, not what took over: Stop, after Run.
  document.addEventListener("keydown", (event) => {
    const heir = globalThis.fiddlerVizHeir;
    if (event.repeat && heir === event.target) event.preventDefault();
    else globalThis.fiddlerVizHeir = null;
  }, true);
}

// A button that is disabled by its own press (Run, reset, clear) takes the keyboard's focus with it:
// a neighbour gets it.
function keepFocus(target) {
  globalThis.fiddlerVizFocus?.disconnect();
  if (!target.matches("button:focus-visible")) return; // by keyboard
  const watch = new MutationObserver(() => target.disabled && setTimeout(pass, LOST_MS));
  const pass = () => {
    const lost = [document.body, target].includes(document.activeElement);
    if (!lost || !target.disabled) return;
    const heir = (globalThis.fiddlerVizHeir = neighbour(target));
    heir?.focus();
  };
  watch.observe(target, { attributes: true, attributeFilter: ["disabled"] });
  globalThis.fiddlerVizFocus = watch;
}

// The next button of its row, or the one before; else another control; else of the row around.
function neighbour(target) {
  for (let row = target.closest(".fv-row"); row; row = row.parentElement.closest(".fv-row")) {
    const all = [...row.querySelectorAll("button, input, select")];
    const able = (each) => !each.disabled && each.checkVisibility();
    const [before, after] = [all.slice(0, all.indexOf(target)).reverse(), all.slice(all.indexOf(target) + 1)];
    const near = [...after.slice(0, 1), ...before.slice(0, 1), ...after, ...before].filter(able);
    const found = near.find((each) => each.tagName === "BUTTON") ?? near[0];
    if (found) return found;
  }
  return null;
}

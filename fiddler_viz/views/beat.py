"""The browser's side of the pump: says when a frame has been painted."""

from __future__ import annotations

import anywidget
import traitlets

# `_esm` is JavaScript for the browser. A frame counts as shown at the second animation frame after
# its messages were handled: the first one paints. A hidden tab paints nothing and answers late,
# which slows the pump down: nobody is looking. A page that opens answers, too: what was last sent
# is in what it opens with.
_ESM = """
function initialize({ model }) {
  function answer() {
    const frame = model.get("sent");
    requestAnimationFrame(() => requestAnimationFrame(() => {
      model.set("shown", frame);
      model.save_changes();
    }));
  }
  answer();
  model.on("change:sent", answer);
}
export default { initialize };
"""


class Beat(anywidget.AnyWidget):
    """A widget without looks: Python counts ``sent`` up, the browser answers in ``shown``."""

    _esm = _ESM
    sent = traitlets.Int(0).tag(sync=True)
    shown = traitlets.Int(0).tag(sync=True)

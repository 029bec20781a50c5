// Frames, as a view hears them from its explorer's beat. A frame shows all that the last one did, so
// where they come faster than the page paints, only the newest is painted; and it is painted when the
// page paints, so that all panels cost it one layout.

// Calls `paint(content, buffers)` for frames, `drawn()` where figures show again how things stand.
// Returns `drop`, for a view that has since been drawn anew, and `off`.
function onFrames(beat, paint, drawn = () => {}) {
  let newest = null;
  let asked = 0;
  const drop = () => (newest = null);
  const next = () => {
    asked = 0;
    const frame = newest;
    drop();
    if (frame) paint(...frame);
  };
  const heard = (content, buffers) => {
    if (content.drawn) {
      drop();
      drawn();
    } else {
      newest = [content, buffers];
      asked ||= requestAnimationFrame(next);
    }
  };
  beat.on("msg:custom", heard);
  const off = () => {
    beat.off("msg:custom", heard);
    cancelAnimationFrame(asked);
  };
  return { drop, off };
}

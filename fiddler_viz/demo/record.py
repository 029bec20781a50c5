"""Make the bundled run: ``python -m fiddler_viz.demo.record``.

256 tokens of the demo model, costed as Mixtral-8x7B on an RTX 4090 with a 24 GB budget. Greedy
text of so small a model loops, so it is sampled, with a seed. What each layer's router would choose
one layer early is recorded too, for policies that fetch ahead.
"""

from __future__ import annotations

from fiddler_viz.api import load
from fiddler_viz.demo import COSTED_AS, NAME, trace_path

PROMPT = "To be, or not to be, that is the question:"
TOKENS = 256
SEED = 0


def main() -> None:
    """Generate, save, and say what was made."""
    engine = load(  # with a dtype: the popularity is measured, not the last bundled run's
        NAME, dtype="float32", as_model=COSTED_AS, gpu_memory="24GB", hardware="rtx-4090"
    )
    run = engine.generate(
        PROMPT, TOKENS, do_sample=True, temperature=0.7, seed=SEED, predictions=True
    )
    path = run.trace.save(trace_path())
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, {run.trace!r}")
    print(run.summary)


if __name__ == "__main__":
    main()

"""One expert on the CPU: the kernels beside torch's ways and the rate at which memory is read.

    python benchmarks/kernels.py [--shapes mixtral qwen3 olmoe] [--tokens 1 2 4 ...] [--rounds 7]

For each shape and number of tokens, in bfloat16 with all threads: the kernels as the engine uses
them (above the number of tokens that ``measured_switch`` finds they leave an expert to torch),
torch's ``F.linear`` three times, the same with gate and up in one, oneDNN on weights that it packed
before (for this very number of tokens), and the second added to a result, as the kernels do.
Experts take turns, more of them than any cache holds. The ceiling is the same memory read by the
kernels' own threads, with plain loads and with prefetches.

All take turns in each round, in blocks of calls, on torch's own team of threads, as in the engine;
each block begins with a pause and a call that is not counted. Figures are medians over rounds,
ratios are medians of the rounds' own ratios. Last line: JSON with
``mixtral_n1_fraction_of_ceiling`` (of plain loads), ``mixtral_n1_fraction_of_prefetched``,
``mixtral_fraction_of_ceiling`` and ``small_vs_prepacked`` (the least of 1 to 16 tokens),
``vs_linear`` (the least of all shapes, at 1 token and at 4 to 16), ``large_n_vs_best_torch``
(32 tokens and more) and ``large_n_vs_torch_added`` (the same, but torch too adds to the result).

The work is in ``one_expert.py``: transformers takes any module that is named ``kernels`` for a
package that it knows, and imports it. So this one imports nothing.
"""

from __future__ import annotations

if __name__ == "__main__":
    from one_expert import main

    main((__doc__ or "").split("\n\n")[0])

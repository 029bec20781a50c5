"""How the bundled demo model was made: corpus, tokenizer, training, statistics, model card.

Run ``python -m fiddler_viz.demo.training.train --help``. Nothing here is needed to *use* the model.
"""

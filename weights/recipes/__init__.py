"""How the released weights were made: one command a recipe, run from a checkout, with the extra `train`.

    python -m weights.recipes.landmarks --data DIR --out DIR
    python -m weights.recipes.faces --data DIR --out DIR        (lffd-light)
    python -m weights.recipes.detection --data DIR --out DIR    (lffd-face-v2)
    python -m weights.recipes.basketnet --data DIR --out DIR

Released landmarks learn from photos of one's own, see docs/guides/fine-tuning.md:

    python -m weights.recipes.finetune --data DIR --out DIR

Recipes are source, never part of an installed refnet; only what they made is.
"""

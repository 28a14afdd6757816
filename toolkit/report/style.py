"""Colours that page and paper share."""

# Okabe & Ito (2008), black left out, and two of P. Tol's: told apart with every common colour
# vision. The dark theme's are the same hues at a contrast of at least 4.5 on its background.
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#8a8a00")
DARK = ("#5cb3f2", "#ff8f4d", "#3ccfa0", "#e59cc6", "#f5bb3d", "#a5d8ff", "#d98bb5", "#cfcf5c")

# Beyond those that have a colour of their own.
LIGHT_REST, DARK_REST = "#a8a8a8", "#747b85"

# Of the kinds of weights, wherever colour tells those: position in the palette, the rest last.
WEIGHTS_COLOUR = {
    "pretrained": 0,
    "random": 1,
    "trained": 2,
    "checkpoint": 3,
    "no weights": len(LIGHT),
}

# What is special about a mark.
BEST_EPOCH, STOPPED_EARLY, WINNER = "best epoch", "stopped early", "winner"
DIVERGED, FAR_BELOW = "diverged", "far below"
# Its symbol on paper and on the page; whether it is at the edge, having no place on the axis.
MARKS = {
    BEST_EPOCH: ("o", "circle", False),
    STOPPED_EARLY: ("s", "square-open", False),
    WINNER: ("*", "star", False),
    DIVERGED: ("x", "x", True),
    FAR_BELOW: ("v", "triangle-down-open", True),
}

# Perceptually even, and even in grey.
COLOUR_SCALE = "cividis"

# Under text: from the lowest to the highest value, so that the theme's ink is readable on all.
TILE_SCALE_LIGHT = ((0, "#f1f5f9"), (1, "#7db4e3"))
TILE_SCALE_DARK = ((0, "#1b242d"), (1, "#2c6ea8"))

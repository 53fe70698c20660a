"""The picture of docs/method.md: an answer as a path through states, and what each method estimates from.

Written as SVG with text, 400 wide, so that a phone shows it at full size.
"""

from __future__ import annotations

from html import escape

WIDTH, HEIGHT = 400, 888
TOKENS = ("ten", "to", "four")  # of the target, after "from"
LAMBDA = 0.2  # the mixed states are drawn to this scale
TITLE = "The answer as a path through states"
DESCRIPTION = (
    "Three target tokens lead from state to state: from, ten, to, four. From each target state the model's guess "
    "leads one step aside: the first guess is right, the others are 'until' instead of 'to' and 'six' instead of "
    "'four'. The mixed state lies a fifth of the way from the target's state to the guess's. When it generates, the "
    "model continues from its own guess, on a path that the target never takes. SFT estimates from the target's "
    "states, DPO from those of two given answers and a reference model, PPO from sampled ones and a reward, IFT "
    "from the mixed ones. Below, each part of a step with its equation, function and test."
)
STYLE = """
    text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
    text { font-size: 13px; fill: #1b1f24; }
    .name { font-size: 15px; font-weight: 600; }
    .what { fill: #3d444d; }
    .small { font-size: 12px; fill: #3d444d; }
    .middle { text-anchor: middle; }
    .end { text-anchor: end; }
    .code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
    .code { font-size: 11px; fill: #0b5394; text-anchor: end; }
    .number { font-size: 12px; font-weight: 600; fill: #ffffff; text-anchor: middle; }
    .paper { fill: #ffffff; stroke: #d0d7de; }
    .box, .target { fill: #eef4fb; stroke: #5b8bc0; }
    .guess { fill: #fff6e5; stroke: #cc8a1d; stroke-dasharray: 4 3; }
    .own { fill: #fff6e5; stroke: #cc8a1d; }
    .other { fill: #f6f8fa; stroke: #8c959f; }
    .mixed { fill: #8a4b00; }
    .disc { fill: #57606a; }
    .line { stroke: #5b8bc0; stroke-width: 2; fill: none; }
    .away { stroke: #cc8a1d; stroke-width: 2; fill: none; }
    .rejected { stroke: #8c959f; stroke-width: 2; fill: none; }
    .arrow { fill: none; stroke: #57606a; stroke-width: 1.5; marker-end: url(#head); }
    .dashed { stroke-dasharray: 5 3; }
"""
# what, equation, function or file, test
PARTS = (
    ("look-ahead", "p = argmax π(· | x before t)", "lookahead.py", "test_lookahead.py"),
    ("mix, Eq. 17", "e = (1 - λ) E(x) + λ E(p)", "temporal_residual", "test_algorithm.py"),
    ("forward", "ℓ = -log π(x | e before t)", "scored_log_probs.py", "test_scored_log_probs.py"),
    ("propagation", "w = sum of γ^(i - t) ℓ, i from t on", "propagation_weights", "test_equations.py"),
    ("reduction", "mean of w ℓ in a row, then of rows", "reduce_losses", "test_trainer.py"),
)
METHODS = (
    ("SFT", "the target's states, as if the", "model surely reached them"),
    ("DPO", "the states of two given", "answers; a reference model"),
    ("PPO", "the states of sampled", "answers; a reward"),
    ("IFT", "the target's states, moved", "by λ towards a guess"),
)


def text(x: float, y: float, words: str, kind: str = "what") -> str:
    """A line of text."""
    return f'  <text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def number(x: float, y: float, count: int) -> str:
    """The number of a part of the step in a disc."""
    return f'  <circle class="disc" cx="{x:g}" cy="{y:g}" r="9"/>\n{text(x, y + 4.5, str(count), "number")}'


def path(kind: str, way: str) -> str:
    """A line."""
    return f'  <path class="{kind}" d="{way}"/>'


def state(x: float, y: float, words: str, kind: str) -> str:
    """A state in a box of 76 x 30, with its last token."""
    box = f'  <rect class="{kind}" x="{x:g}" y="{y:g}" width="76" height="30" rx="6"/>'
    return f"{box}\n{text(x + 38, y + 20, words, 'middle')}"


def diamond(x: float, y: float) -> str:
    """A mixed state."""
    return path("mixed", f"M{x:g} {y - 6:g} l6 6 l-6 6 l-6 -6 z")


def walk() -> list[str]:
    """The target's path, the guesses beside it, the mixed states, and the model's own path."""
    top, below = 136, 240
    mixed = top + 30 + LAMBDA * (below - top - 30)
    drawn = [
        text(16, 32, TITLE, "name"),
        text(16, 52, "state: the prompt and the tokens so far"),
        text(16, 69, "action: the next token"),
        *(
            state(12 + 100 * count, top, f"… {token}", "target")
            for count, token in enumerate(("from", *TOKENS))
        ),
        *(path("arrow", f"M{x} {top + 15} h22") for x in (88, 188, 288)),
        *(text(100 + 100 * n, top - 6, token, "middle small") for n, token in enumerate(TOKENS)),
        # the losses of later tokens count for earlier ones
        path("arrow dashed", f"M298 {top - 20} C288 {top - 36} 212 {top - 36} 203 {top - 21}"),
        path("arrow dashed", f"M198 {top - 21} C190 {top - 36} 112 {top - 36} 102 {top - 21}"),
        text(250, top - 39, "γ", "middle"),
        text(150, top - 39, "γ", "middle"),
        number(376, top - 30, 4),
        text(362, top - 26, "losses", "small end"),
        # guesses, one step from the target's states
        state(212, below, "… until", "guess"),
        state(312, below, "… six", "guess"),
        path("arrow dashed", f"M150 {top + 30} L222 {below - 2}"),
        path("arrow dashed", f"M262 {top + 30} L326 {below - 2}"),
        path("away", f"M250 {top + 30} V{below}"),
        path("away", f"M350 {top + 30} V{below}"),
        diamond(250, mixed),
        diamond(350, mixed),
        number(176, top + 74, 1),
        number(374, mixed + 2, 2),
        diamond(22, top + 52),
        text(34, top + 56, "mixed state: λ of", "small"),
        text(34, top + 72, "the way to a guess", "small"),
        text(16, below + 12, "one step of the model's", "small"),
        text(16, below + 28, "own; 'ten' was right", "small"),
        state(312, below + 56, "… 6 pm", "own"),
        path("arrow", f"M250 {below + 30} C250 {below + 60} 270 {below + 71} 310 {below + 71}"),
        text(16, below + 68, "its own path when it generates:", "small"),
        text(16, below + 84, "SFT never shows it these states", "small"),
    ]
    return drawn


def estimates(top: float) -> list[str]:
    """The paths from which each method estimates, small."""
    drawn = [text(16, top, "What each method estimates from", "name")]
    for place, (name, first, second) in enumerate(METHODS):
        y = top + 34 + 48 * place
        drawn += [
            text(16, y + 4, name, "name"),
            text(184, y - 3, first),
            text(184, y + 14, second),
        ]
        straight, bent = f"M62 {y} H170", f"M62 {y} H98 C116 {y} 116 {y + 14} 134 {y + 14} H170"
        if name in ("SFT", "DPO", "IFT"):
            drawn.append(path("line", straight))
        if name == "DPO":
            drawn.append(path("rejected", bent))
        if name == "PPO":
            drawn.append(path("away", bent))
        if name == "IFT":
            drawn += [path("away dashed", f"M{x - 36} {y} L{x} {y + 16} V{y}") for x in (134, 170)]
        for x in (62, 98, 134, 170):
            low = 14 if x > 100 else 0
            if name in ("SFT", "DPO") or (name == "IFT" and not low):
                drawn.append(f'  <circle class="target" cx="{x}" cy="{y}" r="5"/>')
            if name == "PPO" or (name == "DPO" and low):
                kind = "own" if name == "PPO" else "other"
                drawn.append(f'  <circle class="{kind}" cx="{x}" cy="{y + low}" r="5"/>')
            if name == "IFT" and low:
                drawn.append(diamond(x, y + LAMBDA * low))
    return drawn


def step(top: float) -> list[str]:
    """The parts of a step: what, equation, function, test."""
    drawn = [text(16, top, "One step: equation, function, test", "name")]
    for count, (name, equation, function, test) in enumerate(PARTS, start=1):
        y = top + 14 + 54 * (count - 1)
        drawn += [
            f'  <rect class="box" x="12" y="{y:g}" width="376" height="46" rx="6"/>',
            number(30, y + 15, count),
            text(46, y + 19, name, ""),
            text(46, y + 37, equation, "small"),
            text(380, y + 18, function, "code"),
            text(380, y + 36, test, "code"),
        ]
    return drawn


def mdp_picture() -> str:
    """The whole picture as SVG."""
    lines = [*walk(), *estimates(372), *step(602)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            'role="img" aria-labelledby="t d">',
            f'  <title id="t">{escape(TITLE)}</title>',
            f'  <desc id="d">{escape(DESCRIPTION)}</desc>',
            f"  <style>{STYLE}  </style>",
            '  <defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#57606a"/></marker></defs>',
            f'  <rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10"/>',
            *lines,
            "</svg>",
            "",
        ]
    )

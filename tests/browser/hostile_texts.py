"""Texts that would run as script where somebody forgot to escape them, in every text of a trace."""

from __future__ import annotations

from dataclasses import replace

from engine.events import Action
from engine.placement import change_plan
from engine.policies import Policy
from engine.replay import replay_plan
from engine.trace import Trace
from tests.fiddler_viz.make_trace import toy_model, toy_trace

RUN = "window.hacked=1"
PAYLOADS = (
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f'"><img src=x onerror={RUN}>',
    f"'><img src=x onerror={RUN}>",
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f"<body onload={RUN}>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'>",
    f"<iframe src=javascript:parent.{RUN}>",
    f"<a href=javascript:{RUN}>click</a>",
    f'<a href="javascript:{RUN}" target="_self">click</a>',
    f"<details open ontoggle={RUN}>",
    f"<video><source onerror={RUN}>",
    f"<audio src=x onerror={RUN}>",
    f"<input autofocus onfocus={RUN}>",
    f"<select autofocus onfocus={RUN}>",
    f"<textarea autofocus onfocus={RUN}>",
    f"<marquee onstart={RUN}>",
    f"<object data=javascript:{RUN}>",
    f"<embed src=javascript:{RUN}>",
    f"<math><mtext></p><img src=x onerror={RUN}>",
    f"<form><button formaction=javascript:{RUN}>go</button>",
    f"</title><script>{RUN}</script>",
    f"</style><script>{RUN}</script>",
    f"<!--><script>{RUN}</script>-->",
    f"]]><script>{RUN}</script>",
    f'" onmouseover={RUN} x="',
    f"' onmouseover={RUN} x='",
    f"` onmouseover={RUN} x=`",
    f"<b onmouseover={RUN}>bold</b>",
    "<link rel=stylesheet href=http://evil.invalid/x.css>",
    "<img src=http://evil.invalid/pixel.png>",
    "<style>@import 'http://evil.invalid/x.css';</style>",
    "<meta http-equiv=refresh content='0;url=http://evil.invalid/'>",
    f"$\\href{{javascript:{RUN}}}{{x}}$",
    f"\\(\\unicode{{<img src=x onerror={RUN}>}}\\)",
    f"${{{RUN}}}",
    f"{{{{constructor.constructor('{RUN}')()}}}}",
    "%{x}<extra></extra>",
    f"&lt;script&gt;{RUN}&lt;/script&gt;",
    f"\u2028{RUN}//",
    f"\\u003cscript\\u003e{RUN}\\u003c/script\\u003e",
)
"""By tag, attribute, scheme and template; some ask a server that does not exist."""
ALL = "".join(PAYLOADS)


class Hostile(Policy):
    """A policy of somebody's own, by a name nobody would choose."""

    name, title, summary = PAYLOADS[2], PAYLOADS[3], PAYLOADS[28]
    admits = True

    def miss(self, tokens: int) -> Action:
        return Action.STREAM if tokens > 1 else Action.CPU


def hostile_trace() -> Trace:
    """A payload for every token, and in names, titles, sources and meta; under a hostile policy."""
    made = toy_trace(model=toy_model(4, 6, 2), prompt_tokens=24, decode_tokens=len(PAYLOADS) - 25)
    assert len(made.token_rows) == len(PAYLOADS)
    model = replace(made.model, name=f"{PAYLOADS[1]}{PAYLOADS[24]}")
    plan = change_plan(made.plan, model=model, policy=Hostile, cache_slots=2)
    plan = replace(
        plan,
        model=model.name,
        hardware=PAYLOADS[6],
        hardware_title=f"{PAYLOADS[3]}{PAYLOADS[36]}",
        profile=replace(plan.profile, source=PAYLOADS[5]),
        basis=None if plan.basis is None else replace(plan.basis, model=model),
    )
    made = replace(made, model=model, texts=PAYLOADS, plan_list=((0, plan),))
    words = ("loaded", "ended", "as_model", "prompt", "device", "fiddler_viz", PAYLOADS[0])
    meta = {name: PAYLOADS[at % len(PAYLOADS)] for at, name in enumerate(words)}
    return replace(replay_plan(made, plan).trace, meta=meta)

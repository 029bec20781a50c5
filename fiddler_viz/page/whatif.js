// Sliders and menus: from what the reader moved to a plan, and to its answer in numbers.

// `onAnswer(answer, plan)` gets what replay() says, or null where the run itself is to be shown.
function whatIf(sent, run, onAnswer) {
  const panel = document.getElementById("whatif"), find = (name) => panel.querySelector(`[name=${name}]`);
  const [budget, slots, policy, machine] = ["budget", "slots", "policy", "machine"].map(find);
  const back = find("back"), words = panel.querySelector("[role=status]"), own = sent.plan;
  const ownRoom = roomOf(sent, own.budget), experts = sent.layers * sent.columns;
  let waiting = false;

  // One step of the slider is one expert more; the run's own budget stands in its place.
  const budgetAt = (room) => (room === ownRoom ? own.budget : own.least + room * own.expert_bytes);
  const label = (input, text) => {
    input.nextElementSibling.textContent = text;
    input.setAttribute("aria-valuetext", text);
  };

  function plan() {
    return { budget: budgetAt(Number(budget.value)), slots: Number(slots.value),
      policy: policy.value, machine: Number(machine.value) };
  }

  function settle() { // what the plan allows
    const now = plan(), most = mostSlots(sent, Number(budget.value));
    const { admits, summary } = sent.policies[now.policy];
    slots.max = most;
    slots.disabled = !admits || !most;
    policy.title = summary;
    label(budget, formatBytes(now.budget));
    label(slots, admits ? counted(Number(slots.value), "expert") : "no effect");
  }

  function answer() {
    const now = plan(), made = replay(sent, now), { summary } = made;
    const card = sent.machines[now.machine].card_bytes;
    const beyond = now.budget <= card ? "" : card ? `, more than the card's ${formatBytes(card)}` : ", though there is no GPU";
    words.textContent = `${formatBytes(now.budget)}${beyond}: ${made.pinned.length} of ${grouped(experts)} experts pinned${own.edits ? ` (${own.edits})` : ""}`
      + `${now.slots ? ` and ${counted(now.slots, "cache slot")}` : ""}. ${sent.policies[now.policy].title}: ${sent.policies[now.policy].summary}`;
    tell(panel, summary, run, sent.machines[now.machine].uncalibrated);
    return [made, now];
  }

  // As engine.placement.change_plan: a new policy brings its own slots, kept ones shrink.
  let followed = policy.value, room = ownRoom;
  function moved(event) {
    const name = policy.value, before = usualSlots(sent, followed, room);
    const now = Number(budget.value), usual = usualSlots(sent, name, now);
    const byDefault = name !== followed || (sent.policies[name].share && Number(slots.value) === before);
    if (event.target !== slots) {
      slots.max = mostSlots(sent, now);
      slots.value = byDefault ? usual : Math.min(Number(slots.value), mostSlots(sent, now));
    }
    [followed, room] = [name, now];
    settle();
    back.disabled = false;
    if (waiting) return; // the latest wins
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (!back.disabled) onAnswer(...answer());
    });
  }

  function toRun() {
    budget.min = own.by_hand.pinned.length; // what was pinned by hand stays
    budget.max = experts;
    budget.value = ownRoom;
    slots.max = mostSlots(sent, ownRoom);
    slots.value = own.slots;
    policy.value = own.policy;
    machine.value = 0;
    [followed, room] = [own.policy, ownRoom];
    settle();
    answer();
    back.disabled = true;
    onAnswer(null, null);
  }

  for (const control of [budget, slots, policy, machine]) control.addEventListener("input", moved);
  back.addEventListener("click", () => { toRun(); budget.focus(); });
  toRun();
  return { plan, answer: (asked) => replay(sent, asked) };
}

// The row of predicted numbers, each beside the run's.
function tell(panel, summary, run, uncalibrated) {
  const calls = summary.calls.reduce((sum, n) => sum + n, 0), lanes = ["GPU", "CPU", "h2d", "d2h"];
  const [low, high] = [summary.tokens_per_s_low, summary.tokens_per_s_high].map((speed) => formatRate(speed).split(" ")[0]);
  const ratio = calls ? summary.calls[2] / calls : NaN;
  const state = uncalibrated ? "modelled, uncalibrated" : "modelled";
  const shown = {
    decode: [formatRate(summary.tokens_per_s),
      Number.isFinite(summary.tokens_per_s) ? `${state}, ${low} to ${high}` : state],
    prefill: [formatRate(summary.prefill_tokens_per_s), state],
    hits: [percent(summary.hit_rate), "expert calls found on the GPU"],
    link: [Number.isFinite(summary.bytes_per_token) ? formatBytes(Math.round(summary.bytes_per_token)) : "-", "per token, both directions"],
    cpu: [percent(ratio), `${grouped(summary.calls[2])} of ${counted(calls, "expert call")}`],
    busy: [percent(summary.busy[0]), lanes.slice(1).map((lane, i) => `${lane} ${percent(summary.busy[i + 1])}`).join(", ")],
  };
  for (const [name, [value, note]] of Object.entries(shown)) {
    const tile = panel.querySelector(`[data-tile=${name}]`);
    tile.querySelector("b").textContent = value;
    tile.querySelector(".note").textContent = note;
    tile.querySelector(".run").textContent = `this run: ${run[name]}`;
  }
}

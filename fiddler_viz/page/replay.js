// A plan's answer: engine/placement.py, policies/base.py, replay.py and summary.py in the page.

// What was sent, as arrays. `asked`: of each record its number among the layers, heads left out.
function unpack(sent) {
  const arrays = {
    step: Int32Array, layer: Int16Array, tokens: Int32Array, size: Int32Array, expert: Int16Array,
    count: Int32Array, weight: Float64Array, predicted: Int16Array, predicted_size: Int32Array,
    step_tokens: Int32Array, decode: Uint8Array, prefill: Uint8Array, worth: Float64Array,
    scores: Float64Array, shares: Float64Array,
  };
  const made = { ...sent };
  for (const [name, type] of Object.entries(arrays)) {
    if (sent[name] !== null) made[name] = unpacked(sent[name], type);
  }
  made.predictedFirst = sent.predicted_size === null ? null : running(made.predicted_size);
  made.orders = sent.orders.map((order) => unpacked(order, Int16Array));
  made.machines = sent.machines.map((machine) => ({ ...machine, ...Object.fromEntries(
    ["gpu", "cpu", "to_host", "to_device", "dense", "head"].map(
      (name) => [name, unpacked(machine[name], Float64Array)])) }));
  for (const [name, policy] of Object.entries(made.policies)) {
    const miss = policy.miss.map((actions) => actions === null ? null : unpacked(actions, Uint8Array));
    made.policies[name] = { ...policy, miss };
  }
  const asked = new Int32Array(made.layer.length);
  let layers = 0;
  made.layer.forEach((layer, r) => { asked[r] = layer < 0 ? -1 : layers++; });
  const { step, layer, tokens, expert, count, columns } = made;
  made.course = { step, layer, tokens, expert, count, columns, asked, first: running(made.size) };
  return made;
}

const unpacked = (text, type) =>
  new type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

function running(sizes) {
  const first = new Int32Array(sizes.length + 1);
  sizes.forEach((size, i) => { first[i + 1] = first[i] + size; });
  return first;
}

// Experts that fit beside what is reserved; the slots there is room for beside what was pinned by
// hand; and those where nobody says how many.
const roomOf = (sent, budget) => Math.min(
  Math.floor((budget - sent.plan.least) / sent.plan.expert_bytes), sent.layers * sent.columns);
const mostSlots = (sent, room) => room - sent.plan.by_hand.pinned.length;
const usualSlots = (sent, policy, room) =>
  Math.min(Math.floor(room * sent.policies[policy].share), mostSlots(sent, room));

// Who gets the places: what was pinned by hand, then the first of an order that takes `size` at once.
function pinnedOf({ by_hand }, order, places, size) {
  const pinned = [...by_hand.pinned], apart = new Set([...pinned, ...by_hand.unpinned]);
  for (let i = 0; i < order.length; i += size) {
    const free = order.slice(i, i + size).filter((flat) => !apart.has(flat));
    if (pinned.length + free.length > places) break;
    pinned.push(...free);
  }
  return Int16Array.from(pinned).sort();
}

// As engine.replay.replay(trace, gpu_memory=budget, cache_slots=slots, policy=, hardware=).
function replay(sent, { budget, slots, policy: name, machine }) {
  const policy = sent.policies[name], room = roomOf(sent, budget), { columns } = sent;
  const order = sent.orders[policy.order[machine]];
  const pinned = pinnedOf(sent.plan, order, room - slots, policy.layers ? columns : 1);
  const place = new Uint8Array(sent.layers * columns);
  for (const flat of pinned) place[flat] = PINNED;
  const own = sent.machines[machine];
  const costs = { ...own, copy_ns: own.copy_ns, overlap: own.overlap };
  const made = decide(sent, name, costs, machine, place, policy.admits ? slots : 0);
  const lanes = policy.overlap ? costs : { ...costs, copy_ns: own.pageable_copy_ns, overlap: false };
  const laid = layOut(sent.course, lanes, made);
  const ends = stepEnds(sent, laid.end);
  return { pinned, made, place, ends, work: laid.work, summary: summarize(sent, own, made, laid, ends) };
}

// One layer after the other, from empty slots; `place` is left as after the last one.
function decide(sent, name, costs, machine, place, slots) {
  const { course, columns } = sent, { layer, first, expert } = course, records = layer.length;
  const greedy = sent.policies.fiddler?.miss[machine], miss = sent.policies[name].miss[machine];
  const made = { action: new Uint8Array(expert.length), keep: new Uint8Array(expert.length),
    evict: [], fetch: [], unused: [] };
  const rule = RULES[name]({ sent, costs, miss, greedy: greedy ?? fiddlers(costs), place, slots });
  if (rule === null) return belady(sent, place, slots, made);
  const cache = rule.cache ?? new Recency();
  for (let r = 0; r < records; r++) {
    if (layer[r] < 0) continue;
    const base = layer[r] * columns, a = first[r], b = first[r + 1], missing = [], evict = [], come = [];
    if (!layer[r]) cache.step();
    for (let i = a; i < b; i++) {
      const flat = base + expert[i];
      cache.used(flat, place[flat], rule.weights ? rule.weights[i] : 1);
      if (!place[flat]) missing.push(i);
    }
    const admit = (flat, weight, keep) => {
      const gone = cache.makeRoom(flat, slots, keep);
      if (gone === null) return false;
      for (const other of gone) { cache.drop(other); evict.push(other); }
      cache.add(flat, weight);
      come.push(flat);
      return true;
    };
    const active = new Set();
    if (slots) for (let i = a; i < b; i++) active.add(base + expert[i]);
    if (missing.length) {
      const actions = rule.choose(r, missing, course);
      missing.forEach((at, i) => {
        made.action[at] = actions[i];
        if (slots && actions[i] === STREAM) {
          made.keep[at] = admit(base + expert[at], rule.weights ? rule.weights[at] : 1, active);
        }
      });
    }
    if (rule.unused) made.unused[r] = unusedOf(place, base, columns, course, r);
    if (slots && rule.ahead) {
      const fetch = [], wanted = rule.ahead(r, course), keep = new Set([...active, ...wanted]);
      for (const flat of wanted) {
        if (place[flat] || cache.has(flat)) continue;
        if (!admit(flat, 1, keep)) break;
        fetch.push(flat);
      }
      if (fetch.length) made.fetch[r] = fetch;
    }
    for (const flat of evict) place[flat] = 0;
    for (const flat of come) place[flat] = CACHED;
    if (evict.length) made.evict[r] = evict;
  }
  return made;
}

// Fiddler's comparison by token count, where that policy itself is not among those sent.
const fiddlers = (costs) => costs.gpu.map((gpu, n) =>
  costs.to_host[n] + costs.cpu[n] + costs.to_device[n] > costs.copy_ns + gpu ? STREAM : CPU);

function unusedOf(place, base, columns, { first, expert }, r) {
  const used = new Set(expert.subarray(first[r], first[r + 1])), unused = [];
  for (let e = 0; e < columns; e++) if (!used.has(e) && !place[base + e]) unused.push(base + e);
  return unused;
}

// Keeps what is used soonest again: engine/policies/belady.py.
function belady(sent, place, slots, made) {
  const { course, columns } = sent, { layer, first, expert } = course, records = layer.length;
  const following = new Int32Array(expert.length).fill(records), seen = new Map(), next = new Map();
  for (let r = records - 1; r >= 0; r--) {
    for (let i = first[r]; i < first[r + 1]; i++) {
      const flat = layer[r] * columns + expert[i];
      following[i] = seen.get(flat) ?? records;
      seen.set(flat, r);
    }
  }
  for (let r = 0; r < records; r++) {
    const base = layer[r] * columns, missing = [], evict = [];
    for (let i = first[r]; i < first[r + 1]; i++) {
      const flat = base + expert[i];
      if (!place[flat]) {
        missing.push(i);
        made.action[i] = STREAM;
      }
      if (slots && place[flat] !== PINNED) next.set(flat, following[i]);
    }
    const kept = new Set(missing.map((i) => base + expert[i]));
    while (next.size > slots) {
      let last = -1, then = -1;
      for (const [flat, when] of next) {
        if (when > then || (when === then && flat > last)) [last, then] = [flat, when];
      }
      next.delete(last);
      if (!kept.delete(last)) {
        evict.push(last);
        place[last] = 0;
      }
    }
    if (slots) {
      for (const i of missing) {
        if (!kept.has(base + expert[i])) continue;
        made.keep[i] = 1;
        place[base + expert[i]] = CACHED;
      }
    }
    if (evict.length) made.evict[r] = evict;
  }
  return made;
}

// Of each step when it ends; it starts where the one before it ends.
function stepEnds(sent, end) {
  const ends = new Float64Array(sent.step_tokens.length), { step } = sent.course;
  for (let s = 0, r = 0, now = 0; s < ends.length; s++) {
    for (; r < step.length && step[r] <= s; r++) now = end[r];
    ends[s] = now;
  }
  return ends;
}

function summarize(sent, machine, made, laid, ends) {
  const calls = [0, 0, 0];
  for (const action of made.action) calls[action]++;
  let decodeNs = 0, prefillNs = 0, tokens = 0;
  ends.forEach((end, s) => {
    const length = end - (s ? ends[s - 1] : 0);
    if (sent.decode[s]) decodeNs += length;
    if (sent.prefill[s]) prefillNs += length;
    tokens += sent.step_tokens[s];
  });
  const ratio = (part, whole) => (whole ? part / whole : NaN), error = machine.relative_error;
  const speed = ratio(sent.generated * 1e9, decodeNs), duration = Math.max(0, ...ends.slice(-1));
  const [h2d, d2h] = [laid.bytes[H2D], laid.bytes[D2H]];
  return {
    tokens_per_s: speed,
    tokens_per_s_low: speed / (1 + error),
    tokens_per_s_high: error < 1 ? speed / (1 - error) : Infinity,
    prefill_tokens_per_s: ratio(sent.prompt * 1e9, prefillNs),
    prefill_ns: prefillNs,
    decode_ns: decodeNs,
    hit_rate: ratio(calls[RESIDENT], calls[0] + calls[1] + calls[2]),
    calls,
    h2d_bytes: h2d,
    d2h_bytes: d2h,
    bytes_per_token: ratio(h2d + d2h, tokens),
    busy: laid.busy.map((ns) => ratio(ns, duration)),
    duration,
  };
}

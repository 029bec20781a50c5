// Who decides: engine/policies, rule for rule. `choose` says where each missing expert runs (given as
// places in the course's lists), `ahead` what is to be fetched into slots before its use.

// sent: what the page holds; course, costs: as layOut takes them; miss: action by token count.
const RULES = {
  fiddler: ({ miss }) => ({ choose: byCount(miss) }),
  stream: ({ miss }) => ({ choose: byCount(miss) }),
  cpu: ({ miss }) => ({ choose: byCount(miss) }),
  layers: ({ miss }) => ({ choose: byCount(miss) }),
  fiddler_released: ({ miss }) => ({ choose: byCount(miss) }),
  stream_all: ({ miss }) => ({ choose: byCount(miss), unused: true }),
  lru: ({ miss }) => ({ choose: byCount(miss) }),
  lru_layer: ({ miss, sent }) => ({
    choose: byCount(miss), cache: new LayerRecency(sent.layers, sent.columns) }),
  lfu: ({ miss }) => ({ choose: byCount(miss), cache: new Frequency() }),
  prefetch: ({ miss, sent }) => ({ choose: byCount(miss), ahead: predicted(sent) }),
  makespan,
  qstar,
  hybrimoe,
  dynamic,
  matching,
  belady: () => null, // knows the future: decided all at once, see `belady`
};

const byCount = (miss) => (r, missing, course) => missing.map((at) => miss[course.count[at]]);

function makespan({ costs, greedy }) {
  const TRY_ALL = 8, known = new Map();
  function best(counts, missing, stepTokens) {
    const many = missing.length, actions = counts.map(() => RESIDENT);
    let shortest = Infinity, fewest = 0, found = null;
    function attempt(streamed) { // the first of the shortest with the fewest copies
      missing.forEach((at, i) => { actions[at] = streamed(i) ? STREAM : CPU; });
      const ns = layerNs(costs, counts, actions, stepTokens);
      const copies = missing.filter((at) => actions[at] === STREAM).length;
      if (ns < shortest || (ns === shortest && copies < fewest)) {
        [shortest, fewest, found] = [ns, copies, missing.map((at) => actions[at])];
      }
    }
    if (missing.length <= TRY_ALL) {
      for (let bits = 0; bits < 1 << many; bits++) attempt((i) => (bits >> i) & 1);
      return found;
    }
    const order = missing.map((_, i) => i).sort((a, b) => counts[missing[b]] - counts[missing[a]]);
    const rank = [];
    order.forEach((i, at) => { rank[i] = at; });
    for (let heaviest = 0; heaviest <= many; heaviest++) attempt((i) => rank[i] < heaviest);
    attempt((i) => greedy[counts[missing[i]]] === STREAM);
    return found;
  }
  function alike(resident, many, stepTokens) { // one token each: only how many are copied matters
    const counts = new Array(resident + many).fill(1);
    let shortest = Infinity, copies = 0;
    for (let copied = 0; copied <= many; copied++) {
      const actions = counts.map((_, i) => (i < resident ? RESIDENT : i < resident + copied ? STREAM : CPU));
      const ns = layerNs(costs, counts, actions, stepTokens);
      if (ns < shortest) [shortest, copies] = [ns, copied];
    }
    return Array.from({ length: many }, (_, i) => (i < copies ? STREAM : CPU));
  }
  return {
    choose(r, missing, course) {
      const a = course.first[r], counts = [...course.count.subarray(a, course.first[r + 1])];
      const lone = counts.every((n) => n === 1), many = missing.length;
      const places = missing.map((at) => at - a), stepTokens = course.tokens[r];
      const key = lone ? `${counts.length - many},${many},${Math.min(stepTokens, many)}`
        : `${counts};${places};${stepTokens}`;
      if (!known.has(key)) {
        known.set(key, lone ? alike(counts.length - many, many, stepTokens) : best(counts, places, stepTokens));
      }
      return known.get(key);
    },
  };
}

function qstar({ costs }) {
  let carried = 0; // part of an expert that the link still owes
  return {
    choose(r, missing, course) {
      const even = costs.break_even ?? Infinity, count = course.count;
      const many = new Set(missing.filter((at) => count[at] >= even));
      const few = missing.filter((at) => !many.has(at)).sort((a, b) => count[b] - count[a]);
      carried += few.length * costs.link_share;
      const copied = Math.floor(carried);
      carried -= copied;
      few.slice(0, copied).forEach((at) => many.add(at));
      return missing.map((at) => (many.has(at) ? STREAM : CPU));
    },
  };
}

function hybrimoe({ costs, sent }) {
  const known = new Map();
  function split(counts) {
    const order = counts.map((_, i) => i).sort((a, b) => counts[a] - counts[b]), actions = [];
    let light = 0, heavy = order.length - 1, cpu = 0, link = 0, gpu = 0;
    while (light <= heavy) {
      const small = counts[order[light]], copied = link + costs.copy_ns;
      const onCpu = cpu + costs.to_host[small] + costs.cpu[small] + costs.to_device[small];
      const onGpu = Math.max(gpu, copied) + costs.gpu[counts[order[heavy]]];
      if (onCpu <= onGpu) {
        cpu = onCpu;
        actions[order[light++]] = CPU;
      } else {
        [link, gpu] = [copied, onGpu];
        actions[order[heavy--]] = STREAM;
      }
    }
    return actions;
  }
  return {
    cache: new Scores(new Float64Array(sent.layers * sent.columns), sent.worth),
    weights: sent.weight,
    choose(r, missing, course) {
      const counts = missing.map((at) => course.count[at]), key = counts.join();
      if (!known.has(key)) known.set(key, split(counts));
      return known.get(key);
    },
  };
}

function dynamic({ miss, sent, place, slots }) {
  const PERIOD_STEPS = 16, cache = new Scores(sent.scores.slice(), sent.worth);
  return {
    cache,
    choose: byCount(miss),
    ahead(r, course) {
      if (course.layer[r] || cache.steps % PERIOD_STEPS !== 1) return NONE;
      const away = [...cache.scores.keys()].filter((flat) => cache.scores[flat] && !place[flat]);
      return away.sort((a, b) => cache.scores[b] - cache.scores[a]).slice(0, slots);
    },
  };
}

function predicted(sent) {
  return (r, course) => {
    const base = (course.layer[r] + 1) * sent.columns, at = course.asked[r];
    if (course.layer[r] + 1 >= sent.layers) return NONE;
    const { predicted: values, predictedFirst: from } = sent;
    return [...values.subarray(from[at], from[at + 1])].map((expert) => base + expert);
  };
}

function matching({ sent, place }) {
  const LEAST_CHANCE = 0.3, { shares, norms, columns, layers } = sent;
  const patterns = norms.length, likeness = new Float64Array(patterns), likely = new Map();
  const cache = new Activations(new Float64Array(layers * columns), sent.worth);
  const share = (pattern, flat) => shares[pattern * layers * columns + flat];
  function likeliest(pattern, layer, active) {
    const key = `${pattern},${layer},${active}`, base = layer * columns;
    if (!likely.has(key)) {
      const order = Array.from({ length: columns }, (_, expert) => base + expert)
        .sort((a, b) => share(pattern, b) - share(pattern, a)).slice(0, active);
      likely.set(key, order.filter((flat) => share(pattern, flat) * active >= LEAST_CHANCE));
    }
    return likely.get(key);
  }
  return {
    cache,
    choose(r, missing) {
      cache.expected = new Set(); // what is needed now has to earn its slot
      return missing.map(() => STREAM);
    },
    ahead(r, course) {
      const layer = course.layer[r], a = course.first[r], b = course.first[r + 1];
      const many = course.tokens[r] > 1;
      let pairs = 0, nearest = 0;
      for (let i = a; i < b; i++) pairs += course.count[i];
      for (let p = 0; p < patterns; p++) {
        if (!layer) likeness[p] *= sent.fade;
        let sum = 0;
        for (let i = a; i < b; i++) {
          const unit = share(p, layer * columns + course.expert[i]) / Math.max(norms[p], 1e-9);
          sum += many ? unit * course.count[i] : unit;
        }
        likeness[p] += sum / pairs;
        if (likeness[p] > likeness[nearest]) nearest = p;
      }
      if (layer + 1 === layers) return NONE;
      const wanted = likeliest(nearest, layer + 1, b - a).filter((flat) => !place[flat]);
      cache.expected = new Set(wanted);
      return wanted;
    },
  };
}

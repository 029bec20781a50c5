// The list scheduler: engine/timeline.py and engine/native/src/lay.c, number for number. All times
// are whole nanoseconds, which a double holds exactly up to 2^53.

const RESIDENT = 0, STREAM = 1, CPU = 2; // engine.events.Action
const GPU = 0, HOST_CPU = 1, H2D = 2, D2H = 3; // Lane
const DENSE = 0, CALLS = 1, WEIGHTS = 4, ACTIVATIONS = 5; // fiddler_viz.theme.Segment
const NONE = [];

// course: layers and heads in the order in which they run, and who is active in each.
// made: what a policy decided. Gives when each record ends, and what the lanes did, segment by
// segment; `copies` waits in line as the engine's do.
function layOut(course, costs, made) {
  const { step, layer, tokens, first, expert, count, columns } = course;
  const records = layer.length, end = new Float64Array(records);
  const work = { lane: [], kind: [], start: [], end: [], step: [], layer: [], expert: [], tokens: [] };
  const busy = [0, 0, 0, 0], bytes = [0, 0, 0, 0], waiting = new Map();
  let now = 0, head = 0, at = 0; // at: the step at hand

  function worked(lane, kind, where, who, many, start, stop) {
    busy[lane] += stop - start;
    work.lane.push(lane); work.kind.push(kind); work.start.push(start); work.end.push(stop);
    work.step.push(at); work.layer.push(where); work.expert.push(who); work.tokens.push(many);
  }

  function idle(from, to) {
    for (const [flat, left] of waiting) {
      if (from >= to) return;
      const part = Math.min(left, to - from);
      bytes[H2D] += doneBytes(costs, left - part) - doneBytes(costs, left);
      worked(H2D, WEIGHTS, Math.floor(flat / columns), flat % columns, 0, from, from + part);
      if (part < left) waiting.set(flat, left - part);
      else waiting.delete(flat);
      from += part;
    }
  }

  for (let r = 0; r < records; r++) {
    const start = now, n = tokens[r], where = layer[r];
    at = step[r];
    const denseEnd = start + (where < 0 ? costs.head[head++] : costs.dense[at]);
    idle(start, denseEnd);
    worked(GPU, DENSE, where, -1, n, start, denseEnd);
    if (where < 0) {
      end[r] = now = denseEnd;
      continue;
    }
    const evict = made.evict[r] ?? NONE, fetch = made.fetch[r] ?? NONE, unused = made.unused[r] ?? NONE;
    for (const flat of evict) waiting.delete(flat); // what is copied of it is lost

    // The device's side: what is there, then what arrives, both in expert order.
    const a = first[r], b = first[r + 1], base = where * columns;
    let gpu = denseEnd, resident = denseEnd, link = denseEnd, pairs = 0;
    let buffer = denseEnd, next = denseEnd; // when each staging buffer is free again
    for (let i = a; i < b; i++) {
      if (made.action[i] === CPU) pairs += count[i];
      else if (made.action[i] === RESIDENT && !waiting.has(base + expert[i])) gpu += costs.gpu[count[i]];
    }
    for (let i = a; i < b; i++) {
      const action = made.action[i];
      if (action === CPU) continue;
      const flat = base + expert[i], took = costs.gpu[count[i]];
      const left = action === RESIDENT ? waiting.get(flat) : undefined;
      if (action === RESIDENT && left === undefined) {
        worked(GPU, CALLS + RESIDENT, where, expert[i], count[i], resident, resident + took);
        resident += took;
        continue;
      }
      let copy = left !== undefined ? link : Math.max(link, buffer);
      if (!costs.overlap) copy = Math.max(copy, gpu);
      link = copy + (left ?? costs.copy_ns);
      const begin = Math.max(gpu, link);
      gpu = begin + took;
      bytes[H2D] += costs.expert_bytes - (left === undefined ? 0 : doneBytes(costs, left));
      worked(H2D, WEIGHTS, where, expert[i], count[i], copy, link);
      worked(GPU, CALLS + action, where, expert[i], count[i], begin, gpu);
      if (left !== undefined) waiting.delete(flat);
      else [buffer, next] = [next, gpu];
    }
    for (const flat of unused) {
      const copy = Math.max(link, buffer);
      link = copy + costs.copy_ns;
      [buffer, next] = [next, link];
      bytes[H2D] += costs.expert_bytes;
      worked(H2D, WEIGHTS, Math.floor(flat / columns), flat % columns, 0, copy, link);
    }

    // The host's side, at the same time or after it.
    const onCpu = Math.min(n, pairs), crossed = onCpu * costs.activation_bytes;
    const leave = costs.overlap ? denseEnd : Math.max(gpu, link);
    let cpu = leave + (onCpu ? costs.to_host[onCpu] : 0);
    if (onCpu) worked(D2H, ACTIVATIONS, where, -1, onCpu, leave, cpu);
    for (let i = a; i < b; i++) {
      if (made.action[i] !== CPU) continue;
      const took = costs.cpu[count[i]];
      worked(HOST_CPU, CALLS + CPU, where, expert[i], count[i], cpu, cpu + took);
      cpu += took;
    }
    const back = Math.max(cpu, link), home = back + (onCpu ? costs.to_device[onCpu] : 0);
    now = onCpu ? Math.max(gpu, home) : Math.max(gpu, link);
    if (onCpu) {
      worked(H2D, ACTIVATIONS, where, -1, onCpu, back, home);
      bytes[D2H] += crossed;
      bytes[H2D] += crossed;
    }
    for (const flat of fetch) waiting.set(flat, costs.copy_ns);
    idle(link, onCpu ? back : now);
    if (onCpu) idle(home, now);
    end[r] = now;
  }
  return { end, work, busy, bytes };
}

// Bytes of an expert that are there when so many ns of its copy are left; products beyond 2^53.
function doneBytes(costs, left) {
  const whole = costs.copy_ns;
  if (!whole) return 0;
  return Number((BigInt(costs.expert_bytes) * BigInt(whole - left)) / BigInt(whole));
}

// How long a layer takes from the end of its dense part on, nothing waiting: a choice's worth.
function layerNs(costs, counts, actions, stepTokens) {
  let gpu = 0, link = 0, buffer = 0, next = 0, pairs = 0;
  for (let i = 0; i < counts.length; i++) {
    if (actions[i] === RESIDENT) gpu += costs.gpu[counts[i]];
    else if (actions[i] === CPU) pairs += counts[i];
  }
  for (let i = 0; i < counts.length; i++) {
    if (actions[i] !== STREAM) continue;
    let copy = Math.max(link, buffer);
    if (!costs.overlap) copy = Math.max(copy, gpu);
    link = copy + costs.copy_ns;
    gpu = Math.max(gpu, link) + costs.gpu[counts[i]];
    [buffer, next] = [next, gpu];
  }
  const onCpu = Math.min(stepTokens, pairs);
  if (!onCpu) return Math.max(gpu, link);
  let cpu = (costs.overlap ? 0 : Math.max(gpu, link)) + costs.to_host[onCpu];
  for (let i = 0; i < counts.length; i++) if (actions[i] === CPU) cpu += costs.cpu[counts[i]];
  return Math.max(gpu, Math.max(cpu, link) + costs.to_device[onCpu]);
}

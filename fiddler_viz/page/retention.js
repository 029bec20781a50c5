// Which cached expert gives its slot up: engine/policies/retention.py and ranking.py. An expert is a
// flat index. `makeRoom` names who goes, null where the newcomer is not to be kept.

const PINNED = 1, CACHED = 2; // engine.residency.Place

class Recency { // least recently used first
  recent = new Set();
  get size() { return this.recent.size; }
  has(flat) { return this.recent.has(flat); }
  step() {}
  used(flat, place) { if (place === CACHED) this.add(flat); }
  add(flat) { this.recent.delete(flat); this.recent.add(flat); }
  drop(flat) { this.recent.delete(flat); }
  makeRoom(flat, slots, keep) {
    if (this.size < slots) return NONE;
    for (const other of this.recent) if (!keep.has(other)) return [other];
    return null;
  }
}

class LayerRecency { // the same, each layer with its own share of the slots
  constructor(layers, columns) {
    this.layers = layers;
    this.columns = columns;
    this.of = Array.from({ length: layers }, () => new Set());
  }
  mine(flat) { return this.of[Math.floor(flat / this.columns)]; }
  has(flat) { return this.mine(flat).has(flat); }
  step() {}
  used(flat, place) { if (place === CACHED) this.add(flat); }
  add(flat) { this.drop(flat); this.mine(flat).add(flat); }
  drop(flat) { this.mine(flat).delete(flat); }
  makeRoom(flat, slots, keep) {
    const mine = this.mine(flat), layer = Math.floor(flat / this.columns);
    const share = Math.floor(slots / this.layers) + (layer < slots % this.layers ? 1 : 0);
    const over = mine.size + 1 - share, gone = [];
    for (const other of mine) if (gone.length < over && !keep.has(other)) gone.push(other);
    return !share || gone.length < over ? null : gone;
  }
}

class Ranked { // the lowest rank first, of equal ones the one whose last use is longest ago
  entries = new Map();
  uses = 0;
  steps = 0;
  get size() { return this.entries.size; }
  has(flat) { return this.entries.has(flat); }
  step() { this.steps++; }
  drop(flat) { this.entries.delete(flat); }
  place(flat, rank) { this.entries.set(flat, { rank, use: ++this.uses }); }
  lowest(keep) {
    let found = null, best = null;
    for (const [flat, entry] of this.entries) {
      const lower = best === null || entry.rank < best.rank
        || (entry.rank === best.rank && entry.use < best.use);
      if (lower && !keep.has(flat)) [found, best] = [flat, entry];
    }
    return found;
  }
  makeRoom(flat, slots, keep) {
    if (this.size < slots) return NONE;
    const lowest = this.lowest(keep);
    return lowest === null ? null : [lowest];
  }
}

class Frequency extends Ranked { // counted while cached
  add(flat) { this.place(flat, 1); }
  used(flat, place) { if (place === CACHED) this.place(flat, this.entries.get(flat).rank + 1); }
}

class Scores extends Ranked { // uses, weighted and fading, of all experts, cached or not
  constructor(scores, worths) {
    super();
    this.scores = scores;
    this.worths = worths;
  }
  used(flat, place, weight) {
    if (place === PINNED) return;
    this.scores[flat] += weight * this.worths[this.steps];
    if (place === CACHED) this.place(flat, this.scores[flat]);
  }
  add(flat) { this.place(flat, this.scores[flat]); }
  scoreOf(flat) { return this.scores[flat]; }
  makeRoom(flat, slots, keep) {
    if (this.size < slots) return NONE;
    const lowest = this.lowest(keep);
    return lowest === null || this.entries.get(lowest).rank >= this.scoreOf(flat) ? null : [lowest];
  }
}

class Activations extends Scores { // who is expected soon gets a slot in any case
  expected = new Set();
  scoreOf(flat) { return this.expected.has(flat) ? Infinity : this.scores[flat]; }
}

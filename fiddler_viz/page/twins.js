// The figures of a prediction in words and as tables: the twins that page/tables.py writes of the run.

const MOST_ROWS = 1000;

function fillTable(table, rows) {
  const body = document.createElement("tbody");
  for (const row of rows) {
    const line = body.insertRow();
    for (const text of row) line.insertCell().textContent = text;
  }
  table.tBodies[0].replaceWith(body);
}

function expertRows(shown, names, columns) {
  const order = [...shown.tokens.keys()].sort((a, b) => shown.tokens[b] - shown.tokens[a]);
  return order.slice(0, MOST_ROWS).map((flat) => {
    const calls = names.actions.map((action, i) => [shown.calls[i][flat], action]);
    const ran = calls.filter(([n]) => n).map(([n, action]) => `${grouped(n)} ${action}`);
    return [String(Math.floor(flat / columns)), String(flat % columns), names.places[shown.place[flat]],
      grouped(shown.tokens[flat]), ran.join(", ") || "-"];
  });
}

function laneRows(work, duration, names) {
  const spent = names.lanes.map(() => names.kinds.map(() => 0));
  for (let i = 0; i < work.lane.length; i++) spent[work.lane[i]][work.kind[i]] += work.end[i] - work.start[i];
  return names.lanes.map((lane, i) => {
    const parts = spent[i].map((ns, kind) => [ns / duration, names.kinds[kind].label]).filter(([share]) => share);
    return [`${lane} (${names.lane_words[i]})`, percent(parts.reduce((sum, [share]) => sum + share, 0)),
      "-", // the critical path is not worked out here
      parts.map(([share, label]) => `${label} ${percent(share)}`).join(", ") || "idle"];
  });
}

function stepRows(sent, ends, hits) {
  return [...ends.slice(0, MOST_ROWS)].map((end, step) => [String(step), sent.prefill[step] ? "prefill" : "decode",
    grouped(sent.step_tokens[step]), formatNs(end - (step ? ends[step - 1] : 0)), percent(hits[step])]);
}

"use strict";
/* Filters, table and curves from the JSON in the page. Nothing is requested, and text enters the
   page through textContent only, so that no name can become markup. */
(() => {
  const MOST_CURVES = 8;
  const FIRST_CURVES = 6;
  const SELECTS = ["protocol", "budget", "exposure", "tier", "verification"];
  const LEVELS = ["self-reported", "recomputed", "rerun"];
  const MARKS = { exposed: "†", unknown: "?" };
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const boxes = [...document.getElementsByName("group")];
  const names = new Intl.Collator("en", { numeric: true });

  const cells = data.encoders.map(() => new Map());
  for (const [row, column, mean, text, low, high, exposure, seeds, missing, standing, reason] of data.cells)
    cells[row].set(column, { mean, text, low, high, exposure, seeds, missing, standing,
                             reason: data.reasons[reason] });
  data.columns.forEach((column, i) => {
    column.index = i;
    column.key = `${column.group} @${column.budget}`;
  });
  const inColumn = (column) => cells.map((row) => row.get(column.index)).filter(Boolean);
  const bests = data.columns.map((column) => ({
    compared: inColumn(column)
      .filter((c) => c.mean !== null && !c.missing && c.exposure !== "exposed").length,
    best: data.encoders.findIndex((_, row) => cells[row].get(column.index)?.standing === "best"),
    tied: data.encoders.map((_, row) => row)
      .filter((row) => cells[row].get(column.index)?.standing === "tied")
      .sort((a, b) => cells[b].get(column.index).mean - cells[a].get(column.index).mean),
  }));

  /* What is shown: one value for each filter, as the address has it. */
  const ordinary = {
    protocol: data.start.protocol, budget: data.start.budget, exposure: "all", tier: "all",
    verification: "all", search: "",
  };
  let state, columns, shown, drawn, rows = [];

  function readAddress() {
    const address = new URLSearchParams(location.hash.slice(1));
    state = { ...ordinary };
    for (const name of Object.keys(ordinary)) state[name] = address.get(name) ?? ordinary[name];
    for (const name of SELECTS)
      if (![...at(name).options].some((o) => o.value === state[name])) state[name] = ordinary[name];
    state.groups = address.has("benchmark") ? new Set(address.getAll("benchmark")) : null;
    state.sort = address.get("sort");
    state.descending = address.get("order") === "descending";
    state.curves = address.has("curve") ? address.getAll("curve") : null;
    for (const name of Object.keys(ordinary)) at(name).value = state[name];
    for (const box of boxes)
      box.checked = state.groups ? state.groups.has(box.value) : box.dataset.kind !== "control";
  }

  function writeAddress() {
    const address = new URLSearchParams();
    for (const name of Object.keys(ordinary))
      if (state[name] !== ordinary[name]) address.set(name, state[name]);
    for (const name of state.groups ?? []) address.append("benchmark", name);
    if (state.sort) {
      address.set("sort", state.sort);
      address.set("order", state.descending ? "descending" : "ascending");
    }
    for (const name of state.curves ?? []) address.append("curve", name);
    history.replaceState(null, "", `#${address}`);
  }

  function node(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  const number = (value, digits = 3) => value.toFixed(digits);
  const between = (low, high, digits = 3) =>
    low === null ? "" : `${number(low, digits)}–${number(high, digits)}`;
  const labelled = (column) =>
    column.budget === "full" ? `full (${column.n.toLocaleString("en")})` : column.budget;

  /* Filters. */

  function cellAt(row, column) {
    const cell = cells[row].get(column.index);
    if (!cell || (state.exposure === "clean" && cell.exposure !== "clean")) return null;
    return state.exposure === "unexposed" && cell.exposure === "exposed" ? null : cell;
  }

  function rowShown(row) {
    const { name, strategy, tier, verification } = data.encoders[row];
    const text = `${name} ${strategy} ${tier}`.toLowerCase();
    return (state.tier === "all" || tier === state.tier)
      && (state.verification === "all"
          || LEVELS.indexOf(verification) >= LEVELS.indexOf(state.verification))
      && state.search.toLowerCase().split(/\s+/).every((word) => text.includes(word))
      && columns.some((column) => cellAt(row, column));
  }

  const ranks = () => {
    const found = data.ranks[state.protocol];
    return found && found.benchmarks > 1 ? found : null;
  };

  /* Order: what has no value comes last in either direction, equals stay in the grid's order. */

  function sortKey() {
    const known = ["name", ...(ranks() ? ["rank"] : []), ...columns.map((c) => c.key)];
    if (known.includes(state.sort)) return [state.sort, state.descending];
    if (ranks() && columns.length !== 1) return ["rank", false];
    return columns.length ? [columns[0].key, true] : ["name", false];
  }

  function ordered(visible) {
    const [key, descending] = sortKey();
    const column = columns.find((c) => c.key === key);
    const value = key === "name" ? (row) => data.encoders[row].name
      : key === "rank" ? (row) => ranks().of[row]?.[0] ?? null
        : (row) => cellAt(row, column)?.mean ?? null;
    const sign = descending ? -1 : 1;
    return visible.map((row) => [value(row), row]).sort(([a, i], [b, j]) => {
      if (a === null || b === null) return (a === null) - (b === null) || i - j;
      return sign * (key === "name" ? names.compare(a, b) : a - b) || i - j;
    }).map(([, row]) => row);
  }

  /* The table. */

  function heading(key, text, spoken, attributes) {
    const button = node("button", { type: "button", "aria-label": spoken }, text);
    button.addEventListener("click", () => {
      const [now, descending] = sortKey();
      state.descending = now === key ? !descending : key !== "name" && key !== "rank";
      state.sort = key;
      arrange();
    });
    return node("th", { scope: "col", "data-key": key, ...attributes }, button);
  }

  function head() {
    const top = node("tr", {}, heading("name", "Encoder", "Encoder", { rowspan: 2 }));
    const below = node("tr");
    if (ranks())
      top.append(heading("rank", "Mean rank", "Mean rank", { rowspan: 2 }));
    for (const [i, column] of columns.entries()) {
      if (i === 0 || columns[i - 1].group !== column.group) {
        const span = columns.filter((c) => c.group === column.group).length;
        top.append(node("th", { scope: "colgroup", colspan: span, class: "group name" }, column.group));
      }
      const spoken = `${column.group}, ${labelled(column)} labelled images`;
      const first = i === 0 || columns[i - 1].group !== column.group ? { class: "first" } : {};
      below.append(heading(column.key, labelled(column), spoken, first));
    }
    return node("thead", {}, top, below);
  }

  function markOf(cell) {
    const mark = MARKS[cell.exposure];
    return mark ? [node("abbr", { class: "mark", title: `${cell.exposure}: ${cell.reason}` }, mark)] : [];
  }

  function scoreOf(cell) {
    if (cell.mean === null) return ["undefined"];
    const tag = { best: "strong", tied: "em" }[cell.standing] ?? "span";
    return [node(tag, {}, cell.text), ...markOf(cell)];
  }

  function scoreCell(row, column, first) {
    const cell = cellAt(row, column);
    const made = node("td", first ? { class: "first" } : {});
    if (!cell) {
      made.append(node("span", { class: "none" }, cells[row].has(column.index) ? "hidden" : "–"));
      return made;
    }
    if (cell.standing) made.classList.add(cell.standing);
    made.append(...scoreOf(cell));
    if (cell.low !== null) made.append(node("small", {}, between(cell.low, cell.high)));
    if (cell.missing)
      made.append(node("small", { class: "missing" }, `${cell.seeds} of ${cell.seeds + cell.missing} seeds`));
    return made;
  }

  function rankCell(row) {
    const found = ranks().of[row];
    if (!found) return node("td", {}, node("span", { class: "none" }, "–"));
    const [, text, low, high] = found;
    return node("td", {}, node("span", {}, text), node("small", {}, between(low, high, 1)));
  }

  function link(row) {
    const { name, page } = data.encoders[row];
    return node("a", { href: page, class: "name" }, name);
  }

  function encoderCell(row) {
    const { name, strategy, tier, verification } = data.encoders[row];
    const box = node("input", { type: "checkbox", "aria-label": `Draw the curve of ${name}` });
    box.addEventListener("change", () => {
      const now = drawn.map((r) => data.encoders[r].name);
      state.curves = box.checked ? [...now, name] : now.filter((n) => n !== name);
      drawCurves();
      writeAddress();
    });
    const facts = [tier, verification].filter(Boolean).join(" · ");
    return node("th", { scope: "row" }, box, link(row),
      node("small", { class: "strategy" }, strategy), node("small", {}, facts));
  }

  function buildTable() {
    columns = data.columns.filter((c) => c.protocol === state.protocol
      && (state.budget === "all" || c.budget === state.budget)
      && boxes.some((box) => box.checked && box.value === c.group));
    const firsts = columns.map((c, i) => i === 0 || columns[i - 1].group !== c.group);
    rows = data.encoders.map((_, row) => node("tr", {}, encoderCell(row),
      ...(ranks() ? [rankCell(row)] : []), ...columns.map((c, i) => scoreCell(row, c, firsts[i]))));
    at("board").replaceChildren(head(), node("tbody"));
  }

  function arrange() {
    shown = ordered(data.encoders.map((_, row) => row).filter(rowShown));
    at("board").tBodies[0].replaceChildren(...shown.map((row) => rows[row]));
    const [key, descending] = sortKey();
    for (const th of at("board").querySelectorAll("thead th[data-key]"))
      if (th.dataset.key === key) th.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    drawAnswer();
    drawCurves();
    describeView(key, descending);
    writeAddress();
  }

  function describeView(key, descending) {
    const order = key === "name" ? `by name, ${descending ? "Z to A" : "A to Z"}`
      : `by ${key === "rank" ? "mean rank" : `score on ${key}`}, ${descending ? "highest" : "lowest"} first`;
    const of = `${shown.length} of ${data.encoders.length} encoders`;
    at("status").textContent = shown.length
      ? `${of} in ${columns.length} ${columns.length === 1 ? "column" : "columns"}, ${order}.`
      : "No record fits these filters.";
    at("chosen").textContent = `${boxes.filter((box) => box.checked).length} of ${boxes.length}`;
  }

  /* The best of each column, over all encoders. */

  const TITLES = ["Benchmark", "Labelled images", "Highest", "Macro AUROC", "May be the highest too"];

  function drawAnswer() {
    at("answer").replaceChildren(
      node("thead", {}, node("tr", {}, ...TITLES.map((t) => node("th", { scope: "col" }, t)))),
      node("tbody", {}, ...columns.filter((c) => c.kind !== "control").map(answerRow)));
  }

  function answerRow(column) {
    const { best, tied, compared } = bests[column.index];
    const start = [node("th", { scope: "row", class: "name" }, column.group),
                   node("td", { "data-title": TITLES[1] }, labelled(column))];
    if (best < 0)
      return node("tr", {}, ...start, node("td", { colspan: 3 }, "nothing to compare: fewer than two "
        + "complete, unexposed encoders measured on the same images"));
    const cell = cells[best].get(column.index);
    return node("tr", {}, ...start,
      node("td", { "data-title": TITLES[2] }, node("span", {}, link(best), hiddenNote(best, column)),
        node("small", {}, `of ${compared} compared`),
        ...highestShown(best, column)),
      node("td", { "data-title": TITLES[3] }, node("strong", {}, cell.text),
        node("small", {}, between(cell.low, cell.high)),
        ...(cell.exposure === "clean" ? [] : [node("small", {}, `${MARKS[cell.exposure]} exposure ${cell.exposure}`)])),
      node("td", { "data-title": TITLES[4] }, node("span", {}, ...others(tied, column))));
  }

  function isHidden(row, column) {
    return !shown.includes(row) || !cellAt(row, column);
  }

  function hiddenNote(row, column) {
    return isHidden(row, column) ? " (hidden by the filters)" : "";
  }

  function highestShown(best, column) {
    const scored = shown.filter((row) => (cellAt(row, column)?.mean ?? null) !== null);
    if (!isHidden(best, column) || !scored.length) return [];
    const row = scored.reduce((a, b) => (cellAt(b, column).mean > cellAt(a, column).mean ? b : a));
    const { text, low, high } = cellAt(row, column);
    return [node("small", {}, "of those shown: ", link(row), ` ${text} ${between(low, high)}`)];
  }

  function others(tied, column) {
    if (!tied.length) return ["none"];
    const named = tied.slice(0, 3)
      .flatMap((row, i) => [i ? ", " : "", link(row), hiddenNote(row, column)]);
    return tied.length > 3 ? [...named, ` and ${tied.length - 3} more`] : named;
  }

  /* Curves: told apart by dashes and markers as well as by colour. */

  const SVG = "http://www.w3.org/2000/svg";
  const DASHES = ["", "7 3", "2 2", "9 3 2 3", "12 4", "4 4", "1 4", "8 2 2 2 2 2"];
  const SHAPES = [
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z", "M-3.5-3.5h7v7h-7Z", "M0-4.5L4.5 3.5h-9Z", "M0-5L5 0L0 5L-5 0Z",
    "M0 4.5L4.5-3.5h-9Z", "M-4-4L4 4M-4 4L4-4", "M0-5V5M-5 0H5", "M-5-2h10v4h-10Z",
  ];
  const SIZE = { width: 320, height: 230, left: 44, right: 12, top: 10, bottom: 40 };

  function shape(tag, attributes, ...children) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function toDraw() {
    if (state.curves)
      return state.curves.map((name) => data.encoders.findIndex((e) => e.name === name))
        .filter((row) => shown.includes(row)).slice(0, MOST_CURVES);
    const found = ranks()?.of ?? {};
    const standing = (row) => found[row]?.[0] ?? Infinity;
    const byRank = ranks() ? [...shown].sort((a, b) => standing(a) - standing(b)) : shown;
    const anchors = shown.filter((row) => data.encoders[row].anchor);
    return [...new Set([...anchors, ...byRank])].slice(0, FIRST_CURVES);
  }

  function drawCurves() {
    drawn = toDraw();
    for (const [row, tr] of rows.entries()) {
      const box = tr.querySelector("input");
      box.checked = drawn.includes(row);
      box.disabled = !box.checked && drawn.length >= MOST_CURVES;
    }
    at("legend").replaceChildren(...drawn.map((row, i) => node("li", {}, sample(i), link(row))));
    const groups = [...new Set(columns.map((c) => c.group))];
    at("curves").replaceChildren(...groups.map(panel).filter(Boolean));
  }

  function sample(i) {
    return shape("svg", { width: 44, height: 14, "aria-hidden": "true", class: `series s${i}` },
      shape("path", { class: "line", d: "M2 7H42", "stroke-dasharray": DASHES[i] }),
      shape("path", { class: "marker", d: SHAPES[i], transform: "translate(22 7)" }));
  }

  function panel(group) {
    const places = data.columns.filter((c) => c.protocol === state.protocol && c.group === group)
      .sort((a, b) => a.n - b.n);
    const series = drawn.map((row, i) => ({ i, name: data.encoders[row].name,
      points: places.map((c) => ({ n: c.n, column: c, cell: cellAt(row, c) }))
        .filter((p) => p.cell && p.cell.mean !== null) }));
    const points = series.flatMap((s) => s.points);
    if (!points.length) return null;
    const scale = scales(places, points.map((p) => p.cell));
    const id = `panel-${groups().indexOf(group)}`;
    const spoken = series.filter((s) => s.points.length).map((s) => `${s.name}: `
      + s.points.map((p) => `${p.cell.text} with ${labelled(p.column)}`).join(", ")).join("; ");
    return node("figure", {},
      node("figcaption", { class: "name" }, group),
      shape("svg", { role: "img", viewBox: `0 0 ${SIZE.width} ${SIZE.height}`,
                     "aria-labelledby": `${id}-title ${id}-text` },
        shape("title", { id: `${id}-title` }, `${group}: macro AUROC by number of labelled images`),
        shape("desc", { id: `${id}-text` }, spoken),
        ...axes(places, scale), ...series.filter((s) => s.points.length).map((s) => curve(s, scale))));
  }

  const groups = () => data.columns.map((c) => c.group);

  function scales(places, drawnCells) {
    const values = drawnCells.flatMap((c) => [c.low ?? c.mean, c.high ?? c.mean]);
    let [low, high] = [Math.min(...values), Math.max(...values)];
    const step = [0.01, 0.02, 0.05, 0.1, 0.2].find((s) => (high - low) / s <= 5) ?? 0.2;
    low = Math.max(0, Math.floor(low / step) * step);
    high = Math.min(1, Math.ceil(high / step + 1e-9) * step);
    if (high <= low) low = high - step;
    const [from, to] = [Math.log(places[0].n), Math.log(places[places.length - 1].n)];
    const across = SIZE.width - SIZE.left - SIZE.right - 20;
    const down = SIZE.height - SIZE.top - SIZE.bottom;
    return { low, high, step,
      x: (n) => SIZE.left + 10 + (to > from ? (Math.log(n) - from) / (to - from) : 0.5) * across,
      y: (v) => SIZE.top + (high - v) / (high - low) * down };
  }

  function axes(places, { low, high, step, x, y }) {
    const made = [];
    const right = SIZE.width - SIZE.right, bottom = SIZE.height - SIZE.bottom;
    for (let v = low; v <= high + step / 2; v += step)
      made.push(shape("path", { class: "grid", d: `M${SIZE.left} ${y(v)}H${right}` }),
        shape("text", { x: SIZE.left - 6, y: y(v) + 4, "text-anchor": "end" }, number(v, 2)));
    const texts = [];
    for (const place of places) {
      const where = x(place.n), last = texts[texts.length - 1];
      const chosen = state.budget === place.budget ? " chosen" : "";
      made.push(shape("path", { class: `tick${chosen}`,
        d: `M${where} ${chosen ? SIZE.top : bottom}V${bottom + 4}` }));
      if (last && where - last.where < 30) last.text += `, ${place.budget}`;
      else texts.push({ where, text: place.budget });
    }
    for (const { where, text } of texts)
      made.push(shape("text", { x: Math.min(where, right - 3 * text.length), y: bottom + 17,
                                "text-anchor": "middle" }, text));
    made.push(shape("text", { x: (SIZE.left + right) / 2, y: SIZE.height - 6, "text-anchor": "middle" },
      "labelled images"));
    return made;
  }

  function curve({ i, name, points }, { x, y }) {
    const to = (get) => (p) => `${x(p.n).toFixed(1)} ${y(get(p.cell)).toFixed(1)}`;
    const made = shape("g", { class: `series s${i}` }, shape("title", {}, name));
    const sure = points.filter((p) => p.cell.low !== null);
    if (sure.length > 1)
      made.append(shape("path", { class: "band", d: `M${sure.map(to((c) => c.high)).join("L")}L`
        + `${[...sure].reverse().map(to((c) => c.low)).join("L")}Z` }));
    else if (sure.length)
      made.append(shape("path", { class: "line", d: `M${to((c) => c.low)(sure[0])}L${to((c) => c.high)(sure[0])}` }));
    made.append(shape("path", { class: "line", d: `M${points.map(to((c) => c.mean)).join("L")}`,
                                "stroke-dasharray": DASHES[i] }));
    for (const p of points)
      made.append(shape("path", { class: `marker ${p.cell.exposure}`, d: SHAPES[i],
        transform: `translate(${to((c) => c.mean)(p)})` }));
    return made;
  }

  /* What the reader does. */

  function rebuild() {
    buildTable();
    arrange();
  }

  function choose() {
    state.groups = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    rebuild();
  }

  for (const id of SELECTS)
    at(id).addEventListener("change", (event) => {
      state[id] = event.target.value;
      if (id === "tier" || id === "verification") arrange();
      else rebuild();
    });
  at("search").addEventListener("input", (event) => {
    state.search = event.target.value.trim();
    arrange();
  });
  for (const box of boxes) box.addEventListener("change", choose);
  for (const [id, checked] of [["every", true], ["none", false]])
    at(id).addEventListener("click", () => {
      for (const box of boxes) box.checked = checked && box.dataset.kind !== "control";
      choose();
    });
  function open() {
    readAddress();
    rebuild();
  }
  at("reset").addEventListener("click", () => {
    history.replaceState(null, "", "#");
    open();
  });
  window.addEventListener("hashchange", (event) => {
    if (new URL(event.newURL).hash !== "#notes" && new URL(event.newURL).hash !== "#main") open();
  });
  for (const hidden of document.querySelectorAll("#filters, .scripted")) hidden.hidden = false;
  open();
})();

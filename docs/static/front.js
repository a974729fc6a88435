// The front page: what a step reads and writes, a guess, quality against time, and the nearest tokens.
// FRONT, its data, is made by docs/front.py. No library; keys work on all of it; what a picture shows is said in words too.
"use strict";
{
  const $ = (id) => document.getElementById(id);
  const make = (tag, more = {}, ...inside) => {
    const { aria = {}, ...own } = more;
    const element = Object.assign(document.createElement(tag), own);
    for (const [name, value] of Object.entries(aria)) element.setAttribute(name === "role" ? name : `aria-${name}`, value);
    element.append(...inside);
    return element;
  };
  const whole = (number) => Math.round(number).toLocaleString("en");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const colour = (name) => getComputedStyle($("tables")).getPropertyValue(`--${name}`).trim();

  // --- one step

  const POSITIONS = 1008;
  const DRAWN = POSITIONS * 33; // the right token and 32 negatives, for each position
  const SQUARES = 1000;
  const ACROSS = 50;
  const MEASURED = [50000, 200000, 1000000];
  const STEPS = {
    ce: { label: "CE", of: "CE", colour: "ce" },
    paper: { label: "SEMANTIC, the paper’s settings", of: "SEMANTIC with the paper’s settings", colour: "semantic" },
    sparse: { label: "SEMANTIC, row-sparse", of: "row-sparse SEMANTIC", colour: "semantic", striped: true },
    chunks: { label: "CE, row-sparse in chunks", colour: "ce", striped: true },
  };
  const BUTTONS = ["ce", "paper", "sparse"];
  const PANELS = [["input", "read"], ["output", "read"], ["input", "written"], ["output", "written"]];
  const state = { method: "paper", vocab: 1000000, seed: 1 };

  // A measured column at any V: straight lines between the measured V, both axes logarithmic.
  const between = (method, column) => {
    const { vocab, [column]: values } = FRONT.steps[method];
    const n = state.vocab < vocab[1] ? 0 : 1;
    const at = Math.log(state.vocab / vocab[n]) / Math.log(vocab[n + 1] / vocab[n]);
    return values[n] * (values[n + 1] / values[n]) ** at;
  };

  // The rows that a step reads and writes of each table. Dense AdamW writes all of them.
  const rows = () => {
    const V = state.vocab;
    const input = Math.min(POSITIONS, V);
    const output = state.method === "ce" ? V : V * (1 - Math.exp(-DRAWN / V));
    const sparse = state.method === "sparse";
    return {
      input: { read: input, written: sparse ? input : V },
      output: { read: output, written: sparse ? output : V },
    };
  };

  // The squares in an order that is drawn by a small generator of random numbers.
  const order = (seed) => {
    const squares = [...Array(SQUARES).keys()];
    let random = seed;
    for (let n = SQUARES - 1; n > 0; n--) {
      random = (random * 16807) % 2147483647;
      const other = random % (n + 1);
      [squares[n], squares[other]] = [squares[other], squares[n]];
    }
    return squares;
  };

  const paint = (canvas, lit, squares, bright) => {
    const side = Math.max(3, Math.floor((canvas.clientWidth * devicePixelRatio) / ACROSS));
    canvas.width = side * ACROSS;
    canvas.height = side * (SQUARES / ACROSS);
    const context = canvas.getContext("2d");
    const gap = side > 5 ? 2 : 1;
    const dim = colour("dim");
    squares.forEach((square, n) => {
      context.fillStyle = n < lit ? bright : dim;
      context.fillRect((square % ACROSS) * side, Math.floor(square / ACROSS) * side, side - gap, side - gap);
    });
  };

  // `done` goes from 0 to 1: first what is read lights up, then what is written.
  const draw = (done) => {
    const counted = rows();
    PANELS.forEach(([table, act]) => {
      const share = counted[table][act] / state.vocab;
      const part = Math.min(1, Math.max(0, 2 * done - (act === "written")));
      const lit = Math.max(1, Math.round(share * SQUARES)) * part;
      paint($(`${table}-${act}`), lit, order(state.seed + (table === "input" ? 7 : 0)), colour(STEPS[state.method].colour));
    });
  };

  let frame = 0;
  const play = () => {
    cancelAnimationFrame(frame);
    state.seed += 100;
    if (calm.matches) return draw(1);
    const start = performance.now();
    const next = (now) => {
      const done = Math.min(1, Math.max(0, (now - start) / 1200));
      draw(done);
      if (done < 1) frame = requestAnimationFrame(next);
    };
    frame = requestAnimationFrame(next);
  };

  const say = () => {
    const V = state.vocab;
    const counted = rows();
    const total = (act) => whole(counted.input[act] + counted.output[act]);
    const near = MEASURED.includes(V) ? "" : "about ";
    for (const [table, act] of PANELS) $(`${table}-${act}-rows`).textContent = whole(counted[table][act]);
    for (const button of $("methods").children) button.setAttribute("aria-pressed", button.value === state.method);
    $("vocabulary-said").textContent = `${whole(V)} tokens`;
    $("vocabulary").setAttribute("aria-valuetext", `${whole(V)} tokens`);
    const faster = state.method === "ce" ? "" : `, ${whole(between(state.method, "times"))} times as fast as CE`;
    $("step-said").textContent = `With ${whole(V)} tokens a step of ${STEPS[state.method].of} reads ${total("read")} rows, writes ` +
      `${total("written")}, and takes ${near}${whole(between(state.method, "ms"))} ms${faster}.`;
    const longest = Math.max(...FRONT.steps.ce.ms);
    for (const name of Object.keys(STEPS)) {
      const ms = between(name, "ms");
      $(`bar-${name}`).style.width = `${(100 * ms) / longest}%`;
      $(`ms-${name}`).textContent = `${whole(ms)} ms`;
    }
  };

  for (const [table, act] of PANELS) {
    const id = `${table}-${act}`;
    const caption = make("figcaption", { id: `${id}-name` }, make("b", {}, `${table === "input" ? "Input" : "Output"} table, ${act}: `));
    caption.append(make("span", { id: `${id}-rows` }), " rows");
    $("tables").append(make("figure", {}, caption, make("canvas", { id, aria: { role: "img", labelledby: `${id}-name` } })));
  }
  for (const name of BUTTONS) {
    const button = make("button", { type: "button", value: name, className: `of-${STEPS[name].colour}` }, STEPS[name].label);
    button.onclick = () => { state.method = name; say(); play(); };
    $("methods").append(button, " ");
  }
  for (const [name, { label, colour, striped }] of Object.entries(STEPS)) {
    const bar = make("i", { id: `bar-${name}`, className: `of-${colour}${striped ? " striped" : ""}` });
    $("bars").append(make("div", {}, make("span", {}, label), make("span", { className: "track" }, bar), make("span", { id: `ms-${name}` })));
  }
  $("vocabulary").oninput = () => {
    const exact = 50000 * 20 ** ($("vocabulary").value / $("vocabulary").max);
    state.vocab = Number(exact.toPrecision(2));
    cancelAnimationFrame(frame);
    say();
    draw(1);
  };
  addEventListener("resize", () => draw(1));
  new MutationObserver(() => draw(1)).observe(document.documentElement, { attributeFilter: ["data-theme"] });

  // --- the guess

  for (const button of $("guess").children) {
    button.onclick = () => {
      for (const other of $("guess").children) other.setAttribute("aria-pressed", other === button);
      $("answer").replaceChildren($("answer-text").content.cloneNode(true));
    };
  }

  // --- quality against time

  const WIDE = 330;
  const HIGH = 280;
  const EDGE = { left: 38, right: 12, top: 22, bottom: 34 };
  const TIME = [0.012, 6000]; // seconds
  const BITS = [1.5, 2.55]; // bits per byte
  const MARKS = { // where the label of each point stands, and what it adds to the name; null: a range has one label
    CE: { colour: "ce", at: ["right"] },
    adaptive: { colour: "adaptive", at: ["under"] },
    repaired: { colour: "repaired", at: ["over"] },
    "paper’s settings": { colour: "semantic", at: ["left", "left"], ends: [null, ""] },
    trigram: { colour: "counted", at: ["start", "under"], ends: [", same text", ", all"] },
  };
  const PLACES = { right: [8, 4, "start"], start: [-5, -9, "start"], left: [-8, 4, "end"], over: [-6, -7, "end"], under: [-7, 15, "end"] };
  const x = (seconds) => EDGE.left + (Math.log(seconds / TIME[0]) / Math.log(TIME[1] / TIME[0])) * (WIDE - EDGE.left - EDGE.right);
  const y = (bits) => HIGH - EDGE.bottom - ((bits - BITS[0]) / (BITS[1] - BITS[0])) * (HIGH - EDGE.top - EDGE.bottom);
  const svg = (tag, attributes, text = "") => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    return element;
  };

  const axes = () => {
    const parts = [];
    for (const seconds of [0.1, 1, 10, 100, 1000]) {
      parts.push(svg("line", { x1: x(seconds), x2: x(seconds), y1: EDGE.top, y2: HIGH - EDGE.bottom, class: "grid" }));
      parts.push(svg("text", { x: x(seconds), y: HIGH - EDGE.bottom + 14, "text-anchor": "middle" }, seconds.toLocaleString("en")));
    }
    for (const bits of [1.6, 1.8, 2, 2.2, 2.4]) {
      parts.push(svg("line", { x1: EDGE.left, x2: WIDE - EDGE.right, y1: y(bits), y2: y(bits), class: "grid" }));
      parts.push(svg("text", { x: EDGE.left - 5, y: y(bits) + 4, "text-anchor": "end" }, bits.toFixed(1)));
    }
    parts.push(svg("text", { x: 4, y: 12 }, "bits per byte"));
    parts.push(svg("text", { x: (EDGE.left + WIDE) / 2, y: HIGH - 4, "text-anchor": "middle" }, "seconds of training"));
    return parts;
  };

  const line = (name, points) => {
    const { colour, at, ends = [""] } = MARKS[name];
    const parts = [];
    if (points.length > 1) parts.push(svg("polyline", { points: points.map(([s, b]) => `${x(s)},${y(b)}`).join(" "), class: `of-${colour}` }));
    points.forEach(([seconds, bits], n) => {
      parts.push(svg("circle", { cx: x(seconds), cy: y(bits), r: 5, class: `of-${colour}` }));
      parts.at(-1).append(svg("title", {}, `${name}${ends[n] ?? ""}: ${bits.toFixed(2)} bits per byte, ${seconds} s`));
      if (ends[n] === null) return;
      const [right, down, anchor] = PLACES[at[n]];
      parts.push(svg("text", { x: x(seconds) + right, y: y(bits) + down, "text-anchor": anchor, class: "name" }, name + ends[n]));
    });
    return parts;
  };

  for (const { vocab, after, points } of FRONT.quality) {
    const told = Object.entries(points).map(([name, all]) =>
      `${name} ${all.map(([seconds, bits]) => `${bits.toFixed(2)} in ${seconds} s`).join(" and ")}`);
    const label = `Bits per byte against seconds, ${whole(vocab)} tokens, after ${after}: ${told.join("; ")}.`;
    const picture = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label });
    picture.append(...axes(), ...Object.entries(points).flatMap(([name, all]) => line(name, all)));
    const caption = make("figcaption", {}, make("b", {}, `${whole(vocab)} tokens`), `, ${after}`);
    $("panels").append(make("figure", {}, caption, picture));
  }

  // --- the nearest tokens

  const { names, typed, nearest } = FRONT.words;
  const places = new Map(typed.map((id, n) => [names[id], n]));
  const seen = (word) => make("code", {}, word.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥"));
  const neighbours = () => {
    const word = $("word").value;
    const n = places.get(word) ?? places.get(` ${word}`);
    if (n === undefined) return $("nearest").replaceChildren(`“${word}” is not among the ${whole(typed.length)} most frequent tokens.`);
    const columns = Object.entries(nearest).map(([model, all]) => {
      const list = make("ol", {}, ...all[n].map((id) => make("li", {}, seen(names[id]))));
      return make("div", {}, make("b", {}, model), list);
    });
    $("nearest").replaceChildren(...columns);
  };
  $("word-list").append(...typed.map((id) => make("option", { value: names[id] })));
  for (const word of [" int", " True", " error", " return"].filter((word) => places.has(word))) {
    const button = make("button", { type: "button" }, word.trim());
    button.onclick = () => { $("word").value = word; neighbours(); };
    $("examples").append(button, " ");
  }
  $("word").oninput = neighbours;

  say();
  play();
  neighbours();
}

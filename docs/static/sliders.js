// Sliders over closed formulas, each under its heading of docs/templates/sliders.md: numbers in, bars and a sentence out.
"use strict";
{
  const POSITIONS = 1008;
  const WIDTH = 256; // of the input table's rows, d
  const NARROW = 64; // of the output table's rows, D
  const MOVED = 7; // numbers that AdamW reads or writes for a parameter
  const count = (number) => Number(number.toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 2 });
  const short = (number) => {
    const [size, name] = [[1e12, " trillion"], [1e9, " billion"], [1e6, " million"]].find(([size]) => number >= size) ?? [1, ""];
    return count(number / size) + name;
  };
  const size = (bytes) => (bytes >= 1e12 ? `${count(bytes / 1e12)} TB` : `${count(bytes / 1e9)} GB`);
  const drawn = (V, draws) => V * -Math.expm1(-draws / V); // different rows that even draws hit

  const loss = ({ tau, K }) => {
    const nothing = Math.log1p(K);
    const right = Math.log1p(K * Math.exp(-1 / tau));
    return {
      bars: [["knows nothing", nothing, `${nothing.toFixed(2)} nats`], ["always right", right, `${right.toFixed(2)} nats`]],
      says: `With ${count(K)} negatives and τ = ${tau}, guessing has ${nothing.toFixed(2)} nats, being always right ${right.toFixed(2)}.`,
    };
  };
  const step = ({ V }) => {
    const read = Math.min(POSITIONS, V) * WIDTH + drawn(V, 33 * POSITIONS) * NARROW;
    const numbers = [["CE, dense", 2 * V * WIDTH], ["SEMANTIC, dense", V * (WIDTH + NARROW)], ["SEMANTIC, row-sparse", read]];
    return {
      bars: numbers.map(([name, parameters]) => [name, parameters, `${short(MOVED * parameters)} numbers`]),
      says: `With ${short(V)} tokens CE makes ${short(POSITIONS * V)} scores a step, SEMANTIC ${count(33 * POSITIONS)}. ` +
        `The optimizer moves ${short(MOVED * numbers[1][1])} numbers of SEMANTIC’s tables if dense, ${short(MOVED * read)} if row-sparse.`,
    };
  };
  const memory = ({ V, machines }) => {
    const bytes = 12 * V * (WIDTH + NARROW);
    return {
      bars: [["all", bytes, size(bytes)], ["each machine", bytes / machines, size(bytes / machines)]],
      says: `${short(V)} tokens take ${size(bytes)}: ${size(bytes / machines)} on each of ${count(machines)} machine${machines > 1 ? "s" : ""}.`,
    };
  };

  // By the id of a section its formula, and of each slider its name, label, least, greatest and first value; all logarithmic.
  const CONTROLS = {
    "the-level-of-a-loss": [loss, ["tau", "Temperature τ", 0.02, 1, 0.07], ["K", "Negatives K", 1, 1e6, 32]],
    "the-rows-of-a-step-on-paper": [step, ["V", "Vocabulary V", 1e4, 1e7, 1e6]],
    "a-billion-tokens": [memory, ["V", "Vocabulary V", 1e6, 1e9, 1e9], ["machines", "Machines", 1, 1000, 1000]],
  };
  for (const [id, [formula, ...sliders]] of Object.entries(CONTROLS)) {
    const values = {};
    const form = document.createElement("div");
    const bars = Object.assign(document.createElement("div"), { className: "bars of-semantic" });
    const said = document.createElement("p");
    said.setAttribute("aria-live", "polite");
    form.className = "front";
    const show = () => {
      const { bars: shown, says } = formula(values);
      const longest = Math.max(...shown.map(([, value]) => value));
      bars.replaceChildren(...shown.map(([name, value, text]) => {
        const row = document.createElement("div");
        row.innerHTML = "<span></span><span><i></i></span><span></span>";
        [row.children[0].textContent, row.children[2].textContent] = [name, text];
        row.querySelector("i").style.width = `${(100 * value) / longest}%`;
        return row;
      }));
      said.textContent = says;
    };
    for (const [name, text, least, greatest, first] of sliders) {
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 60 });
      const now = document.createElement("output");
      const read = () => {
        const exact = least * (greatest / least) ** (input.value / input.max);
        values[name] = Math.abs(Math.log(exact / first)) < 0.5 * Math.log(greatest / least) / input.max ? first : Number(exact.toPrecision(2));
        if (least >= 1) values[name] = Math.round(values[name]);
        now.textContent = short(values[name]);
        input.setAttribute("aria-valuetext", now.textContent);
      };
      input.value = Math.round((Math.log(first / least) / Math.log(greatest / least)) * input.max);
      input.oninput = () => { read(); show(); };
      label.append(`${text} `, now, input);
      label.className = "slider";
      form.append(label);
      read();
    }
    form.append(bars, said);
    document.getElementById(id).append(form);
    show();
  }
}

// Controls without a kernel: every state was computed when the book was built. A control is a <form class="control"> with
// labelled choices; its frames, by the choices' values joined with "|", lie in the <script> inside it. A frame is what is
// said, with or without a picture, or a list of numbers of `words`. What a picture shows is said in text under it.
document.addEventListener("DOMContentLoaded", () => {
  for (const form of document.querySelectorAll("form.control")) {
    const { frames, words } = JSON.parse(form.querySelector("script").textContent);
    const output = form.querySelector("output");
    const show = () => {
      const values = [...form.querySelectorAll("select, input")].map((choice) => choice.value);
      const key = values.join("|");
      const frame = frames[key] ?? frames[` ${key}`] ?? { says: `Nothing is stored for ${values.join(", ")}.` };
      output.replaceChildren();
      if (frame.picture) output.append(Object.assign(new Image(), { src: frame.picture, alt: frame.says }));
      const said = document.createElement(frame.picture ? "p" : "pre");
      said.textContent = words && Array.isArray(frame) ? frame.map((n) => words[n]).join("\n") : frame.says;
      output.append(said);
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", show);
    show();
  }
});

// What is wider than its box scrolls in it, and so with the keys too.
const reach = () => {
  for (const box of document.querySelectorAll(".bd-article table, .bd-article .math, .bd-article pre, .bd-article .output")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
};
addEventListener("load", reach);
addEventListener("resize", reach);
